/* scene.c - the store that hostile bytes are put into. */
#define _GNU_SOURCE
#include "scene.h"

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "place.h"

#define TOPIC "t"
#define START INT64_C(1700000000000)
#define VALUE_MAX 4096
#define SINGLES 4       /* the last records: one to a batch, with keys */
#define TIMED_STEP 1000 /* milliseconds between records */
#define ONCE "key-of-one"

enum scene_forgery scene_forged;

/* -- who is told ------------------------------------------------------------------------------- */
static char about[512];
static int seconds_each;

void scene_about(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(about, sizeof about, format, args);
    va_end(args);
    if (seconds_each > 0) alarm((unsigned)seconds_each);
}

_Noreturn void scene_violation(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "VIOLATION: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n  with: %s\n", about);
    va_end(args);
    abort();
}

static void say(const char *text) {
    if (write(2, text, strlen(text)) < 0) _exit(3);
}

static void told(int number) {
    say(number == SIGALRM ? "VIOLATION: it hangs\n  with: " : "VIOLATION: a crash\n  with: ");
    say(about);
    say("\n");
    signal(number == SIGALRM ? SIGABRT : number, SIG_DFL);
    raise(number == SIGALRM ? SIGABRT : number);
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));
static void dying(void) {
    say("  with: ");
    say(about);
    say("\n");
}

void scene_watch(int seconds) {
    seconds_each = seconds;
    signal(SIGALRM, told);
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(dying);
        return;
    }
    signal(SIGSEGV, told);
    signal(SIGBUS, told);
}

static void must(int rc, const char *doing) {
    if (rc >= 0) return;
    const mql_error *error = mql_error_last();
    scene_violation("%s: %d: %s: %s", doing, rc, error->path, error->text);
}

/* -- what is in it ----------------------------------------------------------------------------- */
/* Each value says which it is. */
static size_t value_of(int64_t n, uint8_t out[VALUE_MAX]) {
    size_t length = n < SCENE_RECORDS - SINGLES ? 500 : 40;
    int head = snprintf((char *)out, VALUE_MAX, "%d:", (int)n);
    for (size_t i = (size_t)head; i < length; i++) out[i] = (uint8_t)((n * 31 + (int64_t)i) % 251);
    return length;
}

static int64_t time_of(int64_t n) {
    return n < SCENE_RECORDS - SINGLES ? START + n / 3 * 3 * TIMED_STEP : START + n * TIMED_STEP;
}

static const mql_log_options LOG = {.segment_bytes = 8192,
                                    .batch_bytes = 4096,
                                    .max_message_bytes = 4096,
                                    .sync_interval_ns = 100000000,
                                    .retention_bytes = -1,
                                    .retention_age_ms = -1,
                                    .durability = 0,
                                    .cleanup = 0};

static int open_store(const scene *the, int read_only, mql_store **store, mql_log **log) {
    mql_open_options options = {.read_only = read_only, .create = !read_only};
    int rc = mql_open(the->path, &options, store);
    if (rc < 0) return rc;
    rc = mql_partition(*store, TOPIC, 0, !read_only, &LOG, log);
    if (rc < 0) {
        mql_close(*store);
        mql_free(*store);
    }
    return rc;
}

static mql_record one_record(const uint8_t *value, size_t length, int64_t time, const char *key) {
    return (mql_record){.key = {(const uint8_t *)key, (int64_t)strlen(key)},
                        .value = {value, (int64_t)length},
                        .headers = {.length = 0},
                        .timestamp = time};
}

static void put_records(mql_log *log) {
    uint8_t bytes[3][VALUE_MAX];
    int64_t offset;
    for (int64_t n = 0; n < SCENE_RECORDS - SINGLES; n += 3) {
        mql_value values[3];
        for (int64_t i = 0; i < 3; i++)
            values[i] = (mql_value){bytes[i], (int64_t)value_of(n + i, bytes[i])};
        must(mql_append_values(log, values, 3, time_of(n), 0, &offset), "append");
    }
    for (int64_t n = SCENE_RECORDS - SINGLES; n < SCENE_RECORDS - 1; n++) {
        mql_record record = one_record(bytes[0], value_of(n, bytes[0]), time_of(n), "a key");
        must(mql_append(log, &record, 0, &offset), "append");
    }
}

static int put_once(mql_log *log, int64_t *offset) {
    uint8_t value[VALUE_MAX], header[64];
    size_t name = strlen("__mqlog.dedupe"), key = strlen(ONCE);
    size_t used = mql_header_encode((const uint8_t *)"__mqlog.dedupe", name, (const uint8_t *)ONCE,
                                    (int64_t)key, header);
    mql_record record = one_record(value, value_of(SCENE_RECORDS - 1, value), MQL_NOW, "a key");
    record.headers = (mql_value){header, (int64_t)used};
    record.header_count = 1;
    mql_once once = {.key = {(const uint8_t *)ONCE, (int64_t)key},
                     .window_ms = 86400000,
                     .ignore = -1};
    return mql_append_once(log, &record, &once, 0, offset);
}

static void use_groups(mql_log *log) {
    mql_group *group;
    uint64_t member;
    must(mql_group_open(log, "billing", 1, &group), "group");
    must(mql_group_join(group, &member), "join");
    must(mql_group_claim(group, member), "claim");
    must(mql_group_commit(group, member, 3, 0), "commit");
    must(mql_group_commit(group, member, SCENE_COMMITTED, 0), "commit");
    mql_share *share;
    must(mql_share_open(log, "work", 1, 0, &share), "share");
    mql_acquire how = {.lock_ms = 3600000, .slice_ns = 50000000};
    mql_acquired got[8];
    size_t count = 8;
    must(mql_share_acquire(share, &how, got, &count), "acquire");
    mql_settle items[8];
    for (size_t i = 0; i < 8; i++)
        items[i] = (mql_settle){.offset = got[i].offset, .token = got[i].token};
    mql_settlement accept = {.event = MQL_ACCEPT, .flags = MQL_DURABLE, .slice_ns = 50000000};
    must(mql_share_settle(share, items, SCENE_ACCEPTED, &accept), "accept");
    mql_settlement later = {.event = MQL_RELEASE, .when = START, .slice_ns = 50000000};
    must(mql_share_settle(share, items + SCENE_ACCEPTED, 1, &later), "release");
}

/* In a process of its own, which closes the store or does not. */
static void fill(const scene *the, enum scene_end end) {
    pid_t child = fork();
    if (child == 0) {
        mql_store *store;
        mql_log *log;
        int64_t offset;
        must(open_store(the, 0, &store, &log), "open");
        static const char options[] = "{\"format\": 1}\n";
        must(mql_gate_take(store, 1000000000), "gate");
        must(mql_options_write(store, (const uint8_t *)options, sizeof options - 1), "options");
        mql_gate_drop(store);
        put_records(log);
        must(put_once(log, &offset), "put once");
        use_groups(log);
        if (end == SCENE_CLOSED) must(mql_close(store), "close");
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) scene_violation("no store was made");
}

/* -- files ------------------------------------------------------------------------------------- */
static void keep_file(void *context, const char *name, int64_t bytes) {
    (void)bytes;
    scene *made = context;
    if (made->count == SCENE_FILES) scene_violation("too many files");
    scene_file *kept = &made->files[made->count++];
    snprintf(kept->name, sizeof kept->name, "%s", name);
    kept->bytes = place_read(made->path, name, &kept->length);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const scene_file *)a)->name, ((const scene_file *)b)->name);
}

void scene_make(scene *made, const char *path, enum scene_end end) {
    memset(made, 0, sizeof *made);
    snprintf(made->path, sizeof made->path, "%s", path);
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    /* A forged log may claim so many offsets that their slots fill a disk: not this one. */
    struct rlimit largest = {2 * SCENE_BYTES_MAX, 2 * SCENE_BYTES_MAX};
    setrlimit(RLIMIT_FSIZE, &largest);
    signal(SIGXFSZ, SIG_IGN);
    place_make(made->path);
    fill(made, end);
    place_filled(made->path);
    place_each(made->path, keep_file, made);
    qsort(made->files, made->count, sizeof *made->files, by_name);
}

const scene_file *scene_find(const scene *the, const char *suffix) {
    for (size_t i = 0; i < the->count; i++) {
        const char *name = the->files[i].name;
        size_t length = strlen(name), end = strlen(suffix);
        if (length >= end && strcmp(name + length - end, suffix) == 0) return &the->files[i];
    }
    return NULL;
}

void scene_remove(scene *made) {
    place_remove(made->path);
    for (size_t i = 0; i < made->count; i++) free(made->files[i].bytes);
    made->count = 0;
}

static void check_size(void *context, const char *name, int64_t bytes) {
    (void)context;
    if (!scene_forged && bytes > SCENE_BYTES_MAX)
        scene_violation("%s has grown to %lld bytes", name, (long long)bytes);
}

/* -- reading ----------------------------------------------------------------------------------- */
static bool is_original(int64_t offset, const mql_value *value) {
    static uint8_t all[SCENE_RECORDS][VALUE_MAX];
    static size_t lengths[SCENE_RECORDS];
    if (lengths[offset] == 0) lengths[offset] = value_of(offset, all[offset]);
    return value->length == (int64_t)lengths[offset] &&
           memcmp(value->data, all[offset], lengths[offset]) == 0;
}

/* One bit a record. */
typedef struct reading {
    uint8_t read[SCENE_RECORDS];
    uint8_t lost[SCENE_RECORDS];
    int64_t last;
} reading;

static void judge_batch(const mql_batch *batch, reading *so_far) {
    mql_walk walk;
    mql_record_view view;
    mql_walk_start(&walk, batch, batch->payload, (size_t)batch->payload_length);
    int rc;
    while ((rc = mql_walk_next(&walk, &view)) == MQL_OK) {
        mql_value headers = view.headers, name, value;
        while (headers.length > 0 && mql_header_next(&headers, &name, &value) == MQL_OK) continue;
        if (view.offset <= so_far->last)
            scene_violation("offset %lld after %lld", (long long)view.offset,
                            (long long)so_far->last);
        so_far->last = view.offset;
        if (view.offset < 0 || view.offset >= SCENE_RECORDS) continue;
        if (!is_original(view.offset, &view.value) && scene_forged < SCENE_LOG_FORGED)
            scene_violation("wrong bytes at offset %lld", (long long)view.offset);
        so_far->read[view.offset] = 1;
    }
    if (rc < 0 && scene_forged < SCENE_LOG_FORGED)
        scene_violation("a batch that does not end as it says");
}

static void note_damage(reading *so_far, scene_seen *out) {
    const mql_error *error = mql_error_last();
    if (error->path[0] == 0 || error->text[0] == 0) scene_violation("damage without its place");
    if (error->position < 0 || error->start < 0 || error->stop <= error->start)
        scene_violation("damage in %s at %lld, offsets %lld to %lld", error->path,
                        (long long)error->position, (long long)error->start,
                        (long long)error->stop);
    for (int64_t n = error->start; n < error->stop && n < SCENE_RECORDS; n++) so_far->lost[n] = 1;
    if (out->damages < SCENE_DAMAGES) {
        scene_damage *one = &out->damage[out->damages];
        snprintf(one->path, sizeof one->path, "%.90s", error->path);
        one->position = error->position;
        one->start = error->start;
        one->stop = error->stop;
    }
    out->damages++;
}

static void read_log(mql_log *log, scene_seen *out) {
    mql_log_info info;
    mql_cursor *cursor;
    reading so_far = {.last = -1};
    out->read = out->lost = out->damages = 0;
    must(mql_log_ends(log, &info), "ends");
    out->start = info.start_offset;
    int rc = mql_cursor_open(log, info.start_offset, 0, &cursor);
    if (rc < 0) scene_violation("no cursor at the log's own start: %d", rc);
    int64_t place = -1;
    for (int steps = 0;; steps++) {
        mql_batch batch;
        rc = mql_cursor_next(cursor, &batch);
        if (rc == MQL_END) break;
        if (steps > 4096) scene_violation("reading does not end");
        if (rc == MQL_OK)
            judge_batch(&batch, &so_far);
        else if (rc == MQL_E_CORRUPT)
            note_damage(&so_far, out);
        else
            break; /* a file that is gone, or is none: told */
        if (mql_cursor_offset(cursor) <= place) scene_violation("the cursor does not move");
        place = mql_cursor_offset(cursor);
    }
    if (rc < 0 && rc != MQL_E_CORRUPT) out->damages++;
    mql_cursor_free(cursor);
    for (int n = 0; n < SCENE_RECORDS; n++) {
        if (so_far.read[n] && so_far.lost[n]) scene_violation("offset %d both read and lost", n);
        out->read += so_far.read[n];
        out->lost += so_far.lost[n];
    }
}

/* Places by offset and by time, through the indexes. */
static void look_up(mql_log *log, const scene_seen *seen) {
    mql_log_info info;
    mql_cursor *cursor;
    must(mql_log_ends(log, &info), "ends");
    bool whole = seen->read == SCENE_RECORDS && info.start_offset == 0;
    for (int64_t n = 0; n < SCENE_RECORDS; n += 7) {
        if (mql_cursor_open(log, n, 0, &cursor) < 0) {
            if (whole) scene_violation("offset %lld cannot be found", (long long)n);
            continue;
        }
        mql_batch batch;
        int rc = mql_cursor_next(cursor, &batch);
        if (whole && (rc != MQL_OK || batch.base_offset > n || batch.last_offset < n))
            scene_violation("a cursor opened at %lld gives another batch", (long long)n);
        int64_t offset = -1;
        rc = mql_cursor_seek_time(cursor, time_of(n), &offset);
        if (rc == MQL_OK && whole && !scene_forged && n < SCENE_RECORDS - SINGLES &&
            offset != n / 3 * 3)
            scene_violation("the time of %lld is found at %lld", (long long)n, (long long)offset);
        mql_cursor_free(cursor);
    }
}

static int64_t committed(mql_log *log) {
    mql_group *group;
    int64_t offset;
    if (mql_group_open(log, "billing", 0, &group) < 0) return -2;
    return mql_group_committed(group, &offset) < 0 ? -2 : offset;
}

static int count_recovered(mql_store *store) {
    mql_recovered one;
    int count = 0;
    while (mql_recovered_at(store, (size_t)count, &one) == MQL_OK) count++;
    return count;
}

static void check_words(void) {
    if (mql_error_last()->text[0] == 0) scene_violation("an error without words");
}

void scene_look(const scene *the, scene_seen *out) {
    mql_store *store;
    mql_log *log;
    memset(out, 0, sizeof *out);
    out->appended = -1;
    out->opened = open_store(the, 1, &store, &log);
    if (out->opened < 0) check_words();
    if (out->opened < 0) return;
    out->recovered = count_recovered(store);
    read_log(log, out);
    look_up(log, out);
    out->committed = committed(log);
    mql_close(store);
    mql_free(store);
}

/* -- using ------------------------------------------------------------------------------------- */
/* Takes everything that is to be delivered. */
static void drain(mql_log *log, scene_seen *out) {
    mql_share *share;
    uint8_t given[SCENE_RECORDS] = {0}, damaged[SCENE_RECORDS] = {0};
    out->delivered = -1;
    int opened = mql_share_open(log, "work", 0, 0, &share);
    if (opened < 0) return;
    mql_share_info info;
    mql_acquire how = {.lock_ms = -1, .slice_ns = 50000000, .any = 1};
    for (int steps = 0; steps < 1000; steps++) {
        mql_acquired got[16];
        size_t count = 16;
        int rc = mql_share_acquire(share, &how, got, &count);
        if (rc == MQL_E_CORRUPT) {
            int64_t offset = mql_error_last()->start;
            if (offset >= 0 && offset < SCENE_RECORDS) damaged[offset] = 1;
            continue;
        }
        if (rc != MQL_OK) break;
        for (size_t i = 0; i < count; i++) {
            if (got[i].offset < 0) scene_violation("an offset below 0 is acquired");
            if (got[i].offset < SCENE_RECORDS) given[got[i].offset]++;
            if (got[i].offset < SCENE_RECORDS && given[got[i].offset] > 1)
                scene_violation("offset %lld has two holders", (long long)got[i].offset);
        }
        if (got[0].offset >= SCENE_RECORDS) { /* used up by a recovery */
            mql_log_info ends;
            must(mql_log_ends(log, &ends), "ends");
            mql_share_skip(share, got[0].offset, got[0].token, ends.end_offset);
            break;
        }
        mql_settle item = {.offset = got[0].offset, .token = got[0].token};
        mql_settlement ends = {.event = got[0].moving < 0 ? MQL_ACCEPT : MQL_ARCHIVE,
                               .when = got[0].moving < 0 ? 0 : MQL_DEAD,
                               .slice_ns = 50000000};
        if (mql_share_settle(share, &item, 1, &ends) == MQL_OK && item.result == MQL_E_LOST)
            scene_violation("what was just acquired is lost");
    }
    mql_share_describe(share, &info);
    mql_share_peek(share, (int64_t[4]){0}, 4);
    out->delivered = 0;
    for (int n = 0; n < SCENE_RECORDS; n++) {
        out->again += n < SCENE_ACCEPTED && given[n];
        out->delivered += n >= SCENE_ACCEPTED && (given[n] || damaged[n]);
        out->archived += damaged[n];
    }
    if (out->archived > info.ends[MQL_DAMAGED] && !scene_forged)
        scene_violation("%d slots are told damaged, %lld are counted", out->archived,
                        (long long)info.ends[MQL_DAMAGED]);
}

static void commit(mql_log *log) {
    mql_group *group;
    uint64_t member;
    int64_t offset;
    if (mql_group_open(log, "billing", 1, &group) < 0) return;
    if (mql_group_join(group, &member) != MQL_OK) return;
    if (mql_group_claim(group, member) != MQL_OK) return;
    if (mql_group_commit(group, member, SCENE_COMMITTED + 1, 0) != MQL_OK) return;
    if (mql_group_committed(group, &offset) != MQL_OK || offset != SCENE_COMMITTED + 1)
        scene_violation("a commit that was made is not there");
    mql_group_leave(group, member);
}

/* Whether the record at `offset` is this one. */
static bool is_there(mql_log *log, int64_t offset, const uint8_t *bytes, size_t length) {
    mql_cursor *cursor;
    mql_batch batch;
    bool is = false;
    if (mql_cursor_open(log, offset, 0, &cursor) < 0) return false;
    if (mql_cursor_next(cursor, &batch) == MQL_OK) {
        mql_walk walk;
        mql_record_view view;
        mql_walk_start(&walk, &batch, batch.payload, (size_t)batch.payload_length);
        while (mql_walk_next(&walk, &view) == MQL_OK)
            is = is || (view.offset == offset && view.value.length == (int64_t)length &&
                        memcmp(view.value.data, bytes, length) == 0);
    }
    mql_cursor_free(cursor);
    return is;
}

/* Six are enough to begin a new segment. */
static void append(mql_log *log, int count, scene_seen *out) {
    static const uint8_t bytes[2000] = "goes on";
    for (int i = 0; i < count; i++) {
        mql_record record = one_record(bytes, sizeof bytes, START + 99 * TIMED_STEP, "new");
        int64_t offset;
        out->append = mql_append(log, &record, 0, &offset);
        if (out->append != MQL_OK) return;
        if (i == 0) out->appended = offset;
        if (!is_there(log, offset, bytes, sizeof bytes) && !scene_forged)
            scene_violation("what was appended at %lld is not there", (long long)offset);
    }
}

static void ignore_found(void *context, const char *file, int64_t position, const char *what) {
    (void)context, (void)position;
    if (file[0] == 0 || what[0] == 0) scene_violation("verify finds nothing in no file");
}
static int go_on(void *context, int64_t done, int64_t total) {
    (void)context, (void)done, (void)total;
    return 0;
}

/* What was there before the close is there after it. */
static void look_later(const scene *the, const scene_seen *before) {
    static const uint8_t bytes[2000] = "goes on";
    mql_store *store;
    mql_log *log;
    scene_seen seen;
    must(open_store(the, 1, &store, &log), "opening what was used and closed");
    read_log(log, &seen);
    if (seen.read != before->read)
        scene_violation("%d records before the close, %d after it", before->read, seen.read);
    if (!is_there(log, before->appended, bytes, sizeof bytes))
        scene_violation("what was appended at %lld is not there after a close",
                        (long long)before->appended);
    mql_close(store);
    mql_free(store);
}

void scene_use(const scene *the, int whole, scene_seen *out) {
    mql_store *store;
    mql_log *log;
    mql_verify_report report;
    int64_t offset;
    memset(out, 0, sizeof *out);
    out->appended = -1;
    out->opened = open_store(the, 0, &store, &log);
    if (out->opened < 0) check_words();
    if (out->opened < 0) return;
    out->recovered = count_recovered(store);
    read_log(log, out);
    look_up(log, out);
    out->committed = committed(log);
    commit(log);
    drain(log, out);
    out->found = put_once(log, &offset) == MQL_FOUND && offset == SCENE_RECORDS - 1;
    append(log, whole ? 6 : 1, out);
    if (whole) mql_log_sync(log);
    if (whole) mql_verify(log, ignore_found, go_on, NULL, &report);
    mql_close(store);
    mql_free(store);
    place_each(the->path, check_size, NULL);
    /* Behind damage that hides where a batch ends, what was appended to the same segment may be
     * told to be lost with it. */
    bool sound = out->damages == 0 && out->read == SCENE_RECORDS;
    if (whole && sound && out->append == MQL_OK && !scene_forged) look_later(the, out);
}
