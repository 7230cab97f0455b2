/* mql_verify.c - reads every batch and every index entry of a partition.
 *
 * It trusts nothing: not the index to find batches, not the CRC to mean well-formed records.
 * Segments are walked from their first byte, each batch's CRC, offset and epoch checked,
 * uncompressed records taken apart; then each index entry is held against the batches that were
 * seen.
 */
#include "mql_verify.h"

#include <stdio.h>

#define PROGRESS_BYTES ((int64_t)4 << 20)

typedef struct verifying {
    mql_log *log;
    mql_verify_found found;
    mql_verify_progress progress;
    void *context;
    mql_verify_report *out;
    mql_segment_window window;
    mql_control_end end;
    int64_t total;
    int64_t told;
} verifying;

static void problem(verifying *v, const char *file, int64_t position, const char *what) {
    v->out->problems++;
    if (v->found != NULL) v->found(v->context, file, position, what);
}

static int tell(verifying *v, bool always) {
    if (v->progress == NULL || (!always && v->out->bytes - v->told < PROGRESS_BYTES)) return MQL_OK;
    v->told = v->out->bytes;
    return v->progress(v->context, v->out->bytes, v->total) != 0 ? MQL_BUSY : MQL_OK;
}

/* Takes the records of an uncompressed batch apart. */
static void check_records(verifying *v, const mql_segment_walk *walk) {
    const mql_batch_header *header = &walk->header;
    v->out->records += header->count;
    if (MQL_BATCH_COMPRESSION(header->attributes) != MQL_NONE || header->count == 0) return;
    mql_batch batch = {.base_offset = header->base_offset,
                       .last_offset = header->last_offset,
                       .count = header->count,
                       .base_timestamp = header->base_timestamp,
                       .max_timestamp = header->max_timestamp,
                       .attributes = header->attributes};
    mql_walk records;
    mql_record_view view;
    int64_t newest = INT64_MIN;
    mql_batch_walk_start(&records, &batch, walk->bytes + MQL_BATCH_HEADER,
                         (size_t)(header->size - MQL_BATCH_HEADER));
    int rc;
    while ((rc = mql_batch_walk_next(&records, &view)) == MQL_OK)
        newest = mql_base_max(newest, view.timestamp);
    if (rc < 0) problem(v, walk->segment->path, walk->at, mql_error_last()->text);
    if (rc == MQL_END && newest != header->max_timestamp)
        problem(v, walk->segment->path, walk->at,
                "the batch's maximum timestamp is not that of its records");
}

/* Index entries met while walking: `next` is the one expected to name the batch to come. */
typedef struct entries {
    mql_index index;
    uint32_t count, time_count;
    uint32_t next, next_time;
    int64_t newest;
    char path[MQL_PATH_MAX];
    char time_path[MQL_PATH_MAX];
} entries;

static void check_entries(verifying *v, const mql_segment_walk *walk, entries *e) {
    const mql_batch_header *header = &walk->header;
    while (e->next < e->count) {
        int32_t relative, position;
        mql_index_offset_entry(&e->index.offsets, e->next, &relative, &position);
        if (position > walk->at) break;
        if (position < walk->at || walk->segment->base + relative != header->last_offset)
            problem(v, e->path, (int64_t)e->next * MQL_INDEX_ENTRY,
                    "the entry does not name a batch of the log");
        e->next++;
        v->out->index_entries++;
    }
    if (header->count > 0 && header->max_timestamp > e->newest) e->newest = header->max_timestamp;
    while (e->next_time < e->time_count) {
        int64_t timestamp;
        int32_t relative;
        mql_index_time_entry(&e->index.times, e->next_time, &timestamp, &relative);
        int64_t offset = walk->segment->base + relative;
        if (offset > header->last_offset) break;
        if (offset < header->last_offset || timestamp != e->newest ||
            header->max_timestamp != timestamp)
            problem(v, e->time_path, (int64_t)e->next_time * MQL_TIME_ENTRY,
                    "the entry does not name the batch that has the largest timestamp so far");
        e->next_time++;
        v->out->index_entries++;
    }
}

static void open_entries(verifying *v, mql_segment *segment, entries *e) {
    memset(e, 0, sizeof *e);
    e->newest = INT64_MIN;
    mql_base_file_name(e->path, v->log->directory, segment->base, ".index");
    mql_base_file_name(e->time_path, v->log->directory, segment->base, ".timeindex");
    if (mql_index_open_sealed(&e->index, v->log->home->root, v->log->directory, segment->base,
                              true) < 0) {
        problem(v, e->path, 0, mql_error_last()->text);
        return;
    }
    e->count = mql_index_count_offsets(&e->index.offsets);
    e->time_count = mql_index_count_times(&e->index.times);
    /* The active segment's files may hold entries of records that came after the end was sampled.
     */
    if (segment->base == v->end.segment) {
        e->count = mql_index_sound_offsets(&e->index.offsets, e->count,
                                           v->end.offset - segment->base, v->end.position);
        e->time_count =
            mql_index_sound_times(&e->index.times, e->time_count, v->end.offset - segment->base);
    }
}

static int verify_segment(verifying *v, int64_t base, int64_t next_base) {
    mql_segment *segment;
    int rc = mql_log_segment(v->log, base, &segment);
    if (rc == MQL_E_NOT_FOUND) return MQL_OK; /* retention was faster */
    if (rc < 0) return rc;
    mql_segment_options options = mql_log_segment_options(v->log);
    rc = mql_segment_refresh(segment, &options);
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    bool last = base == v->end.segment;
    mql_segment_walk walk = {.segment = segment,
                             .window = &v->window,
                             .expected = base,
                             .verify = true,
                             .limit = last ? v->end.position : length,
                             .max_size = MQL_BATCH_BYTES_MAX,
                             .gaps = atomic_load_explicit(&v->log->cleanup, memory_order_relaxed) ==
                                     MQL_CLEANUP_COMPACT};
    int64_t before = last ? v->end.offset : next_base;
    entries e;
    open_entries(v, segment, &e);
    walk.index = &e.index.offsets;
    walk.index_count = e.count;
    v->out->segments++;
    while (rc == MQL_OK && walk.expected < before) {
        int step = mql_segment_walk_next(&walk);
        if (step == MQL_OK) {
            int64_t next_start;
            int32_t epoch = mql_log_epoch_at(v->log, walk.header.base_offset, &next_start);
            if (epoch >= 0 && walk.header.epoch != epoch)
                problem(v, segment->path, walk.at, "another leader epoch than the log has here");
            v->out->batches++;
            v->out->bytes += walk.header.size;
            check_records(v, &walk);
            check_entries(v, &walk, &e);
            rc = tell(v, false);
            continue;
        }
        problem(v, segment->path, walk.position,
                step == MQL_END ? "records are missing at the end of the segment" : walk.wrong);
        if (step == MQL_END || mql_segment_resync(&walk, before) != MQL_OK) break;
    }
    mql_index_close(&e.index);
    v->window.length = 0;
    mql_segment_release(segment);
    return rc;
}

int mql_verify_log(mql_log *log, mql_verify_found found, mql_verify_progress progress,
                   void *context, mql_verify_report *out) {
    int rc = mql_log_usable(log);
    if (rc < 0) return rc;
    mql_log_info info;
    rc = mql_log_describe_all(log, &info);
    if (rc < 0) return rc;
    mql_verify_report report = {0};
    verifying v = {.log = log,
                   .found = found,
                   .progress = progress,
                   .context = context,
                   .out = &report,
                   .total = info.bytes};
    mql_log_end(log, &v.end); /* before the bases: a segment that is rolled after it is listed */
    int64_t *bases;
    size_t count;
    rc = mql_log_bases(log, &bases, &count);
    if (rc < 0) return rc;
    for (size_t i = 0; rc == MQL_OK && i < count && bases[i] <= v.end.segment; i++)
        rc = verify_segment(&v, bases[i], i + 1 < count ? bases[i + 1] : INT64_MAX);
    if (rc == MQL_OK) rc = tell(&v, true);
    mql_os_free_memory(bases);
    mql_segment_window_free(&v.window);
    if (rc >= 0) *out = report;
    return rc;
}
