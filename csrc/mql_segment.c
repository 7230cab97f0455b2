/* mql_segment.c - one .log file with its indexes.
 *
 * A segment ends where the next one begins, so the walk needs no length that is exact: it is told
 * the offset or the position to stop at, and zeros behind the last batch are prepared space. Bytes
 * are never trusted: a header is copied out, judged, and only then is its length used; in read-only
 * stores the bytes are private copies, so that a file which shrinks gives short reads, not signals.
 */
#include "mql_segment.h"

#include <errno.h>
#include <stdio.h>

#define RESYNC_BUDGET ((int64_t)64 << 20) /* bytes whose CRC is taken while looking for a batch */
#define WINDOW_BYTES ((int64_t)256 << 10)

/* -- opening ----------------------------------------------------------------------------------- */
static int open_path(const mql_segment_options *options, mql_segment *segment) {
    unsigned flags = options->writable ? MQL_OS_WRITE : MQL_OS_READ;
    mql_os_file file;
    int rc = mql_os_open(options->root, segment->path, flags, 0, &file);
    if (rc == -ENOENT)
        return mql_base_fail(MQL_E_NOT_FOUND, segment->path, "the segment is not there");
    if (rc < 0) return mql_base_fail_os(rc, segment->path, "cannot open the segment");
    mql_os_stat stat;
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0) atomic_store_explicit(&segment->length, stat.size, memory_order_relaxed);
    if (rc == 0) segment->inode = stat.inode;
    if (rc == 0 && stat.size > MQL_SEGMENT_BYTES_MAX) {
        mql_os_close(file);
        return mql_base_fail(MQL_E_FORMAT, segment->path,
                             "the segment is larger than 2^31 - 1 bytes");
    }
    if (rc == 0 && options->read_only) {
        segment->file = file;
        return MQL_OK;
    }
    if (rc == 0) {
        void *map = NULL;
        int64_t length = mql_base_max(mql_base_max(options->capacity, stat.size), MQL_PAGE);
        segment->map_length = (size_t)mql_base_round_up(length, MQL_PAGE);
        rc = mql_os_map(file, segment->map_length, options->writable, &map);
        segment->map = map;
    }
    mql_os_close(file);
    return rc < 0 ? mql_base_fail_os(rc, segment->path, "cannot map the segment") : MQL_OK;
}

static int finish_open(const mql_segment_options *options, mql_segment *segment,
                       mql_segment **out) {
    segment->file = MQL_OS_NO_FILE;
    segment->writable = options->writable;
    atomic_init(&segment->references, 1);
    mql_os_mutex_init_private(&segment->lock);
    int rc = open_path(options, segment);
    if (rc < 0) {
        mql_os_free_memory(segment);
        return rc;
    }
    *out = segment;
    return MQL_OK;
}

int mql_segment_open(const mql_segment_options *options, int64_t base, mql_segment **out) {
    return mql_segment_open_beside(options, base, ".log", out);
}

int mql_segment_open_beside(const mql_segment_options *options, int64_t base, const char *suffix,
                            mql_segment **out) {
    mql_segment *segment = mql_os_allocate_memory(sizeof *segment);
    if (segment == NULL)
        return mql_base_fail(MQL_E_MEMORY, options->directory, "no memory for a segment");
    segment->base = base;
    mql_base_file_name(segment->path, options->directory, base, suffix);
    return finish_open(options, segment, out);
}

void mql_segment_next_name(char out[MQL_PATH_MAX], const char *directory, uint64_t number) {
    snprintf(out, MQL_PATH_MAX, "%s/next.%llu", directory, (unsigned long long)number);
}

int mql_segment_open_next(const mql_segment_options *options, uint64_t number, mql_segment **out) {
    mql_segment *segment = mql_os_allocate_memory(sizeof *segment);
    if (segment == NULL)
        return mql_base_fail(MQL_E_MEMORY, options->directory, "no memory for a segment");
    segment->base = -1;
    segment->number = number;
    mql_segment_next_name(segment->path, options->directory, number);
    return finish_open(options, segment, out);
}

void mql_segment_rename(mql_segment *segment, const char *directory, int64_t base) {
    segment->base = base;
    mql_base_file_name(segment->path, directory, base, ".log");
}

mql_segment *mql_segment_retain(mql_segment *segment) {
    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);
    return segment;
}

void mql_segment_release(mql_segment *segment) {
    if (segment == NULL) return;
    if (atomic_fetch_sub_explicit(&segment->references, 1, memory_order_acq_rel) != 1) return;
    mql_index_close(&segment->index);
    mql_index_close(&segment->tail);
    if (segment->map != NULL) mql_os_unmap(segment->map, segment->map_length);
    mql_os_close(segment->file);
    mql_os_free_memory(segment);
}

void mql_segment_leave(mql_segment *segment) {
    if (segment == NULL) return;
    mql_index_close(&segment->index);
    mql_index_close(&segment->tail);
    atomic_store_explicit(&segment->index_open, false, memory_order_relaxed);
    atomic_store_explicit(&segment->tail_open, false, memory_order_relaxed);
    mql_segment_release(segment);
}

int mql_segment_refresh(mql_segment *segment, const mql_segment_options *options) {
    mql_os_stat stat;
    int rc = segment->file != MQL_OS_NO_FILE
                 ? mql_os_stat_file(segment->file, &stat)
                 : mql_os_stat_name(options->root, segment->path, &stat);
    if (rc == -ENOENT || (rc == 0 && stat.inode != segment->inode))
        return mql_base_fail(MQL_E_NOT_FOUND, segment->path, "the segment is gone");
    if (rc < 0) return mql_base_fail_os(rc, segment->path, "cannot ask for the segment's length");
    atomic_store_explicit(&segment->length, stat.size, memory_order_relaxed);
    return MQL_OK;
}

void mql_segment_touch(mql_segment *segment, int64_t from, int64_t to) {
    to = mql_base_min(to, (int64_t)segment->map_length);
    for (int64_t at = from; at < to; at = mql_base_round_down(at, MQL_PAGE) + MQL_PAGE) {
        volatile uint8_t *byte = segment->map + at;
        *byte = *byte;
    }
}

void mql_segment_open_index(mql_segment *segment, const mql_segment_options *options) {
    if (atomic_load_explicit(&segment->index_open, memory_order_acquire)) return;
    mql_os_mutex_take(&segment->lock, -1);
    if (!atomic_load_explicit(&segment->index_open, memory_order_relaxed)) {
        if (mql_index_open_sealed(&segment->index, options->root, options->directory, segment->base,
                                  segment->map == NULL) == MQL_OK)
            atomic_store_explicit(&segment->index_open, true, memory_order_release);
    }
    mql_os_mutex_drop(&segment->lock);
}

int mql_segment_open_tail(mql_segment *segment, const mql_segment_options *options, uint32_t mode) {
    if (atomic_load_explicit(&segment->tail_open, memory_order_acquire)) return MQL_OK;
    int rc = MQL_OK;
    mql_os_mutex_take(&segment->lock, -1);
    if (!atomic_load_explicit(&segment->tail_open, memory_order_relaxed)) {
        rc = mql_index_open_active(&segment->tail, options->root, options->directory, segment->base,
                                   (int64_t)segment->map_length, mode);
        if (rc == MQL_OK) atomic_store_explicit(&segment->tail_open, true, memory_order_release);
    }
    mql_os_mutex_drop(&segment->lock);
    return rc;
}

/* -- bytes ------------------------------------------------------------------------------------- */
void mql_segment_window_free(mql_segment_window *window) {
    mql_os_free_memory(window->bytes);
    *window = (mql_segment_window){0};
}

static bool fill(mql_segment *segment, mql_segment_window *window, int64_t position,
                 int64_t length) {
    int64_t want = mql_base_max(length, WINDOW_BYTES);
    if ((int64_t)window->capacity < want) {
        mql_segment_window_free(window);
        window->bytes = mql_os_allocate_memory((size_t)want);
        if (window->bytes == NULL) return false;
        window->capacity = (size_t)want;
    }
    int64_t got = mql_os_read(segment->file, window->bytes, (size_t)want, position);
    window->position = position;
    window->length = got < 0 ? 0 : got;
    return window->length >= length;
}

const uint8_t *mql_segment_bytes(mql_segment *segment, mql_segment_window *window, int64_t position,
                                 int64_t length) {
    if (position < 0 || length < 0 || length > MQL_BATCH_BYTES_MAX) return NULL;
    if (segment->map != NULL) {
        if (position + length > (int64_t)segment->map_length) return NULL;
        return segment->map + position;
    }
    if (position + length > atomic_load_explicit(&segment->length, memory_order_relaxed))
        return NULL;
    bool held = window->bytes != NULL && position >= window->position &&
                position + length <= window->position + window->length;
    if (!held && !fill(segment, window, position, length)) return NULL;
    return window->bytes + (position - window->position);
}

bool mql_segment_only_zeros(mql_segment *segment, mql_segment_window *window, int64_t from,
                            int64_t to) {
    for (int64_t at = from, length; at < to; at += length) {
        length = mql_base_min(to - at, MQL_PAGE);
        const uint8_t *bytes = mql_segment_bytes(segment, window, at, length);
        if (bytes == NULL) return false;
        if (bytes[0] != 0 || memcmp(bytes, bytes + 1, (size_t)length - 1) != 0) return false;
    }
    return true;
}

/* -- walking ----------------------------------------------------------------------------------- */
static bool zeros_from(mql_segment_walk *walk, int64_t at) {
    return mql_segment_only_zeros(walk->segment, walk->window, at, walk->limit);
}

static bool only_zeros(mql_segment_walk *walk) { return zeros_from(walk, walk->position); }

static int refuse(mql_segment_walk *walk, int row, const char *what) {
    walk->row = row;
    walk->wrong = what;
    return MQL_E_CORRUPT;
}

/* Nothing that can be a batch stands at the position: prepared space, or damage. */
static int no_batch(mql_segment_walk *walk, int row, const char *what) {
    if (only_zeros(walk)) {
        walk->row = 2;
        return MQL_END;
    }
    return refuse(walk, row, what);
}

int mql_segment_walk_next(mql_segment_walk *walk) {
    int64_t room = walk->limit - walk->position;
    if (room <= 0) {
        walk->row = 1;
        return MQL_END;
    }
    if (room < MQL_BATCH_HEADER)
        return no_batch(walk, 3, "fewer bytes are left than a batch header has");
    const uint8_t *bytes =
        mql_segment_bytes(walk->segment, walk->window, walk->position, MQL_BATCH_HEADER);
    if (bytes == NULL) return refuse(walk, 3, "the file ends inside a batch header");
    mql_batch_header header;
    mql_batch_read_header(bytes, &header);
    const char *wrong = mql_batch_implausible(&header, mql_base_min(room, walk->max_size));
    if (wrong != NULL) return no_batch(walk, header.size > room ? 4 : 5, wrong);
    bytes = mql_segment_bytes(walk->segment, walk->window, walk->position, header.size);
    if (bytes == NULL) return refuse(walk, 4, "the file ends inside a batch");
    if (walk->verify && !mql_batch_crc_right(bytes, header.size))
        return refuse(walk, 5, "the CRC is wrong");
    if (walk->expected >= 0 && header.base_offset != walk->expected &&
        !(walk->gaps && header.base_offset > walk->expected))
        return refuse(walk, 5, "the batch has another offset than the log has here");
    walk->header = header;
    walk->bytes = bytes;
    walk->at = walk->position;
    walk->position += header.size;
    walk->expected = header.last_offset + 1;
    return MQL_OK;
}

/* Whether a whole batch with a right CRC stands at `at`; takes its bytes off the budget. */
static bool whole_batch(mql_segment_walk *walk, int64_t at, int64_t *budget,
                        mql_batch_header *header) {
    const uint8_t *bytes = mql_segment_bytes(walk->segment, walk->window, at, MQL_BATCH_HEADER);
    if (bytes == NULL || bytes[MQL_BATCH_MAGIC] != MQL_BATCH_MAGIC_V2) return false;
    mql_batch_read_header(bytes, header);
    if (mql_batch_implausible(header, mql_base_min(walk->limit - at, walk->max_size)) != NULL)
        return false;
    *budget -= header->size;
    bytes = mql_segment_bytes(walk->segment, walk->window, at, header->size);
    return bytes != NULL && mql_batch_crc_right(bytes, header->size);
}

/* Where looking for batches ends: the limit may be damage's word, and lie far behind the file. */
static int64_t reach_of(const mql_segment_walk *walk) {
    const mql_segment *segment = walk->segment;
    int64_t length = segment->map != NULL
                         ? (int64_t)segment->map_length
                         : atomic_load_explicit(&segment->length, memory_order_relaxed);
    return mql_base_min(walk->limit, length);
}

bool mql_segment_holds_more(mql_segment_walk *walk) {
    int64_t budget = RESYNC_BUDGET, reach = reach_of(walk);
    mql_batch_header header;
    for (int64_t at = walk->position; at + MQL_BATCH_HEADER <= reach && budget > 0; at++)
        if (whole_batch(walk, at, &budget, &header)) return true;
    return false;
}

/* Whether an index entry tells the truth: a batch that ends with that offset stands at its
 * position. */
static bool entry_holds(mql_segment_walk *walk, uint32_t entry, int64_t *position,
                        mql_batch_header *header) {
    int32_t relative, at;
    mql_index_offset_entry(walk->index, entry, &relative, &at);
    if (at <= 0 || at > walk->limit - MQL_BATCH_HEADER) return false;
    const uint8_t *bytes = mql_segment_bytes(walk->segment, walk->window, at, MQL_BATCH_HEADER);
    if (bytes == NULL) return false;
    mql_batch_read_header(bytes, header);
    *position = at;
    return mql_batch_implausible(header, walk->limit - at) == NULL &&
           header->last_offset == walk->segment->base + relative;
}

/* A place behind the damage where a batch is known to begin, or the log to end. */
typedef struct known_place {
    int64_t position;
    int64_t offset;
    bool is_batch;
    bool led; /* the damaged batch's own length led to where the chain begins */
} known_place;

static known_place next_known(mql_segment_walk *walk, int64_t before) {
    for (uint32_t i = 0; walk->index != NULL && i < walk->index_count; i++) {
        mql_batch_header header;
        int64_t position;
        int32_t relative, at;
        mql_index_offset_entry(walk->index, i, &relative, &at);
        if (at <= walk->position || !entry_holds(walk, i, &position, &header)) continue;
        if (header.base_offset <= walk->expected || header.last_offset >= before) continue;
        return (known_place){position, header.base_offset, true, false};
    }
    return (known_place){walk->limit, before, false, false};
}

/* Whether batch follows batch from `at` exactly to the known place; each step costs the budget a
 * header. */
static bool chains(mql_segment_walk *walk, int64_t at, int64_t offset, const known_place *place,
                   int64_t *budget) {
    while (at < place->position && offset < place->offset) {
        *budget -= MQL_BATCH_HEADER;
        if (*budget < 0 || walk->limit - at < MQL_BATCH_HEADER) return false;
        const uint8_t *bytes = mql_segment_bytes(walk->segment, walk->window, at, MQL_BATCH_HEADER);
        mql_batch_header header;
        if (bytes == NULL) return false;
        mql_batch_read_header(bytes, &header);
        if (mql_batch_implausible(&header, walk->limit - at) != NULL || header.base_offset < offset)
            return place->led && place->offset == INT64_MAX && zeros_from(walk, at);
        if (header.base_offset > offset && !walk->gaps) return false;
        at += header.size;
        offset = header.last_offset + 1;
    }
    if (place->is_batch) return at == place->position && offset <= place->offset;
    /* A batch inside the last value may have zeros behind it too: unless the damaged batch's own
     * length led here, the end must be exact. */
    if (place->offset != INT64_MAX && offset != place->offset) return false;
    return at == walk->limit || (place->led && zeros_from(walk, at));
}

/* Where the damaged batch ends by its own length. No CRC covers that, so it may be what is damaged:
 * with the one bit put right that was flipped in it, the CRC is right again. */
static int64_t own_end(mql_segment_walk *walk, int64_t *budget) {
    mql_batch_header header;
    int64_t room = walk->limit - walk->position;
    if (room < MQL_BATCH_HEADER) return walk->limit;
    const uint8_t *bytes =
        mql_segment_bytes(walk->segment, walk->window, walk->position, MQL_BATCH_HEADER);
    if (bytes == NULL) return walk->limit;
    mql_batch_read_header(bytes, &header);
    uint32_t length = (uint32_t)(header.size - MQL_BATCH_LOG_OVERHEAD);
    for (int bit = 0; bit < 32; bit++) {
        int64_t size = (int64_t)(int32_t)(length ^ UINT32_C(1) << bit) + MQL_BATCH_LOG_OVERHEAD;
        if (size < MQL_BATCH_HEADER || size > mql_base_min(room, walk->max_size)) continue;
        *budget -= size;
        bytes = *budget < 0
                    ? NULL
                    : mql_segment_bytes(walk->segment, walk->window, walk->position, size);
        if (bytes != NULL && mql_batch_crc_right(bytes, size)) return walk->position + size;
    }
    return walk->position + mql_base_min(mql_base_max(header.size, 0), room);
}

int mql_segment_resync(mql_segment_walk *walk, int64_t before) {
    int64_t budget = RESYNC_BUDGET;
    known_place place = next_known(walk, before);
    int64_t next = own_end(walk, &budget), stop = mql_base_min(place.position, reach_of(walk));
    for (int64_t at = walk->position + 1; at + MQL_BATCH_HEADER <= stop && budget > 0; at++) {
        mql_batch_header header;
        if (!whole_batch(walk, at, &budget, &header)) continue;
        if (header.base_offset <= walk->expected || header.last_offset >= before) continue;
        place.led = at == next;
        if (!chains(walk, at, header.base_offset, &place, &budget)) continue;
        walk->position = at;
        walk->expected = header.base_offset;
        return MQL_OK;
    }
    if (!place.is_batch) return MQL_END;
    walk->position = place.position;
    walk->expected = place.offset;
    return MQL_OK;
}

/* Sets the walk to the last index entry before `offset`, or to the segment's begin: false. */
static bool start_before(mql_segment_walk *walk, int64_t offset) {
    mql_batch_header header;
    int64_t entry = -1, position;
    walk->position = 0;
    walk->expected = walk->segment->base;
    if (walk->index != NULL && walk->index_count > 0)
        mql_index_floor(walk->index, walk->index_count, offset - walk->segment->base, &entry);
    if (entry < 0 || !entry_holds(walk, (uint32_t)entry, &position, &header)) return false;
    walk->position = position;
    walk->expected = header.base_offset;
    return true;
}

/* Walks to the batch that holds `offset`. False: it was not met, and nothing that was passed has
 * been checked, so that a header may have led astray. */
static bool walk_to(mql_segment_walk *walk, int64_t offset, bool checked, bool may_lead) {
    for (;;) {
        int64_t expected = walk->expected, position = walk->position;
        int rc = mql_segment_walk_next(walk);
        bool holds = rc == MQL_OK && walk->expected > offset;
        if (rc == MQL_OK && !holds &&
            (!checked || mql_batch_crc_right(walk->bytes, walk->header.size)))
            continue;
        walk->position = position;
        walk->expected = expected;
        if (holds) return true;
        if (may_lead) return false;
        if (rc == MQL_END) return true;
        if (mql_segment_resync(walk, INT64_MAX) == MQL_OK && walk->expected <= offset) continue;
        walk->position = position;
        walk->expected = expected;
        return true;
    }
}

void mql_segment_find(mql_segment_walk *walk, int64_t offset) {
    bool verify = walk->verify, checked = start_before(walk, offset) && verify;
    walk->verify = false;
    if (!walk_to(walk, offset, checked, verify && !checked)) {
        start_before(walk, offset);
        walk_to(walk, offset, true, false);
    }
    walk->verify = verify;
}

/* -- indexes from the log ---------------------------------------------------------------------- */
static uint32_t sound_offsets(const mql_index_file *file, mql_segment_walk *walk, int64_t end) {
    /* Only what has blocks may be looked at: the mapping reaches past the end of the file. */
    mql_index_file seen = *file;
    seen.length = (size_t)mql_base_min(file->allocated, (int64_t)file->length);
    return mql_index_sound_offsets(&seen, mql_index_count_offsets(&seen), end, walk->limit);
}

static uint32_t sound_times(const mql_index_file *file, int64_t end, bool *damaged) {
    mql_index_file seen = *file;
    seen.length = (size_t)mql_base_min(file->allocated, (int64_t)file->length);
    uint32_t count = mql_index_count_times(&seen), sound = mql_index_sound_times(&seen, count, end);
    *damaged = sound < count;
    return sound;
}

static void wipe_behind(mql_index_file *file, size_t used) {
    if (file->bytes != NULL && (int64_t)used < file->allocated)
        memset(file->bytes + used, 0, (size_t)file->allocated - used);
}

/* Keeps what is sound of the index files and sets the walk to the batch of the last entry kept. */
static void keep_sound(mql_segment *segment, mql_segment_walk *walk, const mql_index_tail *tail,
                       int64_t end_offset) {
    mql_index_file *offsets = &segment->tail.offsets, *times = &segment->tail.times;
    bool damaged;
    uint32_t count = sound_offsets(offsets, walk, end_offset - segment->base);
    uint32_t time_count = sound_times(times, end_offset - segment->base, &damaged);
    mql_batch_header header = {0};
    int64_t position = 0, timestamp;
    /* The last time entry vouches for the timestamps up to its offset, and for none behind it. */
    int32_t at = -1;
    int64_t entry = -1;
    if (time_count > 0) mql_index_time_entry(times, time_count - 1, &timestamp, &at);
    if (count > 0 && at >= 0 && !damaged) mql_index_floor(offsets, count, at, &entry);
    count = (uint32_t)(entry + 1);
    if (count > 0 && !entry_holds(walk, count - 1, &position, &header)) count = 0;
    int64_t relative = header.last_offset - segment->base;
    while (time_count > 0 &&
           (count == 0 ||
            (mql_index_time_entry(times, time_count - 1, &timestamp, &at), at > relative)))
        time_count--;
    mql_index_tail_reset(tail);
    atomic_store_explicit(tail->index_count, count, memory_order_relaxed);
    atomic_store_explicit(tail->time_count, time_count, memory_order_relaxed);
    if (time_count > 0) {
        mql_index_time_entry(times, time_count - 1, &timestamp, &at);
        *tail->last_time_entry = *tail->max_timestamp = timestamp;
        *tail->max_timestamp_offset = segment->base + at;
    }
    /* Entries that are not kept must not look sound to a later recovery. */
    wipe_behind(offsets, (size_t)count * MQL_INDEX_ENTRY);
    wipe_behind(times, (size_t)time_count * MQL_TIME_ENTRY);
    walk->position = count > 0 ? position : 0;
    walk->expected = count > 0 ? header.base_offset : segment->base;
}

int mql_segment_rebuild_index(mql_segment *segment, mql_segment_window *window,
                              const mql_index_tail *tail, const mql_index_place *place,
                              int64_t limit, int64_t end_offset) {
    mql_segment_walk walk = {.segment = segment,
                             .window = window,
                             .limit = limit,
                             .gaps = true,
                             .index = &segment->tail.offsets,
                             .max_size = MQL_BATCH_BYTES_MAX};
    keep_sound(segment, &walk, tail, end_offset);
    for (;;) {
        int rc = mql_segment_walk_next(&walk);
        if (rc == MQL_OK)
            mql_index_note(&segment->tail, tail, place, walk.header.last_offset, walk.at,
                           walk.header.size, walk.header.max_timestamp);
        else if (rc == MQL_END || mql_segment_resync(&walk, end_offset) != MQL_OK)
            return MQL_OK;
    }
}

/* -- sealing ----------------------------------------------------------------------------------- */
/* Where the batches end that lie before `next_base`; -1: it cannot be told. */
static int64_t exact_end(mql_segment *segment, bool gaps, mql_segment_window *window,
                         int64_t next_base) {
    mql_segment_walk walk = {.segment = segment,
                             .window = window,
                             .expected = segment->base,
                             .gaps = gaps,
                             .limit = atomic_load_explicit(&segment->length, memory_order_relaxed),
                             .max_size = MQL_BATCH_BYTES_MAX,
                             .verify = true};
    if (next_base <= segment->base) return 0;
    walk.index = &segment->tail.offsets;
    walk.index_count = sound_offsets(walk.index, &walk, next_base - segment->base);
    mql_segment_find(&walk, next_base - 1);
    walk.verify = false; /* damage in the last batch does not move its end */
    if (mql_segment_walk_next(&walk) != MQL_OK || walk.header.last_offset >= next_base) return -1;
    return only_zeros(&walk) ? walk.position : -1;
}

static int cut_log(const mql_segment_options *options, mql_segment *segment, int64_t end,
                   int64_t *freed) {
    mql_os_file file = MQL_OS_NO_FILE;
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    *freed = 0;
    int rc = mql_os_open(options->root, segment->path, MQL_OS_WRITE, 0, &file);
    if (rc == 0 && end >= 0 && end < length) {
        rc = mql_os_truncate(file, end);
        *freed = rc == 0 ? length - end : 0;
    }
    if (rc == 0) rc = mql_os_sync(file);
    mql_os_close(file);
    if (rc == -ENOENT) return MQL_OK; /* retention was faster */
    return rc < 0 ? mql_base_fail_os(rc, segment->path, "cannot seal the segment") : MQL_OK;
}

int mql_segment_seal(const mql_segment_options *options, int64_t base, int64_t next_base,
                     uint32_t mode, int64_t *freed) {
    mql_segment *segment = NULL;
    *freed = 0;
    int rc = mql_segment_open(options, base, &segment);
    if (rc == MQL_E_NOT_FOUND) return MQL_OK;
    if (rc < 0) return rc;
    mql_segment_window window = {0};
    mql_index_place place = {.root = options->root, .directory = options->directory, .base = base};
    /* A failure here leaves the indexes longer than they need to be; the log is what counts. */
    int64_t end = mql_segment_open_tail(segment, options, mode) < 0
                      ? -1
                      : exact_end(segment, options->gaps, &window, next_base);
    _Atomic uint32_t counts[2] = {0, 0};
    if (end >= 0) {
        int64_t since, max, max_offset, last;
        mql_index_tail tail = {&counts[0], &counts[1], &since, &max, &max_offset, &last};
        mql_segment_rebuild_index(segment, &window, &tail, &place, end, next_base);
        mql_index_note_end(&segment->tail, &tail, &place);
        /* No room for the last time entry: better no time index than one that hides records. */
        if (max > last) counts[1] = 0;
        rc = mql_index_cut(options->root, options->directory, base, counts[0], counts[1]);
    }
    if (rc == MQL_OK) rc = cut_log(options, segment, end, freed);
    mql_segment_window_free(&window);
    mql_segment_release(segment);
    return rc;
}

/* -- the youngest record ----------------------------------------------------------------------- */
/* Moves the walk to the batch that the last time entry names, if it is there and as it says. */
static bool stand_at_youngest(mql_segment_walk *walk) {
    const mql_index_file *times = &walk->segment->index.times;
    uint32_t count = mql_index_count_times(times);
    if (count == 0) return false;
    int64_t timestamp;
    int32_t relative;
    mql_index_time_entry(times, count - 1, &timestamp, &relative);
    mql_segment_find(walk, walk->segment->base + relative);
    mql_segment_walk ahead = *walk;
    return mql_segment_walk_next(&ahead) == MQL_OK && ahead.header.max_timestamp == timestamp &&
           ahead.header.last_offset == walk->segment->base + relative;
}

static int64_t youngest_from(mql_segment_walk *walk, int64_t next_base) {
    int64_t youngest = -1;
    while (walk->expected < next_base) {
        int rc = mql_segment_walk_next(walk);
        if (rc == MQL_E_CORRUPT && mql_segment_resync(walk, next_base) == MQL_OK) continue;
        if (rc != MQL_OK) break;
        if (walk->header.count > 0) youngest = mql_base_max(youngest, walk->header.max_timestamp);
    }
    return youngest;
}

int64_t mql_segment_youngest(const mql_segment_options *options, int64_t base, int64_t next_base,
                             bool whole) {
    mql_segment *segment;
    if (mql_segment_open(options, base, &segment) < 0) return -1;
    mql_segment_open_index(segment, options);
    mql_segment_window window = {0};
    mql_segment_walk walk = {.segment = segment,
                             .window = &window,
                             .expected = base,
                             .gaps = options->gaps,
                             .limit = atomic_load_explicit(&segment->length, memory_order_relaxed),
                             .max_size = MQL_BATCH_BYTES_MAX,
                             .index = &segment->index.offsets,
                             .index_count = mql_index_count_offsets(&segment->index.offsets)};
    int64_t youngest =
        whole || stand_at_youngest(&walk) ? youngest_from(&walk, next_base) : -1;
    mql_segment_window_free(&window);
    mql_segment_release(segment);
    return youngest;
}
