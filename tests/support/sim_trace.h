/* sim_trace.h - what happened to a disk, in order; and what it may hold if the power goes then.
 *
 * A trace is recorded once, while a workload runs: every version that a page has had at a call of
 * the system, every change of a name or a length, every sync. A model then goes along the trace,
 * and at each crash point makes images of what the disk may hold there:
 *
 *   - names: changes that no sync has covered are there or not, in order (a journal: a prefix of
 *     all changes) or independently (POSIX: a directory's sync covers its own);
 *   - lengths: likewise, of one file in order;
 *   - pages: the durable version or any since, each on its own, or 512 bytes of one and 512 of
 *     another; of a page that was cut off in between, what fits the length.
 *
 * The same seed makes the same image.
 */
#ifndef SIM_TRACE_H
#define SIM_TRACE_H

#include "sim_disk.h"

#define SIM_VERSIONS 6 /* of a page that are kept: the durable one and the newest */

enum sim_what {
    SIM_DID_VERSION = 1, /* inode, page: value is the version's number */
    SIM_DID_SYNC,        /* inode: pages from .. to, and the length */
    SIM_DID_SYNC_NAMES,  /* inode: a directory */
    SIM_DID_SIZE,        /* inode: value */
    SIM_DID_NAME,        /* value: number of the change */
    SIM_DID_POINT,       /* the power may go here; value: what the recorder says of it */
};

typedef struct sim_event {
    uint8_t what;
    bool shorter; /* SIM_DID_SIZE */
    int16_t inode;
    int32_t from, to; /* pages; SIM_DID_SIZE: from is the number among lengths and names */
    int64_t value;
} sim_event;

/* One change of names: `name` leads to `inode` (SIM_NONE: to nothing), `was` to nothing. */
typedef struct sim_change {
    int16_t directory, inode;
    int16_t was_directory; /* SIM_NONE: no second name */
    int32_t order;         /* among lengths and names */
    char name[SIM_NAME_BYTES];
    char was[SIM_NAME_BYTES];
} sim_change;

typedef struct sim_version {
    int32_t event;
    uint64_t hash;
    uint8_t bytes[SIM_PAGE];
} sim_version;

typedef struct sim_trace {
    sim_disk *disk; /* borrows */
    sim_event *events;
    sim_change *changes;
    sim_version *versions;
    size_t event_count, event_room, change_count, change_room, version_count, version_room;
    int32_t order;     /* lengths and names so far */
    bool moved;        /* something was recorded since the last point, which was of `value` */
    int64_t value;
    int32_t last[SIM_INODES][SIM_FILE_PAGES]; /* version + 1; 0: zeros */
    sim_inode start[SIM_INODES];              /* durable when recording began, without bytes */
    sim_name start_names[SIM_NAMES];
    int start_name_count;
    /* Called before each point: what it returns is the point's value. */
    int64_t (*note)(void *context);
    void *context;
} sim_trace;

/* Begins: what the disk holds is durable. Ends: it is recorded no longer. */
void sim_trace_begin(sim_trace *trace, sim_disk *disk);
void sim_trace_end(sim_trace *trace);
void sim_trace_free(sim_trace *trace);
/* By sim_disk, of a disk that is recorded. A point looks at every page first. */
void sim_trace_point(sim_trace *trace);
void sim_trace_sync(sim_trace *trace, int inode, int from, int to);
void sim_trace_sync_names(sim_trace *trace, int inode);
void sim_trace_size(sim_trace *trace, int inode, int64_t size, bool shorter);
void sim_trace_name(sim_trace *trace, int directory, const char *name, int inode);
void sim_trace_rename(sim_trace *trace, const sim_name *was, int directory, const char *name);

typedef struct sim_page {
    int8_t count; /* versions, the first is durable (if `durable`; else zeros are) */
    bool durable;
    int32_t versions[SIM_VERSIONS];
} sim_page;

typedef struct sim_model {
    const sim_trace *trace; /* borrows */
    size_t at;              /* the next event */
    int32_t journal;        /* changes below are durable where there is a journal */
    int32_t pending[512];   /* events that changed lengths and names, not durable by themselves */
    int pending_count;
    bool is_directory[SIM_INODES];
    int64_t size[SIM_INODES];    /* durable */
    int32_t last_order[SIM_INODES]; /* the last change of a file, or in a directory, + 1 */
    sim_page pages[SIM_INODES][SIM_FILE_PAGES];
    sim_name names[SIM_NAMES]; /* durable */
    int name_count;
} sim_model;

/* Where one page's bytes come from: version + 1, or 0: zeros. */
typedef struct sim_choice {
    int32_t one, other;
    uint8_t mask;    /* sectors of `other` */
    int16_t cut;     /* bytes from here on are zeros; -1: none */
} sim_choice;

typedef struct sim_image {
    uint64_t hash;
    int name_count;
    sim_name names[SIM_NAMES];
    int64_t size[SIM_INODES]; /* -1: nothing leads there */
    sim_choice pages[SIM_INODES][SIM_FILE_PAGES];
} sim_image;

void sim_model_begin(sim_model *model, const sim_trace *trace);
/* Goes on to the next point. False: there is none. *value: what was noted of it. */
bool sim_model_next(sim_model *model, int64_t *value);
/* What the disk may hold now. Number 0 is all that is durable, 1 all that was ever done. */
void sim_model_choose(const sim_model *model, uint64_t seed, int number, sim_image *out);
void sim_model_build(const sim_model *model, const sim_image *image, sim_disk *out);

uint64_t sim_mix(uint64_t value); /* a hash of 64 bits */
uint64_t sim_chance(uint64_t *state);

#endif
