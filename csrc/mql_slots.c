/* mql_slots.c - the state file of a share group.
 *
 * Why what it says can be believed. A slot's state, count, holder and token are one word, and one
 * release store changes it. The time beside it is stored first; a death between the two leaves the
 * old state with a time that its clock says is not its own, and then it counts as "now". Each word
 * carries a check over itself and its offset, so neither a flipped bit nor a page that belongs
 * elsewhere is ever taken for an accept: every flip of one bit is found.
 *
 * Nothing here takes a lock or knows what the states mean: that is mql_live's and mql_share's.
 */
#include "mql_slots.h"

#include <errno.h>
#include <stdio.h>

static_assert(MQL_SHARE_SLOTS * sizeof(mql_format_slot) == MQL_PAGE, "a chunk is a page");
static_assert(MQL_SHARE_REGION_PAGES * sizeof(uint64_t) == MQL_PAGE, "a directory is a page");
static_assert(MQL_OFFSET_MAX / MQL_SHARE_SLOTS < MQL_SHARE_DONE, "each chunk has a name");

/* -- the file ---------------------------------------------------------------------------------- */
int64_t mql_slots_position(uint32_t page) {
    return MQL_PAGE + (int64_t)(page / MQL_SHARE_REGION_PAGES) * MQL_SLOTS_REGION_BYTES +
           (int64_t)(page % MQL_SHARE_REGION_PAGES + 1) * MQL_PAGE;
}

uint32_t mql_slots_count(int64_t size) {
    int64_t left = size - MQL_PAGE, regions = left / MQL_SLOTS_REGION_BYTES;
    int64_t rest = left % MQL_SLOTS_REGION_BYTES / MQL_PAGE - 1;
    if (regions >= MQL_SLOTS_REGIONS_MAX) return MQL_SLOTS_REGIONS_MAX * MQL_SHARE_REGION_PAGES;
    return (uint32_t)(regions * MQL_SHARE_REGION_PAGES + mql_base_max(rest, 0));
}

int64_t mql_slots_needed(int64_t end, int64_t offset) {
    if (offset <= end) return 0;
    int64_t chunks = (offset - 1) / MQL_SHARE_SLOTS - end / MQL_SHARE_SLOTS + 1;
    return chunks == 1 ? 1 : chunks + 1 + chunks / MQL_SHARE_DONE_CHUNKS;
}

/* The file that is mapped, not one that has got its name since. */
static int open_file(const mql_slots *slots, mql_os_file root, mql_os_file *file) {
    mql_os_stat stat;
    int rc = mql_os_open(root, slots->path, MQL_OS_WRITE, 0, file);
    if (rc == 0) {
        rc = mql_os_stat_file(*file, &stat);
        if (rc == 0 && stat.inode != slots->inode) rc = -ENOENT;
        if (rc < 0) mql_os_close(*file);
    }
    if (rc < 0) *file = MQL_OS_NO_FILE;
    if (rc == -ENOENT)
        return mql_base_fail(MQL_E_NOT_FOUND, slots->path, "the share group was deleted");
    return rc < 0 ? mql_base_fail_os(rc, slots->path, "cannot open the share group") : MQL_OK;
}

static int make_file(const mql_slots *slots, mql_os_file root, uint32_t mode, mql_os_file *file) {
    char directory[MQL_PATH_MAX + 16];
    snprintf(directory, sizeof directory, "%s", slots->path);
    *strrchr(directory, '/') = 0;
    int rc = mql_os_make_directory(root, directory, 0700);
    if (rc == 0 || rc == -EEXIST)
        rc = mql_os_open(root, slots->path, MQL_OS_WRITE | MQL_OS_CREATE, mode, file);
    return rc < 0 ? mql_base_fail_os(rc, slots->path, "cannot make the share group") : MQL_OK;
}

/* Judges the 16 bytes that no CRC covers: one that has a sound window is a share group's, one that
 * has none and no magic is of a maker that died. */
int mql_slots_judge(const mql_slots *slots, bool create) {
    static const uint8_t nothing[8] = {0};
    mql_format_share *header = slots->header;
    mql_format_share_window window;
    bool ours = memcmp(header->magic, MQL_SHARE_MAGIC, sizeof header->magic) == 0;
    if (ours && mql_format_is_newer(header->layout, header->oldest_writer))
        return mql_base_fail(MQL_E_FORMAT, slots->path,
                             "written by a newer mqlog (layout %u, this one knows %u)",
                             header->layout, MQL_LAYOUT);
    if (ours && header->oldest_writer <= MQL_LAYOUT) return MQL_OK;
    int rc = mql_slots_window(slots, &window);
    bool fresh = rc == MQL_OK && window.sequence == 0;
    if (rc < 0 || (fresh && memcmp(header->magic, nothing, sizeof nothing) != 0))
        return mql_base_fail(MQL_E_FORMAT, slots->path, "not a share group's file");
    if (fresh && !create)
        return mql_base_fail(MQL_E_NOT_FOUND, slots->path, "there is no such share group");
    memcpy(header->magic, MQL_SHARE_MAGIC, sizeof header->magic);
    header->layout = MQL_LAYOUT;
    header->oldest_writer = MQL_OLDEST_WRITER;
    return MQL_OK;
}

int mql_slots_open(mql_slots *slots, mql_os_file root, uint32_t mode, bool create,
                   uint32_t *pages) {
    mql_os_file file;
    int rc = mql_os_open(root, slots->path, MQL_OS_WRITE, 0, &file);
    if (rc == -ENOENT && !create)
        return mql_base_fail(MQL_E_NOT_FOUND, slots->path, "there is no such share group");
    if (rc == -ENOENT)
        rc = make_file(slots, root, mode, &file);
    else if (rc < 0)
        rc = mql_base_fail_os(rc, slots->path, "cannot open the share group");
    if (rc < 0) return rc;
    mql_os_stat stat;
    void *map = NULL;
    rc = mql_os_stat_file(file, &stat);
    int64_t least = mql_slots_position(0) + MQL_PAGE;
    if (rc == 0 && mql_os_lacks_blocks(&stat, least)) rc = mql_os_allocate(file, 0, least);
    stat.size = mql_base_max(stat.size, least);
    if (rc == 0) rc = mql_os_map(file, MQL_PAGE, true, &map);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, slots->path, "cannot map the share group");
    slots->header = map;
    slots->regions = mql_os_allocate_memory(MQL_SLOTS_REGIONS_MAX * sizeof *slots->regions);
    if (slots->regions == NULL)
        return mql_base_fail(MQL_E_MEMORY, slots->path, "no memory for a share group");
    slots->inode = stat.inode;
    slots->device = stat.device;
    slots->mount = stat.mount;
    *pages = mql_slots_count(stat.size);
    return mql_slots_judge(slots, create);
}

void mql_slots_close(mql_slots *slots) {
    for (size_t i = 0; slots->regions != NULL && i < MQL_SLOTS_REGIONS_MAX; i++) {
        uint8_t *region = atomic_load_explicit(&slots->regions[i], memory_order_relaxed);
        if (region == NULL) break;
        mql_os_unmap(region, (size_t)MQL_SLOTS_REGION_BYTES);
    }
    mql_os_free_memory((void *)slots->regions);
    if (slots->header != NULL) mql_os_unmap(slots->header, MQL_PAGE);
    slots->regions = NULL;
    slots->header = NULL;
}

int mql_slots_map(mql_slots *slots, mql_os_file root, uint32_t pages) {
    uint32_t regions = (pages + MQL_SHARE_REGION_PAGES - 1) / MQL_SHARE_REGION_PAGES;
    mql_os_file file = MQL_OS_NO_FILE;
    int rc = MQL_OK;
    for (uint32_t i = 0; rc == MQL_OK && i < regions; i++) {
        if (atomic_load_explicit(&slots->regions[i], memory_order_acquire) != NULL) continue;
        if (file == MQL_OS_NO_FILE) rc = open_file(slots, root, &file);
        void *map = NULL;
        if (rc == MQL_OK) {
            int64_t at = MQL_PAGE + (int64_t)i * MQL_SLOTS_REGION_BYTES;
            rc = mql_os_map_at(file, at, (size_t)MQL_SLOTS_REGION_BYTES, &map);
            if (rc < 0) rc = mql_base_fail_os(rc, slots->path, "cannot map the share group");
        }
        uint8_t *none = NULL;
        if (rc == MQL_OK && !atomic_compare_exchange_strong(&slots->regions[i], &none, map))
            mql_os_unmap(map, (size_t)MQL_SLOTS_REGION_BYTES); /* another thread was faster */
    }
    mql_os_close(file);
    return rc;
}

int mql_slots_allocate(const mql_slots *slots, mql_os_file root, uint32_t from, uint32_t to) {
    mql_os_file file;
    int rc = open_file(slots, root, &file);
    if (rc < 0) return rc;
    int64_t start = from == 0 ? 0 : mql_slots_position(from - 1) + MQL_PAGE;
    rc = mql_os_allocate(file, start, mql_slots_position(to - 1) + MQL_PAGE - start);
    mql_os_close(file);
    return rc < 0 ? mql_base_fail_os(rc, slots->path, "no space for the state of a share group")
                  : MQL_OK;
}

int mql_slots_fill_holes(const mql_slots *slots, mql_os_file root, uint32_t pages) {
    mql_os_stat stat;
    int rc = mql_os_stat_name(root, slots->path, &stat);
    bool whole = rc == 0 && stat.inode == slots->inode && !mql_os_lacks_blocks(&stat, 0);
    return whole ? MQL_OK : mql_slots_allocate(slots, root, 0, pages);
}

int mql_slots_cut(const mql_slots *slots, mql_os_file root, uint32_t pages) {
    mql_os_file file;
    mql_os_stat stat;
    int64_t size = mql_slots_position(pages - 1) + MQL_PAGE;
    int rc = open_file(slots, root, &file);
    if (rc < 0) return rc;
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && stat.size > size) rc = mql_os_truncate(file, size);
    mql_os_close(file);
    return rc < 0 ? mql_base_fail_os(rc, slots->path, "cannot shorten the share group") : MQL_OK;
}

void mql_slots_forget(const mql_slots *slots, uint32_t pages) {
    for (uint32_t page = pages; page % MQL_SHARE_REGION_PAGES != 0; page++)
        if (atomic_load_explicit(mql_slots_name(slots, page), memory_order_relaxed) != 0)
            atomic_store_explicit(mql_slots_name(slots, page), 0, memory_order_relaxed);
}

/* The directory of the file, and the partition's. */
static int sync_names(const mql_slots *slots, mql_os_file root) {
    char directory[MQL_PATH_MAX + 16];
    snprintf(directory, sizeof directory, "%s", slots->path);
    int rc = 0;
    for (int i = 0; rc == 0 && i < 2; i++) {
        *strrchr(directory, '/') = 0;
        mql_os_file opened;
        rc = mql_os_open_directory(root, directory, &opened);
        if (rc < 0) break;
        rc = mql_os_sync_directory(opened);
        mql_os_close(opened);
    }
    return rc;
}

int mql_slots_sync(const mql_slots *slots, mql_os_file root, bool names) {
    mql_os_file file;
    int rc = open_file(slots, root, &file);
    if (rc < 0) return rc;
    rc = mql_os_sync(file);
    mql_os_close(file);
    if (rc == 0 && names) rc = sync_names(slots, root);
    return rc < 0 ? mql_base_fail_os(rc, slots->path, "cannot sync the share group") : MQL_OK;
}

void mql_slots_touch_header(const mql_slots *slots) {
    uint8_t *header = (uint8_t *)slots->header;
    atomic_fetch_or_explicit((_Atomic uint8_t *)header, 0, memory_order_relaxed);
}

void mql_slots_touch_page(const mql_slots *slots, uint32_t page) {
    atomic_fetch_or_explicit(mql_slots_name(slots, page), 0, memory_order_relaxed);
    _Atomic uint64_t *word = mql_slots_page(slots, page);
    atomic_fetch_or_explicit(word, 0, memory_order_relaxed);
}

void mql_slots_memory(const mql_slots *slots, const uint8_t boot[16], uint8_t out[16]) {
    uint64_t words[2];
    memcpy(words, boot, sizeof words);
    words[0] ^= slots->mount;
    words[1] ^= slots->inode ^ (slots->device << 32 | slots->device >> 32);
    memcpy(out, words, sizeof words);
}

/* -- words ------------------------------------------------------------------------------------- */
static uint64_t check16(uint64_t bits, uint64_t place) {
    uint32_t crc = mql_crc32c_pair(bits, place);
    return (crc ^ crc >> 16) & 0xffff;
}

uint64_t mql_slots_word(uint64_t bits, uint64_t place) {
    return bits == 0 ? 0 : check16(bits, place) << 48 | bits;
}

bool mql_slots_unword(uint64_t word, uint64_t place, uint64_t *bits) {
    *bits = word & ((UINT64_C(1) << 48) - 1);
    return word == 0 || (*bits != 0 && word >> 48 == check16(*bits, place));
}

/* Every flip of one bit of a word and its offset changes it. */
static uint64_t check8(uint64_t word, int64_t offset) {
    uint32_t crc = mql_crc32c_pair(word, (uint64_t)offset);
    crc ^= crc >> 16;
    return (crc ^ crc >> 8) & 0xff;
}

/* -- slots ------------------------------------------------------------------------------------- */
void mql_slots_load(const mql_format_slot *at, int64_t offset, mql_slots_slot *out) {
    uint64_t state = atomic_load_explicit(&at->state, memory_order_acquire);
    uint64_t time = atomic_load_explicit(&at->time, memory_order_relaxed);
    if (state == 0 && time == 0) {
        *out = (mql_slots_slot){.fresh = true, .sound = true};
        return;
    }
    const uint64_t mask = UINT64_C(0xff) << MQL_SLOT_CHECK_SHIFT;
    uint64_t check = check8(state & ~mask, offset);
    bool sound = state == 0 || (state & mask) >> MQL_SLOT_CHECK_SHIFT == check;
    sound = sound && (time & 0xff) == check8(time & ~UINT64_C(0xff), offset);
    out->state = (uint8_t)(state >> MQL_SLOT_STATE_SHIFT);
    out->deliveries = (state >> MQL_SLOT_DELIVERIES_SHIFT) & 0xff;
    out->member = (state >> MQL_SLOT_MEMBER_SHIFT) & 0x1fff;
    out->token = (uint32_t)state;
    out->time = (int64_t)(time >> MQL_SLOT_TIME_SHIFT);
    out->clock = (uint8_t)(time >> MQL_SLOT_CLOCK_SHIFT);
    out->fresh = false;
    out->sound = sound && out->state <= MQL_SHARE_ARCHIVED;
}

void mql_slots_store_time(mql_format_slot *at, int64_t offset, const mql_slots_slot *slot) {
    uint64_t time = (uint64_t)mql_base_min(mql_base_max(slot->time, 0), MQL_SLOTS_TIME_MAX)
                        << MQL_SLOT_TIME_SHIFT |
                    (uint64_t)slot->clock << MQL_SLOT_CLOCK_SHIFT;
    time |= check8(time, offset);
    atomic_store_explicit(&at->time, time, memory_order_relaxed);
}

void mql_slots_store_state(mql_format_slot *at, int64_t offset, const mql_slots_slot *slot) {
    uint64_t state = (uint64_t)slot->state << MQL_SLOT_STATE_SHIFT |
                     (uint64_t)(slot->deliveries & 0xff) << MQL_SLOT_DELIVERIES_SHIFT |
                     (uint64_t)(slot->member & 0x1fff) << MQL_SLOT_MEMBER_SHIFT | slot->token;
    state |= check8(state, offset) << MQL_SLOT_CHECK_SHIFT;
    atomic_store_explicit(&at->state, state, memory_order_release);
}

void mql_slots_store(mql_format_slot *at, int64_t offset, const mql_slots_slot *slot) {
    mql_slots_store_time(at, offset, slot);
    mql_slots_store_state(at, offset, slot);
}

/* -- the window -------------------------------------------------------------------------------- */
static uint32_t window_crc(const mql_format_share_window *window) {
    return mql_crc32c(0, window, offsetof(mql_format_share_window, crc));
}

/* Whether window `place` is as it was written, and says what a group can have come to. */
static bool is_sound(const mql_format_share_window *window, uint64_t place) {
    bool sound = mql_base_is_turn(window->sequence) && (window->sequence & 1) == place &&
                 window->crc == window_crc(window) && window->start >= 0 &&
                 window->start <= MQL_OFFSET_MAX;
    for (int i = 0; i < MQL_SHARE_KINDS; i++)
        sound = sound && window->counts[i] >= 0 && window->counts[i] <= MQL_OFFSET_MAX;
    return sound;
}

int mql_slots_window(const mql_slots *slots, mql_format_share_window *out) {
    const mql_format_share_window *best = NULL;
    /* The first one written is windows[1]: while the other is empty, a group was being made. */
    const mql_format_share_window *second = &slots->header->windows[0];
    bool made = second->sequence != 0 || second->crc != 0;
    for (unsigned i = 0; i < 2; i++) {
        const mql_format_share_window *window = &slots->header->windows[i];
        bool later = best == NULL || mql_base_is_later_turn(window->sequence, best->sequence);
        if (later && is_sound(window, i)) best = window;
    }
    if (best == NULL && made)
        return mql_base_fail_corrupt(slots->path, 0x80, -1, -1,
                                     "both windows of the share group are damaged");
    if (best != NULL)
        memcpy(out, best, sizeof *out);
    else
        *out = (mql_format_share_window){.folding = -1};
    return MQL_OK;
}

bool mql_slots_window_before(const mql_slots *slots, const mql_format_share_window *window,
                             mql_format_share_window *out) {
    uint64_t place = (window->sequence & 1) ^ 1;
    const mql_format_share_window *other = &slots->header->windows[place];
    if (!is_sound(other, place) || mql_base_next_turn(other->sequence) != window->sequence)
        return false;
    memcpy(out, other, sizeof *out);
    return true;
}

void mql_slots_set_window(mql_slots *slots, mql_format_share_window *window) {
    for (int i = 0; i < MQL_SHARE_KINDS; i++) /* damage may have brought one near the bound */
        window->counts[i] = mql_base_min(window->counts[i], MQL_OFFSET_MAX);
    window->sequence = mql_base_next_turn(window->sequence);
    window->crc = window_crc(window);
    mql_format_share_window *at = &slots->header->windows[window->sequence & 1];
    at->crc = ~window->crc; /* invalid while it is filled */
    atomic_thread_fence(memory_order_release);
    size_t first = offsetof(mql_format_share_window, crc);
    memcpy(at, window, first);
    atomic_thread_fence(memory_order_release);
    at->crc = window->crc;
}
