/* mql_segment.h - one .log file with its indexes: map it, walk its batches, find a place, seal it.
 */
#ifndef MQL_SEGMENT_H
#define MQL_SEGMENT_H

#include "mql_batch.h"
#include "mql_index.h"

/* A counted, process-local view of one segment file. Whoever holds a reference may read the
 * mapping, also after the file was unlinked. */
typedef struct mql_segment {
    int64_t base;
    uint8_t *map;      /* owns; NULL in read-only stores */
    size_t map_length; /* may reach past the end of the file */
    mql_os_file file;  /* owns; read-only stores only */
    bool writable;
    _Atomic int64_t length; /* of the file, when last asked; what lies below may be read */
    _Atomic int references;
    uint64_t number;         /* of the next.<n> that it is or was; 0: none */
    uint64_t inode;          /* another file may get the name: a rewriting puts one in its place */
    _Atomic uint32_t looked; /* control->rewrites when it was known to be the file of that name */
    int64_t populated;       /* of a next segment: pages made writable before it was named */
    int64_t let_go;          /* below it no page is in the tables; of the prepare thread alone */
    mql_os_mutex lock;       /* private: opening the indexes */
    _Atomic bool index_open; /* `index` is filled: release-stored under `lock` */
    _Atomic bool tail_open;  /* `tail` likewise */
    mql_index index;         /* of a sealed segment, for lookups */
    mql_index tail;          /* while active: at full capacity; below the count it may be read */
    char path[MQL_PATH_MAX]; /* within the store */
} mql_segment;

typedef struct mql_segment_options {
    mql_os_file root;      /* borrowed: the store's directory */
    const char *directory; /* borrowed: the partition's, within it */
    int64_t capacity;      /* bytes to map: at least the file's length is mapped */
    bool read_only;        /* no mapping: reads copy */
    bool writable;
    bool gaps;             /* a compacted topic: offsets may be missing before a batch */
} mql_segment_options;

/* Opens <base>.log. MQL_E_NOT_FOUND if it is not there. The caller owns one reference. */
int mql_segment_open(const mql_segment_options *options, int64_t base, mql_segment **out);
/* The same of <base><suffix>, beside the segment of that base. */
int mql_segment_open_beside(const mql_segment_options *options, int64_t base, const char *suffix,
                            mql_segment **out);
/* Opens next.<number>, whose base is not known yet (-1). */
int mql_segment_open_next(const mql_segment_options *options, uint64_t number, mql_segment **out);
void mql_segment_next_name(char out[MQL_PATH_MAX], const char *directory, uint64_t number);
/* A next segment has become <base>.log. */
void mql_segment_rename(mql_segment *segment, const char *directory, int64_t base);
mql_segment *mql_segment_retain(mql_segment *segment);
void mql_segment_release(mql_segment *segment);
/* The same at the end of all calls: what a lease still lends is the log alone, not its indexes. */
void mql_segment_leave(mql_segment *segment);
/* Asks the file for its length again. MQL_E_NOT_FOUND: it has lost its name, or another has it. */
int mql_segment_refresh(mql_segment *segment, const mql_segment_options *options);
/* Opens the indexes for lookups, once. Failing to is no error: lookups walk. */
void mql_segment_open_index(mql_segment *segment, const mql_segment_options *options);
/* Opens (makes) the indexes of the active segment, once. */
int mql_segment_open_tail(mql_segment *segment, const mql_segment_options *options, uint32_t mode);

/* Makes the pages of [from, to) dirty again, so that the next sync writes them whatever an earlier
 * one was told. The bytes must be published: nobody else may be writing them. */
void mql_segment_touch(mql_segment *segment, int64_t from, int64_t to);

/* -- walking ----------------------------------------------------------------------------------- */
/* Private bytes that read-only stores read into; empty to begin with. */
typedef struct mql_segment_window {
    uint8_t *bytes; /* owns */
    size_t capacity;
    int64_t position;
    int64_t length;
} mql_segment_window;
void mql_segment_window_free(mql_segment_window *window);

/* `length` bytes at `position`, lent until the window's next use; NULL: the file does not hold
 * them. */
const uint8_t *mql_segment_bytes(mql_segment *segment, mql_segment_window *window, int64_t position,
                                 int64_t length);

/* Whether the bytes from .. to are all zero. False also where the file does not hold them. */
bool mql_segment_only_zeros(mql_segment *segment, mql_segment_window *window, int64_t from,
                            int64_t to);

/* A walk over the batches from a position on. */
typedef struct mql_segment_walk {
    mql_segment *segment;        /* borrows */
    mql_segment_window *window;  /* borrows */
    int64_t position;            /* of the batch to come */
    int64_t limit;               /* the walk ends there */
    int64_t expected;            /* the offset that the batch to come must have; -1: any */
    int64_t max_size;            /* the greatest batch to believe in */
    const mql_index_file *index; /* borrows; NULL: walk */
    uint32_t index_count;        /* entries of it that may be used */
    bool gaps;                   /* compacted: offsets may be missing before a batch */
    bool verify;                 /* check CRCs */
    mql_batch_header header;     /* of the last batch given */
    const uint8_t *bytes;        /* its bytes, lent until the next step; with its position: */
    int64_t at;
    const char *wrong; /* after MQL_E_CORRUPT: what is */
    int row;           /* after MQL_E_CORRUPT, MQL_END: n of R<n> */
} mql_segment_walk;

/* The next batch: MQL_OK and the walk stands behind it. MQL_END: at the limit, or zeros up to it
 * (R2). MQL_E_CORRUPT: the bytes at `position` are no batch (nothing recorded; `wrong` and `row`
 * say why), the walk stays. */
int mql_segment_walk_next(mql_segment_walk *walk);
/* Moves the walk behind damage, to the next batch that the log surely has: one whose offset lies in
 * (expected, before), whose CRC is right, and from which batch follows batch exactly to the next
 * place that is known (an index entry, or the end: `before` or the limit), so that a batch stored
 * inside a value is never taken for one of the log's. MQL_OK with position and expected set, or
 * MQL_END: there is none. Bounded work. */
int mql_segment_resync(mql_segment_walk *walk, int64_t before);
/* Whether a whole batch with a right CRC stands anywhere behind the position. Bounded work. */
bool mql_segment_holds_more(mql_segment_walk *walk);

/* Sets position and expected to the batch that holds `offset`, by the index and a walk from there.
 * No CRC covers a header's length and offset: what is passed behind an index entry is checked; of a
 * segment without one, which may be long, only if the walk has led to what is no batch. Damage on
 * the way that ends before `offset` is passed over; else it stands at it. Past the last batch:
 * stands at the limit. All of the walk's settings, and expected = the segment's base, are set. */
void mql_segment_find(mql_segment_walk *walk, int64_t offset);

/* -- sealing ----------------------------------------------------------------------------------- */
/* What the tail of a segment says about its indexes, rebuilt from index and log up to walk->limit:
 * keeps the entries that are sound, adds those that are missing. For opens after a crash and for
 * sealing. */
int mql_segment_rebuild_index(mql_segment *segment, mql_segment_window *window,
                              const mql_index_tail *tail, const mql_index_place *place,
                              int64_t limit, int64_t end_offset);

/* Gives the files of a segment that is no longer active their exact lengths and syncs the log. It
 * ends where `next_base` begins; *freed: the bytes it was longer. Idempotent. A damaged tail is
 * left as it is. */
int mql_segment_seal(const mql_segment_options *options, int64_t base, int64_t next_base,
                     uint32_t mode, int64_t *freed);

/* The greatest timestamp below `next_base` in a sealed segment, of the batch that its last time
 * entry names and those behind it; `whole`: of all. -1: none has one, or no batch is what the entry
 * says. */
int64_t mql_segment_youngest(const mql_segment_options *options, int64_t base, int64_t next_base,
                             bool whole);

#endif
