/* mql_cursor.c - a reader's place in a partition.
 *
 * A reader takes no lock and writes no shared word: it reads the published end, then bytes below
 * it. It keeps a reference on the segment it stands in, so retention and close() may take the file
 * away under it. A segment that is not the last ends where the next begins, whatever its file's
 * length is.
 *
 * Several segments may have been rewritten as one (mql_swap). Who stands in an old one goes on in
 * its bytes; who comes to its end, or finds the next one gone, looks again for the file that has
 * the offset. While both are there a batch may reach over where the next file begins.
 */
#include "mql_cursor.h"

#include "mql_swap.h"

#include <errno.h>
#include <stdio.h>

#define MISSED_MOST 1000 /* a bound, not a policy: each means that a file was replaced meanwhile */

struct mql_lease {
    mql_segment *segment; /* owns a reference */
};

struct mql_cursor {
    mql_log *log; /* borrows: the store outlives its cursors */
    struct mql_cursor *next, **link; /* of the log's list, under its `table`; NULL: not in it */
    int flags;
    int64_t next_base;    /* of the segment behind the current one; INT64_MAX: none yet */
    int64_t bound;        /* no batch up to the walk's limit reaches over this offset */
    mql_segment *segment; /* owns a reference; NULL: not placed yet */
    mql_segment_walk walk;
    mql_segment_window window;
    int64_t offset; /* the next offset wanted */
    int32_t epoch;  /* that batches below epoch_until carry; -1: not known */
    int64_t epoch_until;
    int64_t end_seen; /* offset of the end when last looked at */
    int missed;       /* how often a file was gone since the cursor was placed last */
};

/* -- ends -------------------------------------------------------------------------------------- */
static void end_of(const mql_cursor *cursor, mql_control_end *end) {
    if ((cursor->flags & MQL_TO_END) != 0)
        mql_log_end(cursor->log, end);
    else
        mql_log_readable_end(cursor->log, end);
}

static int out_of_range(const mql_cursor *cursor, int64_t offset) {
    mql_control_end end;
    end_of(cursor, &end);
    return mql_base_fail_range(offset, mql_log_start(cursor->log), end.offset);
}

/* A file is not there: retention has passed it, or another one has its offsets now. MQL_BUSY: look
 * again. */
static int gone(mql_cursor *cursor) {
    int rc = mql_log_usable(cursor->log);
    if (rc < 0) return rc;
    if (cursor->offset < mql_log_start(cursor->log) || ++cursor->missed > MISSED_MOST)
        return out_of_range(cursor, cursor->offset);
    rc = mql_log_relist(cursor->log);
    return rc < 0 ? rc : MQL_BUSY;
}

/* -- placing ----------------------------------------------------------------------------------- */
static void leave_segment(mql_cursor *cursor) {
    mql_segment_release(cursor->segment);
    cursor->segment = NULL;
    cursor->window.length = 0;
}

/* Entries of the index that may be used for this segment, and which one. Pairs with the roll, which
 * resets the count before it publishes: a count read while the segment is still the active one is
 * its own. */
static void choose_index(mql_cursor *cursor, const mql_control_end *end) {
    mql_segment *segment = cursor->segment;
    mql_format_control *control = cursor->log->control;
    mql_segment_options options = mql_log_segment_options(cursor->log);
    cursor->walk.index = NULL;
    cursor->walk.index_count = 0;
    if (control != NULL && end->segment == segment->base) {
        if (mql_segment_open_tail(segment, &options, cursor->log->home->mode) < 0) return;
        uint32_t count = atomic_load_explicit(&control->index_count, memory_order_acquire);
        mql_control_end again;
        mql_log_end(cursor->log, &again);
        if (again.segment != segment->base) return;
        /* A peer with a larger bound may have written more entries than this process has mapped. */
        uint32_t most = (uint32_t)(segment->tail.offsets.length / MQL_INDEX_ENTRY);
        cursor->walk.index = &segment->tail.offsets;
        cursor->walk.index_count = count < most ? count : most;
        return;
    }
    bool sealed = control == NULL ||
                  segment->base < atomic_load_explicit(&control->sealed, memory_order_acquire);
    if (!sealed) return;
    mql_segment_open_index(segment, &options);
    if (!atomic_load_explicit(&segment->index_open, memory_order_acquire)) return;
    cursor->walk.index = &segment->index.offsets;
    cursor->walk.index_count = mql_index_count_offsets(&segment->index.offsets);
}

/* Whether the current segment is the file that the end speaks of. It may have been rolled since,
 * and rewritten under the same name; what it was is never the last one again. */
static bool has_end(const mql_cursor *cursor, const mql_control_end *end) {
    if (cursor->segment->base != end->segment) return false;
    if (cursor->log->control == NULL) return mql_log_holds_end(cursor->log, cursor->segment);
    mql_control_end now;
    end_of(cursor, &now);
    return now.segment == end->segment;
}

/* How far the walk may go in the current segment. MQL_BUSY: its file is gone, or the end is not in
 * it any more. */
static int set_limit(mql_cursor *cursor, const mql_control_end *end) {
    mql_segment *segment = cursor->segment;
    bool named = segment->base == end->segment, last = has_end(cursor, end);
    if (named && !last && cursor->log->control != NULL) return MQL_BUSY;
    if (last) {
        mql_segment_options now = mql_log_segment_options(cursor->log);
        if (segment->map == NULL && mql_segment_refresh(segment, &now) < 0)
            return out_of_range(cursor, cursor->offset);
        cursor->walk.limit = end->position;
        cursor->next_base = INT64_MAX;
        cursor->bound = end->offset;
        return MQL_OK;
    }
    int64_t base, next_base;
    int rc = mql_log_locate(cursor->log, segment->base, &base, &next_base);
    if (rc == MQL_E_RANGE || (rc == MQL_OK && base != segment->base)) return gone(cursor);
    if (rc < 0) return rc;
    if (named && next_base == INT64_MAX) return gone(cursor); /* of an older listing */
    mql_segment_options options = mql_log_segment_options(cursor->log);
    rc = mql_segment_refresh(segment, &options);
    if (rc == MQL_E_NOT_FOUND) return gone(cursor);
    cursor->next_base = next_base;
    cursor->bound = mql_base_min(next_base, end->offset); /* that of a snapshot */
    cursor->walk.limit = atomic_load_explicit(&segment->length, memory_order_relaxed);
    return rc;
}

/* MQL_BUSY: its file is gone. */
static int enter_segment(mql_cursor *cursor, int64_t base) {
    mql_log *log = cursor->log;
    mql_segment *segment;
    int rc = mql_log_segment(log, base, &segment);
    if (rc == MQL_E_NOT_FOUND) return gone(cursor);
    if (rc < 0) return rc;
    leave_segment(cursor);
    cursor->segment = segment;
    cursor->walk = (mql_segment_walk){
        .segment = segment,
        .window = &cursor->window,
        .expected = base,
        .max_size = MQL_BATCH_BYTES_MAX,
        .gaps = atomic_load_explicit(&log->cleanup, memory_order_relaxed) == MQL_CLEANUP_COMPACT,
        .verify = (cursor->flags & MQL_UNVERIFIED) == 0};
    return MQL_OK;
}

/* Whether the end is in no segment: a checkpoint may name to who only looks what there is not. */
static bool is_nowhere(mql_log *log, const mql_control_end *end) {
    int64_t base, next_base;
    return log->control == NULL &&
           (mql_log_locate(log, end->segment, &base, &next_base) < 0 || base != end->segment);
}

/* Stands at the batch that holds cursor->offset. MQL_END: there is none yet; MQL_BUSY: try again.
 */
static int place(mql_cursor *cursor) {
    mql_log *log = cursor->log;
    mql_control_end end;
    end_of(cursor, &end);
    int64_t start = mql_log_start(log), base, next_base;
    bool beyond = cursor->offset > end.offset && log->control != NULL;
    if (cursor->offset < start || beyond) return out_of_range(cursor, cursor->offset);
    if (cursor->offset >= end.offset) return MQL_END;
    int rc = mql_log_locate(log, cursor->offset, &base, &next_base);
    /* The listing may know a segment that the end sampled above does not: read up to that end
     * first. */
    if (rc == MQL_OK && base > end.segment && !is_nowhere(log, &end)) base = end.segment;
    if (rc == MQL_OK) rc = enter_segment(cursor, base);
    if (rc == MQL_OK) rc = set_limit(cursor, &end);
    if (rc != MQL_OK) {
        leave_segment(cursor);
        return rc;
    }
    cursor->epoch_until = -1;
    cursor->end_seen = end.offset;
    choose_index(cursor, &end);
    mql_segment_find(&cursor->walk, cursor->offset);
    return MQL_OK;
}

/* -- the log's list ---------------------------------------------------------------------------- */
static void enlist(mql_cursor *cursor) {
    mql_log *log = cursor->log;
    mql_os_mutex_take(&log->table, -1);
    cursor->next = log->cursors;
    cursor->link = &log->cursors;
    if (cursor->next != NULL) cursor->next->link = &cursor->next;
    log->cursors = cursor;
    mql_os_mutex_drop(&log->table);
}

static void delist_locked(mql_cursor *cursor) {
    if (cursor->link == NULL) return;
    *cursor->link = cursor->next;
    if (cursor->next != NULL) cursor->next->link = cursor->link;
    cursor->link = NULL;
}

/* A forked child leaves its parent's list alone: another thread may have been inside. */
static bool forked(const mql_log *log) {
    return atomic_load_explicit(&log->home->gone, memory_order_acquire) == MQL_E_FORKED;
}

void mql_cursor_unmap_all(mql_log *log) {
    bool more = !forked(log);
    while (more) {
        mql_os_mutex_take(&log->table, -1);
        mql_cursor *cursor = log->cursors;
        mql_cursor had = {0};
        if (cursor != NULL) {
            had = *cursor;
            delist_locked(cursor);
            cursor->segment = NULL;
            cursor->window = (mql_segment_window){0};
        }
        mql_os_mutex_drop(&log->table);
        mql_segment_leave(had.segment);
        mql_segment_window_free(&had.window);
        more = cursor != NULL;
    }
}

int mql_cursor_make(mql_log *log, int64_t offset, int flags, mql_cursor **out) {
    int rc = mql_log_usable(log);
    if (rc < 0) return rc;
    mql_cursor *cursor = mql_os_allocate_memory(sizeof *cursor);
    if (cursor == NULL)
        return mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for a cursor");
    cursor->log = log;
    cursor->flags = flags;
    rc = mql_cursor_move(cursor, offset);
    if (rc < 0) {
        mql_cursor_end(cursor);
        return rc;
    }
    enlist(cursor);
    *out = cursor;
    return MQL_OK;
}

void mql_cursor_end(mql_cursor *cursor) {
    if (cursor == NULL) return;
    if (!forked(cursor->log)) {
        mql_os_mutex_take(&cursor->log->table, -1);
        delist_locked(cursor);
        mql_os_mutex_drop(&cursor->log->table);
    }
    leave_segment(cursor);
    mql_segment_window_free(&cursor->window);
    mql_os_free_memory(cursor);
}

int mql_cursor_move(mql_cursor *cursor, int64_t offset) {
    int rc = mql_log_usable(cursor->log);
    if (rc < 0) return rc;
    mql_control_end end;
    end_of(cursor, &end);
    if (offset < mql_log_start(cursor->log) || offset > end.offset)
        return out_of_range(cursor, offset);
    leave_segment(cursor);
    cursor->offset = offset;
    return MQL_OK;
}

int64_t mql_cursor_place(const mql_cursor *cursor) { return cursor->offset; }

/* -- reading ----------------------------------------------------------------------------------- */
/* Damage at the walk's position: names it, and stands behind it. MQL_BUSY: it ends before the place
 * wanted, though its header said that it holds it. */
static int damaged(mql_cursor *cursor, const char *what) {
    mql_control_end end;
    end_of(cursor, &end);
    mql_segment_walk *walk = &cursor->walk;
    (void)set_limit(cursor, &end); /* failing to leaves the older, narrower bounds */
    int64_t position = walk->position,
            start = mql_base_max(walk->expected, mql_log_start(cursor->log));
    int64_t before = mql_base_min(cursor->next_base, end.offset), stop = before;
    choose_index(cursor, &end);
    if (mql_segment_resync(walk, before) == MQL_OK) {
        stop = walk->expected;
    } else { /* all the rest of the segment */
        walk->position = walk->limit;
        walk->expected = before;
    }
    if (stop <= cursor->offset) return MQL_BUSY;
    cursor->offset = stop;
    return mql_base_fail_corrupt(walk->segment->path, position, start, stop, what);
}

/* Whether the epoch of the batch just walked is the one that its offset must have. */
static bool epoch_right(mql_cursor *cursor) {
    const mql_batch_header *header = &cursor->walk.header;
    if (MQL_UNLIKELY(header->base_offset >= cursor->epoch_until))
        cursor->epoch = mql_log_epoch_at(cursor->log, header->base_offset, &cursor->epoch_until);
    if (MQL_UNLIKELY(cursor->epoch >= 0 && header->epoch != cursor->epoch)) /* raised since? */
        cursor->epoch = mql_log_epoch_at(cursor->log, header->base_offset, &cursor->epoch_until);
    return cursor->epoch < 0 || header->epoch == cursor->epoch;
}

/* The log goes on in a segment that is not listed: the listing is old (MQL_BUSY: look again), or
 * its file is lost. */
static int is_gone(mql_cursor *cursor, const mql_control_end *end) {
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    int64_t start = cursor->walk.expected;
    if (start >= end->offset) return MQL_END;
    mql_base_file_name(path, cursor->log->directory, end->segment, ".log");
    int rc = mql_os_stat_name(cursor->log->home->root, path, &stat);
    if (rc < 0 && rc != -ENOENT) return mql_base_fail_os(rc, path, "cannot look at the segment");
    if (rc == 0 && stat.kind == MQL_OS_REGULAR) return gone(cursor);
    cursor->walk.expected = cursor->offset = end->offset;
    return mql_base_fail_corrupt(path, 0, start, end->offset, "the segment is missing");
}

/* There is nothing left in this segment: MQL_OK: stands in the next one; MQL_END; or what is
 * missing. */
static int go_on(mql_cursor *cursor) {
    mql_control_end end;
    end_of(cursor, &end);
    if (cursor->walk.expected > cursor->next_base) { /* there are two files for what is next */
        leave_segment(cursor);
        return MQL_OK;
    }
    if (has_end(cursor, &end)) {
        int64_t limit = cursor->walk.limit;
        cursor->walk.position = limit; /* bytes of no offset may be left */
        cursor->window.length =
            0; /* of a private copy: what lay behind the limit was not there yet */
        int rc = end.position > limit ? set_limit(cursor, &end) : MQL_END;
        return rc;
    }
    if (cursor->walk.expected >= end.offset && end.segment != cursor->next_base) return MQL_END;
    if (cursor->bound < cursor->next_base || cursor->next_base == INT64_MAX) {
        int rc = set_limit(cursor, &end);
        if (rc != MQL_OK) leave_segment(cursor); /* half-set bounds must not be read by */
        if (rc != MQL_OK) return rc;
        if (cursor->next_base == INT64_MAX) return is_gone(cursor, &end);
        if (cursor->walk.expected < cursor->next_base && cursor->walk.position < cursor->walk.limit)
            return MQL_OK;
    }
    if (cursor->walk.expected < cursor->next_base &&
        mql_log_replaced(cursor->log, cursor->segment)) {
        leave_segment(cursor);
        return gone(cursor);
    }
    if (cursor->walk.expected < cursor->next_base) {
        int64_t start = cursor->walk.expected, stop = cursor->next_base,
                position = cursor->walk.position;
        char path[MQL_PATH_MAX];
        snprintf(path, sizeof path, "%s", cursor->segment->path);
        cursor->walk.expected = cursor->offset = stop;
        return mql_base_fail_corrupt(path, position, start, stop,
                                     "records are missing at the end of the segment");
    }
    int rc = enter_segment(cursor, cursor->next_base);
    if (rc == MQL_OK) rc = set_limit(cursor, &end);
    if (rc != MQL_OK) leave_segment(cursor);
    return rc;
}

/* The walk has given a batch that reaches over the bound: that of a snapshot, in a file that was
 * rewritten since, or where the next file begins. MQL_OK: this file takes the place of that one,
 * which is not gone yet; MQL_BUSY: it was gone, look again. Its CRC says how far a batch reaches.
 */
static int reach_over(mql_cursor *cursor) {
    const mql_segment_walk *walk = &cursor->walk;
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_control_end end;
    if (!walk->verify && !mql_batch_crc_right(walk->bytes, walk->header.size))
        return MQL_E_CORRUPT;
    if (walk->expected <= cursor->next_base) return MQL_OK;
    mql_base_file_name(path, cursor->log->directory, cursor->segment->base, MQL_SWAP_READY);
    if (mql_os_stat_name(cursor->log->home->root, path, &stat) == 0) return MQL_OK;
    /* Its second name goes last: a listing made from here on lacks what it has replaced. */
    int64_t next_base = cursor->next_base;
    end_of(cursor, &end);
    int rc = mql_log_relist(cursor->log);
    if (rc == MQL_OK) rc = set_limit(cursor, &end);
    if (rc == MQL_OK && cursor->next_base == next_base) return MQL_E_CORRUPT;
    leave_segment(cursor);
    return rc == MQL_OK ? MQL_BUSY : rc;
}

static int give(mql_cursor *cursor, mql_batch *out) {
    const mql_segment_walk *walk = &cursor->walk;
    const mql_batch_header *header = &walk->header;
    cursor->offset = walk->expected;
    *out = (mql_batch){.payload = walk->bytes + MQL_BATCH_HEADER,
                       .payload_length = header->size - MQL_BATCH_HEADER,
                       .position = walk->at,
                       .segment = walk->segment->base,
                       .base_offset = header->base_offset,
                       .last_offset = header->last_offset,
                       .base_timestamp = header->base_timestamp,
                       .max_timestamp = header->max_timestamp,
                       .count = header->count,
                       .epoch = header->epoch,
                       .attributes = header->attributes};
    return MQL_OK;
}

/* One step: MQL_OK a batch was given; MQL_BUSY: try again; else as mql_cursor_read. */
static int step(mql_cursor *cursor, mql_batch *out) {
    mql_segment_walk *walk = &cursor->walk;
    if (walk->expected >= cursor->bound || walk->position >= walk->limit) {
        int rc = go_on(cursor);
        return rc == MQL_OK ? MQL_BUSY : rc;
    }
    if (MQL_UNLIKELY(cursor->segment->map != NULL &&
                     walk->limit > (int64_t)cursor->segment->map_length)) {
        /* The segment's bound was raised: map it anew, as long as it is now. */
        mql_segment_options options = mql_log_segment_options(cursor->log);
        int rc = mql_segment_refresh(cursor->segment, &options);
        leave_segment(cursor);
        if (rc == MQL_E_NOT_FOUND) return gone(cursor);
        return rc < 0 ? rc : MQL_BUSY;
    }
    int64_t expected = walk->expected, position = walk->position;
    int rc = mql_segment_walk_next(walk);
    if (rc == MQL_END) { /* zeros where the walk may go: nothing in the active segment looks so */
        if (cursor->next_base == INT64_MAX) return damaged(cursor, "zeros where records should be");
        walk->position = walk->limit;
        return MQL_BUSY;
    }
    if (MQL_UNLIKELY(rc == MQL_E_CORRUPT)) return damaged(cursor, walk->wrong);
    bool over = walk->expected > cursor->bound;
    if (MQL_UNLIKELY(over) && cursor->next_base != INT64_MAX) {
        rc = reach_over(cursor);
        if (rc != MQL_OK && rc != MQL_E_CORRUPT) return rc;
        over = rc == MQL_E_CORRUPT;
    }
    if (MQL_UNLIKELY(over || !epoch_right(cursor))) {
        walk->expected = expected;
        walk->position = position;
        return damaged(cursor, over ? "the batch reaches over the offsets that the segment has"
                                    : "the batch has another leader epoch than the log has here");
    }
    if (MQL_UNLIKELY(walk->expected <= cursor->offset))
        return MQL_BUSY;                         /* before the place wanted */
    if (MQL_UNLIKELY(walk->header.count == 0)) { /* used up offsets */
        cursor->offset = walk->expected;
        return MQL_BUSY;
    }
    return give(cursor, out);
}

int mql_cursor_read(mql_cursor *cursor, mql_batch *out) {
    int rc = mql_log_usable(cursor->log);
    if (MQL_UNLIKELY(rc < 0)) return rc;
    /* Records are given that were there when the call was made; of a batch that begins below the
     * log start, those from the cursor's offset on. */
    if (MQL_UNLIKELY(cursor->offset < mql_log_start(cursor->log)))
        return out_of_range(cursor, cursor->offset);
    do {
        rc = MQL_UNLIKELY(cursor->segment == NULL) ? place(cursor) : MQL_OK;
        if (MQL_LIKELY(rc == MQL_OK)) rc = step(cursor, out);
    } while (rc == MQL_BUSY);
    cursor->missed = 0;
    return rc;
}

int mql_cursor_lend(mql_cursor *cursor, mql_lease **out) {
    if (cursor->segment == NULL || cursor->segment->map == NULL) return MQL_END;
    mql_lease *lease = mql_os_allocate_memory(sizeof *lease);
    if (lease == NULL)
        return mql_base_fail(MQL_E_MEMORY, cursor->log->directory, "no memory for a lease");
    lease->segment = mql_segment_retain(cursor->segment);
    *out = lease;
    return MQL_OK;
}

void mql_cursor_give_back(mql_lease *lease) {
    if (lease == NULL) return;
    mql_segment_release(lease->segment);
    mql_os_free_memory(lease);
}

/* -- by time ----------------------------------------------------------------------------------- */
/* The time index that goes with the index chosen, and how much of it may be used. */
static const mql_index_file *choose_times(mql_cursor *cursor, uint32_t *count) {
    mql_segment *segment = cursor->segment;
    const mql_index_file *times = NULL;
    *count = 0;
    if (cursor->walk.index == &segment->index.offsets) {
        times = &segment->index.times;
        *count = mql_index_count_times(times);
    } else if (cursor->walk.index == &segment->tail.offsets) {
        times = &segment->tail.times;
        uint32_t most = (uint32_t)(times->length / MQL_TIME_ENTRY);
        uint32_t now =
            atomic_load_explicit(&cursor->log->control->time_count, memory_order_acquire);
        mql_control_end again;
        mql_log_end(cursor->log, &again);
        if (again.segment == segment->base) *count = now < most ? now : most;
    }
    return times;
}

/* The offset from which on the segment may hold a record that young. The time index is derived: its
 * entry counts only if the batch that it names ends there and has that timestamp. */
static int64_t time_floor(mql_cursor *cursor, int64_t timestamp) {
    uint32_t count;
    const mql_index_file *times = choose_times(cursor, &count);
    int64_t entry = count == 0 ? -1 : mql_index_time_before(times, count, timestamp), newest;
    if (entry < 0) return cursor->segment->base;
    int32_t relative;
    mql_index_time_entry(times, (uint32_t)entry, &newest, &relative);
    mql_segment_walk walk = cursor->walk;
    int64_t offset = walk.segment->base + relative;
    walk.expected = walk.segment->base;
    walk.verify = false;
    mql_segment_find(&walk, offset);
    bool holds = mql_segment_walk_next(&walk) == MQL_OK && walk.header.last_offset == offset &&
                 walk.header.max_timestamp == newest;
    return holds ? offset + 1 : walk.segment->base;
}

/* The first batch from the cursor's segment on whose maximum is young enough. MQL_END: none in it.
 */
static int find_time(mql_cursor *cursor, int64_t timestamp, int64_t *offset) {
    mql_control_end end;
    end_of(cursor, &end);
    choose_index(cursor, &end);
    int64_t before = mql_base_min(cursor->next_base, end.offset);
    int64_t from = mql_base_max(time_floor(cursor, timestamp), cursor->offset);
    if (from >= before) return MQL_END;
    mql_segment_walk *walk = &cursor->walk;
    walk->expected = cursor->segment->base;
    mql_segment_find(walk, from);
    bool verify = walk->verify;
    walk->verify = false;
    int rc;
    for (;;) {
        rc = walk->expected >= cursor->next_base ? MQL_END : mql_segment_walk_next(walk);
        if (rc == MQL_E_CORRUPT && mql_segment_resync(walk, before) == MQL_OK) continue;
        if (rc != MQL_OK) break;
        bool young = walk->header.count > 0 && walk->header.max_timestamp >= timestamp;
        if (young && walk->expected > from) break;
    }
    walk->verify = verify;
    if (rc != MQL_OK) return MQL_END;
    *offset = mql_base_max(walk->header.base_offset, from);
    return MQL_OK;
}

int mql_cursor_move_to_time(mql_cursor *cursor, int64_t timestamp, int64_t *offset) {
    mql_control_end end;
    end_of(cursor, &end);
    int rc = mql_cursor_move(cursor, mql_log_start(cursor->log));
    while (rc == MQL_OK && cursor->offset < end.offset) {
        int64_t base, next_base, found = 0;
        rc = mql_log_locate(cursor->log, cursor->offset, &base, &next_base);
        if (rc == MQL_OK) rc = enter_segment(cursor, base);
        if (rc == MQL_OK) rc = set_limit(cursor, &end);
        if (rc == MQL_BUSY) {
            end_of(cursor, &end);
            rc = MQL_OK;
            continue;
        }
        if (rc < 0) break;
        rc = find_time(cursor, timestamp, &found);
        if (rc == MQL_OK) {
            *offset = found;
            return mql_cursor_move(cursor, found);
        }
        if (rc < 0 || cursor->next_base == INT64_MAX) break;
        cursor->offset = cursor->next_base;
        rc = MQL_OK;
    }
    if (rc < 0) return rc;
    *offset = end.offset;
    return mql_cursor_move(cursor, end.offset);
}

/* -- how much there is ------------------------------------------------------------------------- */
int mql_cursor_measure(mql_log *log, int64_t offset, mql_log_info *out) {
    mql_control_end end;
    mql_cursor *cursor;
    mql_batch batch;
    int64_t base, next_base;
    mql_log_end(log, &end);
    offset = mql_base_max(offset, mql_log_start(log));
    if (offset >= end.offset) {
        *out = (mql_log_info){.start_offset = end.offset, .end_offset = end.offset};
        return MQL_OK;
    }
    int rc = mql_log_locate(log, offset, &base, &next_base);
    if (rc == MQL_OK) rc = mql_log_describe_from(log, base, out);
    if (rc == MQL_OK) rc = mql_cursor_make(log, offset, MQL_UNVERIFIED | MQL_TO_END, &cursor);
    if (rc < 0) return rc;
    /* Where it cannot be read, its whole segment counts. */
    if (mql_cursor_read(cursor, &batch) == MQL_OK && batch.segment == base)
        out->bytes -= batch.position;
    mql_cursor_end(cursor);
    out->start_offset = offset;
    return MQL_OK;
}
