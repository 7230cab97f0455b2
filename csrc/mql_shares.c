/* mql_shares.c - the share groups of a partition.
 *
 * Who puts a record provides for those who will take it: `control.slots_ready` says below which
 * offset every share group has slots, and an append beyond it comes here first. A group that is
 * made takes that word back to 0, and then waits for the append that may be under way; so no record
 * is ever put without slots in a group that was there before it.
 */
#include "mql_shares.h"

#include <errno.h>
#include <stdio.h>

#include "mql_append.h"
#include "mql_census.h"
#include "mql_cursor.h"
#include "mql_reserve.h"

#define RECYCLE_AT 16 /* retired pages that are worth two syncs */
#define PAGES_TO_PASS 4 /* the chunks at both ends, and what marks those between as done */
#define SUFFIX ".state"

static mql_share *first(mql_log *log) {
    return atomic_load_explicit(&log->shares, memory_order_acquire);
}
static bool is_removed(const mql_share *share) {
    const mql_format_live *map = share->live.map; /* read-only stores map none */
    return map != NULL && atomic_load_explicit(&map->removed, memory_order_acquire) != 0;
}

static mql_share *known(mql_log *log, const char *name) {
    for (mql_share *share = first(log); share != NULL; share = share->next)
        if (strcmp(share->name, name) == 0 && !is_removed(share)) return share;
    return NULL;
}

/* -- opening ----------------------------------------------------------------------------------- */
/* Appends look for slots again. */
static int forget_ready(mql_log *log) {
    int rc = mql_log_lock(log, &log->control->prepare, NULL);
    if (rc < 0) return rc;
    atomic_store_explicit(&log->control->slots_ready, 0, memory_order_release);
    atomic_fetch_add_explicit(&log->control->shares_generation, 1, memory_order_release);
    mql_os_mutex_drop(&log->control->prepare);
    return mql_append_settle(log); /* an append under way has looked before */
}

static void free_share(mql_share *share) {
    mql_live_close(&share->live);
    mql_os_free_memory(share);
}

/* The first record from `offset` on. Damage is somebody's to be told of. */
static int64_t next_record(mql_log *log, int64_t offset, const mql_control_end *end) {
    mql_cursor *cursor;
    mql_batch batch;
    int rc = mql_cursor_make(log, offset, MQL_TO_END, &cursor);
    if (rc < 0) return offset;
    rc = mql_cursor_read(cursor, &batch);
    mql_cursor_end(cursor);
    if (rc == MQL_END) return end->offset;
    return rc == MQL_OK ? mql_base_min(batch.base_offset, end->offset) : offset;
}

/* Recovery uses up the offsets that may have been seen, at the beginning of an epoch: nobody needs
 * to take them. Where the disk does not let that be noted, consumers pass over them one day. */
static int pass_over_used_up(mql_share *share) {
    mql_log *log = share->live.log;
    mql_control_end end;
    mql_log_end(log, &end);
    int64_t at = mql_log_start(log), next_start;
    int rc = MQL_OK;
    for (; rc == MQL_OK && at < end.offset; at = next_start) {
        int64_t next = next_record(log, at, &end);
        if (next - at >= MQL_SHARE_SLOTS) {
            /* Beside the pages that were promised to the records before. */
            int64_t speo = atomic_load_explicit(&share->live.map->end, memory_order_relaxed);
            rc = mql_reserve_pages(&share->live, mql_slots_needed(speo, at) + PAGES_TO_PASS);
            if (rc == MQL_OK) rc = mql_share_pass_over(share, at, next);
        }
        (void)mql_log_epoch_at(log, at, &next_start);
    }
    bool later = rc == MQL_BUSY || rc == MQL_E_OS;
    return later ? MQL_OK : rc;
}

/* Whoever appends provides for the group from now on, and there are slots for all records that are
 * there: those who knew that died, or do so for the first time. A group that was there before may
 * have to do with what it has: a full disk does not keep anybody from draining it. */
static int announce(mql_share *share, bool made) {
    mql_format_live *map = share->live.map;
    if (atomic_load_explicit(&map->announced, memory_order_relaxed) != 0) return MQL_OK;
    mql_control_end end;
    int64_t until = 0;
    int rc = forget_ready(share->live.log);
    if (rc < 0) return rc;
    mql_log_end(share->live.log, &end);
    rc = pass_over_used_up(share);
    if (rc < 0) return rc;
    rc = mql_reserve_until(&share->live, end.offset, &until);
    if (rc < 0 && (made || rc != MQL_E_OS)) return rc;
    (void)mql_reserve_give_back(&share->live); /* what stays is only space */
    /* Who died owing a sync asks nobody for it any more. */
    if (mql_live_is_unsynced(&share->live)) mql_log_want_sync(share->live.log);
    atomic_store_explicit(&map->announced, 1, memory_order_relaxed);
    return MQL_OK;
}

static void path_of(const mql_log *log, const char *name, const char *suffix,
                    char path[MQL_PATH_MAX + 16]) {
    snprintf(path, MQL_PATH_MAX + 16, "%s/shares/%s%s", log->directory, name, suffix);
}

/* Takes a group's files away, the state first: without it there is no group. */
static int unlink_files(const mql_log *log, const char *name) {
    static const char *const suffixes[] = {SUFFIX, ".live"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char path[MQL_PATH_MAX + 16];
        path_of(log, name, suffixes[i], path);
        int rc = mql_os_unlink(log->home->root, path);
        if (rc < 0 && rc != -ENOENT)
            return mql_base_fail_os(rc, path, "cannot remove the share group");
    }
    return MQL_OK;
}

static int open_share(mql_log *log, const char *name, bool create, int64_t start, mql_share **out) {
    char path[MQL_PATH_MAX + 16];
    mql_os_stat stat;
    path_of(log, name, SUFFIX, path);
    bool made = create && mql_os_stat_name(log->home->root, path, &stat) == -ENOENT;
    int rc = made ? unlink_files(log, name) : MQL_OK; /* the rest of one that was deleted */
    if (rc < 0) return rc;
    mql_share *share = mql_os_allocate_memory(sizeof *share);
    if (share == NULL) return mql_base_fail(MQL_E_MEMORY, name, "no memory for a share group");
    share->live.log = log;
    snprintf(share->name, sizeof share->name, "%s", name);
    rc = mql_live_open(&share->live, name, create, start);
    if (rc == MQL_OK && !is_removed(share)) rc = announce(share, made);
    if (rc < 0) {
        mql_error error = *mql_base_error();
        if (made) (void)unlink_files(log, name);
        free_share(share);
        *mql_base_error() = error;
        return rc;
    }
    *out = share;
    return MQL_OK;
}

static void push(mql_log *log, mql_share *share) {
    share->next = first(log);
    atomic_fetch_add_explicit(&log->shares_known, 1, memory_order_relaxed);
    atomic_store_explicit(&log->shares, share, memory_order_release);
}

static int open_gated(mql_log *log, const char *name, bool create, int64_t start, mql_share **out) {
    *out = known(log, name);
    if (*out != NULL) return MQL_OK;
    mql_share *share;
    int rc = open_share(log, name, create, start, &share);
    if (rc == MQL_OK && is_removed(share)) { /* who deleted it died before it was done */
        free_share(share);
        rc = unlink_files(log, name);
        if (rc == MQL_OK) rc = open_share(log, name, create, start, &share);
    }
    if (rc < 0) return rc;
    push(log, share);
    *out = share;
    return MQL_OK;
}

/* In a read-only store: only its name is kept, and its file read whenever somebody asks. */
static int find_to_look(mql_log *log, const char *name, int64_t begins, mql_share **out) {
    mql_share_info info;
    int rc = mql_log_usable(log);
    if (rc < 0) return rc;
    mql_share *share = mql_os_allocate_memory(sizeof *share);
    if (share == NULL) return mql_base_fail(MQL_E_MEMORY, name, "no memory for a share group");
    share->live.log = log;
    share->begins = begins;
    snprintf(share->name, sizeof share->name, "%s", name);
    mql_live_call(&share->live, name);
    rc = mql_census_describe(share, &info);
    if (rc < 0) {
        free_share(share);
        return rc;
    }
    mql_os_mutex_take(&log->table, -1);
    mql_share *other = known(log, name);
    if (other == NULL) push(log, share);
    mql_os_mutex_drop(&log->table);
    if (other != NULL) free_share(share);
    *out = other != NULL ? other : share;
    return MQL_OK;
}

int mql_shares_find(mql_log *log, const char *name, bool create, int64_t start, mql_share **out) {
    if (log->home->read_only) return find_to_look(log, name, create ? start : -1, out);
    int rc = mql_log_writable(log);
    if (rc < 0) return rc;
    mql_share *share = known(log, name);
    if (share != NULL) {
        *out = share;
        return MQL_OK;
    }
    mql_log_home *home = log->home;
    rc = home->gate(home->context);
    if (rc != MQL_OK) return rc;
    rc = open_gated(log, name, create, start, out);
    home->ungate(home->context);
    return rc;
}

/* -- all of them ------------------------------------------------------------------------------- */
/* A group that nobody can deliver to, and that keeps nobody from putting. */
static bool is_unusable(int rc) { return rc == MQL_E_CORRUPT || rc == MQL_E_FORMAT; }

typedef struct listing {
    mql_log *log;
    int failed;
} listing;

static int find_one(void *context, const char *file) {
    listing *list = context;
    size_t length = strlen(file), suffix = sizeof SUFFIX - 1;
    char name[MQL_NAME_MAX + 1];
    if (length <= suffix || length - suffix > MQL_TOPIC_MAX ||
        strcmp(file + length - suffix, SUFFIX) != 0)
        return 0;
    snprintf(name, sizeof name, "%.*s", (int)(length - suffix), file);
    mql_share *share;
    int rc = mql_shares_find(list->log, name, false, 0, &share);
    bool worse = list->failed == MQL_OK || is_unusable(list->failed);
    if (rc < 0 && rc != MQL_E_NOT_FOUND && worse) list->failed = rc;
    return rc == MQL_E_LATER; /* then the others are not asked either */
}

/* Opens what others have made since the last time. *generation: as of when. MQL_E_CORRUPT,
 * MQL_E_FORMAT: all but one that cannot be opened. */
static int find_all(mql_log *log, uint32_t *generation) {
    *generation = atomic_load_explicit(&log->control->shares_generation, memory_order_acquire);
    if (atomic_load_explicit(&log->shares_seen, memory_order_acquire) == *generation + 1)
        return MQL_OK;
    char path[MQL_PATH_MAX];
    mql_os_file directory;
    listing list = {.log = log};
    snprintf(path, sizeof path, "%s/shares", log->directory);
    int rc = mql_os_open_directory(log->home->root, path, &directory);
    if (rc == 0) {
        rc = mql_os_list(directory, find_one, &list);
        mql_os_close(directory);
    } else if (rc == -ENOENT) {
        rc = 0;
    }
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot list the share groups");
    if (list.failed < 0) return list.failed;
    atomic_store_explicit(&log->shares_seen, *generation + 1, memory_order_release);
    return MQL_OK;
}

/* Raises the word, unless a group has come meanwhile. */
static int set_ready(mql_log *log, uint32_t generation, int64_t ready) {
    int rc = mql_base_later(
        mql_log_take(log, &log->control->prepare, mql_base_slice(MQL_SLICE_NS), NULL));
    if (rc != MQL_OK) return rc < 0 ? rc : MQL_OK; /* the append comes again */
    if (atomic_load_explicit(&log->control->shares_generation, memory_order_relaxed) == generation)
        atomic_store_explicit(&log->control->slots_ready, ready, memory_order_release);
    mql_os_mutex_drop(&log->control->prepare);
    return MQL_OK;
}

static int find_usable(mql_log *log, uint32_t *generation) {
    int rc = find_all(log, generation);
    return is_unusable(rc) ? MQL_OK : rc;
}

int mql_shares_reserve(mql_log *log, int64_t offset) {
    uint32_t generation;
    int rc = find_usable(log, &generation);
    int64_t ready = INT64_MAX;
    for (mql_share *share = first(log); rc == MQL_OK && share != NULL; share = share->next) {
        int64_t until = INT64_MAX;
        if (is_removed(share)) continue;
        rc = mql_reserve_ahead(&share->live, offset, &until);
        if (rc == MQL_E_NOT_FOUND && is_removed(share)) rc = MQL_OK; /* deleted meanwhile */
        ready = mql_base_min(ready, until);
    }
    return rc == MQL_OK ? set_ready(log, generation, ready) : rc;
}

int mql_shares_make_room(mql_log *log) {
    uint32_t generation;
    int rc = find_usable(log, &generation);
    for (mql_share *share = first(log); rc == MQL_OK && share != NULL; share = share->next) {
        mql_live *live = &share->live;
        uint32_t used = mql_arrays_count(&live->arrays, MQL_LIVE_DUE); /* a hint */
        if (is_removed(share) || used + 16 < mql_arrays_capacity(&live->arrays, MQL_LIVE_DUE))
            continue;
        rc = mql_reserve_timers(live, MQL_LIVE_DUE, 16);
        if (rc == MQL_E_NOT_FOUND && is_removed(share)) rc = MQL_OK;
    }
    return rc;
}

int mql_shares_delay(mql_log *log, int64_t offset, int64_t due_ms) {
    for (mql_share *share = first(log); share != NULL; share = share->next) {
        if (is_removed(share)) continue;
        int rc = mql_share_delay_until(share, offset, due_ms);
        if (rc == MQL_BUSY) {
            rc = mql_reserve_page(&share->live, offset);
            if (rc == MQL_OK) rc = mql_share_delay_until(share, offset, due_ms);
        }
        if (rc < 0 && !is_removed(share)) return rc;
    }
    mql_share_ring(log, 1);
    return MQL_OK;
}

int mql_shares_bound(mql_share *share, int64_t maxsize, int64_t max_bytes) {
    mql_log *log = share->live.log;
    int rc = mql_log_writable(log);
    if (rc < 0) return rc;
    atomic_store_explicit(&log->max_bytes, max_bytes, memory_order_relaxed);
    atomic_store_explicit(&log->bounding, share->live.map, memory_order_release);
    atomic_store_explicit(&log->maxsize, maxsize, memory_order_relaxed);
    return MQL_OK;
}

int mql_shares_backlog(mql_log *log, mql_log_backlog *out) {
    const mql_format_live *bounding = mql_log_bounding(log);
    for (mql_share *share = first(log); bounding != NULL && share != NULL; share = share->next)
        if (share->live.map == bounding) {
            int rc = mql_census_measure(share, out);
            return rc == MQL_E_NOT_FOUND && is_removed(share) ? MQL_OK : rc;
        }
    return MQL_OK; /* it was deleted meanwhile: nobody bounds any more */
}

int64_t mql_shares_unfinished(mql_log *log, int64_t from, int64_t to) {
    uint32_t generation;
    int rc = find_all(log, &generation);
    if (rc < 0) return rc;
    for (mql_share *share = first(log); share != NULL; share = share->next)
        if (!is_removed(share) && to >= 0) to = mql_census_unfinished(share, from, to);
    return to;
}

int mql_shares_all(mql_log *log, int *count) {
    uint32_t generation;
    int rc = find_all(log, &generation);
    *count = 0;
    for (mql_share *share = first(log); rc == MQL_OK && share != NULL; share = share->next)
        *count += !is_removed(share);
    return rc;
}

int mql_shares_run(mql_log *log, int64_t *from, int64_t *to) {
    int64_t start = *to, stop = *to;
    for (mql_share *share = first(log); share != NULL; share = share->next) {
        int64_t a = *from, b = mql_base_min(start + (start < *to), *to);
        if (is_removed(share)) continue;
        int rc = mql_census_run(share, &a, &b);
        if (rc < 0 && !is_removed(share)) return rc;
        if (rc < 0 || a >= b || a > start) continue;
        stop = a < start || stop < b ? b : stop;
        start = a;
    }
    *from = start;
    *to = stop;
    return MQL_OK;
}

int64_t mql_shares_reached(mql_log *log) {
    int64_t least = INT64_MAX;
    for (mql_share *share = first(log); share != NULL; share = share->next)
        if (!is_removed(share))
            least = mql_base_min(least, atomic_load_explicit(&share->live.map->end,
                                                             memory_order_acquire));
    return least;
}

uint64_t mql_shares_changes(mql_log *log) {
    uint64_t sum =
        atomic_load_explicit(&log->control->shares_generation, memory_order_relaxed);
    for (mql_share *share = first(log); share != NULL; share = share->next)
        sum += atomic_load_explicit(&share->live.map->changes, memory_order_relaxed);
    return sum;
}

/* -- keeping ----------------------------------------------------------------------------------- */
bool mql_shares_lag(mql_log *log, int64_t now_ns, int64_t most_ns) {
    bool lag = false;
    for (mql_share *share = first(log); share != NULL; share = share->next) {
        if (is_removed(share) || share->live.map == NULL) continue;
        uint64_t synced = atomic_load_explicit(&share->live.map->synced, memory_order_acquire);
        uint64_t owed = atomic_load_explicit(&share->live.map->owed, memory_order_acquire);
        bool stands = owed > synced && synced == share->lagging_synced && share->lagging_ns != 0;
        if (stands && now_ns - share->lagging_ns <= most_ns) continue;
        lag = lag || stands;
        share->lagging_synced = synced;
        share->lagging_ns = now_ns;
    }
    return lag;
}

static int keep_one(mql_share *share) {
    mql_live *live = &share->live;
    int rc = MQL_OK;
    uint32_t retired = mql_live_retired(live), clean = mql_live_clean(live); /* hints */
    if (retired >= RECYCLE_AT || (retired > 0 && clean == 0)) {
        rc = mql_reserve_recycle(&share->live);
        if (rc == MQL_OK) rc = mql_reserve_give_back(&share->live);
    }
    uint64_t changes = atomic_load_explicit(&live->map->changes, memory_order_acquire);
    if (rc >= 0) rc = mql_reserve_sync(&share->live, changes);
    return rc < 0 ? rc : MQL_OK;
}

int mql_shares_sync_one(mql_share *share) {
    uint64_t changes = atomic_load_explicit(&share->live.map->changes, memory_order_acquire);
    int rc = is_removed(share) ? MQL_OK : mql_reserve_sync(&share->live, changes);
    return is_removed(share) ? MQL_OK : rc;
}

int mql_shares_sync(mql_log *log) {
    int result = MQL_OK;
    if (mql_log_usable(log) < 0) return MQL_OK; /* the topic is gone, and they with it */
    for (mql_share *share = first(log); share != NULL; share = share->next) {
        int rc = mql_shares_sync_one(share);
        if (rc == MQL_E_LATER) return rc;
        if (rc < 0) result = rc;
    }
    return result;
}

int mql_shares_keep(mql_log *log) {
    int result = MQL_OK;
    for (mql_share *share = first(log); share != NULL; share = share->next) {
        int rc = is_removed(share) ? MQL_OK : keep_one(share);
        if (rc < 0 && !is_removed(share)) result = rc;
    }
    return result;
}

void mql_shares_recycle(mql_log *log) {
    for (mql_share *share = first(log); share != NULL; share = share->next) {
        if (is_removed(share)) continue;
        bool low = mql_reserve_is_low(&share->live);
        /* Some more, too, where there is space: for as long as it takes to recycle others. */
        if (low && mql_reserve_recycle(&share->live) >= 0)
            (void)mql_reserve_some(&share->live, 2 * MQL_RESERVE_LOW);
        if (low || mql_reserve_is_unready(&share->live)) mql_reserve_populate(&share->live);
    }
}

void mql_shares_populate(mql_log *log) {
    for (mql_share *share = first(log); share != NULL; share = share->next)
        if (!is_removed(share)) mql_reserve_populate(&share->live);
}

void mql_shares_let_go(mql_log *log) {
    for (mql_share *share = first(log); share != NULL; share = share->next)
        if (!is_removed(share)) mql_share_let_go(share);
}

/* -- the end ----------------------------------------------------------------------------------- */
/* From the mark on nobody is waited for: half a removal could not be made again. Appends look for
 * slots again before it, then; no group is opened meanwhile. */
static int remove_gated(mql_share *share) {
    mql_log *log = share->live.log;
    int rc = mql_share_reap(share);
    if (rc >= 0) rc = forget_ready(log);
    if (rc >= 0) rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    bool held = atomic_load_explicit(&share->live.map->acquired, memory_order_relaxed) > 0;
    if (!held) atomic_store_explicit(&share->live.map->removed, 1, memory_order_release);
    mql_share_leave(share);
    if (held) return MQL_BUSY;
    rc = unlink_files(log, share->name);
    atomic_fetch_add_explicit(&log->control->shares_generation, 1, memory_order_release);
    mql_log_wake_everybody(log);
    return rc;
}

int mql_shares_remove(mql_share *share) {
    mql_log_home *home = share->live.log->home;
    int rc = mql_log_writable(share->live.log);
    if (rc == MQL_OK) rc = home->gate(home->context);
    if (rc != MQL_OK) return rc;
    rc = remove_gated(share);
    home->ungate(home->context);
    return rc;
}

void mql_shares_unmap_all(mql_log *log) {
    for (mql_share *share = first(log); share != NULL; share = share->next)
        mql_live_close(&share->live);
}

void mql_shares_free_all(mql_log *log) {
    mql_share *share = first(log);
    atomic_store_explicit(&log->shares, NULL, memory_order_relaxed);
    while (share != NULL) {
        mql_share *next = share->next;
        free_share(share);
        share = next;
    }
}
