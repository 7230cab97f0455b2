/* mql_rewrite.c - several segments become one that has only some of their records.
 *
 * This is Kafka's cleaner with another question: not which record is the newest of its key, but
 * which is not finished. Batches of which every record is kept are copied byte for byte; of an
 * uncompressed one some records may be left out, its offsets, epoch and first timestamp staying
 * what they were; and the offsets between are used up by empty batches, so that the log stays dense
 * and nobody takes what was left out for what was lost.
 *
 * Who says that a record is finished says so when its turn comes to be written; so what he knows is
 * synced after that, and before the file counts.
 *
 * A batch is copied only if its CRC is right. One that is to be kept and is damaged ends the
 * rewriting: the bytes stay where they are, for whoever may mend them.
 */
#include "mql_rewrite.h"

#include "mql_swap.h"

#include <errno.h>
#include <stdio.h>

#define BUFFER_BYTES ((size_t)256 << 10)

typedef struct rewriting {
    const mql_rewrite *what;
    int64_t at;   /* offsets below it are written */
    size_t number; /* of the segment that is open */
    mql_segment *segment; /* owns a reference; NULL: none is open */
    mql_segment_window window;
    int32_t epoch;    /* of the last batch written */
    bool is_counting; /* nothing is written */
    int64_t most;
    int64_t bytes; /* written or counted */
    mql_os_file file;
    uint8_t *buffer; /* owns */
    size_t buffered;
    uint8_t *thinned; /* owns: a batch that loses records */
    size_t room;      /* in it */
} rewriting;

/* -- output ------------------------------------------------------------------------------------ */
static int flush(rewriting *run) {
    int64_t position = run->bytes - (int64_t)run->buffered;
    int rc = mql_os_write(run->file, run->buffer, run->buffered, position);
    run->buffered = 0;
    return rc < 0 ? mql_base_fail_os(rc, run->what->log->directory, "cannot rewrite a segment")
                  : MQL_OK;
}

static int put(rewriting *run, const uint8_t *bytes, int64_t size) {
    if (run->bytes + size > run->most) return MQL_FULL;
    if (run->is_counting) {
        run->bytes += size;
        return MQL_OK;
    }
    for (int64_t done = 0; done < size;) {
        size_t room = BUFFER_BYTES - run->buffered;
        size_t some = size - done < (int64_t)room ? (size_t)(size - done) : room;
        memcpy(run->buffer + run->buffered, bytes + done, some);
        run->buffered += some;
        run->bytes += (int64_t)some;
        done += (int64_t)some;
        int rc = run->buffered == BUFFER_BYTES ? flush(run) : MQL_OK;
        if (rc < 0) return rc;
    }
    return MQL_OK;
}

/* Uses up the offsets below `until`. */
static int put_empty(rewriting *run, int64_t until) {
    uint8_t batch[MQL_BATCH_HEADER];
    int64_t next_start;
    if (run->at >= until) return MQL_OK;
    int32_t epoch = mql_log_epoch_at(run->what->log, run->at, &next_start);
    if (epoch >= 0) run->epoch = epoch;
    mql_batch_write_empty(batch, run->at, until - 1, run->epoch);
    run->at = until;
    return put(run, batch, sizeof batch);
}

/* -- records left out -------------------------------------------------------------------------- */
static bool make_room(rewriting *run, int64_t size) {
    if (run->room >= (size_t)size) return true;
    mql_os_free_memory(run->thinned);
    run->thinned = mql_os_allocate_memory((size_t)size);
    run->room = run->thinned == NULL ? 0 : (size_t)size;
    return run->thinned != NULL;
}

/* Copies those of a batch's records that are to be kept behind its header in `thinned`. The size of
 * what that makes; -1: it is to be kept as it is. */
static int64_t thin(rewriting *run, const mql_segment_walk *walk) {
    const mql_batch_header *header = &walk->header;
    int64_t from = header->base_offset, to = from, newest = INT64_MIN, size = MQL_BATCH_HEADER;
    int32_t count = 0;
    mql_batch batch = {.base_offset = header->base_offset,
                       .last_offset = header->last_offset,
                       .count = header->count,
                       .base_timestamp = header->base_timestamp,
                       .max_timestamp = header->max_timestamp,
                       .attributes = header->attributes};
    if (header->count < 2 || (header->attributes & ~MQL_BATCH_LOG_APPEND_TIME) != 0 ||
        !make_room(run, header->size))
        return -1;
    memcpy(run->thinned, walk->bytes, (size_t)header->size); /* of shared memory: judged here */
    mql_walk records;
    mql_record_view view;
    const uint8_t *payload = run->thinned + MQL_BATCH_HEADER;
    mql_batch_walk_start(&records, &batch, payload, (size_t)(header->size - MQL_BATCH_HEADER));
    for (const uint8_t *record = records.at; mql_batch_walk_next(&records, &view) == MQL_OK;
         record = records.at) {
        if (view.offset >= to) {
            from = view.offset, to = header->last_offset + 1;
            if (run->what->keep(run->what->context, &from, &to) < 0) return -1;
        }
        if (view.offset < from) continue;
        size_t length = (size_t)(records.at - record);
        memmove(run->thinned + size, record, length);
        size += (int64_t)length;
        newest = mql_base_max(newest, view.timestamp);
        count++;
    }
    if (records.left != 0 || records.at != records.end || count == 0 || count == header->count)
        return -1;
    mql_batch_thin(run->thinned, size, count, newest);
    return size;
}

/* -- batches ----------------------------------------------------------------------------------- */
/* Opens the segment that has the offset. */
static int open_at(rewriting *run, int64_t offset) {
    const mql_commit_sources *from = &run->what->from;
    size_t number = run->number;
    while (number + 1 < from->count && from->bases[number + 1] <= offset) number++;
    if (run->segment != NULL && number == run->number) return MQL_OK;
    mql_segment_release(run->segment);
    run->segment = NULL;
    run->number = number;
    mql_segment_options options = mql_log_segment_options(run->what->log);
    int rc = mql_log_segment(run->what->log, from->bases[number], &run->segment);
    if (rc == MQL_OK) rc = mql_segment_refresh(run->segment, &options);
    if (rc == MQL_E_NOT_FOUND) return MQL_BUSY;
    if (rc == MQL_OK) mql_segment_open_index(run->segment, &options);
    return rc;
}

/* The batch that has the offset. MQL_BUSY: it cannot be read. */
static int find(rewriting *run, int64_t offset, mql_segment_walk *walk) {
    mql_segment *segment = run->segment;
    bool indexed = atomic_load_explicit(&segment->index_open, memory_order_acquire);
    *walk = (mql_segment_walk){
        .segment = segment,
        .window = &run->window,
        .expected = segment->base,
        .limit = atomic_load_explicit(&segment->length, memory_order_relaxed),
        .max_size = MQL_BATCH_BYTES_MAX,
        .index = indexed ? &segment->index.offsets : NULL,
        .index_count = indexed ? mql_index_count_offsets(&segment->index.offsets) : 0,
        .verify = true};
    if (walk->limit > (int64_t)segment->map_length) return MQL_BUSY;
    mql_segment_find(walk, offset);
    if (mql_segment_walk_next(walk) != MQL_OK) return MQL_BUSY;
    bool right = walk->header.base_offset <= offset && walk->header.last_offset >= offset &&
                 walk->header.base_offset >= run->at;
    return right && walk->header.last_offset < run->what->from.until ? MQL_OK : MQL_BUSY;
}

/* Writes the batch that the walk has just given. */
static int put_batch(rewriting *run, const mql_segment_walk *walk) {
    int rc = put_empty(run, walk->header.base_offset);
    if (rc != MQL_OK) return rc;
    int64_t size = thin(run, walk);
    rc = size < 0 ? put(run, walk->bytes, walk->header.size) : put(run, run->thinned, size);
    run->at = walk->header.last_offset + 1;
    run->epoch = walk->header.epoch;
    return rc;
}

/* The batch behind the one that the walk has given, if it begins below `to`. */
static bool next_batch(const rewriting *run, int64_t to, mql_segment_walk *walk) {
    return mql_segment_walk_next(walk) == MQL_OK && walk->header.base_offset >= run->at &&
           walk->header.base_offset < to && walk->header.last_offset < run->what->from.until;
}

/* Writes the batches of the run [*search, to), as far as they are in one segment and can be read.
 * *search: what is to be looked at next. */
static int pour_run(rewriting *run, int64_t *search, int64_t to) {
    mql_segment_walk walk;
    int rc = open_at(run, *search);
    if (rc == MQL_OK) rc = find(run, *search, &walk);
    if (rc != MQL_OK) return rc;
    do {
        /* What was left out before stays out, whoever has come since. */
        if (walk.header.count > 0) rc = put_batch(run, &walk);
        *search = walk.header.last_offset + 1;
    } while (rc == MQL_OK && *search < to && next_batch(run, to, &walk));
    return rc;
}

static int pour(rewriting *run) {
    const mql_rewrite *what = run->what;
    int64_t search = run->at = what->from.bases[0], until = what->from.until;
    while (search < until) {
        int64_t to = until;
        int rc = what->keep(what->context, &search, &to);
        if (rc == MQL_OK && search >= to) break;
        if (rc == MQL_OK) rc = pour_run(run, &search, to);
        if (rc != MQL_OK) return rc;
    }
    return put_empty(run, until);
}

static void end(rewriting *run) {
    mql_segment_release(run->segment);
    mql_segment_window_free(&run->window);
    mql_os_free_memory(run->buffer);
    mql_os_free_memory(run->thinned);
}

int mql_rewrite_measure(const mql_rewrite *what, int64_t most, int64_t *bytes) {
    rewriting run = {
        .what = what, .is_counting = true, .most = most, .file = MQL_OS_NO_FILE};
    int rc = pour(&run);
    end(&run);
    *bytes = run.bytes;
    return rc;
}

/* -- the file ---------------------------------------------------------------------------------- */
static int write_file(rewriting *run, const char *path) {
    mql_os_file root = run->what->log->home->root;
    run->buffer = mql_os_allocate_memory(BUFFER_BYTES);
    if (run->buffer == NULL)
        return mql_base_fail(MQL_E_MEMORY, path, "no memory to rewrite a segment");
    (void)mql_os_unlink(root, path); /* of one who died */
    int rc = mql_os_open(root, path, MQL_OS_WRITE | MQL_OS_CREATE | MQL_OS_EXCLUSIVE,
                         run->what->log->home->mode, &run->file);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot rewrite a segment");
    rc = pour(run);
    if (rc == MQL_OK) rc = flush(run);
    if (rc == MQL_OK) {
        rc = mql_os_sync(run->file);
        if (rc < 0) rc = mql_base_fail_os(rc, path, "cannot sync a rewritten segment");
    }
    mql_os_close(run->file);
    return rc;
}

int mql_rewrite_run(const mql_rewrite *what) {
    char path[MQL_PATH_MAX];
    mql_log *log = what->log;
    rewriting run = {.what = what, .most = MQL_SEGMENT_BYTES_MAX, .file = MQL_OS_NO_FILE};
    mql_base_file_name(path, log->directory, what->from.bases[0], MQL_SWAP_MAKING);
    int rc = write_file(&run, path);
    end(&run);
    if (rc == MQL_OK) {
        _Atomic int64_t *used = &log->home->bell->used_bytes;
        atomic_fetch_add_explicit(used, run.bytes, memory_order_relaxed);
        rc = what->agree(what->context);
        if (rc == MQL_OK) rc = mql_commit_replace(log, &what->from);
        if (rc == MQL_OK) return MQL_OK;
        bool mine = mql_os_unlink(log->home->root, path) == 0; /* else it is in force */
        if (mine) atomic_fetch_sub_explicit(used, run.bytes, memory_order_relaxed);
        return rc;
    }
    (void)mql_os_unlink(log->home->root, path);
    return rc;
}
