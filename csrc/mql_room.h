/* mql_room.h - space ahead of the log's tail: blocks, pages, and the next segment. */
#ifndef MQL_ROOM_H
#define MQL_ROOM_H

#include "mql_log.h"

/* The active segment has blocks up to `want` at least, unless it is active no longer. Blocks.
 * Fails: MQL_E_OS (ENOSPC, also when the store's bounds on space are reached); nothing has changed
 * then. */
int mql_room_allocate(mql_log *log, int64_t segment, int64_t want);

/* There is a next.<n> with `want` bytes of blocks, and this process has it mapped. Blocks. */
int mql_room_next(mql_log *log, int64_t want);

/* One round of the prepare thread: blocks and pages ahead of the tail, unless it is to stop. Never
 * syncs. MQL_OK: something was done; MQL_END: nothing to do. Failures are left to the appender to
 * meet. */
int mql_room_prepare(mql_log *log, const _Atomic bool *stopping);

/* *spare: free bytes beyond those that are to stay free, negative if not even those are. */
int mql_room_spare(mql_log *log, int64_t *spare);

#endif
