/* flicker.c - a batch's records are read while somebody changes their bytes.
 *
 *     flicker TIMES
 *
 * One thread gives a byte of a batch now one value, now another, as fast as it can; the other walks
 * the records TIMES times, and looks at what it gets: it must lie within the batch, whatever the
 * walker has read, and in whatever order. Each byte in turn, each with several values. A page that
 * nobody may read follows the batch.
 *
 * The last line of the output is the sum. Its first word is "ok" or "VIOLATION".
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mql_batch.h"

enum { PAGE = 4096, RECORDS = 3 };

/* What a length may become: nothing, longer by one, by much, negative, the begin of a longer one.
 */
static const uint8_t values[] = {0x00, 0x01, 0x1c, 0x7e, 0x80, 0xff};

static _Atomic(_Atomic uint8_t *) place; /* of the byte that flickers; NULL: the end */
static _Atomic uint8_t other;

static void *flicker(void *nothing) {
    _Atomic uint8_t *byte;
    while ((byte = atomic_load_explicit(&place, memory_order_acquire)) != NULL) {
        uint8_t was = atomic_load_explicit(byte, memory_order_relaxed);
        uint8_t now = atomic_load_explicit(&other, memory_order_relaxed);
        for (int i = 0; i < 500; i++) {
            atomic_store_explicit(byte, now, memory_order_relaxed);
            atomic_store_explicit(byte, was, memory_order_relaxed);
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

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    long times = atol(argv[1]), walks = 0, wrong = 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    uint8_t *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED || mprotect(page + PAGE, PAGE, PROT_NONE) != 0) return 2;
    mql_batch batch;
    size_t length = make(page, &batch);
    uint8_t *payload = page + PAGE - length;
    pthread_t thread;
    atomic_store(&place, (_Atomic uint8_t *)payload);
    if (pthread_create(&thread, NULL, flicker, NULL) != 0) return 2;
    for (size_t i = 0; i < length; i++) {
        for (size_t j = 0; j < sizeof values; j++) {
            atomic_store(&other, values[j]);
            atomic_store(&place, (_Atomic uint8_t *)(payload + i));
            for (long k = 0; k < times; k++) wrong += !walk(&batch, payload, length);
            walks += times;
        }
    }
    atomic_store(&place, NULL);
    pthread_join(thread, NULL);
    printf("%s walks=%ld violations=%ld\n", wrong == 0 ? "ok" : "VIOLATION", walks, wrong);
    return wrong != 0;
}
