/* mql_recover.h - how a partition stands when it is opened: the decision table R1 .. R10.
 *
 *   R1  whole batch, CRC right, offset and epoch as expected             keep, go on
 *   R2  zeros to the end of the file                                     the end: prepared space
 *   R3  fewer than 61 bytes left                                         cut: a torn header
 *   R4  the length runs past the file or the limit                       cut: a torn length
 *   R5  CRC wrong, or zeros with something behind, or offset or epoch
 *       not expected, whatever follows                                   cut: torn or stale
 *   R6  anything but R1 below the watermark                              never cut: reads tell
 *   R7  a segment's first batch has another offset than its name         refuse to write, name it
 *   R8  the control page passes all its checks: only processes died      no scan: it says the end
 *   R9  not the last segment, ends where the next begins, zeros behind   go on there; sealed later
 *   R10 a next.<n> that holds a batch: the rename was lost               name it, or set it aside
 *   R11 a .swap; a .cleaned: segments were being rewritten as one        finish it; undo it
 */
#ifndef MQL_RECOVER_H
#define MQL_RECOVER_H

#include "mql_control.h"
#include "mql_epoch.h"
#include "mql_segment.h"

/* The segments of a partition's directory, ascending, and its prepared ones. */
typedef struct mql_recover_listing {
    int64_t *bases; /* owns */
    size_t count;
    uint64_t *nexts; /* owns */
    size_t next_count;
} mql_recover_listing;
int mql_recover_list(mql_os_file root, const char *directory, mql_recover_listing *out);
void mql_recover_listing_free(mql_recover_listing *listing);

typedef struct mql_recover_task {
    mql_os_file root;                     /* borrowed */
    const char *directory;                /* borrowed */
    mql_format_control *control;          /* borrowed: as it was found; NULL: there was none */
    const mql_control_identity *identity; /* borrowed */
    int64_t segment_bytes;
    uint32_t mode;
    bool gaps;      /* a compacted topic */
    bool look_only; /* write nothing */
    bool live;      /* somebody has the store open: believe control or the watermark, never scan */
    /* Called for each thing cut or set aside; row is n of R<n>. */
    void (*tell)(void *context, int row, int64_t segment, int64_t position, int64_t bytes,
                 const char *file);
    void *context;
} mql_recover_task;

/* How the partition stands. */
typedef struct mql_recover_state {
    mql_control_end end;     /* log end */
    mql_control_end durable; /* known to be on stable storage */
    int64_t log_start;
    int64_t ceiling; /* no offset at or above it may be given out before it is raised */
    int64_t sealed;  /* segments below are sealed */
    int32_t epoch;
    uint64_t last_number; /* the latest n of a next.<n> */
    int64_t freed;        /* bytes that went when a rewriting was finished, or undone */
    bool replacing;       /* it could not be yet */
    bool behind;          /* live: the page said nothing that could be used, the watermark counts */
} mql_recover_state;

/* Decides, repairs what needs it, and leaves the epoch table (owned by the caller) filled. May be
 * killed anywhere and run again. Fails: MQL_E_FORMAT (R7), MQL_E_OS. */
int mql_recover_run(const mql_recover_task *task, mql_epoch_table *epochs, mql_recover_state *out);

#endif
