/* mql_epoch.h - leader-epoch-checkpoint, Kafka's: which epoch the batches from an offset on carry.
 *
 * A reader compares each batch's epoch with this table, so a flipped base offset or epoch is found,
 * and whole batches that a dead writer left behind the end are not taken for new ones after a
 * reboot.
 */
#ifndef MQL_EPOCH_H
#define MQL_EPOCH_H

#include "mql_format.h"

#define MQL_EPOCH_FILE "leader-epoch-checkpoint"
#define MQL_EPOCH_MAX 4096 /* entries; older ones are merged away */

typedef struct mql_epoch_entry {
    int64_t start; /* offset of the first batch */
    int32_t epoch;
} mql_epoch_entry;

typedef struct mql_epoch_table {
    mql_epoch_entry *entries; /* owns; ascending in both fields */
    size_t count;
} mql_epoch_table;

/* Reads <directory>/leader-epoch-checkpoint. MQL_END: there is none, or it is not one (count 0). */
int mql_epoch_load(mql_os_file root, const char *directory, mql_epoch_table *out);
/* Writes it as a whole: temporary file, rename; with syncs of both when `durable`. */
int mql_epoch_save(mql_os_file root, const char *directory, const mql_epoch_table *table,
                   uint32_t mode, bool durable);
/* From `start` on batches carry `epoch`; entries at or behind `start` go. In memory only. */
int mql_epoch_add(mql_epoch_table *table, int32_t epoch, int64_t start);
/* The epoch at `offset`, and where the next one starts (INT64_MAX: nowhere); -1: not known. */
int32_t mql_epoch_at(const mql_epoch_table *table, int64_t offset, int64_t *next_start);
void mql_epoch_free(mql_epoch_table *table);

#endif
