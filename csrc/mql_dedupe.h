/* mql_dedupe.h - idempotent puts: which keys were put within a window. */
#ifndef MQL_DEDUPE_H
#define MQL_DEDUPE_H

#include "mql_log.h"

typedef struct mql_dedupe {
    mql_log *log;           /* borrows */
    mql_format_dedupe *map; /* owns: one page, which stays where it is, as its lock may be held */
    uint8_t *body;          /* owns: the ring and the buckets; under the lock */
    size_t length;          /* of the body's mapping */
    char path[MQL_PATH_MAX];
} mql_dedupe;

/* As mqlog.h says of mql_append_once. */
int mql_dedupe_append(mql_log *log, const mql_record *record, const mql_once *once, int flags,
                      int64_t *offset);
/* Gives back what is mapped: nobody comes any more. */
void mql_dedupe_unmap(mql_log *log);
void mql_dedupe_free(mql_log *log);

#endif
