/* mql_index.h - a segment's .index and .timeindex: sparse, derived from the log, rebuildable. */
#ifndef MQL_INDEX_H
#define MQL_INDEX_H

#include "mql_format.h"

/* One of the two files, mapped (or, in read-only stores, read into private memory). */
typedef struct mql_index_file {
    uint8_t *bytes;    /* owns; NULL: not there */
    size_t length;     /* mapped or read */
    int64_t allocated; /* bytes known to have blocks behind them */
    bool is_private;   /* memory, not a mapping */
} mql_index_file;

typedef struct mql_index {
    mql_index_file offsets;
    mql_index_file times;
} mql_index;

/* What appending the next entry needs to know of the segment's tail: lives in the control page,
 * under the writer lock. */
typedef struct mql_index_tail {
    _Atomic uint32_t *index_count;
    _Atomic uint32_t *time_count;
    int64_t *bytes_since_entry;
    int64_t *max_timestamp;
    int64_t *max_timestamp_offset;
    int64_t *last_time_entry;
} mql_index_tail;

static inline mql_index_tail mql_index_tail_of(mql_format_control *control) {
    return (mql_index_tail){
        .index_count = &control->index_count,
        .time_count = &control->time_count,
        .bytes_since_entry = &control->bytes_since_entry,
        .max_timestamp = &control->max_timestamp,
        .max_timestamp_offset = &control->max_timestamp_offset,
        .last_time_entry = &control->last_time_entry,
    };
}
void mql_index_tail_reset(const mql_index_tail *tail);

/* The most bytes that the files of a segment of `segment_bytes` can come to. */
size_t mql_index_offsets_capacity(int64_t segment_bytes);
size_t mql_index_times_capacity(int64_t segment_bytes);

/* Maps both files for writing at full capacity, creating them: the active segment's. */
int mql_index_open_active(mql_index *index, mql_os_file root, const char *directory, int64_t base,
                          int64_t segment_bytes, uint32_t mode);
/* Those of any segment, for lookups: mapped as long as they are, or read when `is_private`. A
 * missing file is an empty one. */
int mql_index_open_sealed(mql_index *index, mql_os_file root, const char *directory, int64_t base,
                          bool is_private);
void mql_index_close(mql_index *index);

/* Where the active segment's index files are, to lengthen them. */
typedef struct mql_index_place {
    mql_os_file root;
    const char *directory;
    int64_t base;
} mql_index_place;

/* Asks for the files' lengths: what other processes have added may be looked at then. */
void mql_index_look_again(mql_index *index, const mql_index_place *place);

/* Notes a batch that was just published (format.md 2.3, 2.4: an entry for this batch if more than
 * 4,096 bytes came since the last one). Without room on disk the entry is left out: lookups walk
 * further. */
void mql_index_note(mql_index *index, const mql_index_tail *tail, const mql_index_place *place,
                    int64_t last_offset, int64_t position, int64_t size, int64_t max_timestamp);
/* The .timeindex entry that a roll or a clean close forces. */
void mql_index_note_end(mql_index *index, const mql_index_tail *tail, const mql_index_place *place);

/* Entries in use, of files that may end in zeros. */
uint32_t mql_index_count_offsets(const mql_index_file *file);
uint32_t mql_index_count_times(const mql_index_file *file);

/* Entry i. */
void mql_index_offset_entry(const mql_index_file *file, uint32_t i, int32_t *relative,
                            int32_t *position);
void mql_index_time_entry(const mql_index_file *file, uint32_t i, int64_t *timestamp,
                          int32_t *relative);

/* The greatest entry with offset <= relative: its position, and its number in *entry; 0 and -1:
 * none. */
int32_t mql_index_floor(const mql_index_file *file, uint32_t count, int64_t relative,
                        int64_t *entry);
/* The greatest entry with a timestamp < timestamp; -1: none. */
int64_t mql_index_time_before(const mql_index_file *file, uint32_t count, int64_t timestamp);

/* How many entries from the front are in order and within the log: offsets strictly and positions
 * strictly increasing and below `limit`; timestamps strictly increasing, offsets not decreasing and
 * below `end`. */
uint32_t mql_index_sound_offsets(const mql_index_file *file, uint32_t count, int64_t end,
                                 int64_t limit);
uint32_t mql_index_sound_times(const mql_index_file *file, uint32_t count, int64_t end);

/* Cuts both files to their entries; derived files are not synced. */
int mql_index_cut(mql_os_file root, const char *directory, int64_t base, uint32_t index_count,
                  uint32_t time_count);

#endif
