/* flicker.c - batches are read while somebody changes their bytes.
 *
 *     flicker records TIMES
 *     flicker log TIMES DIRECTORY
 *
 * One thread gives a byte now one value, now another, as fast as it can; the other reads until the
 * byte has changed during TIMES reads, and looks at what it gets. Each byte in turn, each with
 * several values.
 *
 * "records": of a batch, behind which there is a page that nobody may read. What the walker gives
 * must lie within the batch, whatever it has read, and in whatever order.
 * "log": of the header of a log's second batch. A cursor gives each batch as it was, or says that
 * it is damaged: no CRC covers its length.
 *
 * The last line of the output is the sum. Its first word is "ok" or "VIOLATION".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mql_batch.h"
#include "pin.h"

enum { PAGE = 4096, RECORDS = 3 };

/* What a length may become: nothing, longer by one, by much, negative, the begin of a longer one.
 */
static const uint8_t values[] = {0x00, 0x01, 0x1c, 0x7e, 0x80, 0xff};

/* So many reads for each that meets a change: the other thread may be off its processor. */
enum { READS_MOST = 200 };

static _Atomic(_Atomic uint8_t *) place; /* of the byte that flickers; NULL: the end */
static _Atomic uint8_t other;
static _Atomic long changes; /* how often it did */

static void *flicker(void *nothing) {
    _Atomic uint8_t *byte;
    long count = 0;
    pin_to(1);
    while ((byte = atomic_load_explicit(&place, memory_order_acquire)) != NULL) {
        uint8_t was = atomic_load_explicit(byte, memory_order_relaxed);
        uint8_t now = atomic_load_explicit(&other, memory_order_relaxed);
        for (int i = 0; i < 500; i++) {
            atomic_store_explicit(byte, now, memory_order_relaxed);
            atomic_store_explicit(byte, was, memory_order_relaxed);
            atomic_store_explicit(&changes, ++count, memory_order_relaxed);
        }
    }
    return nothing;
}

static bool within(const mql_value *view, const uint8_t *begin, const uint8_t *end) {
    return view->length <= 0 || (view->data >= begin && view->length <= end - view->data);
}

/* Whether all that a walk gives lies in the batch. */
static bool walk(const mql_batch *batch, const uint8_t *payload, size_t length) {
    mql_walk at;
    mql_record_view seen;
    const uint8_t *end = payload + length;
    mql_batch_walk_start(&at, batch, payload, length);
    while (mql_batch_walk_next(&at, &seen) == MQL_OK)
        if (!within(&seen.key, payload, end) || !within(&seen.value, payload, end) ||
            !within(&seen.headers, payload, end) || at.at > end)
            return false;
    return true;
}

/* Three records, so that their batch ends where the page does; its header is read once and copied.
 */
static size_t make(uint8_t *page, mql_batch *batch) {
    uint8_t bytes[PAGE], header[16] = "text";
    size_t in_header = mql_batch_one_header_encode((const uint8_t *)"h", 1, header, 4, header + 8);
    mql_record records[RECORDS];
    for (int i = 0; i < RECORDS; i++) {
        records[i] = (mql_record){.key = {(const uint8_t *)"key", 3},
                                  .value = {(const uint8_t *)"some value", 10},
                                  .headers = {header + 8, (int64_t)in_header},
                                  .header_count = 1,
                                  .timestamp = 1000 + i};
    }
    records[1].key.length = -1; /* this one is read by the short way */
    records[1].header_count = 0;
    records[1].headers.length = 0;
    int64_t size;
    mql_batch_fit_records(records, RECORDS, 0, sizeof bytes, &size);
    mql_batch_write_records(bytes, size, records, RECORDS, 0, 0, 0);
    size_t length = (size_t)size - MQL_BATCH_HEADER;
    memcpy(page + PAGE - length, bytes + MQL_BATCH_HEADER, length);
    *batch = (mql_batch){.last_offset = RECORDS - 1, .count = RECORDS};
    return length;
}

typedef bool reader(void *context);

/* Whether the byte has changed while it read. */
static bool read_once(reader *read, void *context, long *wrong) {
    long before = atomic_load_explicit(&changes, memory_order_relaxed);
    *wrong += !read(context);
    return atomic_load_explicit(&changes, memory_order_relaxed) != before;
}

/* Reads while each byte flickers in turn, and says how often, and how often it was wrong. */
static int read_all(uint8_t *bytes, size_t length, long times, reader *read, void *context) {
    pthread_t thread;
    long wrong = 0, reads = 0, met = 0;
    atomic_store(&place, (_Atomic uint8_t *)bytes);
    if (pthread_create(&thread, NULL, flicker, NULL) != 0) exit(2);
    pin_to(0);
    for (size_t i = 0; i < length; i++) {
        for (size_t j = 0; j < sizeof values; j++) {
            atomic_store(&other, values[j]);
            atomic_store(&place, (_Atomic uint8_t *)(bytes + i));
            long before = met, most = reads + times * READS_MOST;
            for (; met < before + times && reads < most; reads++)
                met += read_once(read, context, &wrong);
        }
    }
    atomic_store(&place, NULL);
    pthread_join(thread, NULL);
    printf("%s reads=%ld met=%ld violations=%ld\n", wrong == 0 ? "ok" : "VIOLATION", reads, met,
           wrong);
    return wrong != 0;
}

/* -- the records of a batch -------------------------------------------------------------------- */
typedef struct payload {
    mql_batch batch;
    const uint8_t *bytes;
    size_t length;
} payload;

static bool walk_payload(void *context) {
    const payload *of = context;
    return walk(&of->batch, of->bytes, of->length);
}

static int records(long times) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    uint8_t *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED || mprotect(page + PAGE, PAGE, PROT_NONE) != 0) return 2;
    payload of;
    of.length = make(page, &of.batch);
    uint8_t *bytes = page + PAGE - of.length;
    of.bytes = bytes;
    return read_all(bytes, of.length, times, walk_payload, &of);
}

/* -- a log ------------------------------------------------------------------------------------- */
enum { BATCHES = 3, VALUE = 20 };

static void check(int rc) {
    if (rc >= 0) return;
    fprintf(stderr, "%s: %s\n", mql_error_last()->path, mql_error_last()->text);
    exit(2);
}

/* A batch is what it was, or damaged; then the next one comes. */
static bool read_log(void *context) {
    mql_cursor *cursor = context;
    mql_batch batch;
    int64_t payload = 0, offset = 0;
    check(mql_cursor_seek(cursor, 0));
    for (int rc = 0; rc != MQL_END;) {
        rc = mql_cursor_next(cursor, &batch);
        if (rc < 0 && rc != MQL_E_CORRUPT) check(rc);
        if (rc != MQL_OK) continue;
        if (batch.base_offset == 0) payload = batch.payload_length;
        if (batch.base_offset < offset || batch.base_offset >= BATCHES) return false;
        if (batch.payload_length != payload) return false;
        offset = batch.base_offset + 1;
    }
    return true;
}

static int a_log(long times, const char *directory) {
    mql_store *store;
    mql_log *log;
    mql_cursor *cursor;
    mql_log_options options = {.segment_bytes = 1 << 20,
                               .batch_bytes = 4096,
                               .max_message_bytes = 4096,
                               .sync_interval_ns = INT64_C(100000000),
                               .retention_bytes = -1,
                               .retention_age_ms = -1};
    mql_open_options how = {.create = 1};
    check(mql_open(directory, &how, &store));
    check(mql_partition(store, "orders", 0, 1, &options, &log));
    for (int i = 0; i < BATCHES; i++) {
        int64_t offset;
        mql_value value = {(const uint8_t *)"twenty bytes of text", VALUE};
        check(mql_append_values(log, &value, 1, MQL_NOW, 0, &offset));
    }
    check(mql_cursor_open(log, 0, 0, &cursor));
    mql_batch first;
    check(mql_cursor_next(cursor, &first));
    int64_t size = MQL_BATCH_HEADER + first.payload_length;
    char path[4096];
    snprintf(path, sizeof path, "%s/orders-0/00000000000000000000.log", directory);
    int file = open(path, O_RDWR);
    uint8_t *bytes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file < 0 || bytes == MAP_FAILED) return 2;
    close(file);
    return read_all(bytes + size, MQL_BATCH_HEADER, times, read_log, cursor);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "records") == 0) return records(atol(argv[2]));
    if (argc == 4 && strcmp(argv[1], "log") == 0) return a_log(atol(argv[2]), argv[3]);
    return 2;
}
