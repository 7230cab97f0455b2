/* mql_share.h - share groups: acquire, accept, release, reject, renew. */
#ifndef MQL_SHARE_H
#define MQL_SHARE_H

#include "mql_live.h"

struct mql_share {
    mql_share *next; /* owned by the log's list */
    mql_live live;
    _Atomic int64_t reap_ms; /* when to look for dead holders next */
    _Atomic int64_t most;    /* max_acquired of the last acquisition */
    _Atomic int64_t seen;    /* records below it may be acquired: the end when it was last read */
    int64_t begins;          /* read-only stores: where it begins if it has no file; -1: it must */
    uint64_t lagging_synced; /* of the sync thread: `synced` when it was first seen to lag */
    int64_t lagging_ns;      /* since when; 0: not looked at yet */
    char name[MQL_NAME_MAX + 1];
};

/* Whether there is a record at `offset` to be acquired. The end of the log is read only when all
 * that was seen of it is used up: whoever appends writes that line each time. */
static inline bool mql_share_has(mql_share *share, int64_t offset) {
    if (offset < atomic_load_explicit(&share->seen, memory_order_acquire)) return true;
    mql_control_end end;
    mql_log_readable_end(share->live.log, &end);
    atomic_store_explicit(&share->seen, end.offset, memory_order_release);
    return offset < end.offset;
}

/* As mqlog.h says of the functions named alike. */
int mql_share_take(mql_share *share, const mql_acquire *how, mql_acquired *out, size_t *count);
int mql_share_end_all(mql_share *share, mql_settle *items, size_t count, const mql_settlement *how);
int mql_share_skip_to(mql_share *share, int64_t offset, uint64_t token, int64_t next);
/* Offsets [from, to) of the log hold no records: those that nobody holds are final. MQL_BUSY: there
 * is no clean page for the rest. */
int mql_share_pass_over(mql_share *share, int64_t from, int64_t to);

/* What holders that have died held is released: MQL_OK; MQL_END: there was nothing, or it was not
 * to be had within a slice. */
int mql_share_reap(mql_share *share);
/* What this process holds is released: its store is being closed. */
void mql_share_let_go(mql_share *share);
/* The record at `offset`, never acquired yet, is not due before `due_ms`. MQL_BUSY: it needs a
 * page.
 */
int mql_share_delay_until(mql_share *share, int64_t offset, int64_t due_ms);

/* The share lock, of a group that is still there. MQL_TIMEOUT after `timeout_ns`. */
int mql_share_enter(mql_share *share, int64_t timeout_ns);
static inline int mql_share_enter_surely(mql_share *share) { /* the same, however long it takes */
    int rc;
    do {
        rc = mql_base_later(mql_share_enter(share, mql_base_slice(MQL_SLICE_NS)));
    } while (rc == MQL_TIMEOUT);
    return rc;
}
static inline void mql_share_leave(mql_share *share) { mql_live_leave(&share->live); }
/* Whether somebody has the record. */
static inline bool mql_share_is_held(const mql_slots_slot *slot) {
    return slot->sound && slot->member < MQL_MEMBERS_MAX &&
           (slot->state == MQL_SHARE_ACQUIRED || slot->state == MQL_SHARE_ARCHIVING);
}
/* Whether an entry of the heap of deadlines (of what is due) still says what its slot says. */
mql_arrays_valid mql_share_deadline_valid;
mql_arrays_valid mql_share_due_valid;
/* Wakes consumers: of one group alone, as many as there are records. After the lock was dropped
 * under which they came to be there. */
void mql_share_ring(mql_log *log, int64_t records);

#endif
