/* mql_room.c - space ahead of the log's tail.
 *
 * Stores into a mapping must never meet a page without blocks: that is SIGBUS on a full disk. So
 * files grow by fallocate, which says ENOSPC here and now, and appends stay below `allocated`. A
 * file's length changes only under the prepare lock, after looking that the segment is still the
 * active one: a peer that was about to lengthen it when it was rolled would spoil a sealed file.
 *
 * Populating is a process's own affair (its page tables), needs no lock, and only saves page
 * faults.
 */
#include "mql_room.h"

#include <errno.h>

#define FIRST_BYTES ((int64_t)16 << 10)
#define AHEAD_LEAST ((int64_t)256 << 10)
#define AHEAD_MOST ((int64_t)8 << 20)
#define SMALL_SYNC ((int64_t)64 << 10) /* bytes that a sync brings to the disk */
#define PIECE_MOST ((size_t)32 << 10)
#define PIECES 128 /* that the whole distance is written ahead in, or more */
#define STEP ((int64_t)512 << 10)      /* of the background's, under one holding of the lock */
#define POPULATE_STEP ((int64_t)256 << 10)
#define FREE_SHARE 64 /* preparation takes at most 1/64 of the free space at once */
#define FREE_DEFAULT_MOST ((uint64_t)64 << 20)

/* The lock's owner may have died anywhere: every word under it is stored after the fact it tells,
 * and mql_room_next looks whether the file it names is there, so there is nothing to repair. */
static int take_prepare(mql_log *log) {
    int rc = mql_log_lock(log, &log->control->prepare, NULL);
    if (rc < 0) return rc;
    rc = mql_log_writable(log);
    if (rc < 0) mql_os_mutex_drop(&log->control->prepare);
    return rc;
}

int mql_room_spare(mql_log *log, int64_t *spare) {
    uint64_t available, total;
    int rc = mql_os_free_bytes(log->home->root, &available, &total);
    if (rc < 0) return mql_base_fail_os(rc, log->directory, "cannot ask for free space");
    uint64_t reserve = atomic_load_explicit(&log->home->bell->min_free_bytes, memory_order_relaxed);
    if (reserve == MQL_DEFAULT_FREE)
        reserve = total / 20 < FREE_DEFAULT_MOST ? total / 20 : FREE_DEFAULT_MOST;
    *spare = available < reserve ? -1 : (int64_t)(available - reserve);
    return MQL_OK;
}

/* Whether `bytes` more may be taken; *most: what a generous step may take. */
static int check_bounds(mql_log *log, int64_t bytes, int64_t *most) {
    mql_format_doorbell *bell = log->home->bell;
    int64_t spare;
    int rc = mql_room_spare(log, &spare);
    if (rc < 0) return rc;
    if (spare < bytes)
        return mql_base_fail_os(-ENOSPC, log->directory,
                                "the disk is full down to min_free_bytes: free space, or lower it");
    uint64_t bound = atomic_load_explicit(&bell->max_bytes, memory_order_relaxed);
    /* The active segment's indexes grow a page at a time behind the log's back. */
    uint32_t count = atomic_load_explicit(&log->control->index_count, memory_order_relaxed);
    uint32_t times = atomic_load_explicit(&log->control->time_count, memory_order_relaxed);
    int64_t used = atomic_load_explicit(&bell->used_bytes, memory_order_relaxed) + 2 * MQL_PAGE +
                   mql_base_round_up((int64_t)count * MQL_INDEX_ENTRY, MQL_PAGE) +
                   mql_base_round_up((int64_t)times * MQL_TIME_ENTRY, MQL_PAGE);
    if (bound != 0 && used + bytes > (int64_t)bound)
        return mql_base_fail_os(-ENOSPC, log->directory,
                                "the store has reached max_bytes: trim, or raise it");
    *most = spare / FREE_SHARE;
    if (bound != 0) *most = mql_base_min(*most, (int64_t)bound - used);
    return MQL_OK;
}

/* Has pages of zeros in the page cache, which are quicker to make writable than pages that would be
 * read there: the more is appended the larger the pieces. Where each append waits for a sync they
 * are also sent to the disk, a page at a time, so that no sync has to note blocks as written, which
 * costs a file system a sync of its own; unless syncs are large, and the disk's bandwidth is what
 * they wait for. A failure makes nothing wrong. Nothing is written to a file that may be another
 * topic's: the name was opened before this looked whether the directory is still ours. */
static void write_ahead(mql_log *log, mql_os_file file, int64_t from, int64_t to) {
    if (from >= to || !mql_os_overwrites(file) || mql_log_in_place(log) < 0) return;
    bool each = mql_log_is_sync(log) && !log->large_syncs;
    int rc = mql_os_write_zeros(file, from, to - from, each ? MQL_PAGE : log->piece);
    if (each && rc == 0) (void)mql_os_start_sync(file, from, to - from);
}

/* Lengthens a file from `from` to about `to`, at least to `least`; *reached: where it ends. From
 * `unused` on nothing was ever stored, and nobody stores before the new length is told: there it is
 * written ahead; INT64_MAX: not now. */
static int lengthen(mql_log *log, const char *path, int64_t from, int64_t least, int64_t to,
                    int64_t unused, int64_t *reached) {
    int64_t most = 0;
    int rc = check_bounds(log, least - from, &most);
    if (rc < 0) return rc;
    to = mql_base_max(least, mql_base_min(to, from + most));
    mql_os_file file;
    rc = mql_os_open(log->home->root, path, MQL_OS_WRITE, 0, &file);
    if (rc == 0) {
        rc = mql_os_allocate(file, from, to - from);
        if ((rc == -ENOSPC || rc == -EDQUOT) && to > least) {
            to = least;
            rc = mql_os_allocate(file, from, to - from);
        }
        if (rc == 0) write_ahead(log, file, mql_base_max(from, unused), to);
        mql_os_close(file);
    }
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot allocate space for records");
    atomic_fetch_add_explicit(&log->home->bell->used_bytes, to - from, memory_order_relaxed);
    *reached = to;
    return MQL_OK;
}

static int64_t segment_limit(mql_log *log) {
    return mql_base_round_up(atomic_load_explicit(&log->segment_bytes, memory_order_relaxed),
                             MQL_PAGE);
}

/* How far ahead of the tail to be: as much as was appended since the last look, within bounds.
 * Notes how much a sync had to do since then, and what is written ahead at once. */
static int64_t ahead(mql_log *log) {
    int64_t appended = atomic_exchange_explicit(&log->appended, 0, memory_order_relaxed);
    uint32_t round = atomic_load_explicit(&log->control->round, memory_order_relaxed);
    int64_t rounds = round - log->round_seen;
    if (rounds > 0) log->large_syncs = appended / rounds > SMALL_SYNC;
    log->round_seen = round;
    int64_t distance = mql_base_min(mql_base_max(2 * appended, AHEAD_LEAST), AHEAD_MOST);
    log->piece = MQL_PAGE;
    while (log->piece < PIECE_MOST && (int64_t)log->piece < distance / PIECES) log->piece *= 2;
    return distance;
}

static int allocate_locked(mql_log *log, int64_t segment, int64_t least, int64_t to,
                           bool background) {
    mql_control_end end;
    mql_control_read(&log->control->published, &end);
    int64_t from = atomic_load_explicit(&log->control->allocated, memory_order_relaxed);
    if (end.segment != segment || from >= least) return MQL_OK;
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, log->directory, segment, ".log");
    /* A roll that died half-way has told of the next one's blocks: there may be records above. */
    int64_t unused = background ? mql_base_max(from, end.position) : INT64_MAX, reached;
    int rc = lengthen(log, path, from, least, mql_base_max(to, least), unused, &reached);
    if (rc == MQL_OK)
        atomic_store_explicit(&log->control->allocated, reached, memory_order_release);
    return rc;
}

int mql_room_allocate(mql_log *log, int64_t segment, int64_t want) {
    int rc = take_prepare(log);
    if (rc < 0) return rc;
    int64_t least = mql_base_round_up(want, MQL_PAGE);
    int64_t step = least <= FIRST_BYTES ? FIRST_BYTES : least + mql_base_min(least, AHEAD_LEAST);
    rc = allocate_locked(log, segment, least,
                         mql_base_min(step, mql_base_max(least, segment_limit(log))), false);
    mql_os_mutex_drop(&log->control->prepare);
    return rc;
}

/* -- the next segment -------------------------------------------------------------------------- */
/* Makes an empty next.<n> under a number never used before. */
static int make_next_locked(mql_log *log, uint64_t *number) {
    mql_format_control *control = log->control;
    char path[MQL_PATH_MAX];
    mql_os_file file = MQL_OS_NO_FILE;
    int rc;
    do {
        uint64_t last = atomic_load_explicit(&control->last_number, memory_order_relaxed);
        *number = mql_base_next_turn(last); /* 0 is none, whatever a checkpoint has claimed */
        atomic_store_explicit(&control->last_number, *number, memory_order_relaxed);
        mql_segment_next_name(path, log->directory, *number);
        atomic_store_explicit(&control->next_allocated, 0, memory_order_relaxed);
        /* Told before it is there: whoever dies between leaves no file that nobody knows of. */
        atomic_store_explicit(&control->next_number, *number, memory_order_release);
        rc = mql_os_open(log->home->root, path, MQL_OS_WRITE | MQL_OS_CREATE | MQL_OS_EXCLUSIVE,
                         log->home->mode, &file);
    } while (rc == -EEXIST);
    if (rc < 0) {
        atomic_store_explicit(&control->next_number, 0, memory_order_release);
        return mql_base_fail_os(rc, path, "cannot make the next segment");
    }
    mql_os_close(file);
    return MQL_OK;
}

/* The number of the next.<n> that is there; made if none is. */
static int have_next_locked(mql_log *log, uint64_t *number) {
    *number = atomic_load_explicit(&log->control->next_number, memory_order_relaxed);
    if (*number == 0) return make_next_locked(log, number);
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_segment_next_name(path, log->directory, *number);
    if (mql_os_stat_name(log->home->root, path, &stat) == 0) return MQL_OK;
    return make_next_locked(log, number); /* its roll died after the rename */
}

static int next_locked(mql_log *log, int64_t want, bool background, uint64_t *number) {
    int rc = have_next_locked(log, number);
    if (rc < 0) return rc;
    int64_t from = atomic_load_explicit(&log->control->next_allocated, memory_order_relaxed);
    if (from >= want) return MQL_OK;
    char path[MQL_PATH_MAX];
    mql_segment_next_name(path, log->directory, *number);
    int64_t least = mql_base_round_up(want, MQL_PAGE), reached;
    rc = lengthen(log, path, from, least, least, background ? from : INT64_MAX, &reached);
    if (rc == MQL_OK)
        atomic_store_explicit(&log->control->next_allocated, reached, memory_order_release);
    return rc;
}

/* This process's mapping of next.<number>; lent by log->prepared only while nobody rolls, so pages
 * are populated before it is put there. */
static int map_next(mql_log *log, uint64_t number, int64_t populate) {
    mql_segment *held = atomic_exchange_explicit(&log->prepared, NULL, memory_order_acq_rel);
    if (held != NULL && held->number != number) {
        mql_segment_release(held);
        held = NULL;
    }
    int rc = MQL_OK;
    if (held == NULL) {
        mql_segment_options options = mql_log_segment_options(log);
        rc = mql_segment_open_next(&options, number, &held);
        if (rc == MQL_E_NOT_FOUND) return MQL_OK; /* rolled meanwhile */
    }
    if (rc < 0) return rc;
    int64_t done = held->populated;
    for (; done < populate && done < (int64_t)held->map_length; done += POPULATE_STEP) {
        int64_t step = mql_base_min(mql_base_min(POPULATE_STEP, populate - done),
                                    (int64_t)held->map_length - done);
        if (mql_os_populate(held->map + done, (size_t)step) < 0) break;
    }
    held->populated = mql_base_min(done, populate);
    mql_segment *other = atomic_exchange_explicit(&log->prepared, held, memory_order_acq_rel);
    mql_segment_release(other);
    return MQL_OK;
}

int mql_room_next(mql_log *log, int64_t want) {
    int rc = take_prepare(log);
    if (rc < 0) return rc;
    uint64_t number;
    rc = next_locked(log, want, false, &number);
    mql_os_mutex_drop(&log->control->prepare);
    return rc < 0 ? rc : map_next(log, number, 0);
}

/* -- the prepare thread's round ---------------------------------------------------------------- */
/* What is behind the tail is not written again. Out of this process's page tables it goes at once;
 * left there, a sync would have to protect it page by page, and interrupt every processor that the
 * process runs on for each. Where each append is synced there is nothing left to protect. */
static void let_go(mql_log *log, mql_segment *segment, int64_t to) {
    if (mql_log_is_sync(log)) return;
    to = mql_base_round_down(mql_base_min(to, (int64_t)segment->map_length), MQL_PAGE);
    int64_t from = segment->let_go;
    if (from < to) mql_os_unpopulate(segment->map + from, (size_t)(to - from));
    segment->let_go = mql_base_max(from, to);
}

static void populate(mql_log *log, const mql_control_end *end, int64_t to) {
    mql_segment *segment;
    if (mql_log_segment(log, end->segment, &segment) < 0) return;
    int64_t from = atomic_load_explicit(&log->populated, memory_order_relaxed);
    if (atomic_load_explicit(&log->populated_segment, memory_order_relaxed) != end->segment)
        from = mql_base_max(0, segment->populated);
    from = mql_base_max(from, mql_base_round_down(end->position, MQL_PAGE));
    to = mql_base_min(to, (int64_t)segment->map_length);
    while (from < to) {
        int64_t step = mql_base_min(POPULATE_STEP, to - from);
        if (mql_os_populate(segment->map + from, (size_t)step) < 0) break;
        from += step;
    }
    atomic_store_explicit(&log->populated_segment, end->segment, memory_order_relaxed);
    atomic_store_explicit(&log->populated, from, memory_order_relaxed);
    let_go(log, segment, end->position);
    mql_segment_release(segment);
}

/* Blocks up to `target`, in steps: nobody is to wait long for the lock, nor for a thread that is to
 * stop. All steps together take no more than one may. */
static int extend(mql_log *log, int64_t segment, int64_t target, const _Atomic bool *stopping) {
    _Atomic int64_t *allocated = &log->control->allocated;
    int64_t from = atomic_load_explicit(allocated, memory_order_relaxed), before = -1, most = 0;
    int rc = from < target ? check_bounds(log, MQL_PAGE, &most) : MQL_OK;
    target = mql_base_min(target, from + mql_base_round_up(most, MQL_PAGE));
    while (rc == MQL_OK && from < target && from != before) { /* else it was rolled meanwhile */
        if (atomic_load_explicit(stopping, memory_order_acquire)) return MQL_E_LATER;
        rc = take_prepare(log);
        if (rc < 0) return rc;
        before = atomic_load_explicit(allocated, memory_order_relaxed);
        int64_t to = mql_base_min(mql_base_round_up(before + STEP, MQL_PAGE), target);
        rc = allocate_locked(log, segment, mql_base_min(to, before + MQL_PAGE), to, true);
        from = atomic_load_explicit(allocated, memory_order_relaxed);
        mql_os_mutex_drop(&log->control->prepare);
    }
    return rc;
}

/* Likewise a next segment of `want` bytes, mapped here: all of it or nothing. */
static int have_next(mql_log *log, int64_t want, const _Atomic bool *stopping) {
    int64_t to = atomic_load_explicit(&log->control->next_allocated, memory_order_relaxed), most;
    uint64_t number = 0;
    int rc = to < want ? check_bounds(log, want - to, &most) : MQL_OK;
    while (rc == MQL_OK) {
        if (atomic_load_explicit(stopping, memory_order_acquire)) return MQL_E_LATER;
        to = mql_base_min(to + STEP, want);
        rc = take_prepare(log);
        if (rc < 0) return rc;
        rc = next_locked(log, to, true, &number);
        mql_os_mutex_drop(&log->control->prepare);
        if (to == want) break;
    }
    return rc == MQL_OK ? map_next(log, number, want) : rc;
}

int mql_room_prepare(mql_log *log, const _Atomic bool *stopping) {
    if (!atomic_exchange_explicit(&log->wants_room, false, memory_order_acq_rel)) return MQL_END;
    if (mql_log_writable(log) < 0) return MQL_END;
    mql_control_end end;
    mql_control_read(&log->control->published, &end);
    int64_t distance = ahead(log), limit = segment_limit(log);
    int64_t target = mql_base_min(mql_base_round_up(end.position + distance, MQL_PAGE), limit);
    int rc = extend(log, end.segment, target, stopping);
    if (rc == MQL_OK)
        populate(log, &end,
                 mql_base_min(
                     target, atomic_load_explicit(&log->control->allocated, memory_order_acquire)));
    /* The next segment, once the end of this one comes into reach. */
    int64_t left = limit - end.position;
    if (rc == MQL_OK && left < 2 * distance && end.position > 0)
        rc = have_next(log, mql_base_min(distance, limit), stopping);
    atomic_store_explicit(&log->prepare_at, end.position + distance / 2, memory_order_relaxed);
    if (rc == MQL_E_LATER) atomic_store_explicit(&log->wants_room, true, memory_order_release);
    return MQL_OK;
}
