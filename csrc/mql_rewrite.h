/* mql_rewrite.h - several segments become one that has only some of their records. */
#ifndef MQL_REWRITE_H
#define MQL_REWRITE_H

#include "mql_commit.h"

/* The first run of offsets in [*from, *to) to be kept is put there; none: both are `to`. */
typedef int mql_rewrite_keep(void *context, int64_t *from, int64_t *to);

typedef struct mql_rewrite {
    mql_log *log; /* borrows */
    mql_commit_sources from;
    mql_rewrite_keep *keep;
    int (*agree)(void *context); /* makes that durable on whose word records were left out */
    void *context;               /* borrows: for both */
} mql_rewrite;

/* How many bytes it would come to; MQL_FULL: more than `most`. MQL_BUSY: a record to be kept cannot
 * be read, or the segments are not what they were. */
int mql_rewrite_measure(const mql_rewrite *what, int64_t most, int64_t *bytes);
/* Does it: writes, asks `agree`, and only then replaces. Blocks. Fails: as writing does; MQL_BUSY
 * as above. Nothing has changed then, or it is finished later. */
int mql_rewrite_run(const mql_rewrite *what);

#endif
