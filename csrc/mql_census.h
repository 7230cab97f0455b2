/* mql_census.h - what a share group has to deliver, holds and has finished: for those who ask. */
#ifndef MQL_CENSUS_H
#define MQL_CENSUS_H

#include "mql_share.h"

/* As mqlog.h says of the functions named alike. */
int mql_census_describe(mql_share *share, mql_share_info *out);
int64_t mql_census_waiting(mql_share *share);
int64_t mql_census_peek(mql_share *share, int64_t *offsets, int64_t capacity);
/* What dead processes held is released first. */
int64_t mql_census_holders(mql_share *share, mql_acquired *out, int64_t capacity);
int64_t mql_census_unfinished(mql_share *share, int64_t from, int64_t to);
int mql_census_backlog(mql_share *share, int64_t *bytes);
/* The same, of a log that goes on meanwhile. Blocks. */
int mql_census_measure(mql_share *share, mql_log_backlog *out);

/* The first run of unfinished offsets in [*from, *to): it is put there; none: both are `to`. Looks
 * at a bounded part under the lock at a time. */
int mql_census_run(mql_share *share, int64_t *from, int64_t *to);
int mql_census_wait_final(mql_share *share, int64_t offset, int64_t timeout_ns);

#endif
