/* mql_sleep.c - waiting for something to acquire, for room, or for the end of records.
 *
 * Why nobody sleeps while there is something to do: a sleeper raises the flag of its word, and
 * looks once more; whoever changes something looks at the flag after. A full fence between the two,
 * on either side, lets one of them see the other. Time is nobody's change, so a sleeper wakes when
 * the next timer is due; and as a death is nobody's change either, nobody sleeps longer than a
 * slice.
 */
#include "mql_sleep.h"

#define SPINS 1000 /* about 10 us */

/* Whether an acquisition may find something, and else how long until a timer is due. */
static bool may_find(mql_share *share, int64_t *wait_ns) {
    mql_format_live *map = share->live.map;
    int64_t most = atomic_load_explicit(&share->most, memory_order_relaxed);
    /* As many are out as may be: only the end of a lock helps. */
    bool full = most > 0 && atomic_load_explicit(&map->acquired, memory_order_acquire) >= most;
    if (!full && mql_share_has(share, atomic_load_explicit(&map->end, memory_order_acquire)))
        return true;
    for (int which = full ? MQL_LIVE_DEADLINES : MQL_LIVE_DUE; which <= MQL_LIVE_DEADLINES;
         which++) {
        int64_t next = atomic_load_explicit(&map->next[which], memory_order_relaxed);
        int64_t horizon = atomic_load_explicit(&map->horizon[which], memory_order_relaxed);
        next = mql_base_min(next, horizon);
        if (next == INT64_MAX) continue;
        int64_t left = next - (which == MQL_LIVE_DUE ? mql_log_wall_ms(share->live.log->home)
                                                     : mql_os_monotonic_ns() / 1000000);
        if (left <= 0) return true;
        if (left < *wait_ns / 1000000) *wait_ns = left * 1000000;
    }
    return false;
}

int64_t mql_sleep_due(mql_share *share) {
    int64_t wait_ns = INT64_MAX;
    if (mql_log_writable(share->live.log) < 0) return 0; /* whoever acquires is told why */
    return may_find(share, &wait_ns) ? 0 : wait_ns;
}

int mql_sleep_for(mql_share *share, int64_t timeout_ns) {
    int64_t wait_ns = mql_base_min(timeout_ns, MQL_SLICE_NS);
    int rc = mql_log_writable(share->live.log);
    if (rc < 0) return rc;
    mql_format_waiters *waiters = &share->live.log->control->waiters_queue;
    for (int i = 0; i < SPINS; i++) {
        if (may_find(share, &wait_ns)) return MQL_OK;
        if (timeout_ns <= 0) return MQL_TIMEOUT;
        mql_os_pause();
    }
    uint32_t seen = atomic_load_explicit(&waiters->word, memory_order_acquire);
    atomic_store_explicit(&waiters->flag, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the drop before each ring */
    if (!may_find(share, &wait_ns)) mql_os_wait(&waiters->word, seen, wait_ns);
    rc = mql_log_usable(share->live.log);
    if (rc < 0) return rc;
    return may_find(share, &wait_ns) ? MQL_OK : MQL_TIMEOUT;
}

int mql_sleep_until(mql_log *log, int64_t timeout_ns, mql_sleep_ready *ready, void *context) {
    int rc = mql_log_writable(log);
    if (rc < 0 || ready(context)) return rc;
    if (timeout_ns <= 0) return MQL_TIMEOUT;
    mql_format_waiters *waiters = &log->control->waiters_room;
    uint32_t seen = atomic_load_explicit(&waiters->word, memory_order_acquire);
    atomic_store_explicit(&waiters->flag, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the drop before a ring */
    if (!ready(context)) mql_os_wait(&waiters->word, seen, mql_base_min(timeout_ns, MQL_SLICE_NS));
    rc = mql_log_usable(log);
    return rc < 0 ? rc : ready(context) ? MQL_OK : MQL_TIMEOUT;
}

typedef struct room {
    mql_log *log;
    int64_t records, bytes; /* wanted */
} room;

/* Also when it cannot be told: the append says why. */
static bool has_room(void *context) {
    const room *wanted = context;
    mql_control_end end;
    mql_log_end(wanted->log, &end);
    if (mql_log_room(wanted->log, end.offset) < wanted->records) return false;
    int64_t most = mql_log_most_bytes(wanted->log);
    mql_log_backlog backlog;
    if (most == INT64_MAX || wanted->log->home->backlog(wanted->log, &backlog) < 0) return true;
    mql_log_end(wanted->log, &end);
    return backlog.segment != end.segment ||
           backlog.before + end.position + wanted->bytes <= most;
}

int mql_sleep_for_room(mql_log *log, int64_t records, int64_t bytes, int64_t timeout_ns) {
    room wanted = {.log = log, .records = records, .bytes = bytes};
    return mql_sleep_until(log, timeout_ns, has_room, &wanted);
}
