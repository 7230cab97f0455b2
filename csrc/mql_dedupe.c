/* mql_dedupe.c - idempotent puts.
 *
 * The truth is the header MQL_DEDUPE_HEADER of the records in the log; this file is a table of what
 * was found there: a ring of the newest entries, and for each bucket of hashes the entry that came
 * last, which names the one before it. An entry that the ring has overwritten is recognised by its
 * number, so nothing is ever deleted.
 *
 * Who puts looks and appends under one lock, so two of the same key cannot both find nothing. A
 * death between the append and the entry is mended from the log: `scanned` says up to where its
 * records are in the table. Nothing but such puts waits for this lock, so the log may be read and
 * the file lengthened under it; the writer lock is taken inside.
 */
#include "mql_dedupe.h"

#include <errno.h>
#include <stdio.h>

#include "mql_append.h"
#include "mql_commit.h"
#include "mql_cursor.h"

#define FIRST_ENTRIES 128
#define MOST_ENTRIES (1u << 20)

static int64_t bytes_for(uint32_t entries) {
    int64_t each = (int64_t)(sizeof(mql_format_once) + sizeof(uint64_t));
    return mql_base_round_up(entries * each, MQL_PAGE);
}

static mql_format_once *entry(const mql_dedupe *dedupe, uint64_t number) {
    mql_format_once *ring = (mql_format_once *)(void *)dedupe->body;
    return &ring[number & (dedupe->map->entries - 1)];
}

static uint64_t *bucket(const mql_dedupe *dedupe, uint64_t hash) {
    uint32_t entries = dedupe->map->entries;
    uint64_t *buckets =
        (uint64_t *)(void *)(dedupe->body + (size_t)entries * sizeof(mql_format_once));
    return &buckets[(hash ^ hash >> 32) & (entries - 1)];
}

/* FNV-1a. */
static uint64_t hash_of(const uint8_t *key, int64_t length) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int64_t i = 0; i < length; i++) hash = (hash ^ key[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* -- the file ---------------------------------------------------------------------------------- */
static void unmap_body(mql_dedupe *dedupe) {
    if (dedupe->body != NULL) mql_os_unmap(dedupe->body, dedupe->length);
    dedupe->body = NULL;
    dedupe->length = 0;
}

/* Maps the body, at least `least` bytes of it; the file is made, and its page mapped, if need be.
 */
static int map_file(mql_dedupe *dedupe, int64_t least) {
    const mql_log_home *home = dedupe->log->home;
    mql_os_file file;
    mql_os_stat stat;
    void *map = dedupe->map, *body = NULL;
    int rc = mql_os_open(home->root, dedupe->path, MQL_OS_WRITE | MQL_OS_CREATE, home->mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, dedupe->path, "cannot open the table of keys");
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && stat.size < MQL_PAGE + least) {
        rc = mql_os_allocate(file, 0, MQL_PAGE + least);
        stat.size = MQL_PAGE + least;
    }
    if (rc == 0 && map == NULL) rc = mql_os_map(file, MQL_PAGE, true, &map);
    dedupe->map = map;
    size_t length = (size_t)(stat.size - MQL_PAGE);
    if (rc == 0) rc = mql_os_map_at(file, MQL_PAGE, length, &body);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, dedupe->path, "cannot map the table of keys");
    unmap_body(dedupe);
    dedupe->body = body;
    dedupe->length = length;
    return MQL_OK;
}

static void unmap_all(mql_dedupe *dedupe) {
    unmap_body(dedupe);
    if (dedupe->map != NULL) mql_os_unmap(dedupe->map, MQL_PAGE);
    dedupe->map = NULL;
}

static void free_dedupe(mql_dedupe *dedupe) {
    unmap_all(dedupe);
    mql_os_free_memory(dedupe);
}

void mql_dedupe_unmap(mql_log *log) {
    mql_dedupe *dedupe = atomic_load_explicit(&log->dedupe, memory_order_relaxed);
    if (dedupe != NULL) unmap_all(dedupe);
}

/* Empties the table: what it knew is read from the log again. */
static void reset(mql_dedupe *dedupe, uint32_t entries) {
    mql_format_dedupe *map = dedupe->map;
    map->entries = entries;
    map->next = 1;
    map->scanned = -1;
    memset(dedupe->body, 0, dedupe->length);
}

static bool is_sound(const mql_dedupe *dedupe) {
    const mql_format_dedupe *map = dedupe->map;
    uint32_t entries = map->entries;
    return memcmp(map->magic, MQL_DEDUPE_MAGIC, sizeof map->magic) == 0 &&
           map->layout == MQL_LAYOUT &&
           memcmp(map->boot, dedupe->log->home->identity.boot, sizeof map->boot) == 0 &&
           entries >= FIRST_ENTRIES && entries <= MOST_ENTRIES && (entries & (entries - 1)) == 0 &&
           bytes_for(entries) <= (int64_t)dedupe->length && map->next > 0;
}

/* Gives the file the length and the blocks that a table of that many entries needs: a copy may be
 * without its zeros. Nobody else has it mapped. */
static int fit(mql_dedupe *dedupe, uint32_t entries) {
    mql_os_file file;
    mql_os_stat stat;
    int64_t bytes = bytes_for(entries);
    int rc = mql_os_open(dedupe->log->home->root, dedupe->path, MQL_OS_WRITE, 0, &file);
    if (rc < 0) return mql_base_fail_os(rc, dedupe->path, "cannot open the table of keys");
    unmap_body(dedupe);
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && stat.size > MQL_PAGE + bytes) rc = mql_os_truncate(file, MQL_PAGE + bytes);
    if (rc == 0) rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && mql_os_lacks_blocks(&stat, MQL_PAGE + bytes))
        rc = mql_os_allocate(file, 0, MQL_PAGE + bytes);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, dedupe->path, "no space for the table of keys");
    return map_file(dedupe, bytes);
}

/* Under the gate: the first of this instance of the store makes the lock, and the table if what is
 * there is not this boot's. */
static int make_ready(mql_dedupe *dedupe) {
    mql_format_dedupe *map = dedupe->map;
    const mql_log_home *home = dedupe->log->home;
    if (atomic_load_explicit(&map->instance, memory_order_acquire) == home->instance) return MQL_OK;
    bool sound = is_sound(dedupe);
    int fitted = fit(dedupe, sound ? map->entries : FIRST_ENTRIES);
    if (fitted < 0) return fitted;
    if (!sound) {
        memset(map, 0, sizeof *map);
        memcpy(map->magic, MQL_DEDUPE_MAGIC, sizeof map->magic);
        map->layout = MQL_LAYOUT;
        map->oldest_writer = MQL_OLDEST_WRITER;
        memcpy(map->boot, home->identity.boot, sizeof map->boot);
        reset(dedupe, FIRST_ENTRIES);
    }
    int rc = mql_os_mutex_init_shared(&map->lock);
    if (rc < 0) return mql_base_fail_os(rc, dedupe->path, "cannot make a shared lock");
    atomic_store_explicit(&map->instance, home->instance, memory_order_release);
    return MQL_OK;
}

/* The table of this log, made at its first use. */
static int find(mql_log *log, mql_dedupe **out) {
    mql_log_home *home = log->home;
    *out = atomic_load_explicit(&log->dedupe, memory_order_acquire);
    if (*out != NULL) return MQL_OK;
    int rc = home->gate(home->context);
    if (rc != MQL_OK) return rc;
    *out = atomic_load_explicit(&log->dedupe, memory_order_acquire);
    mql_dedupe *made = *out == NULL ? mql_os_allocate_memory(sizeof *made) : NULL;
    if (*out == NULL && made == NULL)
        rc = mql_base_fail(MQL_E_MEMORY, log->directory, "no memory for the table of keys");
    if (made != NULL) {
        made->log = log;
        snprintf(made->path, sizeof made->path, "%s/dedupe", log->directory);
        rc = map_file(made, bytes_for(FIRST_ENTRIES));
        if (rc == MQL_OK) rc = make_ready(made);
        if (rc == MQL_OK) {
            atomic_store_explicit(&log->dedupe, made, memory_order_release);
            *out = made;
        } else {
            free_dedupe(made);
        }
    }
    home->ungate(home->context);
    return rc;
}

void mql_dedupe_free(mql_log *log) {
    mql_dedupe *dedupe = atomic_load_explicit(&log->dedupe, memory_order_relaxed);
    if (dedupe == NULL) return;
    free_dedupe(dedupe);
    atomic_store_explicit(&log->dedupe, NULL, memory_order_relaxed);
}

/* -- entries, under the lock ------------------------------------------------------------------- */
static bool is_there(const mql_dedupe *dedupe, uint64_t number) {
    return number > 0 && number < dedupe->map->next &&
           dedupe->map->next - number <= dedupe->map->entries;
}

static void add(mql_dedupe *dedupe, uint64_t hash, int64_t offset, int64_t time) {
    mql_format_dedupe *map = dedupe->map;
    uint64_t number = map->next;
    uint64_t *last = bucket(dedupe, hash);
    *entry(dedupe, number) =
        (mql_format_once){.hash = hash, .offset = offset, .time = time, .before = *last};
    map->next = number + 1;
    *last = number;
}

/* The newest entry of that hash since `since`, of an offset below `before`; -1: none. */
static int64_t look_up(mql_dedupe *dedupe, uint64_t hash, int64_t since, int64_t before) {
    uint64_t number = *bucket(dedupe, hash), seen = 0;
    while (is_there(dedupe, number) && seen++ < dedupe->map->entries) {
        const mql_format_once *one = entry(dedupe, number);
        /* One that is too old says nothing of those before it: the clock may have jumped. */
        bool wanted = one->time >= since && one->hash == hash && one->offset >= 0 &&
                      one->offset < before;
        if (wanted) return one->offset;
        if (one->before >= number) return -1;
        number = one->before;
    }
    return -1;
}

/* Twice as many entries, if the oldest still counts. A full disk forgets it instead. */
static int widen(mql_dedupe *dedupe, int64_t since) {
    mql_format_dedupe *map = dedupe->map;
    uint32_t entries = map->entries;
    if (map->next <= entries || entries >= MOST_ENTRIES ||
        entry(dedupe, map->next - entries)->time < since)
        return MQL_OK;
    size_t size = entries * sizeof(mql_format_once);
    mql_format_once *kept = mql_os_allocate_memory(size);
    if (kept == NULL) return MQL_OK;
    uint64_t from = map->next - entries;
    for (uint32_t i = 0; i < entries; i++) kept[i] = *entry(dedupe, from + i);
    int64_t scanned = map->scanned;
    int rc = map_file(dedupe, bytes_for(2 * entries));
    if (rc == MQL_OK) {
        dedupe->map->scanned = -1; /* a death in here reads the log again */
        reset(dedupe, 2 * entries);
        for (uint32_t i = 0; i < entries; i++)
            add(dedupe, kept[i].hash, kept[i].offset, kept[i].time);
        dedupe->map->scanned = scanned;
    }
    mql_os_free_memory(kept);
    return rc == MQL_E_OS ? MQL_OK : rc;
}

/* -- from the log ------------------------------------------------------------------------------ */
/* The key that a record was put with, or one of length -1. */
static mql_value key_of(const mql_record_view *view) {
    mql_value headers = view->headers, name, value;
    static const char wanted[] = MQL_DEDUPE_HEADER;
    while (headers.length > 0 && mql_batch_one_header_next(&headers, &name, &value) == MQL_OK)
        if (name.length == (int64_t)sizeof wanted - 1 &&
            memcmp(name.data, wanted, sizeof wanted - 1) == 0)
            return value;
    return (mql_value){.length = -1};
}

static int add_batch(mql_dedupe *dedupe, const mql_batch *batch, int64_t since) {
    /* Such records are put one to a batch, and not compressed. */
    if (batch->count != 1 || MQL_BATCH_COMPRESSION(batch->attributes) != MQL_NONE ||
        batch->max_timestamp < since)
        return MQL_OK;
    mql_walk walk;
    mql_record_view view;
    mql_batch_walk_start(&walk, batch, batch->payload, (size_t)batch->payload_length);
    if (mql_batch_walk_next(&walk, &view) != MQL_OK) return MQL_OK;
    mql_value key = key_of(&view);
    if (key.length < 0) return MQL_OK;
    int rc = widen(dedupe, since);
    if (rc == MQL_OK) add(dedupe, hash_of(key.data, key.length), view.offset, batch->max_timestamp);
    return rc;
}

/* Enters what the log has from `scanned` on, or, of a new table, from the window's begin. */
static int catch_up(mql_dedupe *dedupe, int64_t since) {
    mql_log *log = dedupe->log;
    mql_control_end end;
    mql_log_end(log, &end);
    if (dedupe->map->scanned > end.offset) reset(dedupe, dedupe->map->entries); /* damaged */
    int64_t from = dedupe->map->scanned;
    if (from == end.offset) return MQL_OK;
    mql_cursor *cursor;
    int64_t start = mql_log_start(log);
    int rc = mql_cursor_make(log, mql_base_max(from, start), MQL_TO_END, &cursor);
    if (rc < 0) return rc;
    if (from < 0) rc = mql_cursor_move_to_time(cursor, since, &from);
    while (rc == MQL_OK || rc == MQL_E_CORRUPT) { /* what is damaged cannot be found again */
        mql_batch batch;
        rc = mql_cursor_read(cursor, &batch);
        if (rc == MQL_OK) rc = add_batch(dedupe, &batch, since);
    }
    if (rc == MQL_END) {
        dedupe->map->scanned = mql_cursor_place(cursor);
        rc = MQL_OK;
    }
    mql_cursor_end(cursor);
    return rc;
}

/* -- putting ----------------------------------------------------------------------------------- */
/* What another process has lengthened is mapped anew. */
static int map_all(mql_dedupe *dedupe) {
    if (bytes_for(dedupe->map->entries) <= (int64_t)dedupe->length) return MQL_OK;
    return map_file(dedupe, bytes_for(dedupe->map->entries));
}

static int put_locked(mql_dedupe *dedupe, const mql_append_source *source, const mql_once *once,
                      int flags, int64_t *offset) {
    int64_t now = mql_log_wall_ms(dedupe->log->home), since = now - once->window_ms;
    uint64_t hash = hash_of(once->key.data, once->key.length);
    int rc = map_all(dedupe);
    if (rc == MQL_OK && !is_sound(dedupe)) reset(dedupe, FIRST_ENTRIES);
    if (rc == MQL_OK) rc = catch_up(dedupe, since);
    if (rc == MQL_OK) rc = widen(dedupe, since);
    if (rc != MQL_OK) return rc;
    mql_control_end end;
    mql_log_end(dedupe->log, &end);
    int64_t before = once->ignore < 0 ? end.offset : once->ignore;
    int64_t earlier = look_up(dedupe, hash, since, before);
    if (earlier >= 0) {
        *offset = earlier;
        return MQL_FOUND;
    }
    if (once->look) {
        mql_base_error()->start = 1;
        mql_base_error()->stop = 0;
        return MQL_FULL;
    }
    rc = mql_append_source_to(dedupe->log, source, flags | MQL_APPEND_UNSYNCED, offset);
    if (rc != MQL_OK) return rc;
    if (dedupe->map->scanned == *offset) { /* else others have appended: read them next time */
        add(dedupe, hash, *offset, now);
        dedupe->map->scanned = *offset + 1;
    }
    return MQL_OK;
}

int mql_dedupe_append(mql_log *log, const mql_record *record, const mql_once *once, int flags,
                      int64_t *offset) {
    mql_append_source source = {.records = record, .count = 1, .timestamp = MQL_NOW};
    mql_dedupe *dedupe;
    int rc = mql_log_writable(log);
    if (rc == MQL_OK) rc = find(log, &dedupe);
    if (rc == MQL_OK)
        rc = mql_log_take(log, &dedupe->map->lock, MQL_LOCK_SLICE_NS, &dedupe->map->owed);
    if (rc != MQL_OK) return rc;
    if (dedupe->map->owed != 0) { /* an entry may be half there: the log says what is */
        rc = map_all(dedupe);
        if (rc == MQL_OK) reset(dedupe, dedupe->map->entries);
        if (rc == MQL_OK) dedupe->map->owed = 0;
    }
    if (rc == MQL_OK) rc = put_locked(dedupe, &source, once, flags, offset);
    mql_os_mutex_drop(&dedupe->map->lock);
    bool durable = (flags & MQL_DURABLE) != 0 || mql_log_is_sync(log);
    if ((rc != MQL_OK && rc != MQL_FOUND) || !durable) return rc;
    int synced = mql_append_sync(log, *offset + 1);
    /* What was there before is found again. */
    if (synced == MQL_UNSYNCED && rc == MQL_FOUND) return MQL_TIMEOUT;
    return synced != MQL_OK ? synced : rc;
}
