/* mql_snapshot.h - how a partition stands to who only looks at it. */
#ifndef MQL_SNAPSHOT_H
#define MQL_SNAPSHOT_H

#include "mql_recover.h"

/* As mql_recover_run, with the page read here: `how` has no control, and an identity of which only
 * the boot counts. *last: the file with the end, a reference to be released; NULL: there is none.
 */
int mql_snapshot_take(const mql_recover_task *how, mql_epoch_table *epochs, mql_recover_state *out,
                      mql_segment **last);

#endif
