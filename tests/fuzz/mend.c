/* mend.c - makes the checks of hostile bytes right. */
#include "mend.h"

#include <stdlib.h>
#include <string.h>

#include "judge.h"
#include "mql_batch.h"
#include "mql_crc32c.h"
#include "mql_format.h"
#include "mql_slots.h"

void mend_log(uint8_t *bytes, size_t length, int64_t base, int dense) {
    int64_t expected = base;
    for (size_t at = 0; at + MQL_BATCH_HEADER <= length;) {
        uint8_t *batch = bytes + at;
        int64_t size = (int32_t)mql_base_get32(batch + MQL_BATCH_LENGTH);
        size += MQL_BATCH_LOG_OVERHEAD;
        if (size < MQL_BATCH_HEADER || size > (int64_t)(length - at)) {
            size = (int64_t)(length - at);
            mql_base_put32(batch + MQL_BATCH_LENGTH, (uint32_t)(size - MQL_BATCH_LOG_OVERHEAD));
        }
        batch[MQL_BATCH_MAGIC] = MQL_BATCH_MAGIC_V2;
        if (dense) {
            mql_base_put64(batch, (uint64_t)expected);
            mql_base_put32(batch + MQL_BATCH_EPOCH, 0);
        }
        size_t covered = (size_t)size - MQL_BATCH_ATTRIBUTES;
        mql_base_put32(batch + MQL_BATCH_CRC,
                       mql_crc32c(0, batch + MQL_BATCH_ATTRIBUTES, covered));
        int32_t delta = (int32_t)mql_base_get32(batch + MQL_BATCH_LAST_DELTA);
        expected += delta < 0 ? 1 : (int64_t)delta + 1;
        at += (size_t)size;
    }
}

/* A number belongs in its slot; 0, of one that was never written, in both. */
static void mend_turn(uint8_t *number, size_t place) {
    uint64_t turn;
    memcpy(&turn, number, sizeof turn);
    if (turn != 0) turn = (turn & ~UINT64_C(1)) | place;
    memcpy(number, &turn, sizeof turn);
}

static void mend_checkpoint(uint8_t *bytes, size_t length) {
    for (size_t at = 0; at + MQL_CHECKPOINT_SLOT <= length && at < MQL_CHECKPOINT_BYTES;
         at += MQL_CHECKPOINT_SLOT) {
        mql_format_checkpoint slot;
        mend_turn(bytes + at + offsetof(mql_format_checkpoint, sequence),
                  at / MQL_CHECKPOINT_SLOT);
        memcpy(&slot, bytes + at, sizeof slot);
        memcpy(slot.magic, MQL_CHECKPOINT_MAGIC, sizeof slot.magic);
        slot.layout = MQL_LAYOUT;
        slot.oldest_writer = MQL_OLDEST_WRITER;
        slot.crc = mql_crc32c(0, &slot, offsetof(mql_format_checkpoint, crc));
        memcpy(bytes + at, &slot, sizeof slot);
    }
}

static void mend_end(mql_format_end *end) {
    atomic_store_explicit(&end->crc, mql_crc32c(0, end, offsetof(mql_format_end, crc)),
                          memory_order_relaxed);
}

static void mend_control(uint8_t *bytes, size_t length, const uint8_t *original) {
    mql_format_control *control = malloc(sizeof *control);
    if (control == NULL || length < sizeof *control) {
        free(control);
        return;
    }
    memcpy(control, bytes, sizeof *control);
    memcpy(control, original, offsetof(mql_format_control, instance));
    for (int i = 0; i < 2; i++) {
        mend_end(&control->published.slots[i]);
        mend_end(&control->durable.slots[i]);
    }
    memcpy(bytes, control, sizeof *control);
    free(control);
}

static void mend_group(uint8_t *bytes, size_t length) {
    if (length < MQL_GROUP_BYTES) return;
    memcpy(bytes, MQL_GROUP_MAGIC, 8);
    for (size_t i = 0; i < 2; i++) {
        uint8_t *slot = bytes + offsetof(mql_format_group, slots) + i * sizeof(mql_format_commit);
        mend_turn(slot + offsetof(mql_format_commit, sequence), i);
        uint32_t crc = mql_crc32c(0, slot, offsetof(mql_format_commit, crc));
        memcpy(slot + offsetof(mql_format_commit, crc), &crc, sizeof crc);
    }
}

static void mend_windows(uint8_t *bytes) {
    memcpy(bytes, MQL_SHARE_MAGIC, 8);
    for (size_t i = 0; i < 2; i++) {
        uint8_t *window =
            bytes + offsetof(mql_format_share, windows) + i * sizeof(mql_format_share_window);
        mend_turn(window + offsetof(mql_format_share_window, sequence), i);
        size_t covered = offsetof(mql_format_share_window, crc);
        uint32_t crc = mql_crc32c(0, window, covered);
        memcpy(window + covered, &crc, sizeof crc);
    }
}

static uint64_t mended_word(const uint8_t *at, uint64_t place, uint64_t *bits) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    *bits = word & ((UINT64_C(1) << MQL_SHARE_WORD_BITS) - 1);
    return mql_slots_word(*bits, place);
}

static void mend_chunk(uint8_t *page, int64_t first) {
    for (int64_t i = 0; i < MQL_SHARE_SLOTS; i++) {
        mql_format_slot slot;
        mql_slots_slot what;
        memcpy(&slot, page + (size_t)i * sizeof slot, sizeof slot);
        mql_slots_load(&slot, first + i, &what);
        if (what.fresh) continue;
        mql_slots_store(&slot, first + i, &what);
        memcpy(page + (size_t)i * sizeof slot, &slot, sizeof slot);
    }
}

static void mend_done(uint8_t *page, uint64_t k) {
    for (uint64_t w = 0; w < MQL_PAGE / 8; w++) {
        uint64_t bits, word = mended_word(page + w * 8, k << 16 | w, &bits);
        memcpy(page + w * 8, &word, sizeof word);
    }
}

static void mend_state(uint8_t *bytes, size_t length) {
    if (length < 2 * MQL_PAGE) return;
    mend_windows(bytes);
    uint8_t *directory = bytes + MQL_PAGE;
    for (size_t i = 0; i < MQL_SHARE_REGION_PAGES; i++) {
        uint64_t bits, word = mended_word(directory + i * 8, i, &bits);
        memcpy(directory + i * 8, &word, sizeof word);
        size_t at = (i + 2) * MQL_PAGE;
        if (at + MQL_PAGE > length || bits == 0) continue;
        if ((bits & MQL_SHARE_DONE) != 0)
            mend_done(bytes + at, bits & ~MQL_SHARE_DONE);
        else
            mend_chunk(bytes + at, (int64_t)(bits - 1) * MQL_SHARE_SLOTS);
    }
}

/* The first `count` bytes are what they were. */
static void keep_front(uint8_t *bytes, size_t length, const uint8_t *original, size_t count) {
    if (length >= count) memcpy(bytes, original, count);
}

void mend_file(const char *name, uint8_t *bytes, size_t length, const uint8_t *original,
               size_t original_length) {
    if (judge_ends_in(name, "leader-epoch-checkpoint")) return;
    if (judge_ends_in(name, ".log")) mend_log(bytes, length, strtoll(name + 4, NULL, 10), 1);
    if (judge_ends_in(name, "checkpoint")) mend_checkpoint(bytes, length);
    if (judge_ends_in(name, "control") && original_length >= MQL_CONTROL_BYTES)
        mend_control(bytes, length, original);
    if (judge_ends_in(name, ".offset")) mend_group(bytes, length);
    if (judge_ends_in(name, ".state")) mend_state(bytes, length);
    if (judge_ends_in(name, ".live")) keep_front(bytes, length, original, 16);
    if (judge_ends_in(name, "dedupe")) keep_front(bytes, length, original, 32);
    if (judge_ends_in(name, "doorbell")) keep_front(bytes, length, original, 56);
}
