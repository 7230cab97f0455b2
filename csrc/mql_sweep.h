/* mql_sweep.h - what a store's first opener finds in its directory. */
#ifndef MQL_SWEEP_H
#define MQL_SWEEP_H

#include "mql_os.h"

/* Bytes of the store's logs and indexes, for max_bytes. A failure: some are not counted. */
int mql_sweep_used(mql_os_file root, int64_t *bytes);
/* Removes deleted partitions whose remover died; what cannot be removed now goes another time. */
void mql_sweep_deleted(mql_os_file root);

#endif
