/* mql_swap.h - one file takes the place of several segments: finished or undone after a death. */
#ifndef MQL_SWAP_H
#define MQL_SWAP_H

#include "mql_segment.h"

/* The names it has on the way: written as the first, in force from the second on. */
#define MQL_SWAP_MAKING ".log.cleaned"
#define MQL_SWAP_READY ".log.swap"

typedef struct mql_swap_place {
    mql_os_file root;         /* borrowed */
    const char *directory;    /* borrowed: the partition's */
    _Atomic uint32_t *moved;  /* borrowed: raised when a name has got another file; NULL: nobody
                                 else looks */
    uint32_t mode;            /* of files that are made */
} mql_swap_place;

/* The file <base>.log.cleaned, whole and on stable storage, is to stand for its offsets from now
 * on: mql_swap_settle does what is left to be done. Both under the commit lock, or with nobody else
 * there. */
int mql_swap_begin(const mql_swap_place *place, int64_t base);
/* Finishes what has begun, and takes away what had not. *freed: by how many bytes the directory's
 * files went down. Blocks. May be killed anywhere and called again. */
int mql_swap_settle(const mql_swap_place *place, int64_t *freed);

#endif
