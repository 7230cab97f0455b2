/* mql_swap.c - one file takes the place of several segments.
 *
 * The steps, each of which may be the last before a death or a power cut:
 *
 *   1  <base>.log.cleaned is written and synced                         undone: it is taken away
 *   2  it is renamed <base>.log.swap                                    from here on: finished
 *   3  the directory is synced, and it gets a second name, <base>.log,
 *      in one rename over the old
 *   4  the segments whose offsets it has are unlinked, with all indexes
 *   5  the directory is synced, .swap unlinked, the directory synced
 *
 * Why nothing is lost. The segments are there until the file that has their offsets is on stable
 * storage under a name that says what it is for; from then on it is the file that counts, and the
 * steps behind are done again until they are done. Kafka finds the same names and does the same.
 * The last sync comes before anything is begun anew: a .swap that came back after the next one
 * would take away what that has.
 *
 * Why readers go on meanwhile. At each moment every offset is in a file that can be opened: between
 * 3 and 4 in two, and the log's files overlap. Old segments go from the front, so the file with the
 * greatest base that is not above an offset always has it; who is at the end of one, or finds the
 * next one gone, goes on with that.
 */
#include "mql_swap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const indexes[] = {".index", ".timeindex"};

/* -- files ------------------------------------------------------------------------------------- */
static void name_of(const mql_swap_place *place, int64_t base, const char *suffix,
                    char path[MQL_PATH_MAX]) {
    mql_base_file_name(path, place->directory, base, suffix);
}

static int sync_directory(const mql_swap_place *place) {
    mql_os_file opened;
    int rc = mql_os_open_directory(place->root, place->directory, &opened);
    if (rc == 0) {
        rc = mql_os_sync_directory(opened);
        mql_os_close(opened);
    }
    return rc < 0 ? mql_base_fail_os(rc, place->directory, "cannot sync the directory") : MQL_OK;
}

/* Unlinks a file that may be gone already; *freed: its bytes too. */
static int drop_file(const mql_swap_place *place, int64_t base, const char *suffix,
                     int64_t *freed) {
    char path[MQL_PATH_MAX];
    mql_os_stat stat;
    name_of(place, base, suffix, path);
    int rc = mql_os_stat_name(place->root, path, &stat);
    if (rc == 0) rc = mql_os_unlink(place->root, path);
    if (rc == 0) *freed += stat.size;
    return rc < 0 && rc != -ENOENT ? mql_base_fail_os(rc, path, "cannot take a file away") : MQL_OK;
}

int mql_swap_begin(const mql_swap_place *place, int64_t base) {
    char from[MQL_PATH_MAX], to[MQL_PATH_MAX];
    name_of(place, base, MQL_SWAP_MAKING, from);
    name_of(place, base, MQL_SWAP_READY, to);
    int rc = mql_os_rename(place->root, from, to);
    return rc < 0 ? mql_base_fail_os(rc, from, "cannot put the rewritten segment in force")
                  : MQL_OK;
}

/* -- what is there ----------------------------------------------------------------------------- */
typedef enum leftover { LEFT_NONE, LEFT_MAKING, LEFT_READY, LEFT_LOG } leftover;

typedef struct found_file {
    int64_t base;
    leftover kind;
    const char *suffix;
} found_file;

typedef struct finding {
    found_file *files; /* owns */
    size_t count, capacity;
} finding;

static bool has_base(const char *name) {
    for (int i = 0; i < 20; i++)
        if (name[i] < '0' || name[i] > '9') return false;
    return true;
}

static found_file file_of(const char *name) {
    static const found_file kinds[] = {{0, LEFT_MAKING, MQL_SWAP_MAKING},
                                       {0, LEFT_MAKING, ".index.cleaned"},
                                       {0, LEFT_MAKING, ".timeindex.cleaned"},
                                       {0, LEFT_READY, MQL_SWAP_READY},
                                       {0, LEFT_LOG, ".log"}};
    found_file found = {.kind = LEFT_NONE};
    for (size_t i = 0; has_base(name) && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name + 20, kinds[i].suffix) == 0) found = kinds[i];
    found.base = found.kind == LEFT_NONE ? 0 : strtoll(name, NULL, 10);
    if (found.base > MQL_OFFSET_MAX) found.kind = LEFT_NONE;
    return found;
}

static int find_one(void *context, const char *name) {
    finding *into = context;
    found_file found = file_of(name);
    if (found.kind == LEFT_NONE) return 0;
    if (into->count == into->capacity) {
        size_t capacity = 2 * into->capacity + 16;
        found_file *files = mql_os_allocate_memory(capacity * sizeof *files);
        if (files == NULL) return -ENOMEM;
        if (into->count > 0) memcpy(files, into->files, into->count * sizeof *files);
        mql_os_free_memory(into->files);
        into->files = files;
        into->capacity = capacity;
    }
    into->files[into->count++] = found;
    return 0;
}

static int find_files(const mql_swap_place *place, finding *out) {
    mql_os_file opened;
    int rc = mql_os_open_directory(place->root, place->directory, &opened);
    if (rc == 0) {
        rc = mql_os_list(opened, find_one, out);
        mql_os_close(opened);
    }
    return rc < 0 ? mql_base_fail_os(rc, place->directory, "cannot list the partition") : MQL_OK;
}

/* -- indexes ----------------------------------------------------------------------------------- */
static int put_index(const mql_swap_place *place, int64_t base, const char *suffix,
                     const uint8_t *bytes, size_t length) {
    char making[MQL_PATH_MAX], to[MQL_PATH_MAX], beside[32];
    snprintf(beside, sizeof beside, "%s.cleaned", suffix);
    name_of(place, base, beside, making);
    name_of(place, base, suffix, to);
    mql_os_file file;
    (void)mql_os_unlink(place->root, making);
    int rc = mql_os_open(place->root, making, MQL_OS_WRITE | MQL_OS_CREATE | MQL_OS_EXCLUSIVE,
                         place->mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, making, "cannot make an index");
    if (length > 0) rc = mql_os_write(file, bytes, length, 0);
    mql_os_close(file);
    if (rc == 0) rc = mql_os_rename(place->root, making, to);
    if (rc < 0) (void)mql_os_unlink(place->root, making);
    return rc < 0 ? mql_base_fail_os(rc, to, "cannot write an index") : MQL_OK;
}

static bool make_room(mql_index_file *file, size_t length) {
    file->bytes = mql_os_allocate_memory(length);
    file->length = length;
    file->allocated = (int64_t)length;
    file->is_private = true;
    return file->bytes != NULL;
}

/* Made from the segment beside and put in their place: who reads has mapped no other bytes. */
static int make_indexes(const mql_swap_place *place, mql_segment *segment, int64_t *bytes) {
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    int64_t since, newest, newest_offset, last;
    _Atomic uint32_t counts[2];
    mql_index index = {0};
    mql_segment_window window = {0};
    mql_index_tail tail = {&counts[0], &counts[1], &since, &newest, &newest_offset, &last};
    mql_index_place of = {
        .root = place->root, .directory = place->directory, .base = segment->base};
    mql_index_tail_reset(&tail);
    bool room = make_room(&index.offsets, mql_index_offsets_capacity(length)) &&
                make_room(&index.times, mql_index_times_capacity(length));
    int rc = room ? MQL_OK : mql_base_fail(MQL_E_MEMORY, segment->path, "no memory for an index");
    mql_segment_walk walk = {.segment = segment,
                             .window = &window,
                             .expected = segment->base,
                             .limit = length,
                             .max_size = MQL_BATCH_BYTES_MAX};
    while (rc == MQL_OK && mql_segment_walk_next(&walk) == MQL_OK)
        mql_index_note(&index, &tail, &of, walk.header.last_offset, walk.at, walk.header.size,
                       walk.header.max_timestamp);
    if (rc == MQL_OK) mql_index_note_end(&index, &tail, &of);
    *bytes = (int64_t)counts[0] * MQL_INDEX_ENTRY + (int64_t)counts[1] * MQL_TIME_ENTRY;
    if (rc == MQL_OK)
        rc = put_index(place, segment->base, indexes[0], index.offsets.bytes,
                       counts[0] * (size_t)MQL_INDEX_ENTRY);
    if (rc == MQL_OK)
        rc = put_index(place, segment->base, indexes[1], index.times.bytes,
                       counts[1] * (size_t)MQL_TIME_ENTRY);
    mql_segment_window_free(&window);
    mql_index_close(&index);
    return rc;
}

/* -- finishing --------------------------------------------------------------------------------- */
/* The offset behind a segment of whole batches; -1: it is not one. */
static int64_t end_of(mql_segment *segment, bool verify) {
    mql_segment_window window = {0};
    int64_t length = atomic_load_explicit(&segment->length, memory_order_relaxed);
    mql_segment_walk walk = {.segment = segment,
                             .window = &window,
                             .expected = segment->base,
                             .limit = length,
                             .max_size = MQL_BATCH_BYTES_MAX,
                             .verify = verify};
    int rc;
    while ((rc = mql_segment_walk_next(&walk)) == MQL_OK) continue;
    int64_t end = rc == MQL_END && walk.position == length && length > 0 ? walk.expected : -1;
    mql_segment_window_free(&window);
    return end;
}

/* Step 3: both names are one file's. */
static int put_in_place(const mql_swap_place *place, int64_t base, int64_t *freed) {
    char ready[MQL_PATH_MAX], making[MQL_PATH_MAX], log[MQL_PATH_MAX];
    mql_os_stat wanted, stat = {0};
    name_of(place, base, MQL_SWAP_READY, ready);
    name_of(place, base, MQL_SWAP_MAKING, making);
    name_of(place, base, ".log", log);
    int rc = mql_os_stat_name(place->root, ready, &wanted);
    if (rc == 0) rc = mql_os_stat_name(place->root, log, &stat);
    if (rc == -ENOENT) rc = 0;
    bool same = rc == 0 && stat.inode == wanted.inode;
    if (!same && rc == 0) rc = mql_os_link(place->root, ready, making);
    if (!same && rc == 0) rc = mql_os_rename(place->root, making, log);
    if (rc < 0) return mql_base_fail_os(rc, log, "cannot put the rewritten segment in its place");
    if (!same) *freed += stat.size;
    if (same && place->moved == NULL) *freed += wanted.size; /* who opens has counted both names */
    /* Before anything goes: who misses a file looks at it. Whoever gave it the name may have died
     * before he said so. */
    if (place->moved != NULL)
        atomic_fetch_add_explicit(place->moved, 1, memory_order_release);
    return MQL_OK;
}

static int ascending(const void *a, const void *b) {
    int64_t x = ((const found_file *)a)->base, y = ((const found_file *)b)->base;
    return (x > y) - (x < y);
}

/* Step 4, from the front: so those that are left go on to the end. */
static int drop_replaced(const mql_swap_place *place, const finding *found, int64_t base,
                         int64_t end, int64_t *freed) {
    int rc = MQL_OK;
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes && rc == MQL_OK; i++)
        rc = drop_file(place, base, indexes[i], freed);
    for (size_t i = 0; i < found->count && rc == MQL_OK; i++) {
        const found_file *file = &found->files[i];
        if (file->kind != LEFT_LOG || file->base <= base || file->base >= end) continue;
        rc = drop_file(place, file->base, ".log", freed);
        for (size_t j = 0; j < sizeof indexes / sizeof *indexes && rc == MQL_OK; j++)
            rc = drop_file(place, file->base, indexes[j], freed);
    }
    return rc;
}

static int finish(const mql_swap_place *place, const finding *found, int64_t base, int64_t *freed) {
    mql_segment_options options = {
        .root = place->root, .directory = place->directory, .read_only = true};
    mql_segment *segment;
    int64_t nothing = 0, bytes = 0;
    int rc = mql_segment_open_beside(&options, base, MQL_SWAP_READY, &segment);
    if (rc < 0) return rc;
    int64_t end = end_of(segment, place->moved == NULL); /* who opens has not seen it written */
    /* One that is damaged since, and counts for nothing: either its other name has its bytes and
     * tells of the damage, or all that it was to replace is there. */
    if (end >= 0) rc = sync_directory(place); /* its name is there, whatever goes */
    if (end >= 0 && rc == MQL_OK) rc = put_in_place(place, base, freed);
    if (end >= 0 && rc == MQL_OK) rc = drop_replaced(place, found, base, end, freed);
    /* Without its indexes it is walked. */
    if (end >= 0 && rc == MQL_OK && make_indexes(place, segment, &bytes) == MQL_OK) *freed -= bytes;
    mql_segment_release(segment);
    if (rc == MQL_OK) rc = sync_directory(place);
    return rc == MQL_OK ? drop_file(place, base, MQL_SWAP_READY, end < 0 ? freed : &nothing) : rc;
}

int mql_swap_settle(const mql_swap_place *place, int64_t *freed) {
    finding found = {0};
    bool any = false;
    *freed = 0;
    int rc = find_files(place, &found);
    if (found.count > 1) qsort(found.files, found.count, sizeof *found.files, ascending);
    for (size_t i = 0; i < found.count && rc == MQL_OK; i++) /* also a second name, half given */
        if (found.files[i].kind == LEFT_MAKING)
            rc = drop_file(place, found.files[i].base, found.files[i].suffix, freed);
    for (size_t i = 0; i < found.count && rc == MQL_OK; i++) {
        if (found.files[i].kind != LEFT_READY) continue;
        any = true;
        rc = finish(place, &found, found.files[i].base, freed);
    }
    mql_os_free_memory(found.files);
    return rc == MQL_OK && any ? sync_directory(place) : rc;
}
