/* every.c - every operation that puts bytes into files, once or a few times: for valgrind.
 *
 *     every DIRECTORY
 *
 * What it is given lies in memory that malloc has not set beyond what it says it gives.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mqlog.h"

#include "mql_commit.h"
#include "mql_epoch.h"

long long checked;
static long long operations;

static void must(const char *what, int rc) {
    operations++;
    if (rc >= 0) return;
    const mql_error *error = mql_error_last();
    fprintf(stderr, "%s: %d: %s: %s\n", what, rc, error->path, error->text);
    exit(1);
}

static mql_value value_of(size_t length) {
    uint8_t *bytes = malloc(length + 64); /* 64 that nobody sets */
    memset(bytes, 'v', length);
    return (mql_value){bytes, (int64_t)length};
}

static mql_log_options options(int durability, int cleanup) {
    return (mql_log_options){.segment_bytes = 1 << 14,
                             .batch_bytes = 1 << 12,
                             .max_message_bytes = 1 << 13,
                             .sync_interval_ns = 1000000,
                             .retention_bytes = cleanup == MQL_CLEANUP_DELETE ? 1 << 15 : -1,
                             .retention_age_ms = -1,
                             .durability = durability,
                             .cleanup = cleanup};
}

static void append(mql_log *log) {
    int64_t offset;
    uint8_t header[64];
    mql_value name = value_of(5), values[30];
    size_t size = mql_header_encode(name.data, 5, name.data, 5, header);
    for (size_t i = 0; i < 30; i++) values[i] = value_of(1 + 13 * i);
    for (int i = 0; i < 40; i++) {
        mql_record record = {.key = value_of(3),
                             .value = values[i % 30],
                             .headers = {header, (int64_t)size},
                             .header_count = 1,
                             .timestamp = i % 2 ? MQL_NOW : 1000 + i};
        if (i % 5 == 0) record.value.length = -1;
        must("append", mql_append(log, &record, i % 8 == 0 ? MQL_DURABLE : 0, &offset));
        must("values", mql_append_values(log, values, 1 + (size_t)i % 30, MQL_NOW, 0, &offset));
    }
    mql_record many[3] = {{.value = values[1], .timestamp = MQL_NOW},
                          {.value = values[2], .timestamp = 5},
                          {.value = values[3], .timestamp = MQL_NOW}};
    must("records", mql_append_records(log, many, 3, 0, &offset));
    int64_t length = mql_records_size(many, 3, 7);
    uint8_t *batch = malloc(MQL_BATCH_HEADER + (size_t)length);
    mql_records_encode(many, 3, 7, batch + MQL_BATCH_HEADER, (size_t)length);
    must("build", mql_batch_build(many, 3, 7, MQL_NONE, batch + MQL_BATCH_HEADER, (size_t)length,
                                  batch));
    must("batches",
         mql_append_batches(log, batch, MQL_BATCH_HEADER + (size_t)length, 0, &offset));
    mql_once once = {.key = value_of(9), .window_ms = 60000, .ignore = -1};
    must("once", mql_append_once(log, &many[0], &once, 0, &offset));
    must("once more", mql_append_once(log, &many[0], &once, 0, &offset));
}

static void consume(mql_log *log) {
    mql_log_info info;
    mql_group *group;
    mql_share *share;
    uint64_t member;
    must("ends", mql_log_ends(log, &info));
    must("group", mql_group_open(log, "c", 1, &group));
    must("join", mql_group_join(group, &member));
    must("claim", mql_group_claim(group, member));
    for (int i = 0; i < 3; i++)
        must("commit", mql_group_commit(group, member, info.start_offset + i, i == 2));
    mql_group_drop(group, member);
    mql_group_leave(group, member);
    must("share", mql_share_open(log, "g", 1, info.start_offset, &share));
    must("delay", mql_share_delay(log, info.end_offset - 1, 4102444800000));
    for (int i = 0; i < 300; i++) {
        mql_acquire how = {.lock_ms = 30000, .slice_ns = 1000000};
        mql_acquired got;
        size_t count = 1;
        int rc = mql_share_acquire(share, &how, &got, &count);
        must("acquire", rc);
        if (rc != MQL_OK) break;
        mql_settle item = {got.offset, got.token, MQL_TIMEOUT};
        mql_settlement settle = {.event = i % 6 == 5 ? MQL_ACCEPT : i % 6, .slice_ns = 1000000};
        if (settle.event == MQL_ARCHIVE) settle.when = MQL_PURGED;
        if (settle.event == MQL_RENEW) settle.when = 50000;
        if (settle.event == MQL_RELEASE && got.deliveries > 2) settle.event = MQL_ACCEPT;
        if (i % 50 == 0) settle.flags = MQL_DURABLE;
        must("settle", mql_share_settle(share, &item, 1, &settle));
    }
}

static void work(mql_store *store, const char *topic, int durability, int cleanup) {
    mql_log_options wanted = options(durability, cleanup);
    mql_log *log;
    mql_log_info info;
    must("partition", mql_partition(store, topic, 0, 1, &wanted, &log));
    append(log);
    consume(log);
    append(log);
    must("prepare", mql_keeper_prepare(store));
    must("keep", mql_keeper_sync(store));
    must("sync", mql_log_sync(log));
    must("ceiling", mql_commit_raise(log, (int64_t)1 << 24));
    must("ends", mql_log_ends(log, &info));
    must("trim", mql_trim(log, info.start_offset + (info.end_offset - info.start_offset) / 2));
}

int main(int argc, char **argv) {
    static const uint8_t json[] = "{\"format\": 1}";
    if (argc != 2) return 2;
    for (int i = 0; i < 3; i++) {
        const mql_open_options how = {.create = 1};
        mql_store *store;
        must("open", mql_open(argv[1], &how, &store));
        must("gate", mql_gate_take(store, 1000000000));
        must("options", mql_options_write(store, json, sizeof json - 1));
        mql_gate_drop(store);
        work(store, "os", MQL_DURABILITY_OS, MQL_CLEANUP_DELETE);
        work(store, "sync", MQL_DURABILITY_SYNC, MQL_CLEANUP_KEEP);
        work(store, "queue", MQL_DURABILITY_OS, MQL_CLEANUP_CONSUMED);
        must("close", mql_close(store));
        mql_free(store);
    }
    printf("memcheck: %lld operations, %lld bytes of mapped files checked, none of them unset\n",
           operations, checked);
    return operations >= 1000 && checked >= 1 << 20 ? 0 : 1;
}
