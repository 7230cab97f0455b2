/* mql_log.h - a partition as one process sees it: its shared page, its segments, its two ends. */
#ifndef MQL_LOG_H
#define MQL_LOG_H

#include "mql_control.h"
#include "mql_epoch.h"
#include "mql_recover.h"
#include "mql_segment.h"

/* What a share group has before it: while the log's end is in `segment`, `before` bytes and as many
 * as the end's position there. It only gets less. */
typedef struct mql_log_backlog {
    int64_t segment; /* -1: not known */
    int64_t before;
} mql_log_backlog;

/* What a store lends to its logs; outlives them. */
typedef struct mql_log_home {
    mql_os_file root;
    mql_format_doorbell *bell; /* NULL in read-only stores */
    uint32_t mode;
    bool read_only;
    bool live;            /* read-only: somebody has the store open */
    uint64_t instance;    /* of the store, while it is open anywhere */
    _Atomic int gone;     /* 0, or MQL_E_CLOSED, MQL_E_FORKED */
    _Atomic bool closing; /* the last opening is being closed: nothing may be changed any more */
    mql_os_identity identity;
    void *context; /* for the calls below */
    int (*gate)(void *context);
    void (*ungate)(void *context);
    void (*want_prepare)(void *context);
    bool (*want_sync)(void *context); /* false: there is no thread that does */
    void (*recovered)(void *context, const mql_recovered *what);
    uint64_t self; /* this process's member id: its number and incarnation */
    int (*reserve)(mql_log *log, int64_t offset); /* slots in every share group, below `offset` */
    int (*backlog)(mql_log *log, mql_log_backlog *out); /* of the share group that bounds appends */
    uint64_t (*new_member)(void *context);         /* an id that was never given before */
    bool (*alive)(void *context, uint64_t member); /* false only when the kernel says so */
    _Atomic int64_t wall_ms; /* where the wall clock stands; 0: the kernel's runs */
} mql_log_home;

/* The wall clock of mql_wall. */
static inline int64_t mql_log_wall_ms(const mql_log_home *home) {
    int64_t stands = atomic_load_explicit(&home->wall_ms, memory_order_relaxed);
    return MQL_LIKELY(stands == 0) ? mql_os_wall_ms() : stands;
}

/* One known segment: mapped when somebody needed it. */
typedef struct mql_log_slot {
    int64_t base;
    mql_segment *segment; /* owns one reference, or NULL */
} mql_log_slot;

struct mql_group;
struct mql_share;
struct mql_dedupe;
struct mql_cursor;

struct mql_log {
    mql_log *next; /* owned by the store's list */
    mql_log_home *home;
    int partition;
    char topic[MQL_NAME_MAX + 1];
    char directory[MQL_NAME_MAX + 17]; /* "<topic>-<partition>" */
    mql_format_control *control;       /* owns the mapping; NULL in read-only stores */

    /* options, changed by mql_log_set */
    _Atomic int64_t segment_bytes, batch_bytes, max_message_bytes, sync_interval_ns;
    _Atomic int64_t retention_bytes, retention_age_ms, dedupe_ms;
    _Atomic int durability, cleanup;

    /* private lock, never held in a system call */
    mql_os_mutex table;
    mql_log_slot *slots; /* owns; ascending, under `table` */
    size_t count, capacity;
    uint32_t segments_seen; /* control->segments_generation of the listing, under `table` */
    uint32_t rewrites_seen; /* control->rewrites of that listing, under `table` */
    mql_epoch_table epochs; /* under `table` */
    uint32_t epochs_seen;
    struct mql_group *groups;   /* under `table`; owned by mql_group */
    struct mql_cursor *cursors; /* under `table`; borrowed: each leaves when it is freed */
    struct mql_share *_Atomic shares; /* pushed under the gate; owned by mql_shares */
    _Atomic uint32_t shares_known;    /* how many were pushed */
    _Atomic uint32_t shares_seen;     /* control->shares_generation of its last listing, + 1 */

    struct mql_dedupe *_Atomic dedupe; /* owned by mql_dedupe */

    /* what bounds appends: a share group, how much may wait in it */
    mql_format_live *_Atomic bounding; /* borrows; NULL: none does */
    _Atomic int64_t maxsize, max_bytes;
    mql_log_backlog backlog; /* as last looked for, and of which; under the shared writer lock */
    const mql_format_live *backlog_of;

    mql_segment *active; /* owns a reference; under the shared writer lock */
    _Atomic bool remap;  /* `active` is to be looked up again: a longer mapping is in the table */
    mql_segment *_Atomic prepared; /* owns: the mapped next.<n>, taken by exchange */

    /* this process's background work */
    _Atomic int64_t prepare_at; /* an append that ends above it asks for preparation */
    _Atomic int64_t populated;  /* in this process's mapping of the active segment */
    _Atomic int64_t populated_segment;
    _Atomic int64_t appended; /* bytes by this process since the last preparation */
    bool large_syncs;    /* of the prepare thread: they were, before the last preparation */
    uint32_t round_seen; /* likewise: control->round at that preparation */
    size_t piece;        /* likewise: bytes that are written ahead at once */
    _Atomic bool unsynced;    /* something was appended since the last background sync */
    _Atomic bool sync_at_once; /* somebody waits for it */
    _Atomic bool wants_pages;  /* a share group is to have finished pages recycled */
    _Atomic bool wants_room;
    int64_t sync_due_ns;    /* when the background sync is due; 0: not; the sync thread's */
    int64_t lagging_offset; /* the durable end when a peer was first seen to lag */
    int64_t lagging_ns;     /* since when; 0: not looked at yet */
    int64_t retain_due_ns; /* when retention by age is looked at next */
    bool reclaim_owed;                /* its owner died: under the reclaim lock */
    _Atomic int64_t reclaim_due_ns;   /* space is not freed before */
    _Atomic int64_t reclaim_again_ns; /* and then also if nothing has changed */
    _Atomic uint64_t reclaim_seen;    /* what had, when it was looked at last */

    /* rounds of commits (mql_commit); under the commit lock but for the last */
    int64_t patience_ns;      /* how long the next one may wait for whom the last one has served */
    int unwaited;             /* how many do not, since one did so in vain */
    _Atomic uint32_t watched; /* the round for which somebody of this process watches the time */

    /* read-only stores, under `table` */
    mql_recover_state snapshot; /* how it stood */
    mql_segment *last;          /* owns: the file with the snapshot's end; NULL: there was none */
};

/* Opens a partition: maps its page, and brings it in order if nobody has since the store was
 * opened. MQL_E_NOT_FOUND without `create`. */
int mql_log_open(mql_log_home *home, const char *topic, int partition, bool create,
                 const mql_log_options *options, mql_log **out);
void mql_log_free(mql_log *log);
/* Gives back what is mapped; leases keep theirs. The store is closed, and no call is in flight. */
void mql_log_unmap(mql_log *log);
void mql_log_set(mql_log *log, const mql_log_options *options);
/* Read-only stores: looks again. */
int mql_log_refresh(mql_log *log);
/* The same: whether it is the file with the end, not one that has its name now. */
bool mql_log_holds_end(mql_log *log, const mql_segment *segment);

/* MQL_OK while the log may be used; else closed, forked, deleted (recorded). */
int mql_log_usable(mql_log *log);
int mql_log_not_writable(mql_log *log); /* why it is not */
/* The same, and not read-only, and not being closed. */
static inline int mql_log_writable(mql_log *log) {
    const mql_log_home *home = log->home;
    bool fine = !home->read_only && atomic_load_explicit(&home->gone, memory_order_acquire) == 0 &&
                !atomic_load_explicit(&home->closing, memory_order_acquire) &&
                (atomic_load_explicit(&log->control->state, memory_order_relaxed) &
                 MQL_STATE_DELETED) == 0;
    return MQL_LIKELY(fine) ? MQL_OK : mql_log_not_writable(log);
}

/* The published end, the durable end, the log start. */
void mql_log_end(mql_log *log, mql_control_end *out);
void mql_log_durable(mql_log *log, mql_control_end *out);
int64_t mql_log_start(mql_log *log);
/* Segments with a base below it are sealed. */
int64_t mql_log_sealed(mql_log *log);
/* Whether the partition's directory still is the one that this log was opened from: a deleted topic
 * may have been made again under its name. MQL_E_DELETED: it is not. Looks at the disk. */
int mql_log_in_place(mql_log *log);

/* What consumers read up to: the durable end where durability is "sync". */
void mql_log_readable_end(mql_log *log, mql_control_end *out);
static inline bool mql_log_is_sync(mql_log *log) {
    return atomic_load_explicit(&log->durability, memory_order_relaxed) == MQL_DURABILITY_SYNC;
}

mql_segment_options mql_log_segment_options(mql_log *log);
/* The segment with that base, mapped; the caller owns a reference. MQL_E_NOT_FOUND: it is gone. */
int mql_log_segment(mql_log *log, int64_t base, mql_segment **out);
/* The base of the segment that holds `offset` (the greatest base <= offset), and the base of the
 * one behind it (INT64_MAX: none). MQL_E_RANGE: it lies below the first. */
int mql_log_locate(mql_log *log, int64_t offset, int64_t *base, int64_t *next_base);
/* The bases, ascending, owned by the caller (mql_os_free_memory). */
int mql_log_bases(mql_log *log, int64_t **bases, size_t *count);
/* Puts the segment that a roll has just named into the table, if it has room: no allocation, no
 * system call. Takes over a reference. */
void mql_log_add_segment(mql_log *log, mql_segment *segment);
/* The mapped segment if the table has it: no system call. The caller owns a reference; NULL: it has
 * not. */
mql_segment *mql_log_mapped(mql_log *log, int64_t base);
/* Forgets segments that are gone, and those that another file has replaced. */
void mql_log_forget(mql_log *log);
/* Lists the directory, whatever was known of it. */
int mql_log_relist(mql_log *log);
/* Whether the file that the segment maps has lost its name, or another file has got it: what it
 * maps stays readable, but for the segments behind it somebody else speaks. Looks at the disk. */
bool mql_log_replaced(mql_log *log, const mql_segment *segment);

/* The epoch that a batch at `offset` must carry (-1: not known), and where the next one starts. */
int32_t mql_log_epoch_at(mql_log *log, int64_t offset, int64_t *next_start);

/* Waits until a record at `offset` may be read, at most a slice: MQL_OK, MQL_TIMEOUT, or a failure.
 */
int mql_log_wait(mql_log *log, int64_t offset, int64_t timeout_ns);
/* After a publish on either latch, its lock dropped since: that is the fence which pairs with those
 * of mql_control_wait and of mql_store's doorbell. Wakes who waits on the latch, or on the bell. */
static inline void mql_log_wake(mql_log *log, mql_format_waiters *waiters,
                                mql_format_latch *latch) {
    mql_control_wake(waiters, latch);
    mql_format_doorbell *bell = log->home->bell;
    if (mql_control_take_flag(&bell->waiting)) {
        atomic_fetch_add_explicit(&bell->bell, 1, memory_order_release);
        mql_os_wake(&bell->bell, INT32_MAX);
    }
}
void mql_log_wake_everybody(mql_log *log);
/* Ends the sleep of as many consumers as there are records; of all where there are several share
 * groups, whose consumers sleep on the same word. */
static inline void mql_log_ring(mql_log *log, int64_t records) {
    bool alone = atomic_load_explicit(&log->shares_known, memory_order_relaxed) <= 1;
    mql_control_ring(&log->control->waiters_queue, alone ? records : INT64_MAX);
}
/* The share group that bounds appends; NULL: none. */
static inline mql_format_live *mql_log_bounding(mql_log *log) {
    mql_format_live *bounding = atomic_load_explicit(&log->bounding, memory_order_acquire);
    bool none =
        bounding == NULL || atomic_load_explicit(&bounding->removed, memory_order_acquire) != 0;
    return none ? NULL : bounding;
}
/* How many more records may be appended to a log that ends at `end`; INT64_MAX: any number. Exact
 * under the writer lock. */
static inline int64_t mql_log_room(mql_log *log, int64_t end) {
    int64_t maxsize = atomic_load_explicit(&log->maxsize, memory_order_relaxed);
    if (MQL_LIKELY(maxsize == 0)) return INT64_MAX;
    mql_format_live *bounding = mql_log_bounding(log);
    if (bounding == NULL) return INT64_MAX;
    int64_t waiting = end - atomic_load_explicit(&bounding->unavailable, memory_order_acquire);
    return maxsize - mql_base_max(waiting, 0);
}
/* How many bytes its backlog may have; INT64_MAX: any number. */
static inline int64_t mql_log_most_bytes(mql_log *log) {
    int64_t most = atomic_load_explicit(&log->max_bytes, memory_order_relaxed);
    if (MQL_LIKELY(most == 0)) return INT64_MAX;
    return mql_log_bounding(log) == NULL ? INT64_MAX : most;
}
/* Something was changed that the background sync is to put on stable storage. */
static inline void mql_log_want_sync(mql_log *log) {
    if (MQL_LIKELY(atomic_load_explicit(&log->unsynced, memory_order_relaxed))) return;
    atomic_store_explicit(&log->unsynced, true, memory_order_release);
    log->home->want_sync(log->home->context);
}

/* Syncs the partition's directory, and the store's when `root_too`. */
int mql_log_sync_directory(mql_log *log, bool root_too);
/* Takes a shared lock within `timeout_ns`: MQL_OK, MQL_TIMEOUT. If its last owner died, *owed is
 * set before anything else: it says that there is something to repair until somebody has. NULL:
 * what is under the lock needs none. */
int mql_log_take_after(mql_log *log, mql_os_mutex *mutex, int tried, int64_t timeout_ns,
                       uint32_t *owed);
static inline int mql_log_take(mql_log *log, mql_os_mutex *mutex, int64_t timeout_ns,
                               uint32_t *owed) {
    int rc = mql_os_mutex_try(mutex);
    return MQL_LIKELY(rc == 0) ? MQL_OK : mql_log_take_after(log, mutex, rc, timeout_ns, owed);
}
/* The same however long it takes, unless the log cannot be used (any more). */
int mql_log_lock(mql_log *log, mql_os_mutex *mutex, uint32_t *owed);

/* The segments from `base` on alone: bytes, and how many. */
int mql_log_describe_from(mql_log *log, int64_t base, mql_log_info *out);
static inline int mql_log_describe_all(mql_log *log, mql_log_info *out) {
    return mql_log_describe_from(log, 0, out);
}
/* The partition is gone for everybody: the directory is renamed away and emptied. */
int mql_log_delete(mql_log *log);

#endif
