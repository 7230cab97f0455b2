/* mql_sweep.h - what a store's first opener finds in its directory. */
#ifndef MQL_SWEEP_H
#define MQL_SWEEP_H

#include "mql_os.h"

/* Bytes of the store's logs and indexes, for max_bytes. */
int64_t mql_sweep_used(mql_os_file root);
/* Removes deleted partitions whose remover died; what cannot be removed now goes another time. */
void mql_sweep_deleted(mql_os_file root);

#endif
