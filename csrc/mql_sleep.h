/* mql_sleep.h - waiting for something to acquire, for room, or for the end of records. */
#ifndef MQL_SLEEP_H
#define MQL_SLEEP_H

#include "mql_share.h"

/* As mqlog.h says of mql_share_wait, mql_share_wait_room and mql_share_due_in. */
int mql_sleep_for(mql_share *share, int64_t timeout_ns);
int mql_sleep_for_room(mql_log *log, int64_t records, int64_t bytes, int64_t timeout_ns);
int64_t mql_sleep_due(mql_share *share);
/* Sleeps on the room word, which moves when a record is acquired, settled or released, unless
 * `ready` says that there is no need. */
typedef bool mql_sleep_ready(void *context);
int mql_sleep_until(mql_log *log, int64_t timeout_ns, mql_sleep_ready *ready, void *context);

#endif
