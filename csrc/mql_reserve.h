/* mql_reserve.h - space for what a share group will write: pages ahead and again, and syncs. */
#ifndef MQL_RESERVE_H
#define MQL_RESERVE_H

#include "mql_live.h"

/* Every record below `offset` has a slot, whatever becomes of those before it; *until: up to where
 * that holds now. Blocks. Fails: MQL_E_OS (ENOSPC), nothing has changed then. */
int mql_reserve_until(mql_live *live, int64_t offset, int64_t *until);
/* There are `count` clean pages. Blocks. Fails: MQL_E_OS (ENOSPC). */
int mql_reserve_pages(mql_live *live, int64_t count);
/* Room for `more` further entries in a heap. Blocks. Fails: MQL_E_OS (ENOSPC). */
int mql_reserve_timers(mql_live *live, int which, uint32_t more);
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
