/* mql_commit.c - stable storage.
 *
 * Why the durable end is true. One committer at a time samples the published end, syncs in order
 * what lies between it and the durable end (older segments with their exact lengths, the directory,
 * then the range in the active segment), and only then moves the durable latch. If any sync fails
 * the log is poisoned before the lock is dropped: the kernel reports a lost page once, so a second
 * sync would succeed and mean nothing. A committer that dies, or fails with what may be no loss,
 * leaves the latch where it was, and may have been told of one: `needs_resync` then stands until
 * somebody has found everything whole that is not durable, made it dirty again, and synced it.
 *
 * Under the commit lock: the checkpoint file, `ceiling`, `sealed`, `log_start`, `round`, `covers`,
 * and `replacing`, which says that segments are being replaced (mql_swap): who finds it set
 * finishes that first.
 */
#include "mql_commit.h"

#include "mql_checkpoint.h"
#include "mql_swap.h"

#include <errno.h>

#ifndef MQL_CEILING_STEP /* tests that cut the power a million times take a smaller one */
#define MQL_CEILING_STEP ((int64_t)1 << 20)
#endif
#define CEILING_LOW (MQL_CEILING_STEP / 2)
#define CHECKPOINT_OS ((int64_t)64 << 20)
#define CHECKPOINT_SYNC ((int64_t)1 << 20)
#define ROUNDS_MOST 4 /* that one caller leads, the first of them for itself */
#define PATIENCE_SYNCS 2 /* as long as so many took: on a quick disk it is processors that lack */
#define PATIENCE_NS_MOST 250000
#define ROUNDS_UNWAITED 8

/* What the word of a round's waiters counts in its halves: how often all were served, and how often
 * one was asked to lead. */
#define SERVED 1u
#define ASKED (1u << 16)

static int poisoned(mql_log *log) {
    int rc = mql_base_fail(MQL_E_DURABILITY, log->directory,
                           "a sync failed: what was not durable then is in the log, but perhaps "
                           "not on disk; the next call tries to write it again");
    mql_base_error()->os_errno = EIO;
    return rc;
}

static bool is_poisoned(mql_log *log) {
    return (atomic_load_explicit(&log->control->state, memory_order_acquire) &
            MQL_STATE_POISONED) != 0;
}

static mql_swap_place swap_place(mql_log *log) {
    return (mql_swap_place){.root = log->home->root,
                            .directory = log->directory,
                            .moved = &log->control->rewrites,
                            .mode = log->home->mode};
}

/* Finishes a replacing, or what is left of one whose committer died or failed. */
static int settle_locked(mql_log *log) {
    mql_swap_place place = swap_place(log);
    int64_t freed;
    int rc = mql_swap_settle(&place, &freed);
    atomic_fetch_sub_explicit(&log->home->bell->used_bytes, freed, memory_order_relaxed);
    atomic_fetch_add_explicit(&log->control->segments_generation, 1, memory_order_release);
    if (rc == MQL_OK)
        atomic_store_explicit(&log->control->replacing, 0, memory_order_release);
    return rc;
}

static mql_format_waiters *waiters_of(mql_format_control *control, uint32_t round) {
    return &control->waiters_rounds[round & 1];
}

/* Under the lock. */
static uint32_t last_round(mql_log *log) {
    return atomic_load_explicit(&log->control->round, memory_order_relaxed);
}

/* Whether more of those whom the last round has served are about to append again: they are awake,
 * and most of them would miss a sync that began at once, and wait for the one behind it. The last
 * of them leads; whoever came before sleeps, as if a sync were under way. *left: for so long. */
static bool others_come(mql_format_control *control, int64_t *left) {
    int64_t until = atomic_load_explicit(&control->await_until, memory_order_relaxed);
    if (until == 0) return false;
    mql_control_end end;
    mql_control_read(&control->published, &end);
    if (end.offset >= atomic_load_explicit(&control->awaited, memory_order_relaxed)) return false;
    int64_t now = mql_os_monotonic_ns();
    if (until <= now || until > now + PATIENCE_NS_MOST) return false;
    *left = until - now;
    return true;
}

/* Before those whom the round has served are woken: whether they are awaited. Not for some rounds
 * after it was in vain, since they have other things to do. */
static bool await_served_locked(mql_log *log) {
    mql_format_control *control = log->control;
    mql_format_waiters *served = waiters_of(control, last_round(log));
    if (atomic_load_explicit(&served->flag, memory_order_relaxed) == 0) return false;
    bool now = log->unwaited == 0;
    if (!now) log->unwaited--;
    /* How many they are is known when all are awake. */
    atomic_store_explicit(&control->awaited, INT64_MAX, memory_order_relaxed);
    atomic_store_explicit(&control->await_until,
                          now ? mql_os_monotonic_ns() + log->patience_ns : 0,
                          memory_order_relaxed);
    return now;
}

/* Under the lock, by who is about to lead: some did not come in time. */
static void note_missing_locked(mql_log *log) {
    mql_format_control *control = log->control;
    if (atomic_exchange_explicit(&control->await_until, 0, memory_order_relaxed) == 0) return;
    mql_control_end end;
    mql_control_read(&control->published, &end);
    int64_t awaited = atomic_load_explicit(&control->awaited, memory_order_relaxed);
    if (end.offset < awaited && awaited != INT64_MAX) log->unwaited = ROUNDS_UNWAITED;
}

/* Wakes those whom the round has served, which was the last one when the caller had the lock. True:
 * somebody waits for the next one. */
static bool wake_served(mql_log *log, uint32_t round) {
    mql_format_control *control = log->control;
    mql_format_waiters *served = waiters_of(control, round);
    if (mql_control_take_flag(&served->flag)) {
        mql_control_end end;
        mql_control_read(&control->published, &end);
        atomic_fetch_add_explicit(&served->word, SERVED, memory_order_release);
        int woken = mql_os_wake(&served->word, INT32_MAX);
        if (woken == 0) atomic_store_explicit(&control->await_until, 0, memory_order_relaxed);
        /* They and the caller. */
        atomic_store_explicit(&control->awaited, end.offset + woken + 1, memory_order_relaxed);
        /* Pairs with the fence in follow: the last one leads, or is found asleep here. */
        atomic_thread_fence(memory_order_seq_cst);
    }
    return atomic_load_explicit(&waiters_of(control, round + 1)->flag, memory_order_relaxed) != 0;
}

/* Wakes one of those who wait for a round. The word moves, so that who has found the lock taken and
 * is not asleep yet does not fall asleep. */
static void ask_to_lead(mql_format_waiters *waiters) {
    atomic_fetch_add_explicit(&waiters->word, ASKED, memory_order_release);
    mql_os_wake(&waiters->word, 1);
}

/* Drops the lock, and only then wakes: somebody may be waiting for it, to lead. That drop is the
 * fence that pairs with the ones in follow and in mql_control_wait. */
static void drop(mql_log *log) {
    uint32_t round = last_round(log);
    mql_os_mutex_drop(&log->control->commit);
    mql_log_wake(log, &log->control->waiters_durable, &log->control->durable);
    bool waited_for = wake_served(log, round);
    int64_t left;
    bool watched = atomic_load_explicit(&log->watched, memory_order_relaxed) == round + 1;
    if (waited_for && !(watched && others_come(log->control, &left)))
        ask_to_lead(waiters_of(log->control, round + 1));
    mql_control_ring(&log->control->waiters_queue, INT32_MAX);
}

/* A failure to leaves all files as good as they were, and is met again. */
static void settle_owed_locked(mql_log *log) {
    if (MQL_UNLIKELY(mql_commit_is_replacing(log)) && mql_log_in_place(log) == MQL_OK)
        (void)settle_locked(log);
}

/* Takes the commit lock, of a log that is still there: what is named from now on is its own. */
static int take(mql_log *log) {
    int rc = mql_log_lock(log, &log->control->commit, &log->control->needs_resync);
    if (rc < 0) return rc;
    rc = mql_log_in_place(log);
    if (rc < 0) drop(log);
    if (rc == MQL_OK) settle_owed_locked(log);
    return rc;
}

/* -- the checkpoint ---------------------------------------------------------------------------- */
static int write_checkpoint_locked(mql_log *log, const mql_control_end *watermark, int64_t ceiling,
                                   bool clean) {
    mql_format_checkpoint checkpoint;
    memset(&checkpoint, 0, sizeof checkpoint);
    int rc = mql_log_in_place(log);
    if (rc == MQL_OK)
        rc = mql_checkpoint_read(log->home->root, log->directory, &checkpoint);
    if (rc < 0) return rc;
    checkpoint.log_start = atomic_load_explicit(&log->control->log_start, memory_order_relaxed);
    checkpoint.segment = watermark->segment;
    checkpoint.position = watermark->position;
    checkpoint.offset = watermark->offset;
    checkpoint.ceiling = ceiling;
    checkpoint.epoch = log->control->epoch;
    checkpoint.clean = clean;
    checkpoint.last_number = atomic_load_explicit(&log->control->last_number, memory_order_relaxed);
    rc = mql_checkpoint_write(log->home->root, log->directory, &checkpoint, log->home->mode);
    if (rc == MQL_OK) log->control->checkpointed = watermark->offset;
    return rc;
}

static int raise_locked(mql_log *log, int64_t offset) {
    int64_t ceiling = atomic_load_explicit(&log->control->ceiling, memory_order_relaxed);
    if (offset <= ceiling) return MQL_OK; /* another appender was faster */
    mql_control_end durable;
    mql_control_read(&log->control->durable, &durable);
    int64_t raised = offset + MQL_CEILING_STEP;
    int rc = mql_log_sync_directory(log, true);
    if (rc == MQL_OK) rc = write_checkpoint_locked(log, &durable, raised, false);
    if (rc == MQL_OK) rc = mql_log_sync_directory(log, false); /* the checkpoint may be new */
    if (rc == MQL_OK) atomic_store_explicit(&log->control->ceiling, raised, memory_order_release);
    return rc;
}

/* -- sealing ----------------------------------------------------------------------------------- */
/* Has all of a rolled segment that is not durable written again. */
static int touch_rest(mql_log *log, int64_t base, const mql_control_end *durable) {
    mql_segment *segment;
    mql_segment_options options = mql_log_segment_options(log);
    if (base < durable->segment) return MQL_OK;
    int rc = mql_log_segment(log, base, &segment);
    if (rc == MQL_E_NOT_FOUND) return MQL_OK; /* retention was faster */
    if (rc < 0) return rc;
    rc = mql_segment_refresh(segment, &options);
    if (rc == MQL_OK)
        mql_segment_touch(segment, base == durable->segment ? durable->position : 0,
                          atomic_load_explicit(&segment->length, memory_order_relaxed));
    mql_segment_release(segment);
    return rc == MQL_E_NOT_FOUND ? MQL_OK : rc;
}

static int64_t index_bytes(const mql_log *log, int64_t base) {
    static const char *const suffixes[] = {".index", ".timeindex"};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char path[MQL_PATH_MAX];
        mql_os_stat stat;
        mql_base_file_name(path, log->directory, base, suffixes[i]);
        if (mql_os_stat_name(log->home->root, path, &stat) == 0) bytes += stat.size;
    }
    return bytes;
}

/* Seals what was rolled and not yet sealed, oldest first. */
static int seal_locked(mql_log *log, int64_t active, const mql_control_end *durable) {
    int64_t sealed = atomic_load_explicit(&log->control->sealed, memory_order_relaxed);
    if (sealed >= active) return MQL_OK;
    int64_t *bases;
    size_t count;
    int rc = mql_log_in_place(log);
    if (rc == MQL_OK) rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    mql_segment_options options = mql_log_segment_options(log);
    options.capacity = 0;
    for (size_t i = 0; rc == MQL_OK && i + 1 < count && bases[i] < active; i++) {
        if (bases[i] < sealed) continue;
        int64_t freed;
        if (log->control->needs_resync != 0) rc = touch_rest(log, bases[i], durable);
        if (rc < 0) break;
        rc = mql_segment_seal(&options, bases[i], bases[i + 1], log->home->mode, &freed);
        freed -= index_bytes(log, bases[i]); /* counted from now on */
        atomic_fetch_sub_explicit(&log->home->bell->used_bytes, freed, memory_order_relaxed);
    }
    mql_os_free_memory(bases);
    if (rc == MQL_OK) rc = mql_log_sync_directory(log, false);
    if (rc == MQL_OK) atomic_store_explicit(&log->control->sealed, active, memory_order_release);
    return rc;
}

/* -- committing -------------------------------------------------------------------------------- */
static int sync_active(mql_log *log, const mql_control_end *from, const mql_control_end *to) {
    int64_t start = from->segment == to->segment ? from->position : 0;
    if (start >= to->position) return MQL_OK;
    mql_segment *segment = mql_log_mapped(log, to->segment);
    int rc = MQL_OK;
    if (segment == NULL || (int64_t)segment->map_length < to->position) {
        mql_segment_release(segment);
        rc = mql_log_in_place(log);
        if (rc == MQL_OK) rc = mql_log_segment(log, to->segment, &segment);
    }
    if (rc < 0) return rc;
    if (log->control->needs_resync != 0) mql_segment_touch(segment, start, to->position);
    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));
    mql_segment_release(segment);
    return rc < 0 ? mql_base_fail_os(rc, log->directory, "cannot sync the log") : MQL_OK;
}

static void poison(mql_log *log) {
    atomic_fetch_or_explicit(&log->control->state, MQL_STATE_POISONED, memory_order_release);
    mql_log_wake_everybody(log);
}

static bool checkpoint_due(mql_log *log, const mql_control_end *durable,
                           const mql_control_end *before) {
    if (durable->segment != before->segment) return true;
    int64_t step = mql_log_is_sync(log) ? CHECKPOINT_SYNC : CHECKPOINT_OS;
    return durable->position / step != before->position / step;
}

/* Whoever reads the number reads `covers` of this round or of a later one, or takes himself to be
 * served one round later than he is. */
static void begin_round_locked(mql_format_control *control, int64_t covers) {
    uint32_t round = atomic_load_explicit(&control->round, memory_order_relaxed) + 1;
    atomic_store_explicit(&control->round, round, memory_order_release);
    atomic_store_explicit(&control->covers, covers, memory_order_release);
    atomic_store_explicit(&control->await_until, 0, memory_order_relaxed);
}

static void note_durable_locked(mql_log *log, const mql_control_end *end,
                                const mql_control_end *before) {
    int64_t ceiling = atomic_load_explicit(&log->control->ceiling, memory_order_relaxed);
    bool low = ceiling - end->offset < CEILING_LOW;
    if (!low && !checkpoint_due(log, end, before)) return;
    if (low) ceiling = end->offset + MQL_CEILING_STEP;
    /* An older watermark only makes recovery scan more, and a low ceiling is raised by the
     * appender. */
    if (write_checkpoint_locked(log, end, ceiling, false) == MQL_OK && low)
        atomic_store_explicit(&log->control->ceiling, ceiling, memory_order_release);
}

/* One round: all that is published now becomes durable, or the log is poisoned. */
static int round_locked(mql_log *log) {
    mql_control_end end, durable;
    mql_control_read(&log->control->published, &end);
    mql_control_read(&log->control->durable, &durable);
    int64_t sealed = atomic_load_explicit(&log->control->sealed, memory_order_relaxed);
    if (durable.offset >= end.offset && durable.segment == end.segment && sealed >= end.segment)
        return MQL_OK;
    begin_round_locked(log->control, end.offset);
    int rc = seal_locked(log, end.segment, &durable);
    int64_t begin = mql_os_monotonic_ns();
    if (rc == MQL_OK) rc = sync_active(log, &durable, &end);
    int64_t took = mql_os_monotonic_ns() - begin;
    log->patience_ns = mql_base_min(PATIENCE_SYNCS * took, PATIENCE_NS_MOST);
    if (rc == MQL_E_OS) {
        int code = mql_base_error()->os_errno;
        /* Whatever it is, the sync may have been told of pages that were lost. */
        log->control->needs_resync = MQL_RESYNC_CHECKED;
        if (code != EIO && code != ENOSPC && code != EDQUOT) return rc;
        poison(log);
        rc = poisoned(log);
        mql_base_error()->os_errno = code;
        return rc;
    }
    if (rc < 0) return rc;
    mql_control_publish(&log->control->durable, &end);
    log->control->needs_resync = 0;
    note_durable_locked(log, &end, &durable);
    return MQL_OK;
}

/* Walks what a segment has from `at` on, as far as batches are whole and before `stop`. */
static int walk_whole(mql_log *log, mql_control_end *at, int64_t stop) {
    mql_segment *segment;
    int rc = mql_log_segment(log, at->segment, &segment);
    if (rc < 0) return rc;
    mql_segment_window window = {0};
    mql_segment_walk walk = {.segment = segment,
                             .window = &window,
                             .position = at->position,
                             .expected = at->offset,
                             .limit = (int64_t)segment->map_length,
                             .max_size = MQL_BATCH_BYTES_MAX,
                             .gaps = mql_log_segment_options(log).gaps,
                             .verify = true};
    while (rc == MQL_OK && walk.expected < stop) rc = mql_segment_walk_next(&walk);
    mql_segment_release(segment);
    *at = (mql_control_end){at->segment, walk.position, walk.expected};
    return rc;
}

/* Whether what a sync may have lost is still whole in memory: the kernel may have read a page back
 * that it could not write. No byte is looked at behind where a segment ends. */
static int still_whole(mql_log *log, const mql_control_end *from, const mql_control_end *to) {
    mql_control_end at = *from;
    while (at.offset < to->offset) {
        int64_t base, next_base;
        int rc = mql_log_locate(log, at.offset, &base, &next_base);
        if (rc < 0) return rc;
        if (base != at.segment) at = (mql_control_end){base, 0, base};
        rc = walk_whole(log, &at, mql_base_min(next_base, to->offset));
        if (rc != MQL_OK)
            return mql_base_fail(MQL_E_DURABILITY, log->directory,
                                 "a sync failed, and offset %lld is not whole in memory any more: "
                                 "close the store everywhere and reopen it",
                                 (long long)at.offset);
    }
    return MQL_OK;
}

/* After a failed sync the pages are clean and the disk has old bytes: they are made dirty again,
 * and synced. Until that has succeeded the log stays poisoned, or what is owed stays owed. */
static int revive_locked(mql_log *log) {
    mql_control_end end, durable;
    mql_control_read(&log->control->published, &end);
    mql_control_read(&log->control->durable, &durable);
    int rc = still_whole(log, &durable, &end);
    if (rc == MQL_E_DURABILITY) {
        poison(log);
        mql_base_error()->os_errno = EIO;
    }
    if (rc < 0) return rc;
    log->control->needs_resync = MQL_RESYNC_CHECKED;
    rc = round_locked(log);
    if (rc < 0) return rc;
    log->control->needs_resync = 0; /* also where nothing was left to sync */
    atomic_fetch_and_explicit(&log->control->state, ~(uint32_t)MQL_STATE_POISONED,
                              memory_order_release);
    return MQL_OK;
}

static int commit_locked(mql_log *log) {
    bool lost = is_poisoned(log) || log->control->needs_resync == MQL_RESYNC_CHECKED;
    return lost ? revive_locked(log) : round_locked(log);
}

int mql_commit_raise(mql_log *log, int64_t offset) {
    int rc = take(log);
    if (rc < 0) return rc;
    rc = mql_log_writable(log);
    if (rc == MQL_OK) rc = raise_locked(log, offset);
    drop(log);
    return rc;
}

static bool is_durable(mql_log *log, int64_t offset) {
    mql_control_end durable;
    mql_control_read(&log->control->durable, &durable);
    return durable.offset >= offset;
}

/* The round that is sure to cover `offset`, which is published: the one under way, or the next. */
static uint32_t round_for(mql_format_control *control, int64_t offset) {
    uint32_t round = atomic_load_explicit(&control->round, memory_order_acquire);
    bool covered = atomic_load_explicit(&control->covers, memory_order_relaxed) >= offset;
    return covered ? round : round + 1;
}

/* Whether the caller is the one of its process who watches until the round is to begin. */
static bool watch(mql_log *log, uint32_t round) {
    return atomic_exchange_explicit(&log->watched, round, memory_order_relaxed) != round;
}

static void watch_no_longer(mql_log *log, uint32_t round) {
    atomic_compare_exchange_strong_explicit(&log->watched, &round, round - 1, memory_order_relaxed,
                                            memory_order_relaxed);
}

/* Sleeps until the round that covers `offset` is over, or until it is to be led: MQL_OK if the
 * caller holds the lock now; MQL_TIMEOUT: look again. While others come one in each process watches
 * the time. */
static int follow(mql_log *log, int64_t offset) {
    mql_format_control *control = log->control;
    uint32_t round = round_for(control, offset);
    mql_format_waiters *waiters = waiters_of(control, round);
    uint32_t seen = atomic_load_explicit(&waiters->word, memory_order_acquire);
    atomic_store_explicit(&waiters->flag, 1, memory_order_relaxed);
    /* Pairs with drop: either the lock is free here, or its holder sees the flag. */
    atomic_thread_fence(memory_order_seq_cst);
    /* Who watches for the round has yet to lead it, if it is still the same one. */
    if (is_durable(log, offset) || round_for(control, offset) != round) return MQL_TIMEOUT;
    int64_t left;
    bool early = others_come(control, &left);
    int rc = early ? MQL_TIMEOUT
                   : mql_log_take(log, &control->commit, 0, &control->needs_resync);
    if (rc != MQL_TIMEOUT) return rc;
    bool watches = early && watch(log, round);
    mql_os_wait(&waiters->word, seen, watches ? left : mql_base_slice(MQL_SLICE_NS));
    if (watches) watch_no_longer(log, round);
    /* Woken to lead, but served meanwhile, or closed: the next one is to be asked. */
    uint32_t word = atomic_load_explicit(&waiters->word, memory_order_relaxed);
    int usable = mql_log_usable(log);
    bool asked = (word - seen) % ASKED == 0;
    if (asked && (usable < 0 || is_durable(log, offset))) ask_to_lead(waiters);
    if (usable < 0) return usable;
    bool woken = watches || word != seen || is_durable(log, offset);
    return woken ? MQL_TIMEOUT : mql_base_later(MQL_TIMEOUT); /* who leads may be stopped */
}

/* Leads on while others wait, unless some are awaited, the last of whom will lead: until one of
 * those who wait was awake, the disk would be idle. What fails then is told to them. */
static int lead_locked(mql_log *log) {
    note_missing_locked(log);
    int rc = commit_locked(log), later = rc;
    for (int i = 1; i < ROUNDS_MOST && later == MQL_OK; i++) {
        if (await_served_locked(log)) break;
        atomic_thread_fence(memory_order_seq_cst); /* which else the drop of the lock is */
        if (!wake_served(log, last_round(log))) break;
        later = commit_locked(log);
    }
    return rc;
}

/* Who gets the lock leads: one sync serves all who have appended until it began. The others wait
 * for their round to be over, not for the lock, so that they need not have it one after another. */
int mql_commit_until(mql_log *log, int64_t offset) {
    bool waited = false;
    while (!is_durable(log, offset)) {
        int64_t left;
        int rc = MQL_TIMEOUT;
        if (!others_come(log->control, &left))
            rc = mql_log_take(log, &log->control->commit, 0, &log->control->needs_resync);
        if (rc == MQL_TIMEOUT) {
            waited = true;
            rc = follow(log, offset);
        }
        if (rc < 0) return rc;
        bool failed = waited && is_poisoned(log); /* the round that it waited for */
        if (rc == MQL_OK) {
            settle_owed_locked(log);
            rc = failed ? MQL_OK : lead_locked(log);
            drop(log);
        }
        if (failed) return poisoned(log);
        if (rc < 0) return rc;
    }
    return MQL_OK;
}

int mql_commit_revive(mql_log *log) {
    int rc = is_poisoned(log) ? take(log) : MQL_TIMEOUT;
    if (rc == MQL_TIMEOUT) return MQL_OK;
    if (rc < 0) return rc;
    if (is_poisoned(log)) rc = revive_locked(log);
    drop(log);
    return rc;
}

int mql_commit_wait(mql_log *log, int64_t offset, int64_t timeout_ns) {
    if (is_durable(log, offset)) return MQL_OK;
    int revived = mql_commit_revive(log);
    if (revived < 0) return revived;
    if (timeout_ns <= 0) return MQL_TIMEOUT;
    atomic_store_explicit(&log->sync_at_once, true, memory_order_release);
    if (!log->home->want_sync(log->home->context)) return mql_commit_until(log, offset);
    mql_format_control *control = log->control;
    int rc = mql_control_wait(&control->waiters_durable, &control->durable, offset - 1, timeout_ns);
    if (rc == MQL_TIMEOUT && is_poisoned(log)) return poisoned(log);
    int usable = mql_log_usable(log);
    return usable < 0 ? usable : rc;
}

int mql_commit_tick(mql_log *log) {
    int rc = is_poisoned(log) ? MQL_TIMEOUT : take(log);
    if (rc != MQL_OK) return rc < 0 ? rc : MQL_OK;
    rc = is_poisoned(log) ? MQL_OK : commit_locked(log);
    mql_control_end durable;
    mql_control_read(&log->control->durable, &durable);
    if (rc == MQL_OK && mql_log_is_sync(log) && log->control->checkpointed < durable.offset)
        rc = write_checkpoint_locked(
            log, &durable, atomic_load_explicit(&log->control->ceiling, memory_order_relaxed),
            false);
    drop(log);
    return rc;
}

int mql_commit_all(mql_log *log) {
    int rc = take(log);
    if (rc < 0) return rc;
    rc = commit_locked(log);
    drop(log);
    return rc;
}

/* -- trimming ---------------------------------------------------------------------------------- */
static int unlink_segment(mql_log *log, int64_t base) {
    static const char *const suffixes[] = {".index", ".timeindex", ".log"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char path[MQL_PATH_MAX];
        mql_base_file_name(path, log->directory, base, suffixes[i]);
        mql_os_stat stat;
        if (mql_os_stat_name(log->home->root, path, &stat) < 0) continue;
        int rc = mql_os_unlink(log->home->root, path);
        if (rc < 0 && rc != -ENOENT) return mql_base_fail_os(rc, path, "cannot remove the segment");
        atomic_fetch_sub_explicit(&log->home->bell->used_bytes, stat.size, memory_order_relaxed);
    }
    return MQL_OK;
}

static int trim_locked(mql_log *log, int64_t before) {
    mql_control_end end, durable;
    mql_control_read(&log->control->published, &end);
    mql_control_read(&log->control->durable, &durable);
    int64_t start = atomic_load_explicit(&log->control->log_start, memory_order_relaxed);
    if (before < start || before > end.offset)
        return mql_base_fail_range(before, start, end.offset);
    int rc = before == start ? MQL_OK : commit_locked(log);
    if (rc < 0) return rc;
    mql_control_read(&log->control->durable, &durable);
    atomic_store_explicit(&log->control->log_start, before, memory_order_release);
    int64_t ceiling = atomic_load_explicit(&log->control->ceiling, memory_order_relaxed);
    if (before != start) rc = write_checkpoint_locked(log, &durable, ceiling, false);
    if (rc < 0) {
        atomic_store_explicit(&log->control->log_start, start, memory_order_release);
        return rc;
    }
    int64_t *bases;
    size_t count;
    rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    bool any = false;
    for (size_t i = 0;
         rc == MQL_OK && i + 1 < count && bases[i + 1] <= before && bases[i] < end.segment; i++) {
        rc = unlink_segment(log, bases[i]);
        any = true;
    }
    mql_os_free_memory(bases);
    if (any) atomic_fetch_add_explicit(&log->control->segments_generation, 1, memory_order_release);
    mql_log_forget(log);
    return rc;
}

int mql_commit_trim(mql_log *log, int64_t before) {
    int rc = take(log);
    if (rc < 0) return rc;
    rc = mql_log_writable(log);
    if (rc == MQL_OK) rc = trim_locked(log, before);
    drop(log);
    return rc;
}

/* -- rewriting --------------------------------------------------------------------------------- */
/* Whether the segments of [base, until) are those listed, and all of them below what recovery
 * would look at. */
static int check_sources(mql_log *log, const mql_commit_sources *from,
                         const mql_control_end *end) {
    int64_t *bases;
    size_t count, at = 0;
    int rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    while (at < count && bases[at] < from->bases[0]) at++;
    bool same = count - at > from->count && bases[at + from->count] == from->until &&
                memcmp(bases + at, from->bases, from->count * sizeof *bases) == 0;
    mql_os_free_memory(bases);
    int64_t start = atomic_load_explicit(&log->control->log_start, memory_order_relaxed);
    return same && from->until <= end->segment && start <= from->bases[0] ? MQL_OK : MQL_BUSY;
}

static int replace_locked(mql_log *log, const mql_commit_sources *from) {
    mql_swap_place place = swap_place(log);
    mql_control_end durable;
    if (mql_commit_is_replacing(log)) return MQL_BUSY;
    int rc = commit_locked(log);
    if (rc < 0) return rc;
    mql_control_read(&log->control->durable, &durable);
    rc = check_sources(log, from, &durable);
    int64_t ceiling = atomic_load_explicit(&log->control->ceiling, memory_order_relaxed);
    /* The watermark on the disk must not name a segment that goes. */
    if (rc == MQL_OK) rc = write_checkpoint_locked(log, &durable, ceiling, false);
    if (rc != MQL_OK) return rc;
    atomic_store_explicit(&log->control->replacing, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* a death finds it stored first; so does a look */
    rc = mql_swap_begin(&place, from->bases[0]);
    int settled = settle_locked(log);
    return rc < 0 ? rc : settled;
}

int mql_commit_settle(mql_log *log) {
    int rc = take(log);
    if (rc < 0) return rc;
    rc = settle_locked(log);
    drop(log);
    return rc;
}

int mql_commit_replace(mql_log *log, const mql_commit_sources *from) {
    int rc = take(log);
    if (rc < 0) return rc;
    rc = mql_log_writable(log);
    if (rc == MQL_OK) rc = replace_locked(log, from);
    drop(log);
    mql_log_forget(log);
    return rc;
}

/* -- retention --------------------------------------------------------------------------------- */
bool mql_commit_is_older(mql_log *log, int64_t base, int64_t next_base, int64_t oldest) {
    mql_segment_options options = mql_log_segment_options(log);
    options.capacity = 0;
    int64_t youngest = mql_segment_youngest(&options, base, next_base, false);
    if (youngest >= 0) return youngest < oldest;
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_base_file_name(path, log->directory, base, ".log");
    if (mql_os_stat_name(log->home->root, path, &stat) < 0 || stat.modified_ms >= oldest)
        return false;
    /* No timestamps at all: by the file's own time, as Kafka does. */
    return mql_segment_youngest(&options, base, next_base, true) < oldest;
}

int mql_commit_retain(mql_log *log) {
    if (atomic_load_explicit(&log->cleanup, memory_order_relaxed) != MQL_CLEANUP_DELETE)
        return MQL_OK;
    int64_t keep = atomic_load_explicit(&log->retention_bytes, memory_order_relaxed);
    int64_t age = atomic_load_explicit(&log->retention_age_ms, memory_order_relaxed);
    if (keep < 0 && age < 0) return MQL_OK;
    mql_log_info info;
    int rc = mql_log_describe_all(log, &info);
    if (rc < 0) return rc;
    int64_t *bases;
    size_t count;
    rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    int64_t sealed = atomic_load_explicit(&log->control->sealed, memory_order_acquire);
    int64_t oldest = mql_log_wall_ms(log->home) - age;
    int64_t before = info.start_offset, total = info.bytes;
    for (size_t i = 0; i + 1 < count && bases[i] < sealed; i++) {
        char path[MQL_PATH_MAX];
        mql_os_stat stat;
        mql_base_file_name(path, log->directory, bases[i], ".log");
        if (mql_os_stat_name(log->home->root, path, &stat) < 0) break;
        bool large = keep >= 0 && total - stat.size >= keep;
        bool old = age >= 0 && mql_commit_is_older(log, bases[i], bases[i + 1], oldest);
        if (!large && !old) break;
        total -= stat.size;
        before = bases[i + 1];
    }
    mql_os_free_memory(bases);
    return before > info.start_offset ? mql_commit_trim(log, before) : MQL_OK;
}

/* -- the last close ---------------------------------------------------------------------------- */
/* Bytes behind all that was ever allocated are a stranger's: the next opener sets them aside. */
static bool has_strange_bytes(mql_log *log, int64_t base, int64_t size) {
    int64_t from = atomic_load_explicit(&log->control->allocated, memory_order_relaxed);
    if (size <= from) return false;
    mql_segment_options options = mql_log_segment_options(log);
    mql_segment *segment;
    mql_segment_window window = {0};
    if (mql_segment_open(&options, base, &segment) < 0) return true;
    bool zeros = mql_segment_only_zeros(segment, &window, from, size);
    mql_segment_release(segment);
    return !zeros;
}

static int cut_active(mql_log *log, const mql_control_end *end) {
    int taken = mql_log_lock(log, &log->control->prepare, NULL);
    if (taken < 0) return taken;
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, log->directory, end->segment, ".log");
    mql_os_file file;
    int rc = mql_os_open(log->home->root, path, MQL_OS_WRITE, 0, &file);
    if (rc == 0) {
        mql_os_stat stat;
        rc = mql_os_stat_file(file, &stat);
        bool longer = rc == 0 && stat.size > end->position &&
                      !has_strange_bytes(log, end->segment, stat.size);
        if (longer) rc = mql_os_truncate(file, end->position);
        if (rc == 0 && longer) rc = mql_os_sync(file);
        mql_os_close(file);
    }
    if (rc == 0)
        atomic_store_explicit(&log->control->allocated, end->position, memory_order_release);
    mql_os_mutex_drop(&log->control->prepare);
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot give the log its exact length") : MQL_OK;
}

static int end_indexes(mql_log *log, const mql_control_end *end) {
    mql_segment *segment;
    int rc = mql_log_segment(log, end->segment, &segment);
    if (rc < 0) return rc;
    mql_segment_options options = mql_log_segment_options(log);
    mql_index_tail tail = mql_index_tail_of(log->control);
    if (end->position > 0 && mql_segment_open_tail(segment, &options, log->home->mode) == MQL_OK) {
        mql_index_place place = {
            .root = options.root, .directory = options.directory, .base = end->segment};
        mql_index_note_end(&segment->tail, &tail, &place);
        rc = mql_index_cut(options.root, options.directory, end->segment,
                           atomic_load_explicit(tail.index_count, memory_order_relaxed),
                           atomic_load_explicit(tail.time_count, memory_order_relaxed));
    }
    mql_segment_release(segment);
    return rc;
}

static int remove_next(mql_log *log) {
    uint64_t number = atomic_exchange_explicit(&log->control->next_number, 0, memory_order_acq_rel);
    if (number == 0) return MQL_OK;
    char path[MQL_PATH_MAX];
    mql_segment_next_name(path, log->directory, number);
    int rc = mql_os_unlink(log->home->root, path);
    return rc < 0 && rc != -ENOENT
               ? mql_base_fail_os(rc, path, "cannot remove the prepared segment")
               : MQL_OK;
}

int mql_commit_finish(mql_log *log) {
    int rc = take(log);
    if (rc < 0) return rc;
    mql_control_end end;
    mql_control_read(&log->control->published, &end);
    mql_format_checkpoint checkpoint;
    rc = mql_checkpoint_read(log->home->root, log->directory, &checkpoint);
    bool untouched = rc == MQL_OK && checkpoint.clean == 1 && checkpoint.offset == end.offset;
    if (rc == MQL_END && end.offset == 0) untouched = true; /* nothing was ever appended */
    if (rc >= 0) rc = untouched ? MQL_OK : commit_locked(log);
    if (rc == MQL_OK) rc = end_indexes(log, &end); /* opening may have dropped the last entry */
    if (rc == MQL_OK) rc = cut_active(log, &end);  /* also of what was allocated and not used */
    if (rc == MQL_OK) rc = remove_next(log);
    if (rc == MQL_OK && !untouched) rc = write_checkpoint_locked(log, &end, end.offset, true);
    if (rc == MQL_OK && !untouched) rc = mql_log_sync_directory(log, false);
    drop(log);
    return rc;
}
