/* mql_recover.c - how a partition stands when it is opened.
 *
 * Why nothing acknowledged is lost. If only processes died (R8) the page cache and the control page
 * hold all that was published, and nothing is scanned. Otherwise the checkpoint's watermark says
 * what was on stable storage: below it nothing is ever cut. Past it, batches are kept while each is
 * whole and the one expected; what comes after the first that is not was never durable, so it may
 * go, but if it holds whole batches it is set aside, not thrown away.
 *
 * Why an offset means one record for ever. Every offset ever given out is below the checkpoint's
 * ceiling, which was durable before. After a cut the offsets up to it are used up by one empty
 * batch of a new epoch, as compaction leaves them in Kafka, so the log has no gap and no offset
 * comes back.
 */
#include "mql_recover.h"

#include "mql_checkpoint.h"
#include "mql_swap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define COPY_BYTES ((size_t)1 << 20)

/* -- listing ----------------------------------------------------------------------------------- */
typedef struct lister {
    mql_recover_listing *listing;
    size_t capacity;
    size_t next_capacity;
} lister;

static bool digits(const char *text, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (text[i] < '0' || text[i] > '9') return false;
    return true;
}

static int grow(void **items, size_t count, size_t *capacity) {
    if (count < *capacity) return 0;
    size_t wanted = *capacity == 0 ? 16 : *capacity * 2;
    uint64_t *grown = mql_os_allocate_memory(wanted * sizeof *grown);
    if (grown == NULL) return -ENOMEM;
    if (count > 0) memcpy(grown, *items, count * sizeof *grown);
    mql_os_free_memory(*items);
    *items = grown;
    *capacity = wanted;
    return 0;
}

static int list_one(void *context, const char *name) {
    lister *into = context;
    mql_recover_listing *listing = into->listing;
    size_t length = strlen(name);
    if (length == 24 && digits(name, 20) && strcmp(name + 20, ".log") == 0) {
        int64_t base = strtoll(name, NULL, 10); /* the greatest number, if it is over that */
        if (base > MQL_OFFSET_MAX) return 0;
        if (grow((void **)&listing->bases, listing->count, &into->capacity) < 0) return -ENOMEM;
        listing->bases[listing->count++] = base;
    } else if (length > 5 && length < 25 && memcmp(name, "next.", 5) == 0 &&
               digits(name + 5, length - 5)) {
        if (grow((void **)&listing->nexts, listing->next_count, &into->next_capacity) < 0)
            return -ENOMEM;
        listing->nexts[listing->next_count++] = strtoull(name + 5, NULL, 10);
    }
    return 0;
}

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int mql_recover_list(mql_os_file root, const char *directory, mql_recover_listing *out) {
    *out = (mql_recover_listing){0};
    lister into = {.listing = out};
    mql_os_file opened;
    int rc = mql_os_open_directory(root, directory, &opened);
    if (rc == -ENOENT)
        return mql_base_fail(MQL_E_NOT_FOUND, directory, "the partition is not there");
    if (rc == 0) {
        rc = mql_os_list(opened, list_one, &into);
        mql_os_close(opened);
    }
    if (rc < 0) {
        mql_recover_listing_free(out);
        return mql_base_fail_os(rc, directory, "cannot list the partition");
    }
    if (out->count > 1) qsort(out->bases, out->count, sizeof *out->bases, ascending);
    return MQL_OK;
}

void mql_recover_listing_free(mql_recover_listing *listing) {
    mql_os_free_memory(listing->bases);
    mql_os_free_memory(listing->nexts);
    *listing = (mql_recover_listing){0};
}

/* -- the run ----------------------------------------------------------------------------------- */
typedef struct recovery {
    const mql_recover_task *task;
    mql_epoch_table *epochs;
    mql_recover_state *out;
    mql_recover_listing listing;
    mql_format_checkpoint checkpoint;
    bool has_checkpoint;
    bool fresh; /* the end is where no file is yet: begin a segment there */
    mql_segment_window window;
} recovery;

static mql_segment_options segment_options(const mql_recover_task *task) {
    return (mql_segment_options){.root = task->root,
                                 .directory = task->directory,
                                 .read_only = task->look_only,
                                 .writable = !task->look_only};
}

static bool listed(const recovery *run, int64_t base, size_t *at) {
    *at = 0;
    for (size_t i = 0; i < run->listing.count; i++) {
        *at = i;
        if (run->listing.bases[i] == base) return true;
    }
    return false;
}

static int sync_directory(const mql_recover_task *task) {
    mql_os_file opened;
    int rc = mql_os_open_directory(task->root, task->directory, &opened);
    if (rc == 0) {
        rc = mql_os_sync_directory(opened);
        mql_os_close(opened);
    }
    return rc < 0 ? mql_base_fail_os(rc, task->directory, "cannot sync the directory") : MQL_OK;
}

static int make_segment(const recovery *run, int64_t base) {
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, run->task->directory, base, ".log");
    mql_os_file file;
    int rc =
        mql_os_open(run->task->root, path, MQL_OS_WRITE | MQL_OS_CREATE, run->task->mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot make a segment");
    mql_os_close(file);
    return sync_directory(run->task);
}

/* Batches from `start` on carry a new epoch: what a dead writer left behind it is then not theirs.
 */
static int raise_epoch(recovery *run, int64_t start) {
    if (run->out->epoch == INT32_MAX)
        return mql_base_fail(MQL_E_FORMAT, MQL_EPOCH_FILE, "no leader epoch is left");
    int32_t epoch = run->out->epoch + 1;
    int rc = mql_epoch_add(run->epochs, epoch, start);
    if (rc == MQL_OK)
        rc = mql_epoch_save(run->task->root, run->task->directory, run->epochs, run->task->mode,
                            true);
    if (rc == MQL_OK) run->out->epoch = epoch;
    return rc;
}

/* A free name "<base>.log.cut-<n>" in the directory. */
static int cut_name(const recovery *run, int64_t base, char path[MQL_PATH_MAX]) {
    for (int n = 1; n < 10000; n++) {
        char suffix[32];
        snprintf(suffix, sizeof suffix, ".log.cut-%d", n);
        mql_base_file_name(path, run->task->directory, base, suffix);
        mql_os_stat stat;
        if (mql_os_stat_name(run->task->root, path, &stat) == -ENOENT) return MQL_OK;
    }
    return mql_base_fail(MQL_E_FORMAT, path,
                         "there are 10,000 set-aside files of this segment: move them away");
}

static int copy_out(mql_os_file root, const char *from, int64_t position, int64_t end,
                    const char *to, uint32_t mode) {
    mql_os_file source = MQL_OS_NO_FILE, target = MQL_OS_NO_FILE;
    uint8_t *buffer = mql_os_allocate_memory(COPY_BYTES);
    int rc = buffer == NULL ? -ENOMEM : mql_os_open(root, from, MQL_OS_READ, 0, &source);
    if (rc == 0)
        rc = mql_os_open(root, to, MQL_OS_WRITE | MQL_OS_CREATE | MQL_OS_EXCLUSIVE, mode, &target);
    for (int64_t at = position; rc == 0 && at < end;) {
        int64_t got =
            mql_os_read(source, buffer, (size_t)mql_base_min(end - at, (int64_t)COPY_BYTES), at);
        if (got < 0) rc = (int)got;
        if (got <= 0) break;
        rc = mql_os_write(target, buffer, (size_t)got, at - position);
        at += got;
    }
    if (rc == 0) rc = mql_os_sync(target);
    if (rc < 0 && target != MQL_OS_NO_FILE) mql_os_unlink(root, to); /* a part is of no use */
    mql_os_close(source);
    mql_os_close(target);
    mql_os_free_memory(buffer);
    return rc < 0 ? mql_base_fail_os(rc, to, "cannot set the cut bytes aside") : MQL_OK;
}

static const char *file_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static void tell(const recovery *run, int row, int64_t segment, int64_t position, int64_t bytes,
                 const char *path) {
    run->task->tell(run->task->context, row, segment, position, bytes,
                    path == NULL ? "" : file_of(path));
}

/* Copies bytes of a segment to a file of their own, whose name is there on return. */
static int keep_bytes(recovery *run, int64_t base, int64_t from, int64_t to,
                      char aside[MQL_PATH_MAX]) {
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, run->task->directory, base, ".log");
    int rc = cut_name(run, base, aside);
    if (rc == MQL_OK) rc = copy_out(run->task->root, path, from, to, aside, run->task->mode);
    return rc == MQL_OK ? sync_directory(run->task) : rc;
}

/* Gives the segment the length `position`, synced. */
static int shorten(recovery *run, int64_t base, int64_t position, bool is_longer) {
    char path[MQL_PATH_MAX];
    mql_os_file file;
    mql_base_file_name(path, run->task->directory, base, ".log");
    int rc = mql_os_open(run->task->root, path, MQL_OS_WRITE, 0, &file);
    if (rc == 0) {
        if (is_longer) rc = mql_os_truncate(file, position);
        if (rc == 0) rc = mql_os_sync(file);
        mql_os_close(file);
    }
    return rc < 0 ? mql_base_fail_os(rc, path, "cannot cut the segment") : MQL_OK;
}

static bool was_closed(const recovery *run) {
    return run->has_checkpoint && run->checkpoint.clean == 1;
}

/* Ends the segment where the walk stands. What lay behind is set aside if it holds a whole batch;
 * whatever it is, if a clean close had left nothing there: it is not ours. */
static int cut_segment(recovery *run, mql_segment_walk *walk, int row) {
    int64_t base = walk->segment->base;
    char aside[MQL_PATH_MAX];
    if (row != 2 && walk->position < walk->limit) {
        bool keep = was_closed(run) || mql_segment_holds_more(walk);
        int rc = keep ? keep_bytes(run, base, walk->position, walk->limit, aside) : MQL_OK;
        if (rc < 0) return rc;
        tell(run, row, base, walk->position, walk->limit - walk->position, keep ? aside : NULL);
    }
    return shorten(run, base, walk->position, walk->position < walk->limit);
}

/* Segments behind the end go aside, whole. */
static int set_aside(recovery *run, size_t from, int row) {
    for (size_t i = from; i < run->listing.count; i++) {
        int64_t base = run->listing.bases[i];
        char path[MQL_PATH_MAX], aside[MQL_PATH_MAX];
        mql_base_file_name(path, run->task->directory, base, ".log");
        mql_os_stat stat;
        int rc = mql_os_stat_name(run->task->root, path, &stat);
        if (rc == 0 && stat.size == 0) {
            rc = mql_os_unlink(run->task->root, path); /* empty: nothing to keep */
            if (rc < 0) return mql_base_fail_os(rc, path, "cannot remove an empty segment");
            continue;
        }
        int named = cut_name(run, base, aside);
        if (named < 0) return named;
        if (rc == 0) rc = mql_os_rename(run->task->root, path, aside);
        if (rc < 0) return mql_base_fail_os(rc, path, "cannot set the segment aside");
        tell(run, row, base, 0, stat.size, aside);
        mql_base_file_name(path, run->task->directory, base, ".index");
        mql_os_unlink(run->task->root, path); /* derived */
        mql_base_file_name(path, run->task->directory, base, ".timeindex");
        mql_os_unlink(run->task->root, path);
    }
    run->listing.count = from < run->listing.count ? from : run->listing.count;
    return MQL_OK;
}

/* Empty prepared segments go, others are set aside. While only processes died they are empty unless
 * a batch stands at their front, so looking at `most` bytes is enough. */
static int clear_nexts(recovery *run, int64_t most) {
    mql_segment_options options = segment_options(run->task);
    for (size_t i = 0; i < run->listing.next_count; i++) {
        mql_segment *segment;
        int rc = mql_segment_open_next(&options, run->listing.nexts[i], &segment);
        if (rc == MQL_E_NOT_FOUND) continue;
        if (rc < 0) return rc;
        int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
        mql_segment_walk walk = {.segment = segment,
                                 .window = &run->window,
                                 .expected = -1,
                                 .limit = mql_base_min(length, most),
                                 .max_size = MQL_BATCH_BYTES_MAX};
        bool empty = mql_segment_walk_next(&walk) == MQL_END;
        char path[MQL_PATH_MAX], aside[MQL_PATH_MAX];
        snprintf(path, sizeof path, "%s", segment->path);
        mql_segment_release(segment);
        run->window.length = 0;
        if (!empty && cut_name(run, run->out->end.offset, aside) == MQL_OK) {
            rc = mql_os_rename(run->task->root, path, aside);
            tell(run, 10, run->out->end.offset, 0, length, aside);
        } else if (empty) {
            rc = mql_os_unlink(run->task->root, path);
        }
        if (rc < 0) return mql_base_fail_os(rc, path, "cannot clear a prepared segment");
    }
    return MQL_OK;
}

/* -- R8 ---------------------------------------------------------------------------------------- */
/* Takes the end of a page that passes every check. False: the log has to be scanned. */
static bool take_control(recovery *run) {
    mql_format_control *control = run->task->control;
    size_t at;
    if (control == NULL || !mql_control_is(control, run->task->identity)) return false;
    if (!mql_control_trust(&control->published, !run->task->live, &run->out->end)) return false;
    if (run->has_checkpoint && run->out->end.offset < run->checkpoint.offset) return false;
    const mql_control_end *end = &run->out->end;
    char path[MQL_PATH_MAX];
    mql_os_stat stat = {0};
    mql_base_file_name(path, run->task->directory, end->segment, ".log");
    if (mql_os_stat_name(run->task->root, path, &stat) < 0 || stat.size < end->position) {
        /* Somebody has cut what was published. Live, the page was read long ago. */
        bool known = run->has_checkpoint && run->checkpoint.offset >= end->offset;
        if (!run->task->live && !known)
            tell(run, 8, end->segment, stat.size, end->position - stat.size, NULL);
        return false;
    }
    if (!listed(run, run->out->end.segment, &at)) return false;
    /* One segment may follow: a roll whose owner died between the rename and the publish. */
    if (at + 2 < run->listing.count) return false;
    if (at + 1 < run->listing.count && run->listing.bases[at + 1] != run->out->end.offset)
        return false;
    if (!mql_control_trust(&control->durable, !run->task->live, &run->out->durable) ||
        run->out->durable.offset > run->out->end.offset) {
        mql_format_checkpoint *c = &run->checkpoint;
        run->out->durable = (mql_control_end){c->segment, c->position, c->offset};
        if (!run->has_checkpoint)
            run->out->durable = (mql_control_end){run->listing.bases[0], 0, run->listing.bases[0]};
    }
    return true;
}

/* Zeros what a dead writer may have stored behind the end of the active segment. */
static int wipe_dirty(recovery *run, int64_t dirty) {
    mql_segment_options options = segment_options(run->task);
    mql_segment *segment;
    int rc = mql_segment_open(&options, run->out->end.segment, &segment);
    if (rc < 0) return rc;
    int64_t from = run->out->end.position;
    int64_t to = mql_base_min(dirty, atomic_load_explicit(&segment->length, memory_order_relaxed));
    if (to > from) memset(segment->map + from, 0, (size_t)(to - from));
    mql_segment_release(segment);
    return raise_epoch(run, run->out->end.offset);
}

/* Bytes behind all that was ever allocated were appended by a stranger, who may want them back. */
static int set_strange_aside(recovery *run) {
    mql_segment_options options = segment_options(run->task);
    int64_t base = run->out->end.segment;
    int64_t from = atomic_load_explicit(&run->task->control->allocated, memory_order_relaxed);
    from = mql_base_max(from, run->out->end.position);
    mql_segment *segment;
    int rc = mql_segment_open(&options, base, &segment);
    if (rc < 0) return rc;
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    bool strange = !mql_segment_only_zeros(segment, &run->window, from, length);
    mql_segment_release(segment);
    if (!strange) return MQL_OK;
    char aside[MQL_PATH_MAX];
    rc = keep_bytes(run, base, from, length, aside);
    if (rc < 0) return rc;
    tell(run, 8, base, from, length - from, aside);
    return shorten(run, base, from, true);
}

/* A sync failed: the pages may be clean in memory and old on disk. Dirty them again and sync. */
static int write_again(recovery *run) {
    mql_segment_options options = segment_options(run->task);
    for (size_t i = 0; i < run->listing.count; i++) {
        if (run->listing.bases[i] < run->out->durable.segment) continue;
        mql_segment *segment;
        int rc = mql_segment_open(&options, run->listing.bases[i], &segment);
        if (rc < 0) return rc;
        int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
        mql_segment_touch(segment, 0, length);
        rc = length > 0 ? mql_os_sync_map(segment->map, (size_t)length) : 0;
        char path[MQL_PATH_MAX];
        snprintf(path, sizeof path, "%s", segment->path);
        mql_segment_release(segment);
        if (rc < 0) return mql_base_fail_os(rc, path, "cannot write again what a failed sync left");
    }
    run->out->durable = run->out->end;
    return sync_directory(run->task);
}

static int finish_control(recovery *run) {
    mql_format_control *control = run->task->control;
    size_t at = 0;
    listed(run, run->out->end.segment, &at);
    bool rolled = at + 1 < run->listing.count;
    int64_t dirty = atomic_load_explicit(&control->dirty, memory_order_relaxed);
    /* The checkpoint is read from memory too, and its last sync may have failed: only the page says
     * which ceiling is on the disk. */
    int64_t ceiling = atomic_load_explicit(&control->ceiling, memory_order_relaxed);
    run->checkpoint.ceiling = mql_base_min(run->checkpoint.ceiling, ceiling);
    int rc = MQL_OK;
    if (!run->task->look_only) {
        if (dirty > run->out->end.position && dirty <= MQL_SEGMENT_BYTES_MAX)
            rc = wipe_dirty(run, dirty);
        if (rc == MQL_OK && !rolled) rc = set_strange_aside(run);
        uint32_t state = atomic_load_explicit(&control->state, memory_order_relaxed);
        if (rc == MQL_OK && (state & MQL_STATE_POISONED) != 0) rc = write_again(run);
        if (rc == MQL_OK) rc = clear_nexts(run, MQL_PAGE);
    }
    if (rolled) run->out->end = (mql_control_end){run->out->end.offset, 0, run->out->end.offset};
    return rc;
}

/* -- the scan ---------------------------------------------------------------------------------- */
/* Whether the batch carries the epoch that its offset must have; a newer one is learnt. */
static bool epoch_fits(recovery *run, const mql_batch_header *header) {
    int64_t next_start;
    int32_t epoch = mql_epoch_at(run->epochs, header->base_offset, &next_start);
    if (epoch < 0 && next_start != INT64_MAX) /* below all that the table knows */
        return header->epoch <= run->epochs->entries[0].epoch;
    if (header->epoch < epoch || (next_start != INT64_MAX && header->epoch > epoch)) return false;
    if (header->epoch > epoch && mql_epoch_add(run->epochs, header->epoch, header->base_offset) < 0)
        return false;
    run->out->epoch = (int32_t)mql_base_max(run->out->epoch, header->epoch);
    return true;
}

/* Walks one segment from the end so far. Returns the row that ended it, or a failure; the walk
 * stands at the end. The segment is the caller's to release. */
static int scan_segment(recovery *run, mql_segment *segment, mql_segment_walk *walk) {
    *walk =
        (mql_segment_walk){.segment = segment,
                           .window = &run->window,
                           .position = run->out->end.position,
                           .limit = atomic_load_explicit(&segment->length, memory_order_relaxed),
                           .expected = run->out->end.offset,
                           .max_size = MQL_BATCH_BYTES_MAX,
                           .gaps = run->task->gaps,
                           .verify = true};
    for (;;) {
        int64_t position = walk->position, expected = walk->expected;
        int rc = mql_segment_walk_next(walk);
        if (rc == MQL_OK && epoch_fits(run, &walk->header)) {
            run->out->end.position = walk->position;
            run->out->end.offset = walk->expected;
            continue;
        }
        if (rc == MQL_OK) { /* R5: a stale epoch */
            walk->position = position;
            walk->expected = expected;
            walk->row = 5;
        }
        return walk->row;
    }
}

/* R7: the first batch of a segment must be the one that its name says. */
static int check_name(recovery *run, mql_segment *segment) {
    const uint8_t *bytes = mql_segment_bytes(segment, &run->window, 0, MQL_BATCH_HEADER);
    if (bytes == NULL ||
        atomic_load_explicit(&segment->length, memory_order_relaxed) < MQL_BATCH_HEADER)
        return MQL_OK;
    mql_batch_header header;
    mql_batch_read_header(bytes, &header);
    if (mql_batch_implausible(&header, MQL_BATCH_BYTES_MAX) != NULL ||
        header.base_offset == segment->base ||
        (run->task->gaps && header.base_offset > segment->base))
        return MQL_OK;
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    bytes = mql_segment_bytes(segment, &run->window, 0, mql_base_min(header.size, length));
    if (bytes == NULL || header.size > length || !mql_batch_crc_right(bytes, header.size))
        return MQL_OK;
    return mql_base_fail(MQL_E_FORMAT, segment->path,
                         "the file is misplaced: its first batch has offset %lld; move it away "
                         "(nothing was changed)",
                         (long long)header.base_offset);
}

/* R10: names the prepared segment that holds the batch expected next. True: there is one more to
 * scan. */
static int adopt_next(recovery *run, bool *more) {
    mql_segment_options options = segment_options(run->task);
    *more = false;
    for (size_t i = 0; i < run->listing.next_count && !*more; i++) {
        mql_segment *segment;
        int rc = mql_segment_open_next(&options, run->listing.nexts[i], &segment);
        if (rc == MQL_E_NOT_FOUND) continue;
        if (rc < 0) return rc;
        mql_segment_walk walk = {.segment = segment,
                                 .window = &run->window,
                                 .expected = run->out->end.offset,
                                 .limit =
                                     atomic_load_explicit(&segment->length, memory_order_relaxed),
                                 .max_size = MQL_BATCH_BYTES_MAX,
                                 .verify = true};
        if (mql_segment_walk_next(&walk) == MQL_OK && walk.at == 0 &&
            epoch_fits(run, &walk.header)) {
            char path[MQL_PATH_MAX];
            mql_base_file_name(path, run->task->directory, run->out->end.offset, ".log");
            rc = mql_os_rename_new(run->task->root, segment->path, path);
            *more = rc == 0;
        }
        mql_segment_release(segment);
        run->window.length = 0;
    }
    return MQL_OK;
}

static int relist(recovery *run) {
    mql_recover_listing_free(&run->listing);
    return mql_recover_list(run->task->root, run->task->directory, &run->listing);
}

/* What a reader does not read, it tells, as a writer will when it cuts. */
static void tell_unread(const recovery *run, const mql_segment_walk *walk, int row, size_t from) {
    int64_t base = run->out->end.segment;
    if (row != 2 && walk->position < walk->limit)
        tell(run, row, base, walk->position, walk->limit - walk->position, NULL);
    for (size_t i = from; i < run->listing.count; i++) {
        char path[MQL_PATH_MAX];
        mql_os_stat stat;
        mql_base_file_name(path, run->task->directory, run->listing.bases[i], ".log");
        if (mql_os_stat_name(run->task->root, path, &stat) == 0 && stat.size > 0)
            tell(run, row < 3 ? 5 : row, run->listing.bases[i], 0, stat.size, NULL);
    }
}

/* Scans from the end so far through the segments that follow, and cuts where it ends. */
static int scan(recovery *run) {
    mql_segment_options options = segment_options(run->task);
    for (;;) {
        size_t at;
        if (!listed(run, run->out->end.segment, &at)) break;
        mql_segment *segment;
        mql_segment_walk walk;
        int rc = mql_segment_open(&options, run->out->end.segment, &segment);
        if (rc < 0) return rc;
        rc = check_name(run, segment);
        int row = rc < 0 ? rc : scan_segment(run, segment, &walk);
        bool whole = row == 1 || row == 2;
        bool follows = whole && at + 1 < run->listing.count &&
                       run->listing.bases[at + 1] == run->out->end.offset;
        bool named = false;
        if (whole && !follows && !run->task->look_only && at + 1 == run->listing.count &&
            run->out->end.position > 0)
            rc = adopt_next(run, &named);
        if (row > 0 && rc == MQL_OK && (follows || named) && !run->task->look_only)
            rc = cut_segment(run, &walk, 2);
        if (row > 0 && rc == MQL_OK && !follows && !named && !run->task->look_only) {
            rc = cut_segment(run, &walk, row);
            if (rc == MQL_OK) rc = set_aside(run, at + 1, whole ? 5 : row);
        }
        mql_segment_release(segment);
        run->window.length = 0;
        if (row > 0 && rc == MQL_OK && !follows && run->task->look_only)
            tell_unread(run, &walk, row, at + 1);
        if (row < 0 || rc < 0) return row < 0 ? row : rc;
        if (named) rc = relist(run);
        if (rc < 0) return rc;
        if (!follows && !named) break; /* R9 goes on */
        run->out->end = (mql_control_end){run->out->end.offset, 0, run->out->end.offset};
    }
    return MQL_OK;
}

/* Where the scan begins: the watermark. *usable is false if what it names is damaged: nothing can
 * be appended there. */
static int begin_at_watermark(recovery *run, bool *usable) {
    size_t at;
    *usable = true;
    if (!run->has_checkpoint) {
        int64_t last = run->listing.bases[run->listing.count - 1];
        run->out->end = run->out->durable = (mql_control_end){last, 0, last};
        return MQL_OK;
    }
    run->out->end = run->out->durable = (mql_control_end){
        run->checkpoint.segment, run->checkpoint.position, run->checkpoint.offset};
    *usable = listed(run, run->checkpoint.segment, &at);
    if (!*usable) return MQL_OK;
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_base_file_name(path, run->task->directory, run->checkpoint.segment, ".log");
    int rc = mql_os_stat_name(run->task->root, path, &stat);
    if (rc < 0 && rc != -ENOENT) /* a disk that does not answer now is not damage */
        return mql_base_fail_os(rc, path, "cannot look at the segment of the watermark");
    *usable = rc == 0 && stat.size >= run->checkpoint.position;
    return MQL_OK;
}

/* A clean close left everything at its exact length: nothing to scan, and the control page, which
 * no sync and hardly a CRC covers, knows nothing better. Nothing was appended since: the first
 * append makes the checkpoint an unclean one before it gives out an offset. */
static bool took_clean(recovery *run) {
    size_t at;
    if (!was_closed(run) || !listed(run, run->checkpoint.segment, &at)) return false;
    if (at + 1 != run->listing.count) return false;
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    mql_base_file_name(path, run->task->directory, run->checkpoint.segment, ".log");
    if (mql_os_stat_name(run->task->root, path, &stat) < 0 || stat.size != run->checkpoint.position)
        return false;
    run->out->end = (mql_control_end){run->checkpoint.segment, run->checkpoint.position,
                                      run->checkpoint.offset};
    run->out->durable = run->out->end;
    return true;
}

/* Whether a stranger has appended to the log since it was closed: it had its exact length then, and
 * an opener that dies before it appends leaves only zeros behind that. The page of memory says
 * nothing of such bytes, so they are looked at as after a reboot. */
static bool was_lengthened(recovery *run) {
    if (!was_closed(run) || run->task->live || run->out->end.offset != run->checkpoint.offset)
        return false;
    mql_segment_options options = segment_options(run->task);
    mql_segment *segment;
    if (mql_segment_open(&options, run->checkpoint.segment, &segment) < 0) return false;
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    bool zeros = mql_segment_only_zeros(segment, &run->window, run->checkpoint.position, length);
    mql_segment_release(segment);
    run->window.length = 0;
    return !zeros;
}

/* Writes one empty batch for the offsets from the end to `last`. */
static int write_filler(recovery *run, int64_t last) {
    mql_control_end *end = &run->out->end;
    uint8_t batch[MQL_BATCH_HEADER];
    mql_batch_write_empty(batch, end->offset, last, run->out->epoch);
    char path[MQL_PATH_MAX];
    mql_base_file_name(path, run->task->directory, end->segment, ".log");
    mql_os_file file;
    int rc = mql_os_open(run->task->root, path, MQL_OS_WRITE, 0, &file);
    if (rc == 0) {
        rc = mql_os_write(file, batch, sizeof batch, end->position);
        if (rc == 0) rc = mql_os_sync(file);
        mql_os_close(file);
    }
    if (rc < 0)
        return mql_base_fail_os(rc, path, "cannot use up the offsets that may have been seen");
    end->position += MQL_BATCH_HEADER;
    end->offset = last + 1;
    return MQL_OK;
}

/* Uses up the offsets from the end to the ceiling by empty batches (one, but for absurd distances),
 * so that none is given out twice. */
static int fill_to_ceiling(recovery *run) {
    mql_control_end *end = &run->out->end;
    int64_t ceiling = run->checkpoint.ceiling;
    if (!run->has_checkpoint || was_closed(run)) return MQL_OK;
    while (end->offset < ceiling) {
        int64_t last = mql_base_min(ceiling - 1, end->offset + INT32_MAX);
        bool fits = last - end->segment <= INT32_MAX &&
                    end->position + MQL_BATCH_HEADER <= MQL_SEGMENT_BYTES_MAX;
        int rc = MQL_OK;
        if (!fits && end->offset > end->segment) {
            rc = make_segment(run, end->offset);
            *end = (mql_control_end){end->offset, 0, end->offset};
        }
        if (rc == MQL_OK) rc = write_filler(run, last);
        if (rc < 0) return rc;
    }
    return MQL_OK;
}

/* After a scan by a writer: a new epoch, the offsets used up, a checkpoint that says so. */
static int settle(recovery *run) {
    mql_control_end *end = &run->out->end;
    int rc = clear_nexts(run, INT64_MAX);
    if (rc == MQL_OK && run->fresh) {
        rc = make_segment(run, run->checkpoint.ceiling);
        *end = (mql_control_end){run->checkpoint.ceiling, 0, run->checkpoint.ceiling};
    }
    if (rc == MQL_OK && run->has_checkpoint) rc = raise_epoch(run, end->offset);
    if (rc == MQL_OK && !run->has_checkpoint && run->epochs->count > 0)
        rc = mql_epoch_save(run->task->root, run->task->directory, run->epochs, run->task->mode,
                            true);
    if (rc == MQL_OK) rc = fill_to_ceiling(run);
    if (rc == MQL_OK) rc = sync_directory(run->task);
    if (rc < 0) return rc;
    run->out->durable = *end;
    run->checkpoint.log_start = run->out->log_start;
    run->checkpoint.segment = end->segment;
    run->checkpoint.position = end->position;
    run->checkpoint.offset = end->offset;
    run->checkpoint.ceiling = mql_base_max(end->offset, run->checkpoint.ceiling);
    run->checkpoint.epoch = run->out->epoch;
    run->checkpoint.clean = 0;
    return mql_checkpoint_write(run->task->root, run->task->directory, &run->checkpoint,
                                run->task->mode);
}

static int decide(recovery *run) {
    const mql_recover_task *task = run->task;
    if (run->listing.count == 0) {
        int64_t base =
            run->has_checkpoint ? mql_base_max(run->checkpoint.ceiling, run->checkpoint.offset) : 0;
        run->out->end = run->out->durable = (mql_control_end){base, 0, base};
        return task->look_only ? MQL_OK : make_segment(run, base);
    }
    if (took_clean(run)) return task->look_only ? MQL_OK : clear_nexts(run, INT64_MAX);
    if (take_control(run) && !was_lengthened(run)) return finish_control(run);
    bool can_scan;
    int found = begin_at_watermark(run, &can_scan);
    if (found < 0) return found;
    run->out->behind = task->live;
    if (task->live) return MQL_OK; /* the watermark, and no further */
    if (can_scan) {
        int rc = scan(run);
        if (rc < 0) return rc;
    } else {
        /* R6: damage below the watermark is never cut; appends go on in a segment of their own. */
        run->fresh = true;
        tell(run, 6, run->checkpoint.segment, run->checkpoint.position, 0, NULL);
    }
    return task->look_only ? MQL_OK : settle(run);
}

/* The table of epochs has no CRC; the checkpoint has one, and the page of memory is this boot's. An
 * epoch that began below what they speak of, and that they do not know, is a damaged number: then
 * nothing is known of the batches below. */
static int doubt_epochs(recovery *run) {
    const mql_recover_task *task = run->task;
    mql_epoch_table *table = run->epochs;
    if (!run->has_checkpoint || table->count == 0) return MQL_OK;
    mql_epoch_entry last = table->entries[table->count - 1];
    mql_epoch_entry known = {.start = run->checkpoint.offset, .epoch = run->checkpoint.epoch};
    mql_control_end end;
    if (task->control != NULL && mql_control_is(task->control, task->identity) &&
        atomic_load_explicit(&task->control->instance, memory_order_relaxed) != 0 &&
        mql_control_trust(&task->control->published, !task->live, &end) &&
        end.offset >= known.start) {
        known.start = end.offset;
        known.epoch = (int32_t)mql_base_max(known.epoch, task->control->epoch);
    }
    if (last.epoch <= known.epoch || last.start >= known.start) return MQL_OK;
    mql_epoch_free(table);
    int rc = mql_epoch_add(table, known.epoch, known.start);
    if (rc < 0 || task->look_only) return rc;
    return mql_epoch_save(task->root, task->directory, table, task->mode, false);
}

int mql_recover_run(const mql_recover_task *task, mql_epoch_table *epochs, mql_recover_state *out) {
    recovery run = {.task = task, .epochs = epochs, .out = out};
    memset(out, 0, sizeof *out);
    mql_swap_place place = {
        .root = task->root, .directory = task->directory, .mode = task->mode};
    /* R11. Undone, or half done, it is as good to read. */
    if (!task->look_only) out->replacing = mql_swap_settle(&place, &out->freed) < 0;
    int rc = mql_recover_list(task->root, task->directory, &run.listing);
    if (rc == MQL_OK)
        rc = mql_checkpoint_read(task->root, task->directory, &run.checkpoint);
    run.has_checkpoint = rc == MQL_OK;
    if (rc >= 0) rc = mql_epoch_load(task->root, task->directory, epochs);
    if (rc >= 0) rc = doubt_epochs(&run);
    if (rc >= 0) {
        out->epoch = epochs->count > 0 ? epochs->entries[epochs->count - 1].epoch : 0;
        /* The file may have been lost: new batches must not go below older ones. */
        if (run.has_checkpoint)
            out->epoch = (int32_t)mql_base_max(out->epoch, run.checkpoint.epoch);
        int64_t first = run.listing.count > 0 ? run.listing.bases[0] : 0;
        out->log_start = run.has_checkpoint ? mql_base_max(run.checkpoint.log_start, first) : first;
        for (size_t i = 0; i < run.listing.next_count; i++)
            if (mql_base_is_later_turn(run.listing.nexts[i], out->last_number))
                out->last_number = run.listing.nexts[i];
        if (mql_base_is_later_turn(run.checkpoint.last_number, out->last_number))
            out->last_number = run.checkpoint.last_number;
        out->sealed = run.has_checkpoint ? run.checkpoint.segment : -1;
        rc = decide(&run);
    }
    if (rc >= 0) {
        bool unclean = run.has_checkpoint && run.checkpoint.clean != 1;
        out->ceiling =
            unclean ? mql_base_max(run.checkpoint.ceiling, out->end.offset) : out->end.offset;
        if (out->sealed < 0) out->sealed = out->end.segment;
        out->log_start = mql_base_min(out->log_start, out->end.offset);
        rc = MQL_OK;
    }
    mql_segment_window_free(&run.window);
    mql_recover_listing_free(&run.listing);
    return rc;
}
