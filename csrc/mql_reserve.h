/* mql_reserve.h - space for what a share group will write: pages ahead and again, and syncs. */
#ifndef MQL_RESERVE_H
#define MQL_RESERVE_H

#include "mql_live.h"

#define MQL_RESERVE_LOW 32       /* pages, of 256 records each: some 4 ms of a consumer's time */
#define MQL_RESERVE_POPULATED 16 /* pages that are made writable at once */

/* Every record below `offset` has a slot, whatever becomes of those before it; *until: up to where
 * that holds now. Blocks. Fails: MQL_E_OS (ENOSPC), nothing has changed then. */
int mql_reserve_until(mql_live *live, int64_t offset, int64_t *until);
/* And for some records behind it, where there is space for them: who puts comes back when the slots
 * are used up, for the lock that consumers have all the time. */
int mql_reserve_ahead(mql_live *live, int64_t offset, int64_t *until);
/* There are `count` clean pages. Blocks. Fails: MQL_E_OS (ENOSPC). */
int mql_reserve_pages(mql_live *live, int64_t count);
/* The same, where there is space to spare; MQL_END: there is none, or so many wait to be recycled
 * that this is what is to be done. */
int mql_reserve_some(mql_live *live, int64_t count);
/* There is a clean page, for the record at `offset`, of which there was none: a new one, or one
 * that is recycled. Blocks, for two syncs too. Fails: MQL_E_OS. */
int mql_reserve_page(mql_live *live, int64_t offset);
/* Has the pages that are taken next, and what names them, writable here, unless somebody is at it:
 * saves page faults. */
void mql_reserve_populate(mql_live *live);
/* Room for `more` further entries in a heap. Blocks. Fails: MQL_E_OS (ENOSPC). */
int mql_reserve_timers(mql_live *live, int which, uint32_t more);
/* Whether consumers here will soon meet pages that cost them a fault each. */
static inline bool mql_reserve_is_unready(const mql_live *live) {
    return atomic_load_explicit(&live->taken, memory_order_relaxed) >= MQL_RESERVE_POPULATED / 2;
}
/* Whether consumers will soon have to recycle pages themselves, which means to wait for syncs. */
static inline bool mql_reserve_is_low(const mql_live *live) {
    return mql_live_clean(live) < MQL_RESERVE_LOW && mql_live_retired(live) >= MQL_RESERVE_LOW / 2;
}
/* Has the background look after both. */
static inline void mql_reserve_want(mql_live *live) {
    _Atomic bool *wanted = &live->log->wants_pages;
    if (MQL_LIKELY(!mql_reserve_is_low(live) && !mql_reserve_is_unready(live)) ||
        atomic_load_explicit(wanted, memory_order_relaxed))
        return;
    atomic_store_explicit(wanted, true, memory_order_release);
    live->log->home->want_sync(live->log->home->context);
}
/* Pages of finished chunks become clean ones. MQL_END: there was none. Blocks: two syncs. */
int mql_reserve_recycle(mql_live *live);
/* Blocks that are not needed any more go back to the file system. Blocks. */
int mql_reserve_give_back(mql_live *live);
/* Every change below `changes` is on stable storage. One syncs for all who wait behind it. Blocks.
 * Fails: MQL_E_DURABILITY. */
int mql_reserve_sync(mql_live *live, uint64_t changes);
/* Tokens given from now on are greater than any given before the last power cut. Blocks. */
int mql_reserve_tokens(mql_live *live);

#endif
