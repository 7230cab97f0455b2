/* mql_append.c - putting records into the log.
 *
 * Why an append is all or nothing. Bytes are stored behind the published end, where no reader
 * looks; one release store of the latch's generation makes all of a call's batches visible. Before
 * the first byte `dirty` says how far there may be bytes, so whoever finds the owner dead zeroes
 * just those and raises the epoch: whole batches behind the end can then never be taken for part of
 * the log.
 *
 * Under the writer lock there is no allocation and no system call but roll's rename. Whatever else
 * an append may need (blocks, a mapping, the next segment, a higher offset ceiling) is named as a
 * `need`, the lock is dropped, the need met, and the append tried again.
 */
#include "mql_append.h"

#include <errno.h>
#include <stdio.h>

#include "mql_commit.h"
#include "mql_room.h"

#define CALL_OFFSETS_MAX ((int64_t)INT32_MAX - (1 << 20)) /* they must fit one segment */
#define TRIES                                                                                      \
    1000000 /* a bound, not a policy: each try means that another writer got in between            \
             */

typedef enum need_kind {
    NEED_NOTHING,
    NEED_MAPPING,
    NEED_ROOM,
    NEED_NEXT,
    NEED_CEILING,
    NEED_SLOTS,
    NEED_REVIVAL,
    NEED_BACKLOG,
    NEED_PREPARE_LOCK
} need_kind;

/* An append under way. */
typedef struct appending {
    mql_log *log;
    const mql_append_source *source;
    int64_t now;
    int64_t limit;   /* bytes of a batch that several records may share */
    int64_t size;    /* bytes, all batches together */
    bool single;     /* one record: one batch of that size */
    int64_t newest;  /* of a single one: its timestamp */
    int64_t offsets; /* offsets that they take */
    int64_t offset;  /* of the first record, once done */
    int64_t end;     /* file position behind, once done */
    need_kind need;  /* why it could not be done yet */
    int64_t wanted;  /* room: up to this position; ceiling: up to this offset */
    int64_t segment; /* to which that applies */
    mql_log_backlog backlog; /* as looked for during this call, or not known */
} appending;

/* -- sizes ------------------------------------------------------------------------------------- */
static int too_large(mql_log *log, int64_t size, int64_t limit, const char *what) {
    int rc = mql_base_fail(MQL_E_TOO_LARGE, log->directory,
                           "%s of %lld bytes are over the limit of %lld", what, (long long)size,
                           (long long)limit);
    mql_base_error()->start = size;
    mql_base_error()->stop = limit;
    return rc;
}

/* The records of the next batch from `at` on, and its size. */
static size_t fit(const appending *append, size_t at, int64_t *size) {
    const mql_append_source *source = append->source;
    size_t left = source->count - at;
    if (source->values != NULL)
        return mql_batch_fit_values(source->values + at, left, append->limit, size);
    return mql_batch_fit_records(source->records + at, left, append->now, append->limit, size);
}

static int measure_batches(appending *append, int64_t most) {
    const mql_append_source *source = append->source;
    for (size_t at = 0; at < source->length;) {
        mql_batch_header header;
        if (source->length - at < MQL_BATCH_HEADER)
            return mql_base_fail(MQL_E_ARGUMENT, append->log->directory,
                                 "the bytes given end inside a batch header");
        mql_batch_read_header(source->batches + at, &header);
        header.base_offset = 0; /* stamped on append; producers may send anything */
        const char *wrong = mql_batch_implausible(&header, (int64_t)(source->length - at));
        if (header.size > most) return too_large(append->log, header.size, most, "batch");
        int32_t last_delta = (int32_t)mql_base_get32(source->batches + at + MQL_BATCH_LAST_DELTA);
        if (wrong != NULL || last_delta < 0)
            return mql_base_fail(MQL_E_ARGUMENT, append->log->directory, "not a batch: %s",
                                 wrong ? wrong : "bad offsets");
        append->offsets += (int64_t)last_delta + 1;
        at += (size_t)header.size;
    }
    append->size = (int64_t)source->length;
    if (append->offsets > CALL_OFFSETS_MAX)
        return mql_base_fail(MQL_E_ARGUMENT, append->log->directory,
                             "one call takes at most %lld offsets", (long long)CALL_OFFSETS_MAX);
    return MQL_OK;
}

static int measure(appending *append) {
    mql_log *log = append->log;
    int64_t most = atomic_load_explicit(&log->max_message_bytes, memory_order_relaxed);
    append->now =
        append->source->timestamp == MQL_NOW ? mql_os_now_ms() : append->source->timestamp;
    if (append->source->batches != NULL) {
        int rc = measure_batches(append, most);
        if (rc < 0) return rc;
    } else {
        append->limit =
            mql_base_min(atomic_load_explicit(&log->batch_bytes, memory_order_relaxed), most);
        for (size_t at = 0; at < append->source->count;) {
            int64_t size;
            at += fit(append, at, &size);
            if (size > most) return too_large(log, size, most, "record with its batch header");
            append->size += size;
        }
        append->offsets = (int64_t)append->source->count;
        append->single = append->source->count == 1 && append->source->records != NULL;
    }
    int64_t segment_bytes = atomic_load_explicit(&log->segment_bytes, memory_order_relaxed);
    if (append->size > segment_bytes)
        return too_large(log, append->size, segment_bytes, "records of one call (segment_bytes)");
    int64_t backlog = mql_log_most_bytes(log);
    if (append->size > backlog)
        return too_large(log, append->size, backlog, "records of one call (the topic's max_bytes)");
    return MQL_OK;
}

/* -- under the writer lock --------------------------------------------------------------------- */
/* Makes this process's mapping of the segment the active one. False: it has none yet. */
static bool adopt_locked(mql_log *log, int64_t base) {
    mql_segment *segment = mql_log_mapped(log, base);
    if (segment == NULL) {
        /* A peer rolled to the next segment, which this process may have mapped and populated. */
        uint64_t number = atomic_load_explicit(&log->control->active_number, memory_order_acquire);
        mql_segment *next = atomic_exchange_explicit(&log->prepared, NULL, memory_order_acq_rel);
        if (next != NULL && next->number == number && number != 0) {
            mql_segment_rename(next, log->directory, base);
            segment = mql_segment_retain(next);
            mql_log_add_segment(log, next);
        } else if (next != NULL) {
            mql_segment *other =
                atomic_exchange_explicit(&log->prepared, next, memory_order_acq_rel);
            mql_segment_release(other);
        }
    }
    if (segment == NULL) return false;
    mql_segment_release(log->active);
    log->active = segment;
    atomic_store_explicit(&log->prepare_at, 0, memory_order_relaxed);
    return true;
}

static int need(appending *append, need_kind what, int64_t segment, int64_t wanted) {
    append->need = what;
    append->segment = segment;
    append->wanted = wanted;
    return MQL_BUSY;
}

/* Gives the prepared segment its name and publishes it, empty: the log goes on there. */
static int roll_locked(appending *append, mql_control_end *end) {
    mql_log *log = append->log;
    mql_format_control *control = log->control;
    uint64_t number = atomic_load_explicit(&control->next_number, memory_order_acquire);
    int64_t allocated = atomic_load_explicit(&control->next_allocated, memory_order_acquire);
    mql_segment *next = atomic_exchange_explicit(&log->prepared, NULL, memory_order_acq_rel);
    if (number == 0 || allocated < append->size || next == NULL || next->number != number) {
        mql_segment_release(atomic_exchange_explicit(&log->prepared, next, memory_order_acq_rel));
        return need(append, NEED_NEXT, end->segment, append->size);
    }
    int rc = mql_log_take(log, &control->prepare, 0, NULL);
    if (rc != MQL_OK) {
        mql_segment_release(atomic_exchange_explicit(&log->prepared, next, memory_order_acq_rel));
        return need(append, NEED_PREPARE_LOCK, end->segment, 0);
    }
    char from[MQL_PATH_MAX];
    snprintf(from, sizeof from, "%s", next->path);
    mql_segment_rename(next, log->directory, end->offset);
    rc = mql_os_rename_new(log->home->root, from, next->path);
    if (rc < 0) {
        if (rc == -ENOENT) { /* a roll that died took it */
            atomic_store_explicit(&control->next_number, 0, memory_order_release);
            mql_os_mutex_drop(&control->prepare);
            mql_segment_release(next);
            return need(append, NEED_NEXT, end->segment, append->size);
        }
        next->base = -1;
        snprintf(next->path, sizeof next->path, "%s", from);
        mql_os_mutex_drop(&control->prepare);
        mql_segment_release(atomic_exchange_explicit(&log->prepared, next, memory_order_acq_rel));
        return mql_base_fail_os(rc, from, "cannot begin a new segment");
    }
    atomic_store_explicit(&control->allocated,
                          atomic_load_explicit(&control->next_allocated, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&control->active_number, number, memory_order_relaxed);
    atomic_store_explicit(&control->next_number, 0, memory_order_relaxed);
    atomic_store_explicit(&control->next_allocated, 0, memory_order_relaxed);
    mql_index_tail tail = mql_index_tail_of(control);
    mql_index_tail_reset(&tail);
    atomic_store_explicit(&control->dirty, 0, memory_order_relaxed);
    *end = (mql_control_end){.segment = end->offset, .position = 0, .offset = end->offset};
    atomic_fetch_add_explicit(&control->segments_generation, 1, memory_order_release);
    mql_control_publish(&control->published, end);
    mql_os_mutex_drop(&control->prepare);
    mql_segment_release(log->active);
    log->active = mql_segment_retain(next);
    mql_log_add_segment(log, next);
    atomic_store_explicit(&log->prepare_at, 0, memory_order_relaxed);
    return MQL_OK;
}

/* Encodes everything at the end of the mapping; notes nothing yet. */
static void encode_locked(appending *append, uint8_t *out, int64_t offset) {
    const mql_append_source *source = append->source;
    int32_t epoch = append->log->control->epoch;
    if (MQL_LIKELY(append->single)) {
        append->newest = mql_batch_write_records(out, append->size, source->records, 1, append->now,
                                                 offset, epoch);
        return;
    }
    if (source->batches != NULL) {
        memcpy(out, source->batches, source->length);
        for (size_t at = 0; at < source->length;) {
            const uint8_t *given = source->batches + at;
            mql_batch_stamp(out + at, offset, epoch);
            offset += (int64_t)mql_base_get32(given + MQL_BATCH_LAST_DELTA) + 1;
            at += MQL_BATCH_LOG_OVERHEAD + mql_base_get32(given + MQL_BATCH_LENGTH);
        }
        return;
    }
    for (size_t at = 0; at < source->count;) {
        int64_t size;
        size_t count = fit(append, at, &size);
        if (source->values != NULL)
            mql_batch_write_values(out, size, source->values + at, count, append->now, offset,
                                   epoch);
        else
            mql_batch_write_records(out, size, source->records + at, count, append->now, offset,
                                    epoch);
        out += size;
        at += count;
        offset += (int64_t)count;
    }
}

static void note_locked(appending *append, int64_t segment, int64_t position) {
    mql_log *log = append->log;
    mql_segment *active = log->active;
    mql_index_tail tail = mql_index_tail_of(log->control);
    mql_index_place place = {.root = log->home->root, .directory = log->directory, .base = segment};
    if (MQL_LIKELY(append->single)) {
        mql_index_note(&active->tail, &tail, &place, append->offset, position, append->size,
                       append->newest);
        return;
    }
    for (int64_t at = position; at < append->end;) {
        mql_batch_header header;
        mql_batch_read_header(active->map + at, &header);
        if (header.size < MQL_BATCH_HEADER) return; /* spoilt since by who may write there */
        mql_index_note(&active->tail, &tail, &place, header.last_offset, at, header.size,
                       header.max_timestamp);
        at += header.size;
    }
}

/* What must hold before bytes may be stored at the end. */
static int ready_locked(appending *append, mql_control_end *end) {
    mql_log *log = append->log;
    mql_format_control *control = log->control;
    if (log->active == NULL || MQL_UNLIKELY(log->active->base != end->segment)) {
        if (!adopt_locked(log, end->segment)) return need(append, NEED_MAPPING, end->segment, 0);
    }
    int64_t behind = end->position + append->size;
    bool full = behind > atomic_load_explicit(&log->segment_bytes, memory_order_relaxed) ||
                end->offset + append->offsets - end->segment > INT32_MAX;
    if (MQL_UNLIKELY(full && end->position > 0)) {
        int rc = roll_locked(append, end);
        if (rc != MQL_OK) return rc;
        behind = append->size;
    }
    if (MQL_UNLIKELY(behind > (int64_t)log->active->map_length ||
                     !atomic_load_explicit(&log->active->tail_open, memory_order_acquire)))
        return need(append, NEED_MAPPING, end->segment, 0);
    if (MQL_UNLIKELY(behind > atomic_load_explicit(&control->allocated, memory_order_acquire)))
        return need(append, NEED_ROOM, end->segment, behind);
    if (MQL_UNLIKELY(end->offset + append->offsets >
                     atomic_load_explicit(&control->ceiling, memory_order_relaxed)))
        return need(append, NEED_CEILING, end->segment, end->offset + append->offsets);
    if (MQL_UNLIKELY(end->offset + append->offsets >
                     atomic_load_explicit(&control->slots_ready, memory_order_relaxed)))
        return need(append, NEED_SLOTS, end->segment, end->offset + append->offsets);
    return MQL_OK;
}

static int full(const appending *append) {
    mql_base_error()->start = append->offsets;
    mql_base_error()->stop = append->size;
    return MQL_FULL;
}

/* Whether the bounds allow it. What is known of the backlog may be out of date, but then it is less
 * by now: it is looked for again before the answer is no. */
static int within_bounds_locked(appending *append, const mql_control_end *end) {
    mql_log *log = append->log;
    if (MQL_UNLIKELY(append->offsets > mql_log_room(log, end->offset))) return full(append);
    int64_t most = mql_log_most_bytes(log);
    if (MQL_LIKELY(most == INT64_MAX)) return MQL_OK;
    const mql_format_live *bounding = mql_log_bounding(log);
    bool looked = append->backlog.segment == end->segment;
    if (looked) log->backlog = append->backlog;
    if (looked) log->backlog_of = bounding;
    bool known = log->backlog_of == bounding && log->backlog.segment == end->segment;
    if (known && log->backlog.before + end->position + append->size <= most) return MQL_OK;
    return looked ? full(append) : need(append, NEED_BACKLOG, end->segment, 0);
}

static int append_locked(appending *append) {
    mql_format_control *control = append->log->control;
    uint32_t state = atomic_load_explicit(&control->state, memory_order_acquire);
    if (MQL_UNLIKELY(state != 0)) {
        int rc = mql_log_usable(append->log);
        return rc < 0 ? rc : need(append, NEED_REVIVAL, -1, 0); /* a sync has failed */
    }
    mql_format_end *slot = mql_control_current(&control->published);
    mql_control_end end = {.segment = atomic_load_explicit(&slot->segment, memory_order_relaxed),
                           .position = atomic_load_explicit(&slot->position, memory_order_relaxed),
                           .offset = atomic_load_explicit(&slot->offset, memory_order_relaxed)};
    int rc = within_bounds_locked(append, &end);
    if (MQL_LIKELY(rc == MQL_OK)) rc = ready_locked(append, &end);
    if (MQL_UNLIKELY(rc != MQL_OK)) return rc;
    append->offset = end.offset;
    append->end = end.position + append->size;
    atomic_store_explicit(&control->dirty, append->end, memory_order_relaxed);
    /* A death between any two instructions finds `dirty` stored first: the compiler must keep that
     * order. */
    atomic_signal_fence(memory_order_seq_cst);
    encode_locked(append, append->log->active->map + end.position, end.offset);
    int64_t position = end.position;
    end.position = append->end;
    end.offset += append->offsets;
    mql_control_publish(&control->published, &end);
    note_locked(append, end.segment, position);
    return MQL_OK;
}

/* -- repair: an owner died, or failed half-way ------------------------------------------------- */
/* Whether what is prepared is another file than the one that a roll has named: it may still have
 * its old name too (mql_os_rename_new), and a peer's background may have made a new one since. */
static bool is_prepared_anew(mql_log *log, const mql_os_stat *named) {
    uint64_t number = atomic_load_explicit(&log->control->next_number, memory_order_relaxed);
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_segment_next_name(path, log->directory, number);
    return number != 0 && mql_os_stat_name(log->home->root, path, &stat) == 0 &&
           stat.inode != named->inode;
}

/* A roll that was renamed and not published is finished. */
static int finish_roll_locked(mql_log *log, mql_control_end *end) {
    mql_format_control *control = log->control;
    if (end->position == 0 && end->offset == end->segment) return MQL_OK;
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_base_file_name(path, log->directory, end->offset, ".log");
    int rc = mql_os_stat_name(log->home->root, path, &stat);
    if (rc == -ENOENT) return MQL_OK;
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot look at the new segment");
    rc = mql_base_later(
        mql_log_take(log, &control->prepare, mql_base_slice(MQL_SLICE_NS), NULL));
    if (rc != MQL_OK)
        return rc < 0 ? rc : mql_base_fail(MQL_E_OS, path, "the prepare lock is held for too long");
    atomic_store_explicit(&control->allocated, stat.size, memory_order_relaxed);
    atomic_store_explicit(&control->active_number, 0, memory_order_relaxed);
    if (!is_prepared_anew(log, &stat))
        atomic_store_explicit(&control->next_number, 0, memory_order_relaxed);
    atomic_store_explicit(&control->dirty, 0, memory_order_relaxed);
    *end = (mql_control_end){.segment = end->offset, .position = 0, .offset = end->offset};
    atomic_fetch_add_explicit(&control->segments_generation, 1, memory_order_release);
    mql_control_publish(&control->published, end);
    mql_os_mutex_drop(&control->prepare);
    return MQL_OK;
}

static int raise_epoch_locked(mql_log *log, int64_t start) {
    mql_epoch_table table;
    int rc = mql_epoch_load(log->home->root, log->directory, &table);
    if (rc < 0) return rc;
    if (log->control->epoch == INT32_MAX)
        return mql_base_fail(MQL_E_FORMAT, MQL_EPOCH_FILE, "no leader epoch is left");
    int32_t epoch = log->control->epoch + 1;
    rc = mql_epoch_add(&table, epoch, start);
    if (rc == MQL_OK)
        rc = mql_epoch_save(log->home->root, log->directory, &table, log->home->mode, true);
    mql_epoch_free(&table);
    if (rc < 0) return rc;
    log->control->epoch = epoch;
    atomic_fetch_add_explicit(&log->control->epochs_generation, 1, memory_order_release);
    return MQL_OK;
}

static int repair_tail_locked(mql_log *log, mql_segment *segment, const mql_control_end *end) {
    mql_segment_options options = mql_log_segment_options(log);
    mql_index_tail tail = mql_index_tail_of(log->control);
    mql_index_tail_reset(&tail);
    if (end->position == 0) return MQL_OK;
    int rc = mql_segment_open_tail(segment, &options, log->home->mode);
    if (rc < 0) return rc;
    mql_segment_window window = {0};
    mql_index_place place = {
        .root = options.root, .directory = options.directory, .base = end->segment};
    mql_index_look_again(&segment->tail, &place); /* the dead owner may have lengthened the files */
    return mql_segment_rebuild_index(segment, &window, &tail, &place, end->position, end->offset);
}

/* Everything under the writer lock but its commit word, the published end, is derived: made again
 * here. */
static int repair_locked(mql_log *log) {
    mql_format_control *control = log->control;
    mql_control_end end;
    mql_control_read(&control->published, &end);
    int rc = finish_roll_locked(log, &end);
    if (rc < 0) return rc;
    mql_segment *segment;
    rc = mql_log_segment(log, end.segment, &segment);
    if (rc < 0) return rc;
    int64_t dirty = atomic_load_explicit(&control->dirty, memory_order_relaxed);
    int64_t allocated = atomic_load_explicit(&control->allocated, memory_order_relaxed);
    dirty = mql_base_min(mql_base_min(dirty, allocated), (int64_t)segment->map_length);
    if (dirty > end.position) {
        mql_control_set(&control->published, &end);
        memset(segment->map + end.position, 0, (size_t)(dirty - end.position));
        rc = raise_epoch_locked(log, end.offset);
    }
    if (rc == MQL_OK) rc = repair_tail_locked(log, segment, &end);
    mql_segment_release(segment);
    if (rc < 0) return rc;
    atomic_store_explicit(&control->dirty, 0, memory_order_relaxed);
    control->needs_repair = 0;
    return MQL_OK;
}

/* After the lock was taken: repairs if its last owner died or an earlier repair failed. On a
 * failure the lock is dropped. */
static int entered(mql_log *log) {
    if (MQL_LIKELY(log->control->needs_repair == 0)) return MQL_OK;
    int rc = repair_locked(log);
    if (rc < 0) {
        mql_os_mutex_drop(&log->control->writer);
        return rc;
    }
    mql_log_wake_everybody(log); /* a dead writer may have published and not woken */
    return MQL_OK;
}

int mql_append_settle(mql_log *log) {
    int rc = mql_log_lock(log, &log->control->writer, &log->control->needs_repair);
    if (rc == MQL_OK) rc = entered(log);
    if (rc == MQL_OK) mql_os_mutex_drop(&log->control->writer);
    return rc;
}

/* -- around the lock --------------------------------------------------------------------------- */
/* A sync has failed: nothing is appended before what it may have lost is written again. */
static int revive(mql_log *log) {
    int rc = mql_commit_revive(log);
    if (rc != MQL_E_DURABILITY) return rc;
    int code = mql_base_error()->os_errno;
    rc = mql_base_fail(MQL_E_DURABILITY, log->directory,
                       "nothing was appended: a sync has failed, and what it may have lost cannot "
                       "be written again yet");
    mql_base_error()->os_errno = code;
    return rc;
}

static int meet(appending *append) {
    mql_log *log = append->log;
    switch (append->need) {
    case NEED_MAPPING: {
        mql_segment *segment;
        int rc = mql_log_segment(log, append->segment, &segment);
        if (rc == MQL_E_NOT_FOUND)
            return mql_log_usable(log); /* rolled and trimmed meanwhile: look again */
        if (rc < 0) return rc;
        mql_segment_options options = mql_log_segment_options(log);
        rc = mql_segment_open_tail(segment, &options, log->home->mode);
        mql_segment_release(segment);
        atomic_store_explicit(&log->remap, true, memory_order_release);
        return rc;
    }
    case NEED_ROOM:
        return mql_room_allocate(log, append->segment, append->wanted);
    case NEED_NEXT:
    case NEED_PREPARE_LOCK:
        return mql_room_next(log, append->size);
    case NEED_CEILING:
        return mql_commit_raise(log, append->wanted);
    case NEED_REVIVAL:
        return revive(log);
    case NEED_SLOTS:
        return log->home->reserve(log, append->wanted);
    case NEED_BACKLOG:
        return log->home->backlog(log, &append->backlog);
    case NEED_NOTHING:
        break;
    }
    return MQL_OK;
}

/* MQL_TIMEOUT: a lock that it takes was not to be had, since who holds it may be stopped. */
static int meet_need(appending *append) {
    mql_base_hurry(true);
    int rc = meet(append);
    mql_base_hurry(false);
    return rc == MQL_E_LATER ? MQL_TIMEOUT : rc;
}

/* After the lock was dropped: wake readers, and this process's helpers once in a while. */
static void after(appending *append) {
    mql_log *log = append->log;
    mql_log_wake(log, &log->control->waiters_published, &log->control->published);
    mql_log_ring(log, append->offsets);
    /* A hint: threads may lose each other's bytes. */
    int64_t appended = atomic_load_explicit(&log->appended, memory_order_relaxed);
    atomic_store_explicit(&log->appended, appended + append->size, memory_order_relaxed);
    if (MQL_UNLIKELY(append->end > atomic_load_explicit(&log->prepare_at, memory_order_relaxed))) {
        atomic_store_explicit(&log->prepare_at, INT64_MAX, memory_order_relaxed);
        atomic_store_explicit(&log->wants_room, true, memory_order_release);
        log->home->want_prepare(log->home->context);
    }
    mql_log_want_sync(log);
}

/* Whatever keeps it from being synced now, it is in the log. */
int mql_append_sync(mql_log *log, int64_t offset) {
    int rc = mql_commit_until(log, offset);
    if (rc == MQL_E_LATER) return MQL_UNSYNCED;
    if (rc != MQL_E_OS && rc != MQL_E_MEMORY) return rc;
    int code = rc == MQL_E_MEMORY ? ENOMEM : mql_base_error()->os_errno;
    rc = mql_base_fail(MQL_E_DURABILITY, log->directory,
                       "it is in the log, but cannot be synced now: it is not known to be on disk");
    mql_base_error()->os_errno = code;
    return rc;
}

/* One try: MQL_OK done; MQL_BUSY: append->need; MQL_TIMEOUT: the lock was not to be had. */
static int try_once(appending *append, bool nowait) {
    mql_format_control *control = append->log->control;
    append->need = NEED_NOTHING;
    int rc = mql_log_take(append->log, &control->writer, nowait ? 0 : MQL_LOCK_SLICE_NS,
                          &control->needs_repair);
    if (MQL_UNLIKELY(rc != MQL_OK)) return rc;
    rc = entered(append->log);
    if (MQL_UNLIKELY(rc < 0)) return rc;
    if (MQL_UNLIKELY(atomic_load_explicit(&append->log->remap, memory_order_acquire))) {
        atomic_store_explicit(&append->log->remap, false, memory_order_relaxed);
        mql_segment_release(append->log->active);
        append->log->active = NULL;
    }
    rc =
        mql_log_writable(append->log); /* again: a closer waits for the lock after it has said so */
    if (MQL_LIKELY(rc == MQL_OK)) rc = append_locked(append);
    mql_os_mutex_drop(&control->writer);
    return rc;
}

int mql_append_source_to(mql_log *log, const mql_append_source *source, int flags,
                         int64_t *offset) {
    int rc = mql_log_writable(log);
    if (MQL_UNLIKELY(rc < 0)) return rc;
    bool durable = (flags & MQL_DURABLE) != 0 || mql_log_is_sync(log);
    if ((flags & MQL_APPEND_UNSYNCED) != 0) durable = false;
    bool nowait = (flags & MQL_NOWAIT) != 0;
    if (durable && nowait) return MQL_BUSY;
    appending append = {.log = log, .source = source, .backlog = {.segment = -1}};
    rc = measure(&append);
    if (MQL_UNLIKELY(rc < 0)) return rc;
    for (int i = 0; i < TRIES; i++) {
        rc = try_once(&append, nowait);
        if (MQL_LIKELY(rc == MQL_OK)) break;
        if ((rc < 0 && rc != MQL_E_LATER) || rc == MQL_FULL) return rc;
        if (nowait) return MQL_BUSY;
        if (rc == MQL_TIMEOUT || rc == MQL_E_LATER) return MQL_TIMEOUT;
        rc = meet_need(&append);
        if (rc < 0 || rc == MQL_TIMEOUT) return rc;
    }
    if (rc != MQL_OK) return MQL_TIMEOUT;
    after(&append);
    *offset = append.offset;
    return durable ? mql_append_sync(log, append.offset + append.offsets) : MQL_OK;
}

int mql_append_one(mql_log *log, const mql_record *record, int flags, int64_t *offset) {
    mql_append_source source = {.records = record, .count = 1, .timestamp = MQL_NOW};
    return mql_append_source_to(log, &source, flags, offset);
}

/* -- rolling ----------------------------------------------------------------------------------- */
static int roll_once(appending *append) {
    mql_log *log = append->log;
    mql_control_end end;
    append->need = NEED_NOTHING;
    int rc = mql_log_lock(log, &log->control->writer, &log->control->needs_repair);
    if (rc == MQL_OK) rc = entered(log);
    if (rc < 0) return rc;
    rc = mql_log_writable(log);
    mql_control_read(&log->control->published, &end);
    uint32_t state = atomic_load_explicit(&log->control->state, memory_order_acquire);
    bool wanted = state == 0 && end.segment == append->segment && end.position > 0;
    if (rc == MQL_OK && wanted) rc = roll_locked(append, &end);
    mql_os_mutex_drop(&log->control->writer);
    return rc;
}

int mql_append_roll(mql_log *log, int64_t segment) {
    int rc = MQL_BUSY;
    for (int i = 0; rc == MQL_BUSY && i < TRIES; i++) {
        appending append = {.log = log, .segment = segment};
        rc = roll_once(&append);
        int met = rc == MQL_BUSY ? meet_need(&append) : MQL_OK;
        if (met < 0) return met;
        if (met == MQL_TIMEOUT) break;
    }
    return rc;
}
