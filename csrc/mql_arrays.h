/* mql_arrays.h - the live file of a share group: growable arrays, and heaps in two of them. */
#ifndef MQL_ARRAYS_H
#define MQL_ARRAYS_H

#include "mql_format.h"

typedef struct mql_arrays {
    mql_os_file root;                                     /* borrows */
    mql_format_live *map;                                 /* owns */
    void *_Atomic parts[MQL_LIVE_ARRAYS][MQL_LIVE_PARTS]; /* owns, but for the first of each */
    _Atomic uint32_t usable[MQL_LIVE_ARRAYS];             /* entries that are mapped here */
    uint64_t inode; /* of the file: another may get its name */
    char path[MQL_PATH_MAX + 16];
} mql_arrays;

/* Maps the file, made if need be; nothing in it is believed yet. The calls after it:
 * MQL_E_NOT_FOUND when the file was removed. */
int mql_arrays_open(mql_arrays *arrays, mql_os_file root, uint32_t mode);
/* Empties it, and makes its locks: the first opener of the machine. */
int mql_arrays_reset(mql_arrays *arrays);
void mql_arrays_close(mql_arrays *arrays);
/* Maps what other processes have added. */
int mql_arrays_map(mql_arrays *arrays);
/* Room for so many entries. Moves `growth`. Under the grow lock. MQL_E_OS: ENOSPC. */
int mql_arrays_grow(mql_arrays *arrays, int array, uint32_t entries);

/* -- under the share lock ---------------------------------------------------------------------- */
/* Entries that may be used here. */
uint32_t mql_arrays_capacity(const mql_arrays *arrays, int array);
void *mql_arrays_at(const mql_arrays *arrays, int array, uint32_t index);

/* The heaps: MQL_LIVE_DUE and MQL_LIVE_DEADLINES, by time and then by offset. A push for which
 * there is no room lowers the horizon instead. mql_arrays_top: false when it is empty. */
static inline uint32_t mql_arrays_count(const mql_arrays *arrays, int which) { /* else: a hint */
    return atomic_load_explicit(&arrays->map->timers[which], memory_order_relaxed);
}
mql_format_timer *mql_arrays_timer(mql_arrays *arrays, int which, uint32_t index);
void mql_arrays_push(mql_arrays *arrays, int which, int64_t time, int64_t offset);
bool mql_arrays_top(mql_arrays *arrays, int which, mql_format_timer *out);
void mql_arrays_pop(mql_arrays *arrays, int which);
/* Drops the entry that stands last if it is for `offset`: pushed and not needed. */
void mql_arrays_unpush(mql_arrays *arrays, int which, int64_t offset);
/* Keeps the entries that are valid. */
typedef bool mql_arrays_valid(void *context, const mql_format_timer *timer);
void mql_arrays_filter(mql_arrays *arrays, int which, mql_arrays_valid *valid, void *context);

#endif
