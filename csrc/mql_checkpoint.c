/* mql_checkpoint.c - the file that says what of a partition is on stable storage.
 *
 * Two slots, written in turn, each with a CRC: a power cut takes the one that was being written,
 * and the other still counts. A slot is one sector: it is as it was, or as it is to be.
 */
#include "mql_checkpoint.h"

#include <errno.h>
#include <stdio.h>

#define AHEAD_MAX (INT64_C(1) << 40) /* no ceiling is that far ahead of its watermark */

static void path_of(char out[MQL_PATH_MAX], const char *directory) {
    snprintf(out, MQL_PATH_MAX, "%s/checkpoint", directory);
}

static uint32_t crc_of(const mql_format_checkpoint *slot) {
    return mql_crc32c(0, slot, offsetof(mql_format_checkpoint, crc));
}

static bool sound(const mql_format_checkpoint *slot, uint64_t place) {
    if (memcmp(slot->magic, MQL_CHECKPOINT_MAGIC, sizeof slot->magic) != 0) return false;
    if (slot->crc != crc_of(slot)) return false;
    if (!mql_base_is_turn(slot->sequence) || (slot->sequence & 1) != place) return false;
    bool ordered = slot->segment >= 0 && slot->position >= 0 && slot->log_start >= 0 &&
                   slot->offset >= slot->segment && slot->epoch >= 0 && slot->epoch < INT32_MAX;
    return ordered && slot->offset <= MQL_OFFSET_MAX && slot->log_start <= MQL_OFFSET_MAX &&
           slot->ceiling >= 0 && slot->ceiling - slot->offset <= AHEAD_MAX;
}

int mql_checkpoint_read(mql_os_file root, const char *directory, mql_format_checkpoint *out) {
    char path[MQL_PATH_MAX];
    path_of(path, directory);
    mql_os_file file;
    int rc = mql_os_open(root, path, MQL_OS_READ, 0, &file);
    if (rc == -ENOENT) return MQL_END;
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open");
    mql_format_checkpoint slots[2];
    memset(slots, 0, sizeof slots);
    int64_t got = mql_os_read(file, slots, sizeof slots, 0);
    mql_os_close(file);
    if (got < 0) return mql_base_fail_os((int)got, path, "cannot read");
    bool first = sound(&slots[0], 0), second = sound(&slots[1], 1);
    if (!first && !second) return MQL_END;
    bool later = mql_base_is_later_turn(slots[0].sequence, slots[1].sequence);
    *out = slots[first && (!second || later) ? 0 : 1];
    if (mql_format_is_newer(out->layout, out->oldest_writer))
        return mql_base_fail(MQL_E_FORMAT, path,
                             "written by a newer mqlog (layout %u, this one knows %u)", out->layout,
                             MQL_LAYOUT);
    return MQL_OK;
}

int mql_checkpoint_write(mql_os_file root, const char *directory,
                         mql_format_checkpoint *checkpoint, uint32_t mode) {
    char path[MQL_PATH_MAX];
    path_of(path, directory);
    memcpy(checkpoint->magic, MQL_CHECKPOINT_MAGIC, sizeof checkpoint->magic);
    checkpoint->layout = MQL_LAYOUT;
    checkpoint->oldest_writer = MQL_OLDEST_WRITER;
    checkpoint->sequence = mql_base_next_turn(checkpoint->sequence);
    checkpoint->crc = crc_of(checkpoint);
    mql_os_file file;
    int rc = mql_os_open(root, path, MQL_OS_WRITE | MQL_OS_CREATE, mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open");
    int64_t place = (int64_t)(checkpoint->sequence & 1) * MQL_CHECKPOINT_SLOT;
    rc = mql_os_write(file, checkpoint, sizeof *checkpoint, place);
    if (rc == 0) rc = mql_os_sync(file);
    mql_os_close(file);
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot write the checkpoint") : MQL_OK;
}
