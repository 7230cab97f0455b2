/* mql_append.h - putting records into the log. */
#ifndef MQL_APPEND_H
#define MQL_APPEND_H

#include "mql_log.h"

/* What one call appends: exactly one of the three is set. Borrowed for the call. */
typedef struct mql_append_source {
    const mql_record *records;
    const mql_value *values;
    const uint8_t *batches; /* whole batches, back to back */
    size_t count;           /* records or values */
    size_t length;          /* bytes of batches */
    int64_t timestamp;      /* for values; MQL_NOW */
} mql_append_source;

/* Besides mql_append_flags: what is durable is the caller's to see to. */
#define MQL_APPEND_UNSYNCED 0x100

/* As mqlog.h says of mql_append*. */
int mql_append_source_to(mql_log *log, const mql_append_source *source, int flags, int64_t *offset);
/* One record with neither key nor headers, the hot path's hot path. */
int mql_append_one(mql_log *log, const mql_record *record, int flags, int64_t *offset);

/* All below `offset`, which is in the log, is durable. MQL_UNSYNCED: not known yet. Blocks. */
int mql_append_sync(mql_log *log, int64_t offset);

/* The log goes on in a new segment, if `segment` is the active one and has records. Needs next to
 * no space. Blocks. */
int mql_append_roll(mql_log *log, int64_t segment);

/* Repairs what an owner of the writer lock left when it died, if one did. For closers. Blocks. */
int mql_append_settle(mql_log *log);

#endif
