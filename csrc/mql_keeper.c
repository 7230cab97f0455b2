/* mql_keeper.c - the two background threads.
 *
 * The one never syncs, the other never prepares: a sync holds up whoever waits for it, and an
 * appender must not wait for one because its next pages come from the same thread. Both only do
 * early what an appender, a committer or a consumer would do itself: without them everything is
 * slower, nothing is wrong. Neither waits long for a lock, whose holder may be stopped: the other
 * partitions want to be served, and a closer waits for the round to be over.
 */
#include "mql_keeper.h"

#include "mql_commit.h"
#include "mql_reclaim.h"
#include "mql_room.h"
#include "mql_shares.h"

#define TICK_NS MQL_SLICE_NS
#define RETAIN_NS (INT64_C(30) * 1000000000)
#define CHECKPOINT_NS (INT64_C(100) * 1000000)
#define LAGGING_NS (3 * TICK_NS) /* so long a peer gets to sync what it appended */

void mql_keeper_init(mql_keeper *keeper, mql_log *_Atomic *logs, bool enabled) {
    *keeper = (mql_keeper){.logs = logs, .enabled = enabled};
    mql_os_mutex_init_private(&keeper->lock);
}

static mql_log *first(mql_keeper *keeper) {
    return atomic_load_explicit(keeper->logs, memory_order_acquire);
}

static bool stopping(mql_keeper *keeper) {
    return atomic_load_explicit(&keeper->stopping, memory_order_acquire);
}

int mql_keeper_prepare_round(mql_keeper *keeper) {
    int did = MQL_END;
    for (mql_log *log = first(keeper); log != NULL && !stopping(keeper); log = log->next) {
        mql_base_hurry(true);
        if (mql_room_prepare(log, &keeper->stopping) == MQL_OK) {
            mql_shares_populate(log);
            did = MQL_OK;
        }
        mql_base_hurry(false);
    }
    return did;
}

/* Whether a peer has left records, or what it settled, unsynced for several ticks: it died, or its
 * sync thread did. By the clock: this thread may be woken at any time for something else. */
static bool lagging(mql_log *log, int64_t now_ns) {
    mql_control_end end, durable;
    mql_log_end(log, &end);
    mql_log_durable(log, &durable);
    bool shares = mql_shares_lag(log, now_ns, LAGGING_NS);
    if (durable.offset >= end.offset || durable.offset != log->lagging_offset ||
        log->lagging_ns == 0) {
        log->lagging_offset = durable.offset;
        log->lagging_ns = now_ns;
        return shares;
    }
    return shares || now_ns - log->lagging_ns > LAGGING_NS;
}

/* Retention by age takes away also where nothing is appended any more, and what is consumed may
 * have been elsewhere. */
static int retain_idle(mql_log *log, int64_t now_ns) {
    mql_reclaim_round(log, now_ns, false);
    if (atomic_load_explicit(&log->cleanup, memory_order_relaxed) != MQL_CLEANUP_DELETE ||
        log->retain_due_ns > now_ns)
        return MQL_OK;
    log->retain_due_ns = now_ns + RETAIN_NS;
    int rc = mql_commit_retain(log);
    if (rc == MQL_E_LATER) log->retain_due_ns = 0;
    return rc;
}

/* Nanoseconds from the first unsynced byte to its sync; in a "sync" topic, to a checkpoint. */
static int64_t interval(mql_log *log) {
    int64_t wanted = atomic_load_explicit(&log->sync_interval_ns, memory_order_relaxed);
    return mql_log_is_sync(log) ? mql_base_min(wanted, CHECKPOINT_NS) : wanted;
}

static int sync_one(mql_log *log, int64_t now_ns, bool at_once, int64_t *wait_ns) {
    if (log->control == NULL || mql_log_usable(log) < 0) return MQL_OK;
    mql_log_forget(log);
    if (atomic_exchange_explicit(&log->wants_pages, false, memory_order_acq_rel))
        mql_shares_recycle(log);
    if (atomic_load_explicit(&log->unsynced, memory_order_acquire) && log->sync_due_ns == 0)
        log->sync_due_ns = now_ns + interval(log);
    bool asked = atomic_exchange_explicit(&log->sync_at_once, false, memory_order_acq_rel);
    bool due = asked || (log->sync_due_ns != 0 && (at_once || log->sync_due_ns <= now_ns));
    if (!due && log->sync_due_ns != 0) *wait_ns = mql_base_min(*wait_ns, log->sync_due_ns - now_ns);
    if (!due && !lagging(log, now_ns)) return retain_idle(log, now_ns);
    log->sync_due_ns = 0;
    log->lagging_ns = 0;
    /* Cleared before the end is sampled: an append that comes in between asks again. */
    atomic_store_explicit(&log->unsynced, false, memory_order_seq_cst);
    int rc = mql_commit_tick(log);
    if (rc == MQL_OK) rc = mql_commit_retain(log);
    if (rc == MQL_OK) rc = mql_shares_keep(log);
    if (rc == MQL_OK) mql_reclaim_round(log, now_ns, at_once);
    if (rc == MQL_E_LATER) atomic_store_explicit(&log->sync_at_once, true, memory_order_release);
    /* The sync write-protected the pages ahead of the tail: have them made writable again. */
    atomic_store_explicit(&log->prepare_at, 0, memory_order_relaxed);
    return rc;
}

int mql_keeper_sync_round(mql_keeper *keeper, int64_t now_ns, bool at_once, int64_t *wait_ns) {
    *wait_ns = TICK_NS;
    int result = MQL_OK;
    for (mql_log *log = first(keeper); log != NULL && !stopping(keeper); log = log->next) {
        mql_base_hurry(true);
        int rc = sync_one(log, now_ns, at_once, wait_ns);
        mql_base_hurry(false);
        if (rc == MQL_E_LATER) *wait_ns = mql_base_min(*wait_ns, MQL_LOCK_SLICE_NS);
        if (rc < 0) result = rc;
    }
    return result;
}

/* -- threads ----------------------------------------------------------------------------------- */
static void prepare_body(void *context) {
    mql_keeper *keeper = context;
    while (!stopping(keeper)) {
        uint32_t seen = atomic_load_explicit(&keeper->prepare_word, memory_order_acquire);
        if (mql_keeper_prepare_round(keeper) == MQL_OK) continue;
        if (!stopping(keeper)) mql_os_wait(&keeper->prepare_word, seen, INT64_C(3600) * 1000000000);
    }
}

static void sync_body(void *context) {
    mql_keeper *keeper = context;
    while (!stopping(keeper)) {
        uint32_t seen = atomic_load_explicit(&keeper->sync_word, memory_order_acquire);
        int64_t wait_ns;
        mql_keeper_sync_round(keeper, mql_os_monotonic_ns(), false, &wait_ns);
        if (!stopping(keeper) && wait_ns > 0) mql_os_wait(&keeper->sync_word, seen, wait_ns);
    }
}

void mql_keeper_start(mql_keeper *keeper) {
    if (!keeper->enabled || atomic_load_explicit(&keeper->running, memory_order_acquire)) return;
    mql_os_mutex_take(&keeper->lock, -1);
    /* Again, under the lock: a closer forbids starting before it stops what runs. */
    bool wanted = keeper->enabled && !atomic_load_explicit(&keeper->running, memory_order_relaxed);
    if (wanted && !stopping(keeper)) {
        if (keeper->preparer == NULL)
            (void)mql_os_thread_start(prepare_body, keeper, &keeper->preparer);
        if (keeper->syncer == NULL) (void)mql_os_thread_start(sync_body, keeper, &keeper->syncer);
        bool both = keeper->preparer != NULL && keeper->syncer != NULL;
        atomic_store_explicit(&keeper->running, both, memory_order_release);
    }
    mql_os_mutex_drop(&keeper->lock);
}

static void poke(_Atomic uint32_t *word) {
    atomic_fetch_add_explicit(word, 1, memory_order_release);
    mql_os_wake(word, INT32_MAX);
}

void mql_keeper_stop(mql_keeper *keeper) {
    mql_os_mutex_take(&keeper->lock, -1);
    atomic_store_explicit(&keeper->stopping, true, memory_order_release);
    poke(&keeper->prepare_word);
    poke(&keeper->sync_word);
    if (keeper->preparer != NULL) mql_os_thread_join(keeper->preparer);
    if (keeper->syncer != NULL) mql_os_thread_join(keeper->syncer);
    keeper->preparer = keeper->syncer = NULL;
    atomic_store_explicit(&keeper->running, false, memory_order_release);
    atomic_store_explicit(&keeper->stopping, false, memory_order_release);
    mql_os_mutex_drop(&keeper->lock);
}

void mql_keeper_want_prepare(mql_keeper *keeper) {
    mql_keeper_start(keeper);
    poke(&keeper->prepare_word);
}

bool mql_keeper_want_sync(mql_keeper *keeper) {
    mql_keeper_start(keeper);
    poke(&keeper->sync_word);
    return atomic_load_explicit(&keeper->running, memory_order_acquire);
}
