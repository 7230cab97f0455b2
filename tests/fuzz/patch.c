/* patch.c - changes to sound bytes. */
#include "patch.h"

#include <stdbool.h>
#include <string.h>

/* What breaks arithmetic; big-endian and little-endian. */
static uint64_t value_of(uint8_t name) {
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      39,
                                      40,
                                      41,
                                      255,
                                      4095,
                                      4096,
                                      8192,
                                      65535,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      UINT64_C(1) << 32,
                                      UINT64_C(1) << 40,
                                      UINT64_C(1) << 47,
                                      UINT64_C(1) << 48,
                                      INT64_MAX / 4,
                                      INT64_MAX / 4 + 1,
                                      INT64_MAX - 1,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX - 1,
                                      UINT64_MAX,
                                      1700000000000,
                                      UINT64_C(0x0000000100000001),
                                      UINT64_C(0x7fffffff7fffffff)};
    uint64_t value = values[(name & 0x7f) % (sizeof values / sizeof *values)];
    return (name & 0x80) != 0 ? __builtin_bswap64(value) : value;
}

static void put(patch_file *file, size_t place, const void *bytes, size_t count) {
    if (place + count > PATCH_BYTES_MAX) return;
    memcpy(file->bytes + place, bytes, count);
    if (place + count > file->length) file->length = place + count;
}

static size_t one(patch_file *file, const uint8_t *data, size_t size) {
    size_t place = (size_t)data[0] | (size_t)data[1] << 8, count = (data[2] & 0x3f) + 1u, used = 3;
    uint8_t copied[512];
    switch (data[2] >> 6) {
    case 0:
        if (used + count > size) count = size - used;
        put(file, place, data + used, count);
        return used + count;
    case 1:
        if (used + 1 > size) return size;
        for (size_t i = 0; i < count; i++) {
            uint64_t value = value_of(data[used]);
            put(file, place + 8 * i, &value, sizeof value);
        }
        return used + 1;
    case 2: {
        if (used + 2 > size) return size;
        size_t from = (size_t)data[used] | (size_t)data[used + 1] << 8;
        memcpy(copied, file->bytes + from, count * 8); /* `bytes` is that much longer */
        put(file, place, copied, count * 8);
        return used + 2;
    }
    default:
        if (place > file->length)
            memset(file->bytes + file->length, 0, place - file->length);
        file->length = place;
        return used;
    }
}

void patch_apply(patch_file *file, const uint8_t *data, size_t size) {
    while (size >= 4) {
        size_t used = one(file, data, size);
        data += used;
        size -= used;
    }
}

/* -- mutating ---------------------------------------------------------------------------------- */
#define STEPS_MAX 64

static unsigned next_random(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* How long the change at `data` is. */
static size_t length_of(const uint8_t *data, size_t size) {
    static const size_t more[] = {0, 1, 2, 0};
    size_t kind = data[2] >> 6, length = 3 + more[kind] + (kind == 0 ? (data[2] & 0x3f) + 1u : 0);
    return length < size ? length : size;
}

/* A place that the file uses, at a word's begin; sometimes any. */
static size_t choose_place(const patch_file *sound, unsigned *seed) {
    size_t length = sound->length == 0 ? 1 : sound->length;
    size_t place = next_random(seed) % length;
    if (next_random(seed) % 8 == 0) return place;
    for (size_t i = 0; i < length; i++) {
        size_t at = (place + i) % length;
        if (sound->bytes[at] != 0) return at - at % 4;
    }
    return place;
}

static size_t make_one(uint8_t out[16], const patch_file *sound, unsigned *seed) {
    static const uint8_t what[] = {0x00, 0x03, 0x07, 0x40, 0x40, 0x41, 0x80, 0x87, 0xc0};
    size_t place = choose_place(sound, seed);
    out[0] = (uint8_t)place;
    out[1] = (uint8_t)(place >> 8);
    out[2] = what[next_random(seed) % sizeof what];
    for (size_t i = 3; i < 16; i++) out[i] = (uint8_t)next_random(seed);
    if (out[2] >> 6 == 0 && out[2] == 0) /* a flipped bit */
        out[3] = sound->bytes[place] ^ (uint8_t)(1u << (next_random(seed) & 7));
    if (out[2] >> 6 == 2) {
        size_t from = choose_place(sound, seed);
        out[3] = (uint8_t)from;
        out[4] = (uint8_t)(from >> 8);
    }
    return length_of(out, 16);
}

size_t patch_mutate(uint8_t *data, size_t size, size_t most, const patch_file *sound,
                    unsigned seed) {
    size_t steps[STEPS_MAX + 1], count = 0, at = 0;
    while (size - at >= 4 && count < STEPS_MAX) {
        steps[count++] = at;
        at += length_of(data + at, size - at);
    }
    steps[count] = at;
    uint8_t made[16];
    size_t length = make_one(made, sound, &seed), n = next_random(&seed) % (count + 1);
    bool replaces = n < count && next_random(&seed) % 3 == 0;
    bool removes = n < count && next_random(&seed) % 6 == 0;
    size_t begin = steps[n], end = replaces || removes ? steps[n + 1] : begin;
    if (removes) length = 0;
    if (at - (end - begin) + length > most) return size;
    memmove(data + begin + length, data + end, at - end);
    memcpy(data + begin, made, length);
    return at - (end - begin) + length;
}
