/* mql_batch.c - RecordBatch v2 in memory.
 *
 * Writing. Sizes are computed first (mql_batch_fit_*), then exactly that many bytes are written;
 * that the two agree is asserted. A small batch costs what its CRC costs, if that need not wait: a
 * load that spans two fresh stores waits until both are in the cache. So the header goes out in
 * words that begin where the CRC's steps begin (byte 21, then every eighth), and a value in whole
 * words.
 *
 * Reading. The bytes may be hostile, and may lie in shared memory and change while they are read.
 * So every byte that decides anything is loaded once, into a local, and each length is checked
 * against what is left before a pointer moves by it: pointers only go forward and never pass `end`,
 * whatever the bytes say and however they change. Offsets and times are added with wrapping
 * arithmetic and compared afterwards. A walk that has failed stays where it was and fails again.
 */
#include "mql_batch.h"

#include "mql_crc32c.h"
#include "mql_format.h"

#define RECORD_MIN 7           /* length, attributes, two deltas, key, value, header count */
#define RECORD_FIXED 1         /* attributes: what a body has besides varints and bytes */
#define SHORT_COPY 16          /* bytes copied without a call */
#define INLINED __attribute__((always_inline)) static inline
#define CODEC_MAX MQL_ZSTD
#define NO_PRODUCER UINT64_MAX /* producer id, epoch and base sequence: -1 in all their bytes */

static_assert(MQL_BATCH_HEADER == MQL_BATCH_COUNT + 4, "the records follow the count");
static_assert(MQL_BATCH_ATTRIBUTES == 21 && MQL_BATCH_LAST_DELTA == 23 &&
                  MQL_BATCH_BASE_TIMESTAMP == 27 && MQL_BATCH_MAX_TIMESTAMP == 35 &&
                  MQL_BATCH_PRODUCER_ID == 43 && MQL_BATCH_PRODUCER_EPOCH == 51 &&
                  MQL_BATCH_BASE_SEQUENCE == 53 && MQL_BATCH_COUNT == 57,
              "put_header writes these as five words");

static inline int64_t add_wrapping(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
static inline int64_t subtract_wrapping(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a - (uint64_t)b);
}

/* -- the header -------------------------------------------------------------------------------- */
void mql_batch_read_header(const uint8_t *bytes, mql_batch_header *out) {
    mql_batch_header header = {
        .base_offset = (int64_t)mql_base_get64(bytes + MQL_BATCH_BASE_OFFSET),
        .size = MQL_BATCH_LOG_OVERHEAD + (int64_t)(int32_t)mql_base_get32(bytes + MQL_BATCH_LENGTH),
        .base_timestamp = (int64_t)mql_base_get64(bytes + MQL_BATCH_BASE_TIMESTAMP),
        .max_timestamp = (int64_t)mql_base_get64(bytes + MQL_BATCH_MAX_TIMESTAMP),
        .producer_id = (int64_t)mql_base_get64(bytes + MQL_BATCH_PRODUCER_ID),
        .epoch = (int32_t)mql_base_get32(bytes + MQL_BATCH_EPOCH),
        .count = (int32_t)mql_base_get32(bytes + MQL_BATCH_COUNT),
        .crc = mql_base_get32(bytes + MQL_BATCH_CRC),
        .attributes = (int16_t)mql_base_get16(bytes + MQL_BATCH_ATTRIBUTES),
        .magic = bytes[MQL_BATCH_MAGIC],
    };
    int32_t last_delta = (int32_t)mql_base_get32(bytes + MQL_BATCH_LAST_DELTA);
    header.last_offset = add_wrapping(header.base_offset, last_delta);
    *out = header;
}

const char *mql_batch_implausible(const mql_batch_header *header, int64_t room) {
    if (header->magic != MQL_BATCH_MAGIC_V2) return "the magic byte of a batch is not 2";
    int codec = MQL_BATCH_COMPRESSION(header->attributes);
    if (codec > CODEC_MAX) return "a batch has an unknown codec";
    if (header->size < MQL_BATCH_HEADER) return "a batch is shorter than its own header";
    if (header->size > MQL_BATCH_BYTES_MAX) return "a batch is longer than any batch may be";
    if (header->size > room) return "a batch reaches past the end of its file";
    if (header->base_offset < 0) return "the base offset of a batch is negative";
    /* A sum that wrapped is negative, so below the base offset as well. */
    if (header->last_offset < header->base_offset) return "a batch ends before its base offset";
    if (header->last_offset == INT64_MAX) return "no offset can follow a batch";
    if (header->count < 0) return "the record count of a batch is negative";
    if (codec == MQL_NONE && header->count > (header->size - MQL_BATCH_HEADER) / RECORD_MIN)
        return "a batch is too short for its record count";
    return NULL;
}

bool mql_batch_crc_right(const uint8_t *bytes, int64_t size) {
    if (size < MQL_BATCH_HEADER) return false;
    size_t covered = (size_t)size - MQL_BATCH_ATTRIBUTES;
    return mql_crc32c(0, bytes + MQL_BATCH_ATTRIBUTES, covered) ==
           mql_base_get32(bytes + MQL_BATCH_CRC);
}

void mql_batch_stamp(uint8_t *bytes, int64_t base_offset, int32_t epoch) {
    mql_base_put64(bytes + MQL_BATCH_BASE_OFFSET, (uint64_t)base_offset);
    mql_base_put32(bytes + MQL_BATCH_EPOCH, (uint32_t)epoch);
}

/* What a header says about its records. */
typedef struct summary {
    int64_t base_timestamp;
    int64_t max_timestamp;
    int32_t count;
    int16_t attributes;
} summary;

/* Everything but the CRC. */
static inline void put_header(uint8_t *out, int64_t size, const summary *of, int64_t base_offset,
                              int32_t epoch) {
    assert(size >= MQL_BATCH_HEADER && size <= MQL_BATCH_BYTES_MAX && of->count > 0);
    uint64_t length = (uint64_t)size - MQL_BATCH_LOG_OVERHEAD;
    uint64_t attributes = (uint16_t)of->attributes;
    uint64_t last_delta = (uint32_t)of->count - 1;
    uint64_t base = (uint64_t)of->base_timestamp;
    uint64_t max = (uint64_t)of->max_timestamp;
    mql_base_put64(out, (uint64_t)base_offset);
    mql_base_put64(out + 8, length << 32 | (uint32_t)epoch);
    out[MQL_BATCH_MAGIC] = MQL_BATCH_MAGIC_V2;
    mql_base_put64(out + 21, attributes << 48 | last_delta << 16 | base >> 48);
    mql_base_put64(out + 29, base << 16 | max >> 48);
    mql_base_put64(out + 37, max << 16 | NO_PRODUCER >> 48);
    mql_base_put64(out + 45, NO_PRODUCER);
    mql_base_put64(out + 53, NO_PRODUCER << 32 | (uint32_t)of->count);
}

static inline void put_crc(uint8_t *out, int64_t size) {
    const uint8_t *covered = out + MQL_BATCH_ATTRIBUTES;
    mql_base_put32(out + MQL_BATCH_CRC,
                   mql_crc32c(0, covered, (size_t)size - MQL_BATCH_ATTRIBUTES));
}

void mql_batch_write_empty(uint8_t *out, int64_t first_offset, int64_t last_offset, int32_t epoch) {
    assert(last_offset >= first_offset && last_offset - first_offset <= INT32_MAX);
    summary none = {.base_timestamp = -1, .max_timestamp = -1, .count = 1};
    put_header(out, MQL_BATCH_HEADER, &none, first_offset, epoch);
    mql_base_put32(out + MQL_BATCH_LAST_DELTA, (uint32_t)(last_offset - first_offset));
    mql_base_put32(out + MQL_BATCH_COUNT, 0);
    put_crc(out, MQL_BATCH_HEADER);
}

void mql_batch_thin(uint8_t *bytes, int64_t size, int32_t count, int64_t max_timestamp) {
    assert(size >= MQL_BATCH_HEADER && size <= MQL_BATCH_BYTES_MAX && count > 0);
    mql_base_put32(bytes + MQL_BATCH_LENGTH, (uint32_t)(size - MQL_BATCH_LOG_OVERHEAD));
    mql_base_put64(bytes + MQL_BATCH_MAX_TIMESTAMP, (uint64_t)max_timestamp);
    mql_base_put32(bytes + MQL_BATCH_COUNT, (uint32_t)count);
    put_crc(bytes, size);
}

static int fail_too_large(int64_t size, int64_t limit, const char *what) {
    int rc = mql_base_fail(MQL_E_TOO_LARGE, NULL, "%s: %lld bytes, at most %lld", what,
                           (long long)size, (long long)limit);
    mql_base_error()->start = size;
    mql_base_error()->stop = limit;
    return rc;
}

/* -- sizes ------------------------------------------------------------------------------------- */
static inline int64_t varint_size(int64_t v) {
    uint64_t u = mql_base_zigzag(v);
    if (u < 1 << 7) return 1;
    return u < 1 << 14 ? 2 : (int64_t)mql_base_varint_size(v);
}

static inline int64_t view_size(const mql_value *view) {
    return view->length < 0 ? 1 : varint_size(view->length) + view->length;
}

static inline int64_t timestamp_of(const mql_record *record, int64_t now) {
    return record->timestamp == MQL_NOW ? now : record->timestamp;
}

/* A body's bytes: what stands behind its length. */
static inline int64_t record_body(const mql_record *record, int64_t time_delta, int64_t delta) {
    return RECORD_FIXED + varint_size(time_delta) + varint_size(delta) + view_size(&record->key) +
           view_size(&record->value) + varint_size(record->header_count) +
           mql_base_max(record->headers.length, 0);
}

static inline int64_t value_body(const mql_value *value, int64_t delta) {
    return RECORD_FIXED + 3 + varint_size(delta) + view_size(value); /* 3: time, key, headers */
}

size_t mql_batch_fit_records(const mql_record *records, size_t count, int64_t now, int64_t limit,
                             int64_t *size) {
    assert(count > 0);
    int64_t base = timestamp_of(&records[0], now);
    int64_t total = MQL_BATCH_HEADER;
    limit = mql_base_min(limit, MQL_BATCH_BYTES_MAX);
    size_t i = 0;
    for (; i < count; i++) {
        int64_t time_delta = subtract_wrapping(timestamp_of(&records[i], now), base);
        int64_t body = record_body(&records[i], time_delta, (int64_t)i);
        int64_t one = varint_size(body) + body;
        if (i > 0 && one > limit - total) break;
        total += one;
    }
    *size = total;
    return i;
}

size_t mql_batch_fit_values(const mql_value *values, size_t count, int64_t limit, int64_t *size) {
    assert(count > 0);
    int64_t total = MQL_BATCH_HEADER;
    limit = mql_base_min(limit, MQL_BATCH_BYTES_MAX);
    size_t i = 0;
    for (; i < count; i++) {
        int64_t body = value_body(&values[i], (int64_t)i);
        int64_t one = varint_size(body) + body;
        if (MQL_UNLIKELY(one > limit - total) && i > 0) break;
        total += one;
    }
    *size = total;
    return i;
}

int64_t mql_batch_records_size(const mql_record *records, size_t count, int64_t now) {
    int64_t size = MQL_BATCH_HEADER;
    if (count == 0) return 0;
    size_t fit = mql_batch_fit_records(records, count, now, MQL_BATCH_BYTES_MAX, &size);
    if (fit < count || size > MQL_BATCH_BYTES_MAX) {
        return fail_too_large(size, MQL_BATCH_BYTES_MAX, "the records do not fit into one batch");
    }
    return size - MQL_BATCH_HEADER;
}

/* -- writing records --------------------------------------------------------------------------- */
static inline uint8_t *put_varint(uint8_t *p, int64_t v) {
    uint64_t u = mql_base_zigzag(v);
    if (u >= 1 << 14) return mql_base_varint_put(p, v);
    *p = (uint8_t)u;
    if (u < 1 << 7) return p + 1;
    p[0] = (uint8_t)(u | 0x80);
    p[1] = (uint8_t)(u >> 7);
    return p + 2;
}

/* Copies; the bytes behind the last whole word by stores of their own, not by one that overlaps.
 * A value of 64 bytes to 8 KiB, alone in its batch, begins on a step of the CRC: each of its loads
 * then lies within one store. */
static inline uint8_t *put_bytes(uint8_t *p, const uint8_t *data, int64_t length) {
    if (length <= 0) return p; /* memcpy must not see the NULL of an empty view */
    size_t words = (size_t)length & ~(size_t)7;
    if (words > SHORT_COPY) {
        memcpy(p, data, words);
    } else {
        for (size_t i = 0; i < words; i += 8) memcpy(p + i, data + i, 8);
    }
    p += words;
    data += words;
    if (length & 4) {
        memcpy(p, data, 4);
        data += 4;
        p += 4;
    }
    for (int64_t rest = length & 3; rest > 0; rest--) *p++ = *data++;
    return p;
}

static inline uint8_t *put_view(uint8_t *p, const mql_value *view) {
    p = put_varint(p, mql_base_max(view->length, -1));
    return put_bytes(p, view->data, view->length);
}

/* A varint of at most two bytes, in the low end of a word: 0 <= v < 8,192. */
static inline uint64_t short_varint(int64_t v) {
    uint64_t u = (uint64_t)v << 1;
    return u < 0x80 ? u : (u & 0x7f) | 0x80 | (u >> 7 << 8);
}

/* Inlined by force: the call alone is a fifth of a short value in a large batch. */
INLINED uint8_t *put_value(uint8_t *p, const mql_value *value, int64_t delta) {
    int64_t body = value_body(value, delta);
    if (MQL_LIKELY(value->length > 0 && body < 1 << 13 && delta < 1 << 13)) {
        /* One store for all that stands before the value, or all but its length: 8 bytes at most,
         * and the record has no fewer. */
        unsigned bits = body < 64 ? 24 : 32; /* the length; attributes and time delta, both 0 */
        uint64_t word = short_varint(body) | short_varint(delta) << bits;
        bits += delta < 64 ? 8 : 16;
        word |= (uint64_t)1 << bits; /* no key: -1 */
        bits += 8;
        if (delta < 64) {
            word |= short_varint(value->length) << bits;
            bits += value->length < 64 ? 8 : 16;
        }
        memcpy(p, &word, sizeof word);
        p += bits / 8;
        if (delta >= 64) p = put_varint(p, value->length);
    } else {
        p = put_varint(p, body);
        *p++ = 0; /* attributes */
        *p++ = 0; /* timestamp delta */
        p = put_varint(p, delta);
        *p++ = 1; /* no key: -1 */
        p = put_varint(p, mql_base_max(value->length, -1));
    }
    p = put_bytes(p, value->data, value->length);
    *p++ = 0; /* headers */
    return p;
}

static inline uint8_t *put_record(uint8_t *p, const mql_record *record, int64_t time_delta,
                                  int64_t delta) {
    bool bare = record->key.length < 0 && record->header_count == 0 && record->headers.length <= 0;
    if (bare && time_delta == 0) return put_value(p, &record->value, delta);
    p = put_varint(p, record_body(record, time_delta, delta));
    *p++ = 0; /* attributes */
    p = put_varint(p, time_delta);
    p = put_varint(p, delta);
    p = put_view(p, &record->key);
    p = put_view(p, &record->value);
    p = put_varint(p, record->header_count);
    return put_bytes(p, record->headers.data, record->headers.length);
}

static inline uint8_t *put_records(uint8_t *p, const mql_record *records, size_t count,
                                   int64_t now) {
    int64_t base = timestamp_of(&records[0], now);
    for (size_t i = 0; i < count; i++) {
        int64_t time_delta = subtract_wrapping(timestamp_of(&records[i], now), base);
        p = put_record(p, &records[i], time_delta, (int64_t)i);
    }
    return p;
}

static inline summary summary_of(const mql_record *records, size_t count, int64_t now) {
    int64_t base = timestamp_of(&records[0], now);
    int64_t max = base;
    for (size_t i = 1; i < count; i++) max = mql_base_max(max, timestamp_of(&records[i], now));
    return (summary){.base_timestamp = base, .max_timestamp = max, .count = (int32_t)count};
}

int64_t mql_batch_write_records(uint8_t *out, int64_t size, const mql_record *records, size_t count,
                                int64_t now, int64_t base_offset, int32_t epoch) {
    assert(count > 0 && count <= INT32_MAX);
    summary of = summary_of(records, count, now);
    put_header(out, size, &of, base_offset, epoch);
    const uint8_t *end = put_records(out + MQL_BATCH_HEADER, records, count, now);
    assert(end == out + size);
    (void)end;
    put_crc(out, size);
    return of.max_timestamp;
}

int64_t mql_batch_write_values(uint8_t *out, int64_t size, const mql_value *values, size_t count,
                               int64_t now, int64_t base_offset, int32_t epoch) {
    assert(count > 0 && count <= INT32_MAX);
    summary of = {.base_timestamp = now, .max_timestamp = now, .count = (int32_t)count};
    put_header(out, size, &of, base_offset, epoch);
    uint8_t *p = out + MQL_BATCH_HEADER;
    for (size_t i = 0; i < count; i++) p = put_value(p, &values[i], (int64_t)i);
    assert(p == out + size);
    put_crc(out, size);
    return now;
}

int64_t mql_batch_records_encode(const mql_record *records, size_t count, int64_t now, uint8_t *out,
                                 size_t capacity) {
    int64_t size = mql_batch_records_size(records, count, now);
    if (size <= 0) return size;
    if ((uint64_t)size > capacity) {
        return fail_too_large(size, (int64_t)capacity, "the records do not fit into the buffer");
    }
    const uint8_t *end = put_records(out, records, count, now);
    assert(end == out + size);
    (void)end;
    return size;
}

int mql_batch_header_build(const mql_record *records, size_t count, int64_t now, int compression,
                           const uint8_t *payload, size_t length, uint8_t *header) {
    if (count == 0 || count > INT32_MAX)
        return mql_base_fail(MQL_E_ARGUMENT, NULL, "a batch of %zu records cannot be", count);
    if (compression < MQL_NONE || compression > CODEC_MAX)
        return mql_base_fail(MQL_E_ARGUMENT, NULL, "there is no codec %d", compression);
    if (length > (size_t)MQL_BATCH_BYTES_MAX - MQL_BATCH_HEADER) {
        int64_t size = length > INT64_MAX ? INT64_MAX : (int64_t)length;
        return fail_too_large(size, MQL_BATCH_BYTES_MAX, "the payload does not fit into a batch");
    }
    summary of = summary_of(records, count, now);
    of.attributes = (int16_t)compression;
    put_header(header, MQL_BATCH_HEADER + (int64_t)length, &of, 0, -1);
    uint32_t crc = mql_crc32c(0, header + MQL_BATCH_ATTRIBUTES,
                              MQL_BATCH_HEADER - MQL_BATCH_ATTRIBUTES);
    mql_base_put32(header + MQL_BATCH_CRC, mql_crc32c(crc, payload, length));
    return MQL_OK;
}

/* -- reading records --------------------------------------------------------------------------- */
/* One load, which the compiler may not repeat: the byte may change behind our back. */
static inline uint8_t load_once(const uint8_t *p) { return *(const volatile uint8_t *)p; }

static const uint8_t *get_varint_long(const uint8_t *p, const uint8_t *end, int most,
                                      int64_t *out) {
    uint64_t u = 0;
    for (int i = 0; i < most && p < end; i++) {
        uint8_t byte = load_once(p++);
        u |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte >= 0x80) continue;
        if (most == 5 && u > UINT32_MAX) return NULL;
        *out = mql_base_unzigzag(u);
        return p;
    }
    return NULL;
}

/* mql_base_varint_get for bytes that may change; one and two bytes are read here. */
static inline const uint8_t *get_varint(const uint8_t *p, const uint8_t *end, int most,
                                        int64_t *out) {
    if (MQL_UNLIKELY(p >= end)) return NULL;
    uint64_t first = load_once(p);
    if (first < 0x80) {
        *out = mql_base_unzigzag(first);
        return p + 1;
    }
    if (MQL_UNLIKELY(end - p < 2)) return NULL;
    uint64_t second = load_once(p + 1);
    if (MQL_UNLIKELY(second >= 0x80)) return get_varint_long(p, end, most, out);
    *out = mql_base_unzigzag((first & 0x7f) | second << 7);
    return p + 2;
}

/* A length and as many bytes; a negative one is null. NULL: they are not all there. */
static inline const uint8_t *get_view(const uint8_t *p, const uint8_t *end, mql_value *out) {
    int64_t length;
    p = get_varint(p, end, 5, &length);
    if (MQL_UNLIKELY(!p || length > end - p)) return NULL;
    if (length < 0) {
        *out = (mql_value){NULL, -1};
        return p;
    }
    *out = (mql_value){p, length};
    return p + length;
}

/* One header; its name is never null. */
static const uint8_t *get_header(const uint8_t *p, const uint8_t *end, mql_value *name,
                                 mql_value *value) {
    p = get_view(p, end, name);
    if (!p || name->length < 0) return NULL;
    return get_view(p, end, value);
}

static bool headers_are_whole(const uint8_t *p, const uint8_t *end, int64_t count) {
    for (; count > 0; count--) {
        mql_value name, value;
        p = get_header(p, end, &name, &value);
        if (!p) return false;
    }
    return p == end;
}

void mql_batch_walk_start(mql_walk *walk, const mql_batch *batch, const uint8_t *payload,
                          size_t length) {
    *walk = (mql_walk){
        .at = payload,
        .end = payload + length,
        .base_offset = batch->base_offset,
        .base_timestamp = batch->base_timestamp,
        .fixed_timestamp = batch->max_timestamp,
        .last_offset = batch->last_offset,
        .previous = subtract_wrapping(batch->base_offset, 1),
        .left = batch->count,
        .log_append_time = (batch->attributes & MQL_BATCH_LOG_APPEND_TIME) != 0,
    };
}

static int walk_corrupt(const mql_walk *walk, const char *what) {
    int64_t stop = walk->last_offset < INT64_MAX ? walk->last_offset + 1 : INT64_MAX;
    return mql_base_fail_corrupt(NULL, -1, walk->base_offset, stop, what);
}

/* A varint of one or two bytes off the low end of *word, still zig-zagged. False: it is longer. */
static inline bool take_short(uint64_t *word, unsigned *bytes, uint64_t *out) {
    uint64_t u = *word;
    *out = u & 0x7f;
    if (!(u & 0x80)) {
        *word = u >> 8;
        *bytes += 1;
        return true;
    }
    *out |= u >> 1 & 0x3f80;
    *word = u >> 16;
    *bytes += 2;
    return !(u & 0x8000);
}

/* Loads 8 bytes; the empty statement keeps the compiler from loading them again. */
static inline uint64_t load_word_once(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    __asm__("" : "+r"(word));
    return word;
}

/* Checks that the record's offset ascends within the batch, completes it, and moves on to `end`. */
static inline bool walk_to(mql_walk *walk, const uint8_t *end, int64_t time_delta, int64_t delta,
                           mql_record_view *out) {
    int64_t offset = add_wrapping(walk->base_offset, delta);
    if (MQL_UNLIKELY(offset <= walk->previous || offset > walk->last_offset)) return false;
    out->offset = offset;
    out->timestamp = walk->log_append_time ? walk->fixed_timestamp
                                           : add_wrapping(walk->base_timestamp, time_delta);
    walk->at = end;
    walk->previous = offset;
    walk->left--;
    return true;
}

/* Most records have no key and no headers, and numbers of at most two bytes: two loads show them.
 * All others, and all that is wrong, are left to walk_any. */
static inline bool walk_plain(mql_walk *walk, mql_record_view *out) {
    const uint8_t *p = walk->at;
    int64_t room = walk->end - p;
    if (MQL_UNLIKELY(room < 16)) return false;
    uint64_t length, time_delta, delta, value_length;
    uint64_t word = load_word_once(p);
    unsigned bytes = 0;
    if (MQL_UNLIKELY(!take_short(&word, &bytes, &length))) return false;
    length = 2 * (uint64_t)bytes + length; /* zig-zagged still, and the record's own now */
    if (MQL_UNLIKELY(length >> 1 > (uint64_t)room)) return false;
    const uint8_t *end = p + (length >> 1);
    word >>= 8; /* attributes say nothing */
    bytes += 1;
    if (!take_short(&word, &bytes, &time_delta) || !take_short(&word, &bytes, &delta)) return false;
    if ((word & 0xff) != 1) return false; /* a key */
    p += bytes + 1;                       /* by 8 at most */
    word = load_word_once(p);
    bytes = 0;
    if (!take_short(&word, &bytes, &value_length) || (length | value_length) & 1) return false;
    p += bytes;
    if (MQL_UNLIKELY((int64_t)(value_length >> 1) != end - p - 1)) return false;
    if (MQL_UNLIKELY(load_once(end - 1) != 0)) return false; /* headers */
    if (!walk_to(walk, end, mql_base_unzigzag(time_delta), mql_base_unzigzag(delta), out))
        return false;
    out->key = (mql_value){NULL, -1};
    out->value = (mql_value){p, (int64_t)(value_length >> 1)};
    out->headers = (mql_value){end, 0};
    out->header_count = 0;
    return true;
}

/* One record of any kind. */
static int walk_any(mql_walk *walk, mql_record_view *out) {
    int64_t length, time_delta, delta, count;
    const uint8_t *p = get_varint(walk->at, walk->end, 5, &length);
    if (!p || length < RECORD_MIN - 1 || length > walk->end - p)
        return walk_corrupt(walk, "a record reaches past the end of its batch");

    mql_record_view view;
    const uint8_t *end = p + length;
    p = get_varint(p + 1, end, 10, &time_delta); /* + 1: attributes, which say nothing */
    p = p ? get_varint(p, end, 5, &delta) : NULL;
    p = p ? get_view(p, end, &view.key) : NULL;
    p = p ? get_view(p, end, &view.value) : NULL;
    p = p ? get_varint(p, end, 5, &count) : NULL;
    if (!p || count < 0 || count > end - p)
        return walk_corrupt(walk, "a record's fields reach past its end");
    if (!headers_are_whole(p, end, count))
        return walk_corrupt(walk, "a record's headers do not end where the record does");
    view.headers = (mql_value){p, end - p};
    view.header_count = (int32_t)count;
    if (!walk_to(walk, end, time_delta, delta, &view))
        return walk_corrupt(walk, "the offsets of a batch do not ascend within it");
    *out = view;
    return MQL_OK;
}

int mql_batch_walk_next(mql_walk *walk, mql_record_view *out) {
    if (MQL_LIKELY(walk->left > 0)) return walk_plain(walk, out) ? MQL_OK : walk_any(walk, out);
    if (walk->left == 0 && walk->at == walk->end) return MQL_END;
    return walk_corrupt(walk, "bytes follow the last record of a batch");
}

/* -- one header of a record -------------------------------------------------------------------- */
size_t mql_batch_one_header_size(size_t name_length, int64_t value_length) {
    return mql_base_varint_size((int64_t)name_length) + name_length +
           mql_base_varint_size(mql_base_max(value_length, -1)) +
           (size_t)mql_base_max(value_length, 0);
}

size_t mql_batch_one_header_encode(const uint8_t *name, size_t name_length, const uint8_t *value,
                                   int64_t value_length, uint8_t *out) {
    uint8_t *p = put_varint(out, (int64_t)name_length);
    p = put_bytes(p, name, (int64_t)name_length);
    p = put_varint(p, mql_base_max(value_length, -1));
    return (size_t)(put_bytes(p, value, value_length) - out);
}

int mql_batch_one_header_next(mql_value *headers, mql_value *name, mql_value *value) {
    if (headers->length <= 0) return MQL_END;
    const uint8_t *end = headers->data + headers->length;
    mql_value one_name, one_value;
    const uint8_t *p = get_header(headers->data, end, &one_name, &one_value);
    if (!p) return mql_base_fail_corrupt(NULL, -1, -1, -1, "a record's headers are cut off");
    *name = one_name;
    *value = one_value;
    *headers = (mql_value){p, end - p};
    return MQL_OK;
}

/* -- the partitioner --------------------------------------------------------------------------- */
static uint32_t murmur2(const uint8_t *key, size_t length) {
    const uint32_t m = 0x5bd1e995;
    uint32_t h = 0x9747b28c ^ (uint32_t)length;
    for (; length >= 4; key += 4, length -= 4) {
        uint32_t k;
        memcpy(&k, key, sizeof k); /* little-endian: mql_format.h */
        k *= m;
        k ^= k >> 24;
        k *= m;
        h *= m;
        h ^= k;
    }
    uint32_t tail = 0;
    for (size_t i = 0; i < length; i++) tail |= (uint32_t)key[i] << (8 * i);
    if (length > 0) h = (h ^ tail) * m;
    h ^= h >> 13;
    h *= m;
    return h ^ h >> 15;
}

int32_t mql_batch_partition_for(const uint8_t *key, size_t length, int32_t partitions) {
    assert(partitions > 0);
    return (int32_t)(murmur2(key, length) & INT32_MAX) % partitions;
}
