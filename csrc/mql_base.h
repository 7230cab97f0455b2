/* mql_base.h - what every module leans on: results with their detail, bytes, varints, limits. */
#ifndef MQL_BASE_H
#define MQL_BASE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mqlog.h"

#define MQL_LIKELY(x) __builtin_expect(!!(x), 1)
#define MQL_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* -- limits: everything has one ---------------------------------------------------------------- */
#define MQL_LINE 128                           /* shared words of different owners: apart */
#define MQL_PAGE 4096                          /* the unit of index and file allocation */
#define MQL_SEGMENT_BYTES_MIN 4096
#define MQL_SEGMENT_BYTES_MAX INT32_MAX        /* Kafka opens no larger file */
#define MQL_BATCH_BYTES_MAX ((int64_t)1 << 30) /* one batch, header included */
#define MQL_OFFSET_MAX ((int64_t)1 << 54)      /* no log comes that far */
#define MQL_INDEX_INTERVAL 4096                /* Kafka's index.interval.bytes */
#define MQL_NAME_MAX 255
#define MQL_TOPIC_MAX 245
#define MQL_PARTITIONS_MAX 10000
#define MQL_MEMBERS_MAX 448
#define MQL_SLICE_NS ((int64_t)250 * 1000 * 1000) /* the longest single wait */
#define MQL_LOCK_SLICE_NS ((int64_t)50 * 1000 * 1000)

#define MQL_PATH_MAX 320

/* "<directory>/<20 digits of base><suffix>": the name of a segment's file within the store. */
void mql_base_file_name(char out[MQL_PATH_MAX], const char *directory, int64_t base,
                        const char *suffix);

/* -- failures ---------------------------------------------------------------------------------- */
/* Records the detail for this thread and returns `code`. Text is printf-formatted; path may be
 * NULL. */
__attribute__((format(printf, 3, 4))) int mql_base_fail(int code, const char *path,
                                                        const char *format, ...);
/* The same from a negative errno of mql_os_*; always returns MQL_E_OS. */
int mql_base_fail_os(int negative_errno, const char *path, const char *doing);
int mql_base_fail_corrupt(const char *path, int64_t position, int64_t start, int64_t stop,
                          const char *what);
int mql_base_fail_range(int64_t offset, int64_t start, int64_t stop);
mql_error *mql_base_error(void); /* this thread's, to add to what was just recorded */

/* Of a thread in a hurry a lock is given up after a slice: who holds it may be stopped, and the
 * caller wants to look for signals. Nothing has changed then, and the call is to be made again:
 * MQL_E_LATER. The slice is for the whole call: once it has passed, locks are only tried. */
void mql_base_hurry(bool on);       /* counted; on: with a slice anew */
int mql_base_swap_hurry(int count); /* the count before; 0: in no hurry */
int64_t mql_base_rest(int64_t most); /* what is left of the slice, if in a hurry */
/* How long to wait for a lock now. */
static inline int64_t mql_base_slice(int64_t most) {
    return MQL_LIKELY(most <= 0) ? most : mql_base_rest(most);
}
int mql_base_later(int rc); /* of such a wait: MQL_TIMEOUT is MQL_E_LATER if in a hurry */

/* -- big-endian bytes, as Kafka has them ------------------------------------------------------- */
static inline uint16_t mql_base_get16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}
static inline uint32_t mql_base_get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}
static inline uint64_t mql_base_get64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}
static inline void mql_base_put16(uint8_t *p, uint16_t v) {
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}
static inline void mql_base_put32(uint8_t *p, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}
static inline void mql_base_put64(uint8_t *p, uint64_t v) {
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

/* -- varints: base 128, little-endian groups, zig-zag (protobuf's sint) ------------------------ */
static inline uint64_t mql_base_zigzag(int64_t v) {
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}
static inline int64_t mql_base_unzigzag(uint64_t u) {
    return (int64_t)(u >> 1) ^ -(int64_t)(u & 1);
}

static inline size_t mql_base_varint_size(int64_t v) {
    uint64_t u = mql_base_zigzag(v) | 1;
    return (size_t)(63 - __builtin_clzll(u)) / 7 + 1;
}
static inline uint8_t *mql_base_varint_put(uint8_t *p, int64_t v) {
    uint64_t u = mql_base_zigzag(v);
    while (u >= 0x80) {
        *p++ = (uint8_t)(u | 0x80);
        u >>= 7;
    }
    *p++ = (uint8_t)u;
    return p;
}
/* Reads one varint of at most `most` bytes (5: int32, 10: int64); NULL: malformed or cut off. */
const uint8_t *mql_base_varint_get_long(const uint8_t *p, const uint8_t *end, int most,
                                        int64_t *out);
static inline const uint8_t *mql_base_varint_get(const uint8_t *p, const uint8_t *end, int most,
                                                 int64_t *out) {
    if (MQL_LIKELY(p < end)) {
        uint8_t first = *(const volatile uint8_t *)p; /* once: mapped bytes may change */
        if (MQL_LIKELY(first < 0x80)) {
            *out = mql_base_unzigzag(first);
            return p + 1;
        }
    }
    return mql_base_varint_get_long(p, end, most, out);
}

/* -- turns: the numbers of what is written to two slots in turn -------------------------------- */
/* Number k stands in slot k mod 2, and the slot with the later number counts. Damage may bring any
 * number there, so they go round: whatever it is, one that is later follows. 0 is none. */
static inline bool mql_base_is_turn(uint64_t turn) { return turn != 0; }
/* Behind the greatest comes 2: that one is odd, and 1 would go over the slot that counts. */
static inline uint64_t mql_base_next_turn(uint64_t turn) {
    return turn < UINT64_MAX ? turn + 1 : 2;
}
/* Whether `a` comes after `b`: less than half the circle ahead, as in RFC 1982; any number comes
 * after none. Of two that are equal, or half the circle apart, neither does: as both are even or
 * both odd, one of them is not in its slot. */
static inline bool mql_base_is_later_turn(uint64_t a, uint64_t b) {
    if (!mql_base_is_turn(a)) return false;
    if (!mql_base_is_turn(b)) return true;
    return a != b && a - b < UINT64_C(1) << 63;
}

static inline int64_t mql_base_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t mql_base_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t mql_base_round_up(int64_t v, int64_t unit) {
    return (v + unit - 1) / unit * unit;
}
static inline int64_t mql_base_round_down(int64_t v, int64_t unit) { return v / unit * unit; }

#endif
