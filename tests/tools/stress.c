/* stress.c - every kind of thread at once, in one process, on one mapping: for ThreadSanitizer.
 *
 *     stress DIRECTORY ROUNDS
 *
 * Each round opens a store, lets appenders (some of whose calls roll), durable appenders, readers,
 * waiters, competing consumers, a trimmer and a committer of offsets loose on it beside the store's
 * own two threads, closes it while their calls are in flight, opens it again, and looks whether all
 * that was acknowledged is there. Fails by its exit code; the sanitizer has its own.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mqlog.h"

enum { APPENDERS = 3, DURABLE = 16, READERS = 2, WAITERS = 2, CONSUMERS = 3, THREADS = 28 };
#define ROUND_NS 150000000L

typedef struct round {
    mql_store *store;
    mql_log *log;
    mql_share *share;
    mql_group *group;
    _Atomic int64_t acknowledged; /* one more than the greatest offset that was */
    _Atomic int64_t durable;
    _Atomic int64_t appends, reads, accepts, commits;
} round_t;

static void fail(const char *what, int rc) {
    const mql_error *error = mql_error_last();
    fprintf(stderr, "%s: %d: %s: %s\n", what, rc, error->path, error->text);
    exit(1);
}

/* What a call may say while the store is being closed; anything else must be a success. */
static bool goes_on(const char *what, int rc) {
    if (rc == MQL_E_CLOSED) return false;
    if (rc < 0) fail(what, rc);
    return true;
}

static void raise_to(_Atomic int64_t *mark, int64_t value) {
    int64_t seen = atomic_load(mark);
    while (seen < value && !atomic_compare_exchange_weak(mark, &seen, value)) continue;
}

static int append(round_t *round, size_t count, int flags) {
    static const uint8_t bytes[2000] = {'x'};
    mql_value values[20];
    int64_t offset;
    for (size_t i = 0; i < count; i++)
        values[i] = (mql_value){bytes, (int64_t)(100 + 90 * i)};
    int rc = mql_append_values(round->log, values, count, MQL_NOW, flags, &offset);
    if (rc == MQL_TIMEOUT) return MQL_OK;
    if (rc < 0) return rc;
    raise_to(&round->acknowledged, offset + (int64_t)count);
    if (flags == MQL_DURABLE) raise_to(&round->durable, offset + (int64_t)count);
    atomic_fetch_add(&round->appends, 1);
    return rc;
}

static void *append_some(void *context) {
    for (size_t i = 0; goes_on("append", append(context, i % 7 == 0 ? 20 : 1, 0)); i++) continue;
    return NULL;
}

static void *append_durably(void *context) {
    while (goes_on("durable append", append(context, 1, MQL_DURABLE))) continue;
    return NULL;
}

/* From the start to the end, which it waits for; every byte is looked at by the cursor's CRC. */
static void *read_all(void *context) {
    round_t *round = context;
    mql_cursor *cursor;
    mql_log_info info;
    mql_batch batch;
    if (!goes_on("ends", mql_log_ends(round->log, &info))) return NULL;
    int rc = mql_cursor_open(round->log, info.start_offset, 0, &cursor);
    if (rc == MQL_E_RANGE || !goes_on("cursor", rc)) return NULL;
    for (;;) {
        rc = mql_cursor_next(cursor, &batch);
        if (rc == MQL_E_RANGE) { /* trimmed under it */
            rc = mql_log_ends(round->log, &info);
            if (rc == MQL_OK) rc = mql_cursor_seek(cursor, info.start_offset);
            if (rc == MQL_E_RANGE) rc = MQL_OK;
        } else if (rc == MQL_END) {
            rc = mql_wait(round->log, mql_cursor_offset(cursor), 10000000);
        } else if (rc == MQL_OK) {
            atomic_fetch_add(&round->reads, 1);
        }
        if (!goes_on("read", rc)) break;
    }
    mql_cursor_free(cursor);
    return NULL;
}

static void *wait_durable(void *context) {
    round_t *round = context;
    mql_log_info info;
    for (;;) {
        if (!goes_on("ends", mql_log_ends(round->log, &info))) return NULL;
        int rc = mql_wait_durable(round->log, info.end_offset, 5000000);
        if (!goes_on("wait", rc)) return NULL;
    }
}

static void *consume(void *context) {
    round_t *round = context;
    mql_acquire how = {.lock_ms = 30000, .slice_ns = 10000000};
    for (;;) {
        mql_acquired got[8];
        mql_settle items[8];
        size_t count = 8;
        int rc = mql_share_acquire(round->share, &how, got, &count);
        if (rc == MQL_END) rc = mql_share_wait(round->share, 5000000);
        if (!goes_on("acquire", rc)) return NULL;
        if (rc != MQL_OK || count > 8) continue;
        for (size_t i = 0; i < count; i++)
            items[i] = (mql_settle){got[i].offset, got[i].token, MQL_TIMEOUT};
        int event = got[0].offset % 5 == 0 && got[0].deliveries < 3 ? MQL_RELEASE : MQL_ACCEPT;
        mql_settlement settle = {.event = event, .slice_ns = 10000000};
        if (got[0].offset % 11 == 0) settle.flags = MQL_DURABLE;
        if (!goes_on("settle", mql_share_settle(round->share, items, count, &settle))) return NULL;
        atomic_fetch_add(&round->accepts, 1);
    }
}

static void *commit_and_trim(void *context) {
    round_t *round = context;
    uint64_t member;
    mql_log_info info;
    int rc = mql_group_join(round->group, &member);
    if (!goes_on("join", rc)) return NULL;
    for (;;) {
        rc = mql_group_claim(round->group, member);
        if (!goes_on("claim", rc)) return NULL;
        if (rc == MQL_BUSY) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            continue;
        }
        rc = mql_log_ends(round->log, &info);
        if (rc == MQL_OK) rc = mql_group_commit(round->group, member, info.durable_offset, 1);
        if (!goes_on("commit", rc)) return NULL;
        atomic_fetch_add(&round->commits, 1);
        int64_t before = info.start_offset + (info.durable_offset - info.start_offset) / 4;
        rc = mql_trim(round->log, before);
        if (rc == MQL_E_RANGE) rc = MQL_OK;
        if (!goes_on("trim", rc)) return NULL;
        rc = mql_log_sync(round->log);
        if (!goes_on("sync", rc)) return NULL;
        if (atomic_load(&round->commits) % 50 == 49) mql_group_drop(round->group, member);
    }
}

typedef void *thread_body(void *context);

static thread_body *body_of(int index) {
    static const struct {
        int count;
        thread_body *body;
    } kinds[] = {{APPENDERS, append_some}, {DURABLE, append_durably}, {READERS, read_all},
                 {WAITERS, wait_durable},  {CONSUMERS, consume},      {2, commit_and_trim}};
    size_t kind = 0;
    while (index >= kinds[kind].count) index -= kinds[kind++].count;
    return kinds[kind].body;
}

static void open_round(round_t *round, const char *directory) {
    const mql_open_options options = {.create = 1, .threads = 1};
    const mql_log_options log = {.segment_bytes = 1 << 16,
                                 .batch_bytes = 1 << 14,
                                 .max_message_bytes = 1 << 15,
                                 .sync_interval_ns = 2000000,
                                 .retention_bytes = -1,
                                 .retention_age_ms = -1};
    int rc = mql_open(directory, &options, &round->store);
    if (rc == MQL_OK) rc = mql_partition(round->store, "t", 0, 1, &log, &round->log);
    mql_log_info info;
    if (rc == MQL_OK) rc = mql_log_ends(round->log, &info);
    if (rc == MQL_OK) rc = mql_share_open(round->log, "g", 1, info.start_offset, &round->share);
    if (rc == MQL_OK) rc = mql_group_open(round->log, "c", 1, &round->group);
    if (rc != MQL_OK) fail("open", rc);
}

static void check_round(const round_t *before, const char *directory) {
    round_t now = {0};
    mql_log_info info;
    mql_verify_report report;
    open_round(&now, directory);
    int rc = mql_log_ends(now.log, &info);
    if (rc == MQL_OK) rc = mql_verify(now.log, NULL, NULL, NULL, &report);
    if (rc != MQL_OK || report.problems != 0) fail("verify", rc);
    if (info.end_offset < before->acknowledged) fail("what was acknowledged is gone", 0);
    if ((rc = mql_close(now.store)) != MQL_OK) fail("close", rc);
    mql_free(now.store);
}

static void run_round(round_t *round, const char *directory) {
    pthread_t threads[THREADS];
    *round = (round_t){0};
    open_round(round, directory);
    for (int i = 0; i < THREADS; i++) {
        mql_pin(round->store);
        if (pthread_create(&threads[i], NULL, body_of(i), round) != 0) fail("thread", 0);
    }
    nanosleep(&(struct timespec){.tv_nsec = ROUND_NS}, NULL);
    int rc = mql_close(round->store);
    if (rc < 0) fail("close", rc);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        mql_unpin(round->store);
    }
    mql_free(round->store);
    check_round(round, directory);
}

int main(int argc, char **argv) {
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    int64_t appends = 0, reads = 0, accepts = 0, commits = 0;
    for (int i = 0; i < rounds; i++) {
        round_t round;
        run_round(&round, argv[1]);
        appends += round.appends;
        reads += round.reads;
        accepts += round.accepts;
        commits += round.commits;
    }
    printf("threads: %d rounds of %d threads, %lld appends, %lld batches read, %lld settlements, "
           "%lld commits\n",
           rounds, THREADS, (long long)appends, (long long)reads, (long long)accepts,
           (long long)commits);
    bool enough = appends >= 20 * rounds && reads >= 20 * rounds && accepts >= rounds &&
                  commits >= rounds;
    if (!enough) fprintf(stderr, "hardly anything was at work\n");
    return enough ? 0 : 1;
}
