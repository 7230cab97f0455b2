/* elsewhere.c - the engine on a processor that Python is not there for: its CRC and the life of a
 * store, checked by a program of one file. Exits with 0, or names the line that was wrong. */
#include "mql_crc32c.h"
#include "mqlog.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #what, mql_error_last()->text);        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define COUNT 3000

static uint8_t noise[20000];

static void check_crc(void) {
    static const uint8_t ones[32] = {[0 ... 31] = 0xff};
    static const uint8_t none[32];
    CHECK(mql_crc32c(0, "123456789", 9) == 0xe3069283);
    CHECK(mql_crc32c_portable(0, "123456789", 9) == 0xe3069283);
    CHECK(mql_crc32c(0, none, sizeof none) == 0x8a9136aa);
    CHECK(mql_crc32c(0, ones, sizeof ones) == 0x62a8ab43);
    uint32_t state = 1;
    for (size_t i = 0; i < sizeof noise; i++) {
        state = state * 1664525 + 1013904223;
        noise[i] = (uint8_t)(state >> 24);
    }
    for (size_t shift = 0; shift < 8; shift++)
        for (size_t length = 0; length < 1200; length++)
            CHECK(mql_crc32c((uint32_t)length, noise + shift, length) ==
                  mql_crc32c_portable((uint32_t)length, noise + shift, length));
    uint64_t pair[2] = {UINT64_C(0x8123456789abcdef), UINT64_C(0xfedcba9876543210)};
    CHECK(mql_crc32c_pair(pair[0], pair[1]) == mql_crc32c_portable(0, pair, sizeof pair));
    for (size_t length = 1200; length + 8 < sizeof noise; length += 101)
        CHECK(mql_crc32c(0, noise + 3, length) == mql_crc32c_portable(0, noise + 3, length));
}

static mql_store *open_store(const char *path, mql_log **log) {
    mql_open_options how = {.create = 1, .threads = 1};
    mql_log_options options = {.segment_bytes = 1 << 16,
                               .batch_bytes = 1 << 12,
                               .max_message_bytes = 1 << 14,
                               .sync_interval_ns = 10000000,
                               .retention_bytes = -1,
                               .retention_age_ms = -1};
    mql_store *store;
    CHECK(mql_open(path, &how, &store) == MQL_OK);
    CHECK(mql_partition(store, "t", 0, 1, &options, log) == MQL_OK);
    return store;
}

static mql_value value_of(int64_t n) { return (mql_value){noise + n, n % 700}; }

static void append_all(mql_log *log) {
    for (int64_t n = 0; n < COUNT;) {
        mql_value values[5];
        int64_t offset, count = n % 2 == 0 && n + 5 <= COUNT ? 5 : 1;
        for (int64_t i = 0; i < count; i++) values[i] = value_of(n + i);
        CHECK(mql_append_values(log, values, (size_t)count, MQL_NOW, 0, &offset) == MQL_OK);
        CHECK(offset == n);
        n += count;
    }
}

static void read_all(mql_log *log) {
    mql_cursor *cursor;
    mql_batch batch;
    mql_walk walk;
    mql_record_view view;
    int64_t n = 0;
    CHECK(mql_cursor_open(log, 0, 0, &cursor) == MQL_OK);
    while (mql_cursor_next(cursor, &batch) == MQL_OK) {
        mql_walk_start(&walk, &batch, batch.payload, (size_t)batch.payload_length);
        for (; mql_walk_next(&walk, &view) == MQL_OK; n++) {
            mql_value wanted = value_of(n);
            CHECK(view.offset == n && view.value.length == wanted.length);
            CHECK(memcmp(view.value.data, wanted.data, (size_t)wanted.length) == 0);
        }
    }
    CHECK(n == COUNT);
    mql_cursor_free(cursor);
}

int main(int count, char **words) {
    CHECK(count == 2);
    check_crc();
    mql_log *log;
    mql_verify_report report;
    mql_store *store = open_store(words[1], &log);
    append_all(log);
    read_all(log);
    CHECK(mql_sync(store) == MQL_OK);
    CHECK(mql_close(store) == MQL_OK);
    mql_free(store);
    store = open_store(words[1], &log);
    read_all(log);
    CHECK(mql_verify(log, NULL, NULL, NULL, &report) == MQL_OK);
    CHECK(report.problems == 0 && report.records == COUNT && report.segments > 10);
    CHECK(mql_close(store) == MQL_OK);
    mql_free(store);
    return 0;
}
