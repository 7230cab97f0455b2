/* mql_index.c - a segment's .index and .timeindex.
 *
 * Both are derived: whatever they say is checked against the log before it is used, and a lookup
 * that finds nothing walks the log instead. So their bytes are never synced, a missing entry only
 * costs a longer walk, and a death between an entry and its count leaves the entry to be written
 * again.
 */
#include "mql_index.h"

#include <errno.h>

void mql_index_tail_reset(const mql_index_tail *tail) {
    atomic_store_explicit(tail->index_count, 0, memory_order_relaxed);
    atomic_store_explicit(tail->time_count, 0, memory_order_relaxed);
    *tail->bytes_since_entry = 0;
    *tail->max_timestamp = -1;
    *tail->max_timestamp_offset = 0;
    *tail->last_time_entry = INT64_MIN;
}

/* An entry stands behind more than 4,096 bytes, and one time entry is forced at the end. */
static int64_t most_entries(int64_t segment_bytes) {
    return segment_bytes / MQL_INDEX_INTERVAL + 2;
}

size_t mql_index_offsets_capacity(int64_t segment_bytes) {
    return (size_t)mql_base_round_up(most_entries(segment_bytes) * MQL_INDEX_ENTRY, MQL_PAGE);
}
size_t mql_index_times_capacity(int64_t segment_bytes) {
    return (size_t)mql_base_round_up(most_entries(segment_bytes) * MQL_TIME_ENTRY, MQL_PAGE);
}

static int open_active(mql_index_file *file, mql_os_file root, const char *path, size_t capacity,
                       uint32_t mode) {
    *file = (mql_index_file){0};
    mql_os_file opened;
    int rc = mql_os_open(root, path, MQL_OS_WRITE | MQL_OS_CREATE, mode, &opened);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open");
    mql_os_stat stat;
    rc = mql_os_stat_file(opened, &stat);
    void *bytes = NULL;
    if (rc == 0 && mql_os_lacks_blocks(&stat, 0)) rc = mql_os_allocate(opened, 0, stat.size);
    if (rc == 0) rc = mql_os_map(opened, capacity, true, &bytes);
    mql_os_close(opened);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot map");
    *file = (mql_index_file){.bytes = bytes,
                             .length = capacity,
                             .allocated = mql_base_min(stat.size, (int64_t)capacity)};
    return MQL_OK;
}

int mql_index_open_active(mql_index *index, mql_os_file root, const char *directory, int64_t base,
                          int64_t segment_bytes, uint32_t mode) {
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, directory, base, ".index");
    int rc =
        open_active(&index->offsets, root, path, mql_index_offsets_capacity(segment_bytes), mode);
    if (rc < 0) return rc;
    mql_base_file_name(path, directory, base, ".timeindex");
    rc = open_active(&index->times, root, path, mql_index_times_capacity(segment_bytes), mode);
    if (rc < 0) mql_index_close(index);
    return rc;
}

static int read_private(mql_index_file *file, mql_os_file opened, size_t length) {
    file->bytes = mql_os_allocate_memory(length);
    if (file->bytes == NULL) return -ENOMEM;
    file->is_private = true;
    int64_t got = mql_os_read(opened, file->bytes, length, 0);
    if (got < 0) return (int)got;
    file->length = (size_t)got;
    return 0;
}

static int open_sealed(mql_index_file *file, mql_os_file root, const char *path, size_t most,
                       bool is_private) {
    *file = (mql_index_file){0};
    mql_os_file opened;
    int rc = mql_os_open(root, path, MQL_OS_READ, 0, &opened);
    if (rc == -ENOENT) return MQL_OK;
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open");
    mql_os_stat stat;
    rc = mql_os_stat_file(opened, &stat);
    size_t length = rc < 0 ? 0 : (size_t)mql_base_min(stat.size, (int64_t)most);
    if (rc == 0 && length > 0 && is_private) {
        rc = read_private(file, opened, length);
    } else if (rc == 0 && length > 0) {
        void *bytes = NULL;
        rc = mql_os_map(opened, length, false, &bytes);
        file->bytes = bytes;
        file->length = rc < 0 ? 0 : length;
    }
    file->allocated = (int64_t)file->length;
    mql_os_close(opened);
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot read") : MQL_OK;
}

int mql_index_open_sealed(mql_index *index, mql_os_file root, const char *directory, int64_t base,
                          bool is_private) {
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, directory, base, ".index");
    int rc = open_sealed(&index->offsets, root, path,
                         mql_index_offsets_capacity(MQL_SEGMENT_BYTES_MAX), is_private);
    if (rc < 0) {
        mql_index_close(index);
        return rc;
    }
    mql_base_file_name(path, directory, base, ".timeindex");
    rc = open_sealed(&index->times, root, path, mql_index_times_capacity(MQL_SEGMENT_BYTES_MAX),
                     is_private);
    if (rc < 0) mql_index_close(index);
    return rc;
}

static void close_file(mql_index_file *file) {
    if (file->bytes != NULL && file->is_private) mql_os_free_memory(file->bytes);
    if (file->bytes != NULL && !file->is_private) mql_os_unmap(file->bytes, file->length);
    *file = (mql_index_file){0};
}

void mql_index_close(mql_index *index) {
    close_file(&index->offsets);
    close_file(&index->times);
}

/* Whether entry bytes [0, end) have blocks behind them; lengthens the file by whole pages if not.
 */
static bool reach(mql_index_file *file, const mql_index_place *place, const char *suffix,
                  int64_t end) {
    if (MQL_LIKELY(end <= file->allocated)) return true;
    if (file->bytes == NULL || end > (int64_t)file->length) return false;
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, place->directory, place->base, suffix);
    mql_os_file opened;
    if (mql_os_open(place->root, path, MQL_OS_WRITE, 0, &opened) < 0) return false;
    mql_os_stat stat;
    int64_t to = mql_base_min(mql_base_round_up(end, MQL_PAGE), (int64_t)file->length);
    int rc = mql_os_stat_file(opened, &stat);
    if (rc == 0 && stat.size < to) rc = mql_os_allocate(opened, 0, to);
    mql_os_close(opened);
    if (rc == 0) file->allocated = to;
    return rc == 0;
}

static void look_again(mql_index_file *file, const mql_index_place *place, const char *suffix) {
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_base_file_name(path, place->directory, place->base, suffix);
    if (mql_os_stat_name(place->root, path, &stat) == 0)
        file->allocated = mql_base_min(stat.size, (int64_t)file->length);
}

void mql_index_look_again(mql_index *index, const mql_index_place *place) {
    look_again(&index->offsets, place, ".index");
    look_again(&index->times, place, ".timeindex");
}

static bool newer(const mql_index_tail *tail) {
    return *tail->max_timestamp > *tail->last_time_entry && *tail->max_timestamp >= 0;
}

/* Whether one more time entry has blocks, or is not needed. */
static bool reach_time(mql_index *index, const mql_index_tail *tail, const mql_index_place *place) {
    uint32_t count = atomic_load_explicit(tail->time_count, memory_order_relaxed);
    return !newer(tail) ||
           reach(&index->times, place, ".timeindex", ((int64_t)count + 1) * MQL_TIME_ENTRY);
}

static void add_time(mql_index *index, const mql_index_tail *tail, const mql_index_place *place) {
    if (!newer(tail)) return;
    uint32_t count = atomic_load_explicit(tail->time_count, memory_order_relaxed);
    uint8_t *entry = index->times.bytes + (size_t)count * MQL_TIME_ENTRY;
    mql_base_put64(entry, (uint64_t)*tail->max_timestamp);
    mql_base_put32(entry + 8, (uint32_t)(*tail->max_timestamp_offset - place->base));
    *tail->last_time_entry = *tail->max_timestamp;
    atomic_store_explicit(tail->time_count, count + 1, memory_order_release);
}

/* Both entries or none. The time entry is first: an offset entry says that the timestamps of all
 * before it are known, also to whoever finds its writer dead. */
static void add_entries(mql_index *index, const mql_index_tail *tail, const mql_index_place *place,
                        int64_t last_offset, int64_t position) {
    uint32_t count = atomic_load_explicit(tail->index_count, memory_order_relaxed);
    int64_t end = ((int64_t)count + 1) * MQL_INDEX_ENTRY;
    if (!reach(&index->offsets, place, ".index", end) || !reach_time(index, tail, place)) return;
    add_time(index, tail, place);
    uint8_t *entry = index->offsets.bytes + end - MQL_INDEX_ENTRY;
    mql_base_put32(entry, (uint32_t)(last_offset - place->base));
    mql_base_put32(entry + 4, (uint32_t)position);
    atomic_store_explicit(tail->index_count, count + 1, memory_order_release);
}

void mql_index_note(mql_index *index, const mql_index_tail *tail, const mql_index_place *place,
                    int64_t last_offset, int64_t position, int64_t size, int64_t max_timestamp) {
    if (max_timestamp > *tail->max_timestamp) {
        *tail->max_timestamp = max_timestamp;
        *tail->max_timestamp_offset = last_offset;
    }
    if (MQL_UNLIKELY(*tail->bytes_since_entry > MQL_INDEX_INTERVAL)) {
        add_entries(index, tail, place, last_offset, position);
        *tail->bytes_since_entry = 0;
    }
    *tail->bytes_since_entry += size;
}

void mql_index_note_end(mql_index *index, const mql_index_tail *tail,
                        const mql_index_place *place) {
    if (reach_time(index, tail, place)) add_time(index, tail, place);
}

void mql_index_offset_entry(const mql_index_file *file, uint32_t i, int32_t *relative,
                            int32_t *position) {
    const uint8_t *entry = file->bytes + (size_t)i * MQL_INDEX_ENTRY;
    *relative = (int32_t)mql_base_get32(entry);
    *position = (int32_t)mql_base_get32(entry + 4);
}

void mql_index_time_entry(const mql_index_file *file, uint32_t i, int64_t *timestamp,
                          int32_t *relative) {
    const uint8_t *entry = file->bytes + (size_t)i * MQL_TIME_ENTRY;
    *timestamp = (int64_t)mql_base_get64(entry);
    *relative = (int32_t)mql_base_get32(entry + 8);
}

static bool zeros(const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != 0) return false;
    return true;
}

static uint32_t count_entries(const mql_index_file *file, size_t entry) {
    size_t count = file->length / entry;
    while (count > 0 && zeros(file->bytes + (count - 1) * entry, entry)) count--;
    return (uint32_t)count;
}

uint32_t mql_index_count_offsets(const mql_index_file *file) {
    return count_entries(file, MQL_INDEX_ENTRY);
}
uint32_t mql_index_count_times(const mql_index_file *file) {
    return count_entries(file, MQL_TIME_ENTRY);
}

int32_t mql_index_floor(const mql_index_file *file, uint32_t count, int64_t relative,
                        int64_t *entry) {
    uint32_t low = 0, high = count; /* entries below low have an offset <= relative */
    int32_t position = 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int32_t offset, at;
        mql_index_offset_entry(file, middle, &offset, &at);
        if (offset <= relative) {
            low = middle + 1;
            position = at;
        } else {
            high = middle;
        }
    }
    *entry = (int64_t)low - 1;
    return position;
}

int64_t mql_index_time_before(const mql_index_file *file, uint32_t count, int64_t timestamp) {
    uint32_t low = 0, high = count; /* entries below low have a timestamp < timestamp */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int64_t at;
        int32_t offset;
        mql_index_time_entry(file, middle, &at, &offset);
        if (at < timestamp)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)low - 1;
}

uint32_t mql_index_sound_offsets(const mql_index_file *file, uint32_t count, int64_t end,
                                 int64_t limit) {
    int32_t last_offset = -1, last_position = 0;
    for (uint32_t i = 0; i < count; i++) {
        int32_t offset, position;
        mql_index_offset_entry(file, i, &offset, &position);
        if (offset <= last_offset || position <= last_position || offset >= end ||
            position >= limit)
            return i;
        last_offset = offset;
        last_position = position;
    }
    return count;
}

uint32_t mql_index_sound_times(const mql_index_file *file, uint32_t count, int64_t end) {
    int64_t last_timestamp = INT64_MIN;
    int32_t last_offset = 0;
    for (uint32_t i = 0; i < count; i++) {
        int64_t timestamp;
        int32_t offset;
        mql_index_time_entry(file, i, &timestamp, &offset);
        if (timestamp <= last_timestamp || offset < last_offset || offset >= end) return i;
        last_timestamp = timestamp;
        last_offset = offset;
    }
    return count;
}

static int cut(mql_os_file root, const char *directory, int64_t base, const char *suffix,
               int64_t size) {
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, directory, base, suffix);
    mql_os_file opened;
    int rc = mql_os_open(root, path, MQL_OS_WRITE, 0, &opened);
    if (rc == -ENOENT) return MQL_OK;
    if (rc == 0) {
        mql_os_stat stat;
        rc = mql_os_stat_file(opened, &stat);
        if (rc == 0 && stat.size > size) rc = mql_os_truncate(opened, size);
        mql_os_close(opened);
    }
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot cut") : MQL_OK;
}

int mql_index_cut(mql_os_file root, const char *directory, int64_t base, uint32_t index_count,
                  uint32_t time_count) {
    int rc = cut(root, directory, base, ".index", (int64_t)index_count * MQL_INDEX_ENTRY);
    if (rc < 0) return rc;
    return cut(root, directory, base, ".timeindex", (int64_t)time_count * MQL_TIME_ENTRY);
}
