/* mql_shares.h - the share groups of a partition: opened, provided with space, kept, deleted. */
#ifndef MQL_SHARES_H
#define MQL_SHARES_H

#include "mql_share.h"

/* As mqlog.h says of the functions named alike. */
int mql_shares_find(mql_log *log, const char *name, bool create, int64_t start, mql_share **out);
int mql_shares_remove(mql_share *share);
int mql_shares_make_room(mql_log *log);
int mql_shares_delay(mql_log *log, int64_t offset, int64_t due_ms);
int mql_shares_bound(mql_share *share, int64_t maxsize, int64_t max_bytes);

/* Slots for all records below `offset` in every share group, those of other processes included.
 * Blocks. Fails: MQL_E_OS (ENOSPC). */
int mql_shares_reserve(mql_log *log, int64_t offset);
/* The backlog of the group that bounds appends. MQL_OK without one: nothing. Blocks. */
int mql_shares_backlog(mql_log *log, mql_log_backlog *out);
/* One round of the sync thread: stable storage, pages again, blocks given back. */
int mql_shares_keep(mql_log *log);
/* Opens all groups that there are, those of other processes included; *count: how many. Fails also
 * if one of them cannot be opened. Blocks. */
int mql_shares_all(mql_log *log, int *count);
/* The first run of offsets in [*from, *to) that some share group has not finished: it is put there;
 * none: both are `to`. */
int mql_shares_run(mql_log *log, int64_t *from, int64_t *to);
/* Below it every share group has looked at all there is; INT64_MAX: there is none. */
int64_t mql_shares_reached(mql_log *log);
/* Moves with every change of the groups that this process knows: a hint. */
uint64_t mql_shares_changes(mql_log *log);
/* Whether what was settled in some group that this process knows has been owed to the disk for so
 * long, without any sync. Of the sync thread. */
bool mql_shares_lag(mql_log *log, int64_t now_ns, int64_t most_ns);
/* Everything done to the groups is on stable storage. Enters none of them. Blocks. */
int mql_shares_sync(mql_log *log);
int mql_shares_sync_one(mql_share *share);
/* Has consumers find clean pages. Blocks for syncs. */
void mql_shares_recycle(mql_log *log);
/* Has the pages that consumers write to next writable here. */
void mql_shares_populate(mql_log *log);
/* The process closes the store: what it holds is released. */
void mql_shares_let_go(mql_log *log);
/* The first offset in [from, to) that some share group has not finished; `to` if there is none.
 * Fails if a group cannot be opened. */
int64_t mql_shares_unfinished(mql_log *log, int64_t from, int64_t to);
/* Gives back what is mapped: nobody is inside, and nobody comes any more. */
void mql_shares_unmap_all(mql_log *log);
void mql_shares_free_all(mql_log *log);

#endif
