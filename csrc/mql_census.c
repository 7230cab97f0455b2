/* mql_census.c - what a share group has to deliver, holds and has finished.
 *
 * Counters are kept by those who change slots, so most answers cost nothing; what has to be looked
 * for is looked for under the share lock. A read-only store may take no lock: it makes a survey.
 */
#include "mql_census.h"

#include <stdlib.h>

#include "mql_commit.h"
#include "mql_cursor.h"
#include "mql_sleep.h"
#include "mql_survey.h"

#define RUN_STEPS 64    /* chunks looked into under one holding of the lock */
#define RUN_CHUNKS 4096 /* and marks looked at in one step */
#define MEASURES_MOST 16

int64_t mql_census_waiting(mql_share *share) {
    mql_control_end end;
    int rc = mql_log_writable(share->live.log);
    if (rc < 0) return rc;
    /* The counter first: an offset counted as unavailable lies below an end read later. */
    int64_t unavailable = atomic_load_explicit(&share->live.map->unavailable, memory_order_acquire);
    mql_log_end(share->live.log, &end);
    return mql_base_max(end.offset - unavailable, 0);
}

/* -- the first that is not final --------------------------------------------------------------- */
/* Of one chunk, from `from` on; `to` if there is none below it. */
static int64_t unfinished_in_chunk(mql_live *live, int64_t from, int64_t to) {
    int64_t stop = mql_base_min((from / MQL_SHARE_SLOTS + 1) * MQL_SHARE_SLOTS, to);
    mql_live_place place;
    if (!mql_live_find(live, from, &place)) return mql_live_is_past(live, from) ? stop : from;
    if (mql_live_is_past(live, from) && mql_live_is_past(live, stop - 1)) return stop;
    for (int64_t offset = from; offset < stop; offset++) {
        mql_slots_slot slot;
        mql_slots_load(mql_slots_at(&live->slots, place.page, offset), offset, &slot);
        if (slot.sound && mql_slots_is_final(&slot)) continue;
        if (!mql_live_is_past(live, offset)) return offset;
    }
    return stop;
}

/* Under the lock. */
static int64_t unfinished(mql_live *live, int64_t from, int64_t to) {
    mql_format_share_window window;
    if (mql_slots_window(&live->slots, &window) < 0) return from;
    from = mql_base_max(from, window.start);
    while (from < to) {
        int64_t stop = mql_base_min((from / MQL_SHARE_SLOTS + 1) * MQL_SHARE_SLOTS, to);
        int64_t found = unfinished_in_chunk(live, from, to);
        if (found < stop) return found;
        from = stop;
    }
    return to;
}

int64_t mql_census_unfinished(mql_share *share, int64_t from, int64_t to) {
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc == MQL_E_LATER ? rc : from;
    int64_t found = unfinished(&share->live, from, to);
    mql_share_leave(share);
    return found;
}

/* -- the backlog ------------------------------------------------------------------------------- */
/* The batch that holds `offset`, or the next that can be read. MQL_END: there is none. */
static int find_batch(mql_log *log, int64_t offset, mql_batch *out) {
    mql_cursor *cursor;
    int rc = mql_cursor_make(log, mql_base_max(offset, mql_log_start(log)), MQL_TO_END, &cursor);
    if (rc < 0) return rc;
    do {
        rc = mql_cursor_read(cursor, out);
    } while (rc == MQL_E_CORRUPT);
    mql_cursor_end(cursor);
    return rc;
}

/* What segments [from, to) hold; they are sealed, so that is what they are long. */
static int sum_segments(mql_log *log, int64_t from, int64_t to, int64_t *bytes) {
    int64_t *bases;
    size_t count;
    int rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    *bytes = 0;
    for (size_t i = 0; i < count; i++) {
        char path[MQL_PATH_MAX];
        mql_os_stat stat;
        if (bases[i] < from || bases[i] >= to) continue;
        mql_base_file_name(path, log->directory, bases[i], ".log");
        if (mql_os_stat_name(log->home->root, path, &stat) == 0) *bytes += stat.size;
    }
    mql_os_free_memory(bases);
    return MQL_OK;
}

static int measure_once(mql_share *share, mql_log_backlog *out) {
    mql_log *log = share->live.log;
    mql_control_end end;
    mql_batch batch;
    mql_log_end(log, &end);
    int64_t bytes = 0;
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    int64_t first = unfinished(&share->live, 0, end.offset);
    mql_share_leave(share);
    rc = first < end.offset ? find_batch(log, first, &batch) : MQL_END;
    if (rc == MQL_END) batch = (mql_batch){.segment = end.segment, .position = end.position};
    if (rc >= 0 && batch.segment < end.segment) {
        /* Not mql_commit_until: all may be durable, and the last segment but one as long as it was
         * prepared. */
        rc = mql_log_sealed(log) < end.segment ? mql_commit_all(log) : MQL_OK;
        if (rc >= 0) rc = sum_segments(log, batch.segment, end.segment, &bytes);
    }
    if (rc < 0) return rc;
    /* The log may have rolled meanwhile: then the batch stands behind that end. */
    bool beyond = batch.segment > end.segment;
    *out = (mql_log_backlog){.segment = beyond ? -1 : end.segment,
                             .before = bytes - batch.position};
    return MQL_OK;
}

/* Moves when a segment comes or goes, or its name gets another file. */
static uint64_t files_of(const mql_log *log) {
    const mql_format_control *control = log->control;
    uint64_t rewrites = atomic_load_explicit(&control->rewrites, memory_order_acquire);
    return rewrites << 32 |
           atomic_load_explicit(&control->segments_generation, memory_order_acquire);
}

/* While segments are replaced by one, records are in two files, and a place in the one says nothing
 * of the length of the other: whoever is at it is waited for, or his work is done. */
int mql_census_measure(mql_share *share, mql_log_backlog *out) {
    mql_log *log = share->live.log;
    int rc = MQL_OK;
    for (int i = 0; i < MEASURES_MOST; i++) {
        if (mql_commit_is_replacing(log) && mql_commit_settle(log) == MQL_E_LATER)
            return MQL_E_LATER;
        uint64_t files = files_of(log);
        rc = measure_once(share, out);
        if (rc < 0 || (!mql_commit_is_replacing(log) && files == files_of(log))) break;
    }
    return rc;
}

int mql_census_backlog(mql_share *share, int64_t *bytes) {
    mql_log_backlog backlog;
    mql_control_end end;
    int rc;
    do {
        rc = mql_census_measure(share, &backlog);
        mql_log_end(share->live.log, &end);
    } while (rc == MQL_OK && backlog.segment != end.segment);
    if (rc == MQL_OK) *bytes = backlog.before + end.position;
    return rc;
}

/* The first offset of [from, to), all of one chunk, that is finished. */
static int64_t finished_in_chunk(mql_live *live, int64_t from, int64_t to) {
    mql_live_place place;
    if (mql_live_is_past(live, from)) return from; /* if not, then none behind it is */
    if (!mql_live_find(live, from, &place)) return to;
    for (int64_t offset = from; offset < to; offset++) {
        mql_slots_slot slot;
        mql_slots_load(mql_slots_at(&live->slots, place.page, offset), offset, &slot);
        if (slot.sound && mql_slots_is_final(&slot)) return offset;
    }
    return to;
}

static int64_t chunk_end(int64_t offset, int64_t to) {
    return mql_base_min((offset / MQL_SHARE_SLOTS + 1) * MQL_SHARE_SLOTS, to);
}

/* The first unfinished offset from `from` on, as far as `steps` go; *searched: up to where. */
static int64_t next_unfinished(mql_live *live, int64_t from, int64_t to, int64_t *searched) {
    mql_format_share_window window;
    if (mql_slots_window(&live->slots, &window) < 0) return from;
    from = mql_base_max(from, mql_base_min(window.start, to));
    for (int steps = 0; from < to && steps < RUN_STEPS; steps++) {
        int64_t number = from / MQL_SHARE_SLOTS;
        int64_t stop = (to + MQL_SHARE_SLOTS - 1) / MQL_SHARE_SLOTS;
        int64_t passed = mql_live_pass_done(live, number, mql_base_min(stop, number + RUN_CHUNKS));
        if (passed > number) {
            from = mql_base_min(passed * MQL_SHARE_SLOTS, to);
            continue;
        }
        int64_t end = chunk_end(from, to), found = unfinished_in_chunk(live, from, to);
        if (found < end) {
            *searched = found;
            return found;
        }
        from = end;
    }
    *searched = from;
    return to;
}

int mql_census_run(mql_share *share, int64_t *from, int64_t *to) {
    mql_live *live = &share->live;
    int64_t at = *from, start = *to;
    while (at < *to && start == *to) {
        int rc = mql_share_enter_surely(share);
        if (rc < 0) return rc;
        start = next_unfinished(live, at, *to, &at);
        mql_share_leave(share);
    }
    if (start >= *to) {
        *from = *to;
        return MQL_OK;
    }
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    int64_t stop = start;
    for (int steps = 0; stop < *to && steps < RUN_STEPS; steps++) {
        int64_t end = chunk_end(stop, *to), found = finished_in_chunk(live, stop, end);
        stop = found;
        if (found < end) break;
    }
    mql_share_leave(share);
    *from = start;
    *to = mql_base_max(stop, start + 1); /* finished meanwhile: then it is kept once more */
    return MQL_OK;
}

typedef struct finality {
    mql_share *share;
    int64_t offset;
    int rc;
} finality;

/* Also when it cannot be told any more. */
static bool all_final(void *context) {
    finality *wanted = context;
    wanted->rc = mql_share_enter_surely(wanted->share);
    if (wanted->rc < 0) return true;
    int64_t found = unfinished(&wanted->share->live, 0, wanted->offset);
    mql_share_leave(wanted->share);
    return found >= wanted->offset;
}

int mql_census_wait_final(mql_share *share, int64_t offset, int64_t timeout_ns) {
    finality wanted = {.share = share, .offset = offset};
    int rc = mql_sleep_until(share->live.log, timeout_ns, all_final, &wanted);
    return wanted.rc < 0 ? wanted.rc : rc;
}

/* -- facts ------------------------------------------------------------------------------------- */
static int64_t size_of(mql_share *share, const char *path) {
    mql_os_stat stat;
    return mql_os_stat_name(share->live.log->home->root, path, &stat) < 0 ? 0 : stat.allocated;
}

static void look_at_one(mql_share_info *out, int64_t offset, int64_t time, int64_t now) {
    if (time > now) out->delayed++;
    if (time > now) out->next_ms = mql_base_min(out->next_ms, time);
    if (out->oldest < 0 || offset < out->oldest) out->oldest = offset;
}

/* What the slots of one chunk say of records to be delivered, where the heap has not all. */
static void look_at_chunk(mql_live *live, uint32_t page, int64_t now, mql_share_info *out) {
    int64_t number = mql_live_chunk(live, page);
    for (int64_t i = 0; number >= 0 && i < MQL_SHARE_SLOTS; i++) {
        int64_t offset = number * MQL_SHARE_SLOTS + i;
        mql_slots_slot slot;
        mql_slots_load(mql_slots_at(&live->slots, page, offset), offset, &slot);
        bool final = slot.sound && mql_slots_is_final(&slot);
        if (slot.fresh || final || mql_share_is_held(&slot) || mql_live_is_past(live, offset))
            continue;
        bool later = slot.sound && slot.clock == MQL_CLOCK_WALL;
        look_at_one(out, offset, later ? slot.time : 0, now);
    }
}

/* The first offset to be delivered, and how many are not due yet. Under the lock. */
static void look_at_due(mql_share *share, mql_share_info *out) {
    mql_live *live = &share->live;
    int64_t now = mql_log_wall_ms(live->log->home);
    if (atomic_load_explicit(&live->map->horizon[MQL_LIVE_DUE], memory_order_relaxed) !=
        INT64_MAX) { /* a full disk: the heap is too small */
        uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
        for (uint32_t page = 0; page < pages; page++) look_at_chunk(live, page, now, out);
        return;
    }
    for (uint32_t i = 0; i < mql_arrays_count(&live->arrays, MQL_LIVE_DUE); i++) {
        mql_format_timer timer = *mql_arrays_timer(&live->arrays, MQL_LIVE_DUE, i);
        if (mql_share_due_valid(live, &timer)) look_at_one(out, timer.offset, timer.time, now);
    }
}

/* The first offset in [at, end) that was never touched; `end` if there is none. SPEO lags behind
 * what was delayed. Under the lock. */
static int64_t first_fresh(mql_live *live, int64_t at, int64_t end) {
    while (at < end) {
        mql_live_place place;
        mql_slots_slot slot;
        if (mql_live_find(live, at, &place)) {
            mql_slots_load(place.slot, at, &slot);
            if (slot.fresh) return at;
            at++;
        } else if (mql_live_is_past(live, at)) {
            at = (at / MQL_SHARE_SLOTS + 1) * MQL_SHARE_SLOTS;
        } else {
            return at;
        }
    }
    return end;
}

static bool looks_only(const mql_share *share) { return share->live.log->home->read_only; }

static int describe(mql_share *share, mql_share_info *out) {
    mql_live *live = &share->live;
    mql_format_live *map = live->map;
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    mql_control_end end;
    mql_log_end(live->log, &end);
    *out = (mql_share_info){.oldest = -1, .next_ms = INT64_MAX};
    look_at_due(share, out);
    out->acquired = atomic_load_explicit(&map->acquired, memory_order_relaxed);
    out->end = atomic_load_explicit(&map->end, memory_order_relaxed);
    out->ready =
        end.offset - atomic_load_explicit(&map->unavailable, memory_order_relaxed) - out->delayed;
    out->first = unfinished(live, 0, end.offset);
    int64_t fresh = first_fresh(live, out->end, end.offset);
    if (fresh < end.offset && (out->oldest < 0 || fresh < out->oldest)) out->oldest = fresh;
    for (int i = 0; i < MQL_ENDS; i++)
        out->ends[i] = atomic_load_explicit(&map->counts[i], memory_order_relaxed);
    mql_share_leave(share);
    return MQL_OK;
}

int mql_census_describe(mql_share *share, mql_share_info *out) {
    int rc = looks_only(share) ? mql_survey_describe(share, out) : describe(share, out);
    if (rc < 0) return rc;
    out->bytes = size_of(share, share->live.slots.path) + size_of(share, share->live.arrays.path);
    return MQL_OK;
}

/* -- lists ------------------------------------------------------------------------------------- */
static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The smallest of what is due. */
static int64_t peek_due(mql_live *live, int64_t *offsets, int64_t capacity) {
    int64_t now = mql_log_wall_ms(live->log->home), count = 0;
    for (uint32_t i = 0; i < mql_arrays_count(&live->arrays, MQL_LIVE_DUE); i++) {
        mql_format_timer timer = *mql_arrays_timer(&live->arrays, MQL_LIVE_DUE, i);
        if (timer.time > now || !mql_share_due_valid(live, &timer)) continue;
        if (count < capacity) {
            offsets[count++] = timer.offset;
            continue;
        }
        int64_t greatest = 0;
        for (int64_t j = 1; j < count; j++)
            if (offsets[j] > offsets[greatest]) greatest = j;
        if (count > 0 && timer.offset < offsets[greatest]) offsets[greatest] = timer.offset;
    }
    qsort(offsets, (size_t)count, sizeof *offsets, ascending);
    return count;
}

int64_t mql_census_peek(mql_share *share, int64_t *offsets, int64_t capacity) {
    mql_live *live = &share->live;
    mql_control_end readable;
    if (looks_only(share)) return mql_survey_peek(share, offsets, capacity);
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    mql_log_readable_end(live->log, &readable);
    int64_t count = peek_due(live, offsets, capacity);
    int64_t at = atomic_load_explicit(&live->map->end, memory_order_relaxed);
    for (; at < readable.offset && count < capacity; at++) {
        mql_live_place place;
        mql_slots_slot slot = {.fresh = true};
        if (mql_live_find(live, at, &place))
            mql_slots_load(place.slot, at, &slot);
        else if (mql_live_is_past(live, at))
            continue;
        if (slot.fresh) offsets[count++] = at;
    }
    mql_share_leave(share);
    return count;
}

/* What the slots of one chunk say of holders. */
static int64_t holders_of(mql_live *live, uint32_t page, mql_acquired *out, int64_t capacity) {
    int64_t count = 0, number = mql_live_chunk(live, page);
    for (int64_t i = 0; number >= 0 && i < MQL_SHARE_SLOTS && count < capacity; i++) {
        int64_t offset = number * MQL_SHARE_SLOTS + i;
        mql_slots_slot slot;
        mql_slots_load(mql_slots_at(&live->slots, page, offset), offset, &slot);
        if (!mql_share_is_held(&slot)) continue;
        bool moving = slot.state == MQL_SHARE_ARCHIVING;
        bool bounded = !moving && slot.time != MQL_SLOTS_TIME_MAX;
        out[count++] = (mql_acquired){
            .offset = offset,
            .token = (uint64_t)mql_live_tokens(live) << 32 | slot.token,
            .moving = moving ? slot.time : -1,
            .deadline_ms = bounded ? slot.time : INT64_MAX,
            .holder = atomic_load_explicit(&live->map->members[slot.member], memory_order_relaxed),
            .deliveries = slot.deliveries};
    }
    return count;
}

/* From the slots themselves: a heap of deadlines has some twice, and others not at all. */
int64_t mql_census_holders(mql_share *share, mql_acquired *out, int64_t capacity) {
    mql_live *live = &share->live;
    int64_t count = 0;
    if (looks_only(share)) return mql_survey_holders(share, out, capacity);
    int rc = mql_share_reap(share); /* what the dead held is nobody's */
    if (rc >= 0) rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    int64_t all = atomic_load_explicit(&live->map->acquired, memory_order_relaxed);
    capacity = mql_base_min(capacity, all);
    for (uint32_t page = 0; page < pages && count < capacity; page++)
        count += holders_of(live, page, out + count, capacity - count);
    mql_share_leave(share);
    return count;
}
