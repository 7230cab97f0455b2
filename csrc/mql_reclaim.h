/* mql_reclaim.h - space is freed that holds only what everybody has finished. */
#ifndef MQL_RECLAIM_H
#define MQL_RECLAIM_H

#include "mql_log.h"

/* Frees what can be freed, in a topic whose cleanup is "consumed". Unless `forced` only if
 * something may have changed, and not all the time. What cannot be done now is tried again later.
 * Blocks. */
void mql_reclaim_round(mql_log *log, int64_t now_ns, bool forced);

#endif
