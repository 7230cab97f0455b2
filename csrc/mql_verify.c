/* mql_verify.c - reads every batch and every index entry of a partition.
 *
 * It trusts nothing: not the index to find batches, not the CRC to mean well-formed records.
 * Segments are walked from their first byte, each batch's CRC, offset and epoch checked,
 * uncompressed records taken apart; each index entry is held against the batches that were seen.
 *
 * One damaged place is told once, where it is. So index entries are judged each for itself, in the
 * order of what they name, and those that name what is damaged or cannot be told are let pass; and
 * batches in a row that all carry one other epoch than the table's are the table's fault.
 */
#include "mql_verify.h"

#include <stdio.h>
#include <stdlib.h>

#define PROGRESS_BYTES ((int64_t)4 << 20)

/* Batches in a row that carry one epoch where the table has another. */
typedef struct strangers {
    int64_t batches;
    int32_t epoch;
    int32_t wanted;
    int64_t position; /* of the first, in `path` */
    char path[MQL_PATH_MAX];
} strangers;

typedef struct verifying {
    mql_log *log;
    mql_verify_found found;
    mql_verify_progress progress;
    void *context;
    mql_verify_report *out;
    mql_segment_window window;
    mql_control_end end;
    strangers strangers;
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

/* -- epochs ------------------------------------------------------------------------------------ */
static void epoch_path(const verifying *v, char path[MQL_PATH_MAX]) {
    snprintf(path, MQL_PATH_MAX, "%s/" MQL_EPOCH_FILE, v->log->directory);
}

static void tell_strangers(verifying *v) {
    strangers *row = &v->strangers;
    char path[MQL_PATH_MAX];
    epoch_path(v, path);
    if (row->batches == 1)
        problem(v, row->path, row->position, "another leader epoch than the log has here");
    else if (row->batches > 1)
        problem(v, path, 0, "batches in a row carry another leader epoch than it has for them");
    row->batches = 0;
}

static void check_epoch(verifying *v, const mql_segment_walk *walk) {
    int64_t next_start;
    int32_t epoch = walk->header.epoch,
            wanted = mql_log_epoch_at(v->log, walk->header.base_offset, &next_start);
    strangers *row = &v->strangers;
    if (row->batches > 0 && (epoch != row->epoch || wanted != row->wanted)) tell_strangers(v);
    if (wanted < 0 || epoch == wanted) return;
    if (row->batches++ > 0) return;
    row->epoch = epoch;
    row->wanted = wanted;
    row->position = walk->at;
    snprintf(row->path, sizeof row->path, "%s", walk->segment->path);
}

/* Whether the table is not the one that the log goes by: that one is right (mql_recover). */
static bool is_doubted(const verifying *v, const mql_epoch_table *table) {
    mql_control_end end;
    int64_t next_start;
    if (table->count == 0) return false;
    mql_epoch_entry last = table->entries[table->count - 1];
    mql_log_end(v->log, &end);
    return last.start < end.offset &&
           mql_log_epoch_at(v->log, last.start, &next_start) != last.epoch;
}

static void check_epoch_file(verifying *v) {
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_epoch_table table;
    epoch_path(v, path);
    if (mql_os_stat_name(v->log->home->root, path, &stat) < 0) return;
    int rc = mql_epoch_load(v->log->home->root, v->log->directory, &table);
    if (rc == MQL_END) problem(v, path, 0, "not a table of leader epochs");
    if (rc < 0) problem(v, path, 0, mql_error_last()->text);
    if (rc == MQL_OK && is_doubted(v, &table))
        problem(v, path, 0, "it has an epoch that the log has not had");
    mql_epoch_free(&table);
}

/* -- index entries ----------------------------------------------------------------------------- */
/* What an entry says: of the batch at `place` in the file (.index: its position; .timeindex: its
 * last offset - base), that it has `what` (.index: that last offset; .timeindex: that timestamp).
 */
typedef struct claim {
    int64_t place;
    int64_t what;
    uint32_t number; /* of the entry */
} claim;

typedef struct claims {
    claim *items; /* owns; ascending in `place` */
    uint32_t count, next;
    claim last;  /* the last right one: places and numbers both ascend */
    int64_t end; /* no place from here on is the log's */
    int64_t entry_bytes;
    const char *wrong;
    bool growing; /* a writer may be at its end */
    char path[MQL_PATH_MAX];
} claims;

typedef struct entries {
    mql_index index;
    claims offsets, times;
    int64_t newest;
} entries;

static int by_place(const void *a, const void *b) {
    const claim *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static bool is_right(claims *all, const claim *one, bool fits) {
    bool first = all->last.place < 0;
    if (!fits || (!first && (one->number <= all->last.number || one->place == all->last.place)))
        return false;
    all->last = *one;
    return true;
}

/* What is read of a file that is written to: an entry in the making, one that is about to be made
 * again, one of records that came after the end was sampled. */
static bool is_unfinished(const claims *all, const claim *one) {
    return all->growing && (one->number + 1 == all->count || one->place >= all->end ||
                            (one->place == 0 && one->what == 0));
}

/* Judges one; the entries are met in the order of their places. */
static void judge(verifying *v, claims *all, bool fits) {
    const claim *one = &all->items[all->next++];
    v->out->index_entries++;
    if (is_right(all, one, fits) || is_unfinished(all, one)) return;
    problem(v, all->path, (int64_t)one->number * all->entry_bytes, all->wrong);
}

static bool comes_before(const claims *all, int64_t place) {
    return all->next < all->count && all->items[all->next].place < place;
}

static void check_entries(verifying *v, const mql_segment_walk *walk, entries *e) {
    const mql_batch_header *header = &walk->header;
    int64_t last = header->last_offset - walk->segment->base;
    while (comes_before(&e->offsets, walk->at + 1)) {
        const claim *one = &e->offsets.items[e->offsets.next];
        judge(v, &e->offsets, one->place == walk->at && one->what == last);
    }
    bool newer = header->count > 0 && header->max_timestamp > e->newest;
    if (newer) e->newest = header->max_timestamp;
    /* Kafka names the last of the batches that it has given one time. */
    bool given = (header->attributes & MQL_BATCH_LOG_APPEND_TIME) != 0;
    bool has = newer || (given && header->max_timestamp == e->newest);
    while (comes_before(&e->times, last + 1)) {
        const claim *one = &e->times.items[e->times.next];
        judge(v, &e->times, has && one->place == last && one->what == e->newest);
    }
}

/* What is known of a damaged place: its bytes and its offsets, each from .. to. */
typedef struct damaged {
    int64_t position, behind;
    int64_t start, stop; /* relative to the segment's base */
} damaged;

/* Entries that name what is damaged are let pass. */
static void pass_entries(verifying *v, entries *e, const damaged *hole) {
    while (comes_before(&e->offsets, hole->behind)) {
        const claim *one = &e->offsets.items[e->offsets.next];
        judge(v, &e->offsets,
              one->place >= hole->position && one->what >= hole->start && one->what < hole->stop);
    }
    while (comes_before(&e->times, hole->stop))
        judge(v, &e->times, e->times.items[e->times.next].place >= hole->start);
}

/* Takes the entries of one file over, sorted. */
static int take_claims(verifying *v, claims *all, const mql_index_file *file) {
    all->last.place = -1;
    bool times = all->entry_bytes == MQL_TIME_ENTRY;
    all->count = times ? mql_index_count_times(file) : mql_index_count_offsets(file);
    all->growing = all->growing || (int64_t)file->length >= (all->count + 1) * all->entry_bytes;
    if (all->count == 0) return MQL_OK;
    all->items = mql_os_allocate_memory(all->count * sizeof *all->items);
    if (all->items == NULL)
        return mql_base_fail(MQL_E_MEMORY, v->log->directory, "no memory for the index entries");
    for (uint32_t i = 0; i < all->count; i++) {
        int32_t relative, position;
        claim *one = &all->items[i];
        one->number = i;
        if (times) {
            mql_index_time_entry(file, i, &one->what, &relative);
            one->place = relative;
        } else {
            mql_index_offset_entry(file, i, &relative, &position);
            one->place = position;
            one->what = relative;
        }
    }
    qsort(all->items, all->count, sizeof *all->items, by_place);
    return MQL_OK;
}

static void close_entries(entries *e) {
    mql_index_close(&e->index);
    mql_os_free_memory(e->offsets.items);
    mql_os_free_memory(e->times.items);
}

static int open_entries(verifying *v, int64_t base, int64_t before, entries *e) {
    mql_log *log = v->log;
    bool growing = (log->control != NULL || log->home->live) && base >= mql_log_sealed(log);
    *e = (entries){
        .newest = INT64_MIN,
        .offsets = {.entry_bytes = MQL_INDEX_ENTRY,
                    .end = base == v->end.segment ? v->end.position : INT64_MAX,
                    .wrong = "the entry does not name a batch of the log",
                    .growing = growing},
        .times = {.entry_bytes = MQL_TIME_ENTRY,
                  .end = before == INT64_MAX ? before : before - base,
                  .wrong =
                      "the entry does not name the batch that has the largest timestamp so far",
                  .growing = growing},
    };
    mql_base_file_name(e->offsets.path, log->directory, base, ".index");
    mql_base_file_name(e->times.path, log->directory, base, ".timeindex");
    if (mql_index_open_sealed(&e->index, log->home->root, log->directory, base, true) < 0) {
        problem(v, e->offsets.path, 0, mql_error_last()->text);
        return MQL_OK;
    }
    int rc = take_claims(v, &e->offsets, &e->index.offsets);
    return rc < 0 ? rc : take_claims(v, &e->times, &e->index.times);
}

/* -- segments ---------------------------------------------------------------------------------- */
/* The walk's next step failed: tells it and passes over it. MQL_END: nothing is left behind it. */
static int pass_damage(verifying *v, mql_segment_walk *walk, entries *e, int64_t before) {
    int64_t base = walk->segment->base;
    damaged hole = {.position = walk->position,
                    .behind = INT64_MAX,
                    .start = walk->expected - base,
                    .stop = INT64_MAX};
    bool missing = walk->wrong == NULL;
    problem(v, walk->segment->path, walk->position,
            missing ? "records are missing at the end of the segment" : walk->wrong);
    int rc = missing ? MQL_END : mql_segment_resync(walk, before);
    if (rc == MQL_OK) {
        hole.behind = walk->position;
        hole.stop = walk->expected - base;
    }
    pass_entries(v, e, &hole);
    return rc;
}

static int walk_segment(verifying *v, mql_segment_walk *walk, entries *e, int64_t before) {
    int rc = MQL_OK;
    while (rc == MQL_OK && walk->expected < before) {
        walk->wrong = NULL;
        if (mql_segment_walk_next(walk) != MQL_OK) {
            if (pass_damage(v, walk, e, before) != MQL_OK) break;
            continue;
        }
        v->out->batches++;
        v->out->bytes += walk->header.size;
        check_epoch(v, walk);
        check_records(v, walk);
        check_entries(v, walk, e);
        rc = tell(v, false);
    }
    static const damaged nothing = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    if (rc == MQL_OK) pass_entries(v, e, &nothing); /* entries that name no batch at all */
    return rc;
}

static int verify_segment(verifying *v, int64_t base, int64_t next_base) {
    mql_segment *segment;
    int64_t now;
    int rc = mql_log_segment(v->log, base, &segment);
    /* It may have been rewritten, and end further on. */
    if (rc == MQL_OK && mql_log_locate(v->log, base, &now, &next_base) == MQL_OK && now != base) {
        mql_segment_release(segment);
        return MQL_OK;
    }
    if (rc == MQL_E_NOT_FOUND) return MQL_OK; /* retention was faster */
    if (rc < 0) return rc;
    mql_segment_options options = mql_log_segment_options(v->log);
    rc = mql_segment_refresh(segment, &options);
    bool last = base == v->end.segment;
    int64_t before = last ? v->end.offset : next_base;
    entries e = {0};
    if (rc == MQL_OK) rc = open_entries(v, base, before, &e);
    mql_segment_walk walk = {
        .segment = segment,
        .window = &v->window,
        .expected = base,
        .verify = true,
        .limit =
            last ? v->end.position : atomic_load_explicit(&segment->length, memory_order_relaxed),
        .max_size = MQL_BATCH_BYTES_MAX,
        .gaps = options.gaps,
        .index = &e.index.offsets,
        .index_count = e.offsets.count};
    if (rc == MQL_OK) rc = walk_segment(v, &walk, &e, before);
    v->out->segments++;
    close_entries(&e);
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
    check_epoch_file(&v);
    for (size_t i = 0; rc == MQL_OK && i < count && bases[i] <= v.end.segment; i++)
        rc = verify_segment(&v, bases[i], i + 1 < count ? bases[i + 1] : INT64_MAX);
    tell_strangers(&v);
    if (rc == MQL_OK) rc = tell(&v, true);
    mql_os_free_memory(bases);
    mql_segment_window_free(&v.window);
    if (rc >= 0) *out = report;
    return rc;
}
