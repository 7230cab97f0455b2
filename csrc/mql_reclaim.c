/* mql_reclaim.c - space is freed that holds only what everybody has finished.
 *
 * A record is finished when it is final in every share group and below what every consumer group
 * has committed. Segments of finished records at the log's front are trimmed; an active one of some
 * size is rolled, so that it can go the same way; and of those behind a record that is not finished
 * (a delay of a month, say) whole runs are rewritten as one that has only the stragglers
 * (mql_rewrite). Stragglers are what consumers have left behind: where one of them is still at it,
 * nothing is rewritten that he would have finished by then.
 *
 * Why no record is lost. Final is for ever, so what was seen to be final stays it while all this
 * goes on; a commit may be taken back, by a reader who then finds the log start. Only offsets below
 * an end that was read before the groups were listed are judged: who made a group before a record
 * was put is on the list. And before a file goes, everything that the judgement rests on is synced,
 * share state and committed offsets, whatever the topic's durability: a power cut may take back an
 * accept, or the file of an accept that it cannot take back, but never the file alone.
 *
 * Why it is cheap. Finished offsets are looked for by marks of 256, 48 at a time. It is bounded how
 * much is written for what goes (a third of it), and a round that took long makes the next one
 * wait.
 *
 * One process at a time does it, under a lock that is only tried: so it stands above all others.
 */
#include "mql_reclaim.h"

#include <stdio.h>

#include "mql_append.h"
#include "mql_commit.h"
#include "mql_group.h"
#include "mql_rewrite.h"
#include "mql_shares.h"
#include "mql_sweep.h"

#define ROUND_NS MQL_SLICE_NS               /* between two of one process, at least */
#define AGAIN_NS (INT64_C(5) * 1000000000)  /* and without a change, or after a failure */
#define COST_SHARE 50 /* and so many times as long as one took that found nothing */
#define ROLL_BYTES ((int64_t)1 << 20)
#define REWRITES_MOST 8 /* in one round */
#define FILES_MOST 16   /* small segments in a row that are worth one file */
#define COUNTS_MOST 16  /* until nobody allocates meanwhile */
#define SMALL_SHARE 16  /* segments of so much of segment_bytes are small */

typedef struct reclaiming {
    mql_log *log;
    mql_control_end end;
    int64_t below;   /* nothing from here on goes */
    int64_t reached; /* nor is rewritten: some group has still to come to it, soon perhaps */
    int64_t *bases;  /* owns */
    int64_t *sizes;  /* owns: of the files */
    int64_t *kept;   /* owns: what they come to without what is finished; INT64_MAX: too much */
    size_t count;
    size_t most;     /* the first `most` may go, or be rewritten */
    bool did;        /* something was freed */
} reclaiming;

static bool is_held_back(const mql_log *log) {
    return atomic_load_explicit(&log->retention_bytes, memory_order_relaxed) > 0;
}

/* -- who has a say ----------------------------------------------------------------------------- */
/* Sets `below`: what lies under it is for the share groups to say. MQL_END: nothing may go. */
static int ask_groups(reclaiming *all) {
    mql_log *log = all->log;
    int shares, groups, strange_shares, strange_groups;
    int64_t floor;
    mql_log_end(log, &all->end); /* before the groups are listed */
    int rc = mql_shares_all(log, &shares);
    if (rc == MQL_OK) rc = mql_group_floor(log, &floor, &groups);
    if (rc == MQL_OK) rc = mql_group_absent(log, "shares", ".state", &strange_shares);
    if (rc == MQL_OK) rc = mql_group_absent(log, "groups", ".offset", &strange_groups);
    if (rc < 0) return rc;
    if (shares + groups == 0 || strange_shares + strange_groups > 0) return MQL_END;
    all->below = mql_base_min(all->end.offset, floor);
    all->reached = mql_base_min(all->below, mql_shares_reached(log));
    return MQL_OK;
}

static int keep(void *context, int64_t *from, int64_t *to) {
    reclaiming *all = context;
    return mql_shares_run(all->log, from, to);
}

/* Whether every record of the range is finished. */
static bool is_finished(reclaiming *all, int64_t from, int64_t to) {
    int64_t a = from, b = to;
    return to <= all->below && keep(all, &a, &b) == MQL_OK && a >= b;
}

/* What the judgement rests on is on stable storage. */
static int make_durable(void *context) {
    mql_log *log = ((reclaiming *)context)->log;
    int rc = mql_shares_sync(log);
    return rc == MQL_OK ? mql_group_sync(log) : rc;
}

/* -- what may go ------------------------------------------------------------------------------- */
/* Keys of idempotent puts are found again in the log, as long as they count. */
static int64_t least_age(mql_log *log) {
    int64_t age = atomic_load_explicit(&log->retention_age_ms, memory_order_relaxed);
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    snprintf(path, sizeof path, "%s/dedupe", log->directory);
    if (mql_os_stat_name(log->home->root, path, &stat) < 0) return age;
    return mql_base_max(age, atomic_load_explicit(&log->dedupe_ms, memory_order_relaxed));
}

/* Whether nothing is left in a segment that was rewritten: its file is young, and it is not. */
static bool is_hollow(const reclaiming *all, size_t i) {
    char path[MQL_PATH_MAX];
    uint8_t bytes[MQL_BATCH_HEADER];
    mql_os_file file;
    mql_batch_header header = {.count = 1};
    if (all->sizes[i] != MQL_BATCH_HEADER) return false;
    mql_base_file_name(path, all->log->directory, all->bases[i], ".log");
    if (mql_os_open(all->log->home->root, path, MQL_OS_READ, 0, &file) < 0) return false;
    if (mql_os_read(file, bytes, sizeof bytes, 0) == (int64_t)sizeof bytes)
        mql_batch_read_header(bytes, &header);
    mql_os_close(file);
    return header.count == 0;
}

/* How many segments from the front retention does not keep, of those that are sealed. */
static size_t count_free(reclaiming *all) {
    mql_log *log = all->log;
    mql_control_end durable;
    mql_log_durable(log, &durable);
    int64_t sealed = mql_base_min(mql_log_sealed(log), durable.segment);
    int64_t keep_bytes = atomic_load_explicit(&log->retention_bytes, memory_order_relaxed);
    int64_t age = least_age(log), behind = 0, oldest = mql_os_now_ms() - age;
    for (size_t i = 0; i < all->count; i++) behind += all->sizes[i];
    size_t most = 0;
    for (; most + 1 < all->count && all->bases[most + 1] <= sealed; most++) {
        int64_t base = all->bases[most], next_base = all->bases[most + 1];
        behind -= all->sizes[most];
        if (behind < keep_bytes) break;
        bool old = age <= 0 || is_hollow(all, most) ||
                   mql_commit_is_older(log, base, next_base, oldest);
        if (!old) break;
    }
    return most;
}

static void forget_segments(reclaiming *all) {
    mql_os_free_memory(all->bases);
    mql_os_free_memory(all->sizes);
    mql_os_free_memory(all->kept);
    all->bases = all->sizes = all->kept = NULL;
}

static int list_segments(reclaiming *all) {
    mql_log *log = all->log;
    forget_segments(all);
    int rc = mql_log_bases(log, &all->bases, &all->count);
    if (rc < 0) return rc;
    all->sizes = mql_os_allocate_memory((all->count + 1) * sizeof *all->sizes);
    all->kept = mql_os_allocate_memory((all->count + 1) * sizeof *all->kept);
    if (all->sizes == NULL || all->kept == NULL)
        return mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for the segments");
    for (size_t i = 0; i < all->count; i++) {
        char path[MQL_PATH_MAX];
        mql_os_stat stat;
        mql_base_file_name(path, log->directory, all->bases[i], ".log");
        bool active = all->bases[i] == all->end.segment;
        if (mql_os_stat_name(log->home->root, path, &stat) == 0)
            all->sizes[i] = active ? all->end.position : stat.size;
    }
    all->most = count_free(all);
    return MQL_OK;
}

/* -- the front --------------------------------------------------------------------------------- */
/* Trims finished segments off the front. */
static int trim(reclaiming *all) {
    size_t done = 0;
    int64_t start = mql_log_start(all->log);
    while (done < all->most && is_finished(all, mql_base_max(all->bases[done], start),
                                           all->bases[done + 1]))
        done++;
    if (done == 0 || all->bases[done] <= start) return MQL_OK;
    int64_t before = all->bases[done];
    int rc = make_durable(all);
    if (rc == MQL_OK) rc = mql_commit_trim(all->log, before);
    all->did = all->did || rc == MQL_OK;
    return rc == MQL_OK ? list_segments(all) : rc;
}

/* Rolls an active segment that is worth it. MQL_END: it is not. */
static int roll(reclaiming *all) {
    mql_log *log = all->log;
    int64_t age = least_age(log);
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    if (all->end.position <= ROLL_BYTES || is_held_back(log)) return MQL_END;
    mql_base_file_name(path, log->directory, all->end.segment, ".log");
    if (age > 0 && (mql_os_stat_name(log->home->root, path, &stat) < 0 ||
                    stat.modified_ms >= mql_os_now_ms() - age))
        return MQL_END;
    int64_t start = mql_base_max(all->end.segment, mql_log_start(log));
    if (!is_finished(all, start, all->end.offset)) return MQL_END;
    int rc = mql_append_roll(log, all->end.segment);
    return rc == MQL_OK ? mql_commit_all(log) : rc;
}

/* -- the middle -------------------------------------------------------------------------------- */
static mql_rewrite rewrite_of(reclaiming *all, size_t first, size_t count) {
    return (mql_rewrite){.log = all->log,
                         .from = {.bases = all->bases + first,
                                  .count = count,
                                  .until = all->bases[first + count]},
                         .keep = keep,
                         .agree = make_durable,
                         .context = all};
}

static int64_t small(const mql_log *log) {
    return atomic_load_explicit(&log->segment_bytes, memory_order_relaxed) / SMALL_SHARE;
}

/* Whether so many records are not finished that it is not worth looking where they are. */
static bool is_dense(reclaiming *all, size_t i) {
    int64_t from = all->bases[i], until = all->bases[i + 1], unfinished = 0;
    int64_t most = (until - from) / 4;
    for (int64_t at = from; at < until && unfinished <= most;) {
        int64_t a = at, b = until;
        if (keep(all, &a, &b) < 0) return true;
        unfinished += b - a;
        at = b;
    }
    return unfinished > most;
}

/* What segment i comes to without what is finished, if that is little. */
static void measure(reclaiming *all, size_t i) {
    int64_t bytes = 0;
    all->kept[i] = INT64_MAX;
    if (all->bases[i + 1] > all->reached) return;
    int64_t most = mql_base_max(all->sizes[i] / 4, small(all->log));
    if (all->sizes[i] > most && is_dense(all, i)) return;
    mql_rewrite what = rewrite_of(all, i, 1);
    if (mql_rewrite_measure(&what, most, &bytes) == MQL_OK) all->kept[i] = bytes;
}

/* Whether what goes is worth what is written. */
static bool is_worth(const reclaiming *all, int64_t had, int64_t kept, size_t count) {
    int64_t least = mql_base_min(small(all->log), (int64_t)64 << 10);
    return (had - kept >= least && had - kept >= 3 * kept) || count >= FILES_MOST;
}

/* The next run of segments from *first on that is worth rewriting; how many. */
static size_t next_group(reclaiming *all, size_t *first) {
    int64_t bound = atomic_load_explicit(&all->log->segment_bytes, memory_order_relaxed);
    while (*first < all->most) {
        int64_t had = 0, kept = 0;
        size_t count = 0;
        for (size_t i = *first; i < all->most; i++, count++) {
            measure(all, i);
            if (all->kept[i] == INT64_MAX || kept + all->kept[i] > bound) break;
            if (all->bases[i + 1] - all->bases[*first] > INT32_MAX) break;
            had += all->sizes[i];
            kept += all->kept[i];
        }
        if (count > 0 && is_worth(all, had, kept, count)) return count;
        *first += count > 0 ? count : 1;
    }
    return 0;
}

static int rewrite(reclaiming *all) {
    size_t first = 0;
    for (int i = 0; i < REWRITES_MOST; i++) {
        size_t count = next_group(all, &first);
        if (count == 0) return MQL_OK;
        mql_rewrite what = rewrite_of(all, first, count);
        int rc = mql_rewrite_run(&what);
        all->did = all->did || rc == MQL_OK;
        if (rc == MQL_OK) rc = list_segments(all);
        if (rc != MQL_OK) return rc;
        first++;
    }
    return MQL_OK;
}

/* -- rounds ------------------------------------------------------------------------------------ */
static int free_space(reclaiming *all) {
    const mql_format_control *control = all->log->control;
    if (atomic_load_explicit(&control->state, memory_order_acquire) != 0) return MQL_OK;
    for (bool rolled = false;;) {
        int rc = ask_groups(all);
        if (rc == MQL_OK) rc = list_segments(all);
        if (rc == MQL_OK) rc = trim(all);
        if (rc != MQL_OK) return rc;
        rc = rolled ? MQL_END : roll(all);
        if (rc == MQL_END) return rewrite(all);
        if (rc != MQL_OK) return rc;
        rolled = true;
    }
}

static uint64_t changes(mql_log *log) {
    return mql_shares_changes(log) +
           atomic_load_explicit(&log->control->segments_generation, memory_order_relaxed);
}

/* Who died may have taken files away and not said so, and max_bytes would hold for what is gone.
 * What others allocate or take away just now, and have not told yet, counts twice: a step too much,
 * or a segment too little. False: it could not be counted. */
static bool count_anew(mql_log *log) {
    _Atomic int64_t *used = &log->home->bell->used_bytes;
    for (int i = 0; i < COUNTS_MOST; i++) {
        int64_t before = atomic_load_explicit(used, memory_order_relaxed), found;
        if (mql_sweep_used(log->home->root, &found) < 0) return false;
        if (atomic_compare_exchange_strong_explicit(used, &before, found, memory_order_relaxed,
                                                    memory_order_relaxed))
            return true;
    }
    return false;
}

static bool is_due(mql_log *log, int64_t now_ns) {
    mql_control_end end;
    mql_log_end(log, &end);
    if (end.position <= ROLL_BYTES && mql_log_start(log) >= end.segment) return false; /* small */
    if (now_ns < atomic_load_explicit(&log->reclaim_due_ns, memory_order_relaxed)) return false;
    return now_ns >= atomic_load_explicit(&log->reclaim_again_ns, memory_order_relaxed) ||
           changes(log) != atomic_load_explicit(&log->reclaim_seen, memory_order_relaxed);
}

void mql_reclaim_round(mql_log *log, int64_t now_ns, bool forced) {
    if (atomic_load_explicit(&log->cleanup, memory_order_relaxed) != MQL_CLEANUP_CONSUMED) return;
    if ((!forced && !is_due(log, now_ns)) || mql_log_writable(log) < 0) return;
    int rc = mql_os_mutex_try(&log->control->reclaim);
    if (rc < 0 || rc == MQL_OS_BUSY) return;
    if (rc == MQL_OS_OWNER_DIED) {
        log->reclaim_owed = true;
        mql_os_mutex_consistent(&log->control->reclaim);
    }
    int64_t begun = mql_os_monotonic_ns();
    uint64_t seen = changes(log);
    reclaiming all = {.log = log};
    /* A hint, read without its lock: what was left undone is finished first. */
    bool undone = log->reclaim_owed || mql_commit_is_replacing(log);
    rc = undone ? mql_commit_settle(log) : MQL_OK;
    if (log->reclaim_owed && rc == MQL_OK) log->reclaim_owed = !count_anew(log);
    if (rc == MQL_OK) rc = free_space(&all);
    forget_segments(&all);
    int64_t took = mql_os_monotonic_ns() - begun;
    int64_t pause = all.did ? 0 : mql_base_max(ROUND_NS, COST_SHARE * took);
    if (rc < 0 && rc != MQL_E_LATER) pause = mql_base_max(pause, AGAIN_NS);
    bool soon = all.did || log->reclaim_owed || rc == MQL_E_LATER;
    int64_t again = soon ? pause : mql_base_max(pause, AGAIN_NS);
    atomic_store_explicit(&log->reclaim_seen, seen, memory_order_relaxed);
    atomic_store_explicit(&log->reclaim_due_ns, now_ns + pause, memory_order_relaxed);
    atomic_store_explicit(&log->reclaim_again_ns, now_ns + again, memory_order_relaxed);
    mql_os_mutex_drop(&log->control->reclaim);
}
