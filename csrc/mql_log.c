/* mql_log.c - a partition as one process sees it.
 *
 * The shared page says where the log ends; the directory says which segments there are. Both are
 * looked at again whenever a generation in the page has moved, so a process never acts on a segment
 * that another one has taken away, and never misses one that another one has made. The table of
 * segments is guarded by a private lock that is never held in a system call: files are opened
 * outside it and put in after.
 */
#include "mql_log.h"

#include "mql_remove.h"
#include "mql_snapshot.h"

#include <errno.h>
#include <stdio.h>

/* -- use --------------------------------------------------------------------------------------- */
int mql_log_usable(mql_log *log) {
    int gone = atomic_load_explicit(&log->home->gone, memory_order_acquire);
    if (MQL_UNLIKELY(gone != 0))
        return mql_base_fail(
            gone, log->directory,
            gone == MQL_E_FORKED
                ? "the store was opened before a fork: open it again in this process"
                : "the store is closed");
    if (log->control != NULL &&
        MQL_UNLIKELY((atomic_load_explicit(&log->control->state, memory_order_relaxed) &
                      MQL_STATE_DELETED) != 0))
        return mql_base_fail(MQL_E_DELETED, log->directory, "the topic was deleted");
    return MQL_OK;
}

int mql_log_not_writable(mql_log *log) {
    if (log->home->read_only)
        return mql_base_fail(MQL_E_READ_ONLY, log->directory,
                             "the store is open for reading only: open it with mode=\"rw\"");
    int rc = mql_log_usable(log);
    return rc < 0 ? rc : mql_base_fail(MQL_E_CLOSED, log->directory, "the store is closed");
}

static void lock_table(mql_log *log) { mql_os_mutex_take(&log->table, -1); }
static void unlock_table(mql_log *log) { mql_os_mutex_drop(&log->table); }

/* How a read-only store found it: replaced as a whole by mql_log_refresh. */
static mql_recover_state snapshot(mql_log *log) {
    lock_table(log);
    mql_recover_state found = log->snapshot;
    unlock_table(log);
    return found;
}

void mql_log_end(mql_log *log, mql_control_end *out) {
    if (log->control == NULL)
        *out = snapshot(log).end;
    else
        mql_control_read(&log->control->published, out);
}

void mql_log_durable(mql_log *log, mql_control_end *out) {
    if (log->control == NULL)
        *out = snapshot(log).durable;
    else
        mql_control_read(&log->control->durable, out);
}

int64_t mql_log_sealed(mql_log *log) {
    if (log->control == NULL) return snapshot(log).sealed;
    return atomic_load_explicit(&log->control->sealed, memory_order_acquire);
}

int mql_log_in_place(mql_log *log) {
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    snprintf(path, sizeof path, "%s/control", log->directory);
    int rc = mql_os_stat_name(log->home->root, path, &stat);
    if (rc == 0 && stat.inode == log->control->inode) return MQL_OK;
    if (rc < 0 && rc != -ENOENT && rc != -ENOTDIR)
        return mql_base_fail_os(rc, path, "cannot see whether the topic is still there");
    return mql_base_fail(MQL_E_DELETED, log->directory, "the topic was deleted");
}

int64_t mql_log_start(mql_log *log) {
    if (log->control == NULL) return snapshot(log).log_start;
    return atomic_load_explicit(&log->control->log_start, memory_order_acquire);
}

void mql_log_readable_end(mql_log *log, mql_control_end *out) {
    if (log->control != NULL && mql_log_is_sync(log))
        mql_log_durable(log, out);
    else
        mql_log_end(log, out);
}

int mql_log_take_after(mql_log *log, mql_os_mutex *mutex, int tried, int64_t timeout_ns,
                       uint32_t *owed) {
    if (tried == MQL_OS_BUSY && timeout_ns > 0) tried = mql_os_mutex_take(mutex, timeout_ns);
    if (tried == MQL_OS_BUSY) return MQL_TIMEOUT;
    if (tried < 0) return mql_base_fail_os(tried, log->directory, "cannot take a shared lock");
    if (tried != MQL_OS_OWNER_DIED) return MQL_OK;
    if (owed != NULL) *owed = 1;
    mql_os_mutex_consistent(mutex);
    return MQL_OK;
}

int mql_log_lock(mql_log *log, mql_os_mutex *mutex, uint32_t *owed) {
    int rc, usable;
    do {
        rc = mql_base_later(mql_log_take(log, mutex, mql_base_slice(MQL_SLICE_NS), owed));
        usable = mql_log_usable(log);
    } while (rc == MQL_TIMEOUT && usable == MQL_OK);
    if (usable == MQL_OK) return rc;
    if (rc == MQL_OK) mql_os_mutex_drop(mutex);
    return usable;
}

/* -- the table of segments --------------------------------------------------------------------- */
mql_segment_options mql_log_segment_options(mql_log *log) {
    return (mql_segment_options){
        .root = log->home->root,
        .directory = log->directory,
        .capacity = mql_base_round_up(
            atomic_load_explicit(&log->segment_bytes, memory_order_relaxed), MQL_PAGE),
        .read_only = log->home->read_only,
        .writable = !log->home->read_only,
        .gaps = atomic_load_explicit(&log->cleanup, memory_order_relaxed) == MQL_CLEANUP_COMPACT};
}

/* The slot of the greatest base <= offset, or -1. Under the table lock. */
static int64_t floor_locked(const mql_log *log, int64_t offset) {
    size_t low = 0, high = log->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (log->slots[middle].base <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)low - 1;
}

static int reserve_locked(mql_log *log, size_t wanted) {
    if (wanted <= log->capacity) return MQL_OK;
    size_t capacity = wanted + wanted / 2 + 16;
    mql_log_slot *slots = mql_os_allocate_memory(capacity * sizeof *slots);
    if (slots == NULL)
        return mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for the segments");
    if (log->count > 0) memcpy(slots, log->slots, log->count * sizeof *slots);
    mql_os_free_memory(log->slots);
    log->slots = slots;
    log->capacity = capacity;
    return MQL_OK;
}

static uint32_t segments_generation(const mql_log *log) {
    if (log->control == NULL) return 1;
    return atomic_load_explicit(&log->control->segments_generation, memory_order_acquire);
}

/* Makes the table what the listing says, keeping what is mapped; the dropped references go to
 * `dropped`. */
static int merge_locked(mql_log *log, const mql_recover_listing *listing, mql_log_slot **dropped,
                        size_t *count) {
    mql_log_slot *slots = mql_os_allocate_memory((listing->count + 1) * sizeof *slots);
    if (slots == NULL)
        return mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for the segments");
    for (size_t i = 0; i < listing->count; i++) {
        slots[i].base = listing->bases[i];
        int64_t at = floor_locked(log, listing->bases[i]);
        if (at < 0 || log->slots[at].base != listing->bases[i]) continue;
        slots[i].segment = log->slots[at].segment;
        log->slots[at].segment = NULL;
    }
    *dropped = log->slots;
    *count = log->count;
    log->slots = slots;
    log->count = listing->count;
    log->capacity = listing->count + 1;
    return MQL_OK;
}

static uint32_t rewrites(const mql_log *log) {
    if (log->control == NULL) return 0;
    return atomic_load_explicit(&log->control->rewrites, memory_order_acquire);
}

bool mql_log_replaced(mql_log *log, const mql_segment *segment) {
    mql_os_stat stat;
    int rc = mql_os_stat_name(log->home->root, segment->path, &stat);
    return rc == -ENOENT || (rc == 0 && stat.inode != segment->inode);
}

/* Whether a mapped segment is the file of its name still: looked at once for each rewriting. */
static bool is_current(mql_log *log, mql_segment *segment, uint32_t now) {
    if (atomic_load_explicit(&segment->looked, memory_order_acquire) == now) return true;
    if (mql_log_replaced(log, segment)) return false;
    atomic_store_explicit(&segment->looked, now, memory_order_release);
    return true;
}

/* Takes the mapping out of the table, if it is there. */
static void forget_segment(mql_log *log, const mql_segment *segment) {
    mql_segment *old = NULL;
    lock_table(log);
    int64_t at = floor_locked(log, segment->base);
    if (at >= 0 && log->slots[at].segment == segment) {
        old = log->slots[at].segment;
        log->slots[at].segment = NULL;
    }
    unlock_table(log);
    mql_segment_release(old);
}

/* Gives back mappings of files that others have replaced: an unlinked file's blocks live as long as
 * they do. */
static void forget_replaced(mql_log *log, bool forced) {
    uint32_t now = rewrites(log);
    lock_table(log);
    bool fresh = !forced && log->rewrites_seen == now;
    log->rewrites_seen = now;
    unlock_table(log);
    for (int64_t after = -1; !fresh;) {
        mql_segment *segment = NULL;
        lock_table(log);
        size_t at = (size_t)(floor_locked(log, after) + 1);
        while (at < log->count && log->slots[at].segment == NULL) at++;
        if (at < log->count) segment = mql_segment_retain(log->slots[at].segment);
        unlock_table(log);
        if (segment == NULL) return;
        after = segment->base;
        bool current = forced ? !mql_log_replaced(log, segment) : is_current(log, segment, now);
        if (!current) forget_segment(log, segment);
        mql_segment_release(segment);
    }
}

/* Lists the directory again if segments came or went since the last time. */
static int relist(mql_log *log, bool forced) {
    uint32_t generation = segments_generation(log);
    lock_table(log);
    bool fresh = !forced && log->segments_seen == generation;
    unlock_table(log);
    if (fresh) return MQL_OK;
    mql_recover_listing listing;
    int rc = mql_recover_list(log->home->root, log->directory, &listing);
    if (rc < 0) {
        int usable = mql_log_usable(log);
        return usable < 0 ? usable : rc;
    }
    mql_log_slot *dropped = NULL;
    size_t count = 0;
    lock_table(log);
    /* It is old; unless the word has gone back, which it does when it is damaged. */
    bool late = log->count > 0 && (int32_t)(log->segments_seen - generation) > 0 &&
                (int32_t)(segments_generation(log) - log->segments_seen) >= 0;
    if (!late) rc = merge_locked(log, &listing, &dropped, &count);
    if (!late && rc == MQL_OK) log->segments_seen = generation;
    unlock_table(log);
    mql_recover_listing_free(&listing);
    for (size_t i = 0; i < count; i++) mql_segment_release(dropped[i].segment);
    mql_os_free_memory(dropped);
    if (rc == MQL_OK) forget_replaced(log, forced);
    return rc;
}

int mql_log_relist(mql_log *log) { return relist(log, true); }

void mql_log_forget(mql_log *log) { (void)relist(log, false); }

mql_segment *mql_log_mapped(mql_log *log, int64_t base) {
    mql_segment *segment = NULL;
    lock_table(log);
    int64_t at = floor_locked(log, base);
    if (at >= 0 && log->slots[at].base == base && log->slots[at].segment != NULL)
        segment = mql_segment_retain(log->slots[at].segment);
    unlock_table(log);
    return segment;
}

/* Puts `segment` (a reference is taken over) where `base` stands or belongs; an older mapping goes.
 */
static void insert_locked(mql_log *log, mql_segment *segment, mql_segment **old) {
    int64_t at = floor_locked(log, segment->base);
    if (at >= 0 && log->slots[at].base == segment->base) {
        *old = log->slots[at].segment;
        log->slots[at].segment = segment;
        return;
    }
    if (log->count == log->capacity) { /* the table is a cache: the next listing makes room */
        *old = segment;
        return;
    }
    size_t place = (size_t)(at + 1);
    memmove(log->slots + place + 1, log->slots + place, (log->count - place) * sizeof *log->slots);
    log->slots[place] = (mql_log_slot){.base = segment->base, .segment = segment};
    log->count++;
}

void mql_log_add_segment(mql_log *log, mql_segment *segment) {
    mql_segment *old = NULL;
    lock_table(log);
    insert_locked(log, segment, &old);
    unlock_table(log);
    mql_segment_release(old);
}

int mql_log_segment(mql_log *log, int64_t base, mql_segment **out) {
    uint32_t now = rewrites(log); /* before the name is looked up */
    mql_segment *segment = mql_log_mapped(log, base);
    mql_segment_options options = mql_log_segment_options(log);
    mql_control_end end;
    mql_log_end(log, &end);
    if (segment != NULL && base != end.segment && !is_current(log, segment, now)) {
        mql_segment_release(segment);
        segment = NULL;
    }
    /* The mapping must reach all that may be read or appended: the bound on segments may have
     * grown. */
    int64_t reach =
        segment == NULL ? 0 : atomic_load_explicit(&segment->length, memory_order_relaxed);
    if (base == end.segment) reach = mql_base_max(options.capacity, end.position);
    if (base == end.segment && log->control != NULL)
        reach = mql_base_max(reach,
                             atomic_load_explicit(&log->control->allocated, memory_order_relaxed));
    if (segment != NULL && (segment->map == NULL || (int64_t)segment->map_length >= reach)) {
        *out = segment;
        return MQL_OK;
    }
    mql_segment_release(segment);
    int rc = mql_segment_open(&options, base, &segment);
    if (rc < 0) return rc;
    atomic_store_explicit(&segment->looked, now, memory_order_relaxed);
    mql_segment *old = NULL;
    lock_table(log);
    rc = reserve_locked(log, log->count + 1);
    if (rc == MQL_OK) insert_locked(log, mql_segment_retain(segment), &old);
    unlock_table(log);
    mql_segment_release(old);
    *out = segment;
    return MQL_OK;
}

int mql_log_locate(mql_log *log, int64_t offset, int64_t *base, int64_t *next_base) {
    int rc = relist(log, false);
    if (rc < 0) return rc;
    lock_table(log);
    int64_t at = floor_locked(log, offset);
    if (at >= 0) {
        *base = log->slots[at].base;
        *next_base = (size_t)at + 1 < log->count ? log->slots[at + 1].base : INT64_MAX;
    }
    int64_t first = log->count > 0 ? log->slots[0].base : 0;
    unlock_table(log);
    if (at >= 0) return MQL_OK;
    mql_control_end end;
    mql_log_end(log, &end);
    return mql_base_fail_range(offset, mql_base_max(first, mql_log_start(log)), end.offset);
}

int mql_log_bases(mql_log *log, int64_t **bases, size_t *count) {
    int rc = relist(log, false);
    if (rc < 0) return rc;
    lock_table(log);
    int64_t *copy = mql_os_allocate_memory((log->count + 1) * sizeof *copy);
    for (size_t i = 0; copy != NULL && i < log->count; i++) copy[i] = log->slots[i].base;
    *count = log->count;
    unlock_table(log);
    if (copy == NULL)
        return mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for the segments");
    *bases = copy;
    return MQL_OK;
}

/* -- epochs ------------------------------------------------------------------------------------ */
static void reload_epochs(mql_log *log, uint32_t generation) {
    mql_epoch_table fresh, old;
    if (mql_epoch_load(log->home->root, log->directory, &fresh) < 0) return;
    lock_table(log);
    old = log->epochs;
    log->epochs = fresh;
    log->epochs_seen = generation;
    unlock_table(log);
    mql_epoch_free(&old);
}

int32_t mql_log_epoch_at(mql_log *log, int64_t offset, int64_t *next_start) {
    if (log->control != NULL) {
        uint32_t generation =
            atomic_load_explicit(&log->control->epochs_generation, memory_order_acquire);
        lock_table(log);
        bool stale = log->epochs_seen != generation;
        unlock_table(log);
        if (stale) reload_epochs(log, generation);
    }
    lock_table(log);
    int32_t epoch = mql_epoch_at(&log->epochs, offset, next_start);
    unlock_table(log);
    return epoch;
}

/* -- opening ----------------------------------------------------------------------------------- */
void mql_log_set(mql_log *log, const mql_log_options *options) {
    /* Files are whole pages, and none may be larger than Kafka opens. */
    int64_t most = mql_base_round_down(MQL_SEGMENT_BYTES_MAX, MQL_PAGE);
    atomic_store_explicit(&log->segment_bytes, mql_base_min(options->segment_bytes, most),
                          memory_order_relaxed);
    atomic_store_explicit(&log->batch_bytes, options->batch_bytes, memory_order_relaxed);
    atomic_store_explicit(&log->max_message_bytes, options->max_message_bytes,
                          memory_order_relaxed);
    atomic_store_explicit(&log->sync_interval_ns, options->sync_interval_ns, memory_order_relaxed);
    atomic_store_explicit(&log->retention_bytes, options->retention_bytes, memory_order_relaxed);
    atomic_store_explicit(&log->retention_age_ms, options->retention_age_ms, memory_order_relaxed);
    atomic_store_explicit(&log->dedupe_ms, options->dedupe_ms, memory_order_relaxed);
    atomic_store_explicit(&log->durability, options->durability, memory_order_relaxed);
    atomic_store_explicit(&log->cleanup, options->cleanup, memory_order_relaxed);
}

static void tell(void *context, int row, int64_t segment, int64_t position, int64_t bytes,
                 const char *file) {
    mql_log *log = context;
    mql_recovered what = {.partition = log->partition,
                          .row = row,
                          .segment = segment,
                          .position = position,
                          .bytes = bytes};
    snprintf(what.topic, sizeof what.topic, "%s", log->topic);
    snprintf(what.file, sizeof what.file, "%s", file);
    log->home->recovered(log->home->context, &what);
}

/* Of a second look: what there was to tell was told at the first. */
static void tell_nothing(void *context, int row, int64_t segment, int64_t position, int64_t bytes,
                         const char *file) {
    (void)context, (void)row, (void)segment, (void)position, (void)bytes, (void)file;
}

static mql_recover_task recover_task(mql_log *log, mql_format_control *found,
                                     const mql_control_identity *identity) {
    return (mql_recover_task){
        .root = log->home->root,
        .directory = log->directory,
        .control = found,
        .identity = identity,
        .segment_bytes = atomic_load_explicit(&log->segment_bytes, memory_order_relaxed),
        .mode = log->home->mode,
        .gaps = atomic_load_explicit(&log->cleanup, memory_order_relaxed) == MQL_CLEANUP_COMPACT,
        .look_only = log->home->read_only,
        .live = log->home->read_only && log->home->live,
        .tell = tell,
        .context = log};
}

static void control_path(const mql_log *log, char path[MQL_PATH_MAX]) {
    snprintf(path, MQL_PATH_MAX, "%s/control", log->directory);
}

static void identity_of(const mql_log *log, const mql_os_stat *stat, mql_control_identity *out) {
    memset(out, 0, sizeof *out);
    memcpy(out->boot, log->home->identity.boot, sizeof out->boot);
    out->device = stat->device;
    out->inode = stat->inode;
    out->mount = stat->mount;
}

/* Opens, allocates and maps the shared page. */
static int map_control(mql_log *log, mql_control_identity *identity) {
    char path[MQL_PATH_MAX];
    control_path(log, path);
    mql_os_file file;
    int rc =
        mql_os_open(log->home->root, path, MQL_OS_WRITE | MQL_OS_CREATE, log->home->mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open");
    mql_os_stat stat;
    void *map = NULL;
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && mql_os_lacks_blocks(&stat, MQL_CONTROL_BYTES))
        rc = mql_os_allocate(file, 0, MQL_CONTROL_BYTES);
    if (rc == 0) rc = mql_os_map(file, MQL_CONTROL_BYTES, true, &map);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot map");
    log->control = map;
    identity_of(log, &stat, identity);
    /* A page that fails its CRC is not believed in anything: it is volatile. */
    if (mql_control_is_sound(log->control) &&
        mql_format_is_newer(log->control->layout, log->control->oldest_writer))
        return mql_base_fail(MQL_E_FORMAT, path,
                             "written by a newer mqlog (layout %u, this one knows %u)",
                             log->control->layout, MQL_LAYOUT);
    return MQL_OK;
}

/* The derived words of the active segment's tail, from its index and its last batches. */
static int set_tail(mql_log *log, const mql_recover_state *state, int64_t *allocated) {
    mql_format_control *control = log->control;
    mql_index_tail tail = mql_index_tail_of(control);
    mql_index_tail_reset(&tail);
    *allocated = 0;
    mql_segment *segment;
    int rc = mql_log_segment(log, state->end.segment, &segment);
    if (rc < 0) return rc;
    *allocated = atomic_load_explicit(&segment->length, memory_order_relaxed);
    mql_segment_options options = mql_log_segment_options(log);
    if (state->end.position > 0 &&
        mql_segment_open_tail(segment, &options, log->home->mode) == MQL_OK) {
        mql_segment_window window = {0};
        mql_index_place place = {
            .root = options.root, .directory = options.directory, .base = segment->base};
        mql_segment_rebuild_index(segment, &window, &tail, &place, state->end.position,
                                  state->end.offset);
    }
    mql_segment_release(segment);
    return MQL_OK;
}

/* Brings the partition in order and makes its page ready. Under the gate. */
static int make_ready(mql_log *log, const mql_control_identity *identity) {
    mql_format_control *control = log->control;
    mql_format_control found = *control;
    mql_recover_task task = recover_task(log, &found, identity);
    mql_recover_state now;
    int rc = mql_recover_run(&task, &log->epochs, &now);
    /* The directory's maker may have died before it wrote them. */
    if (rc == MQL_OK && log->epochs.count == 0 && now.end.offset == 0) {
        rc = mql_epoch_add(&log->epochs, 0, 0);
        if (rc == MQL_OK)
            rc = mql_epoch_save(log->home->root, log->directory, &log->epochs, log->home->mode,
                                false);
    }
    if (rc < 0) return rc;
    atomic_fetch_sub_explicit(&log->home->bell->used_bytes, now.freed, memory_order_relaxed);
    atomic_store_explicit(&control->instance, 0, memory_order_release);
    /* First the ends: a death from here on leaves a page that says where the log ends, or none. */
    bool kept = mql_control_is(control, identity);
    if (kept) mql_control_set(&control->published, &now.end);
    if (kept) mql_control_set(&control->durable, &now.durable);
    rc = mql_control_reset(control, identity);
    if (rc < 0) return rc;
    if (!kept) mql_control_set(&control->published, &now.end);
    if (!kept) mql_control_set(&control->durable, &now.durable);
    control->epoch = now.epoch;
    atomic_store_explicit(&control->replacing, now.replacing, memory_order_relaxed);
    atomic_store_explicit(&control->ceiling, now.ceiling, memory_order_relaxed);
    atomic_store_explicit(&control->log_start, now.log_start, memory_order_relaxed);
    atomic_store_explicit(&control->sealed, now.sealed, memory_order_relaxed);
    /* Its committer died, if there was one; and whoever waited for it. */
    control->needs_resync = now.durable.offset < now.end.offset ? MQL_RESYNC : 0;
    atomic_store_explicit(&control->last_number, now.last_number, memory_order_relaxed);
    atomic_store_explicit(&control->segments_generation, found.segments_generation + 1,
                          memory_order_relaxed);
    atomic_store_explicit(&control->epochs_generation, found.epochs_generation + 1,
                          memory_order_relaxed);
    int64_t allocated;
    rc = set_tail(log, &now, &allocated);
    if (rc < 0) return rc;
    atomic_store_explicit(&control->allocated, allocated, memory_order_relaxed);
    atomic_store_explicit(&control->instance, log->home->instance, memory_order_release);
    return MQL_OK;
}

static int look(mql_log *log, bool first) {
    mql_control_identity identity;
    identity_of(log, &(mql_os_stat){0}, &identity);
    mql_recover_task task = recover_task(log, NULL, &identity);
    mql_recover_state now;
    mql_segment *last;
    mql_epoch_table epochs = {0};
    if (!first) task.tell = tell_nothing;
    int rc = mql_snapshot_take(&task, &epochs, &now, &last);
    if (rc < 0) return rc;
    lock_table(log);
    mql_epoch_table old = log->epochs;
    mql_segment *before = log->last;
    log->epochs = epochs;
    log->snapshot = now;
    log->last = last;
    unlock_table(log);
    mql_epoch_free(&old);
    mql_segment_release(before);
    return MQL_OK;
}

bool mql_log_holds_end(mql_log *log, const mql_segment *segment) {
    lock_table(log);
    bool same = log->last == NULL || log->last->inode == segment->inode;
    unlock_table(log);
    return same;
}

int mql_log_refresh(mql_log *log) {
    int rc = look(log, false);
    return rc < 0 ? rc : relist(log, true);
}

static int make_partition(mql_log *log) {
    int rc = mql_os_make_directory(log->home->root, log->directory, 0700);
    if (rc < 0 && rc != -EEXIST)
        return mql_base_fail_os(rc, log->directory, "cannot make the partition's directory");
    mql_os_file opened;
    rc = mql_os_open_directory(log->home->root, log->directory, &opened);
    if (rc < 0)
        return mql_base_fail_os(rc, log->directory, "cannot open the partition's directory");
    mql_os_no_copy_on_write(opened); /* best effort: btrfs only */
    mql_os_close(opened);
    mql_recover_listing listing;
    rc = mql_recover_list(log->home->root, log->directory, &listing);
    if (rc < 0) return rc;
    bool empty = listing.count == 0;
    mql_recover_listing_free(&listing);
    if (!empty) return MQL_OK;
    /* Nothing is synced here: the first append syncs all of it before it gives out an offset. */
    mql_epoch_table epochs = {0};
    rc = mql_epoch_load(log->home->root, log->directory, &epochs);
    if (rc == MQL_END) rc = mql_epoch_add(&epochs, 0, 0);
    if (rc == MQL_OK)
        rc = mql_epoch_save(log->home->root, log->directory, &epochs, log->home->mode, false);
    mql_epoch_free(&epochs);
    return rc;
}

static bool is_ready(const mql_log *log, const mql_control_identity *identity) {
    const mql_format_control *control = log->control;
    return atomic_load_explicit(&control->instance, memory_order_acquire) == log->home->instance &&
           mql_control_is(control, identity) &&
           (atomic_load_explicit(&control->state, memory_order_relaxed) & MQL_STATE_DELETED) == 0;
}

/* A page that is in use, but no longer says what it is, was damaged in memory: to make it anew
 * would take the locks from those who hold them. Under the gate. */
static void put_right(mql_log *log, const mql_control_identity *identity) {
    uint64_t instance = atomic_load_explicit(&log->control->instance, memory_order_acquire);
    if (instance == log->home->instance && !mql_control_is_sound(log->control))
        mql_control_name(log->control, identity);
}

static int open_shared(mql_log *log, bool create) {
    mql_os_stat stat;
    int rc = mql_os_stat_name(log->home->root, log->directory, &stat);
    if (rc == -ENOENT && !create)
        return mql_base_fail(MQL_E_NOT_FOUND, log->directory, "the partition is not there");
    if (rc < 0 && rc != -ENOENT)
        return mql_base_fail_os(rc, log->directory, "cannot open the partition");
    if (rc == 0 && stat.kind != MQL_OS_DIRECTORY)
        return mql_base_fail_os(-ENOTDIR, log->directory, "cannot open the partition");
    bool missing = rc == -ENOENT;
    mql_control_identity identity;
    if (missing) {
        rc = log->home->gate(log->home->context);
        if (rc != MQL_OK) return rc;
        rc = make_partition(log);
        log->home->ungate(log->home->context);
        if (rc < 0) return rc;
    }
    rc = map_control(log, &identity);
    if (rc < 0) return rc;
    if (is_ready(log, &identity)) return relist(log, true);
    rc = log->home->gate(log->home->context);
    if (rc != MQL_OK) return rc;
    put_right(log, &identity);
    /* Deleting is done under the gate too: a page that says so under its old name belongs to a
     * deleter that died before it took the directory away. */
    if (!is_ready(log, &identity)) rc = make_ready(log, &identity);
    log->home->ungate(log->home->context);
    return rc < 0 ? rc : relist(log, true);
}

int mql_log_open(mql_log_home *home, const char *topic, int partition, bool create,
                 const mql_log_options *options, mql_log **out) {
    mql_log *log = mql_os_allocate_memory(sizeof *log);
    if (log == NULL) return mql_base_fail(MQL_E_MEMORY, NULL, "no memory for a partition");
    log->home = home;
    log->partition = partition;
    snprintf(log->topic, sizeof log->topic, "%s", topic);
    snprintf(log->directory, sizeof log->directory, "%s-%d", topic, partition);
    mql_os_mutex_init_private(&log->table);
    atomic_init(&log->populated_segment, -1);
    mql_log_set(log, options);
    int rc;
    if (home->read_only) {
        rc = look(log, true);
        if (rc == MQL_OK) rc = relist(log, true);
    } else {
        rc = open_shared(log, create);
    }
    if (rc != MQL_OK) {
        mql_log_free(log);
        return rc;
    }
    *out = log;
    return MQL_OK;
}

void mql_log_unmap(mql_log *log) {
    for (size_t i = 0; i < log->count; i++) mql_segment_leave(log->slots[i].segment);
    log->count = 0;
    mql_segment_leave(log->active);
    mql_segment_leave(log->last);
    log->active = log->last = NULL;
    mql_segment_leave(atomic_exchange_explicit(&log->prepared, NULL, memory_order_relaxed));
    if (log->control != NULL) mql_os_unmap(log->control, MQL_CONTROL_BYTES);
    log->control = NULL;
}

void mql_log_free(mql_log *log) {
    if (log == NULL) return;
    mql_log_unmap(log);
    mql_os_free_memory(log->slots);
    mql_epoch_free(&log->epochs);
    mql_os_free_memory(log);
}

/* -- waiting ----------------------------------------------------------------------------------- */
int mql_log_wait(mql_log *log, int64_t offset, int64_t timeout_ns) {
    int rc = mql_log_writable(log);
    if (rc < 0) return rc;
    mql_format_control *control = log->control;
    if (mql_log_is_sync(log))
        rc = mql_control_wait(&control->waiters_durable, &control->durable, offset, timeout_ns);
    else
        rc = mql_control_wait(&control->waiters_published, &control->published, offset, timeout_ns);
    int usable = mql_log_usable(log);
    return usable < 0 ? usable : rc;
}

void mql_log_wake_everybody(mql_log *log) {
    mql_control_wake_all(log->control);
    atomic_fetch_add_explicit(&log->home->bell->bell, 1, memory_order_release);
    mql_os_wake(&log->home->bell->bell, INT32_MAX);
}

/* -- the rest ---------------------------------------------------------------------------------- */
int mql_log_sync_directory(mql_log *log, bool root_too) {
    mql_os_file opened;
    int rc = mql_os_open_directory(log->home->root, log->directory, &opened);
    if (rc == 0) {
        rc = mql_os_sync_directory(opened);
        mql_os_close(opened);
    }
    if (rc == 0 && root_too) rc = mql_os_sync_directory(log->home->root);
    return rc < 0 ? mql_base_fail_os(rc, log->directory, "cannot sync the directory") : MQL_OK;
}

int mql_log_describe_from(mql_log *log, int64_t base, mql_log_info *out) {
    int64_t *bases;
    size_t count;
    int rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    mql_control_end end, durable;
    mql_log_end(log, &end);
    mql_log_durable(log, &durable);
    *out = (mql_log_info){.start_offset = mql_log_start(log),
                          .end_offset = end.offset,
                          .durable_offset = durable.offset};
    for (size_t i = 0; i < count; i++) {
        char path[MQL_PATH_MAX];
        mql_os_stat stat;
        if (bases[i] < base) continue;
        out->segments++;
        mql_base_file_name(path, log->directory, bases[i], ".log");
        if (bases[i] == end.segment)
            out->bytes += end.position;
        else if (mql_os_stat_name(log->home->root, path, &stat) == 0)
            out->bytes += stat.size;
    }
    mql_os_free_memory(bases);
    if (log->control != NULL) {
        out->epoch = log->control->epoch;
        out->poisoned = (atomic_load_explicit(&log->control->state, memory_order_relaxed) &
                         MQL_STATE_POISONED) != 0;
    } else {
        out->epoch = log->snapshot.epoch;
    }
    return MQL_OK;
}

static int delete_gated(mql_log *log) {
    int rc = mql_log_writable(log);
    if (rc < 0) return rc;
    char gone[MQL_NAME_MAX + 64];
    snprintf(gone, sizeof gone, "%.200s.%016llx%016llx-delete", log->directory,
             (unsigned long long)mql_os_random(), (unsigned long long)mql_os_random());
    atomic_fetch_or_explicit(&log->control->state, MQL_STATE_DELETED, memory_order_release);
    rc = mql_os_rename(log->home->root, log->directory, gone);
    if (rc < 0) {
        atomic_fetch_and_explicit(&log->control->state, ~(uint32_t)MQL_STATE_DELETED,
                                  memory_order_release);
        return mql_base_fail_os(rc, log->directory, "cannot delete the partition");
    }
    mql_log_wake_everybody(log);
    mql_os_sync_directory(log->home->root);
    return mql_remove_directory(log->home->root, gone);
}

int mql_log_delete(mql_log *log) {
    int rc = mql_log_writable(log);
    if (rc == MQL_OK) rc = log->home->gate(log->home->context);
    if (rc != MQL_OK) return rc;
    rc = delete_gated(log);
    log->home->ungate(log->home->context);
    return rc;
}
