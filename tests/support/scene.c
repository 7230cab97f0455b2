#define _GNU_SOURCE
#include "scene.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mql_batch.h"
#include "mql_share.h"

#define MAGIC 0x6d716c76u
#define TOPIC "orders"
#define SLICE_NS INT64_C(50000000)

/* -- the ledger -------------------------------------------------------------------------------- */
static size_t arrays_size(int64_t offsets, uint32_t producers) {
    size_t each = 2 * sizeof(uint64_t) + sizeof(uint32_t) + sizeof(uint8_t);
    return (size_t)offsets * each + 2 * producers * sizeof(uint32_t);
}

scene_ledger *scene_new(int64_t offsets, uint32_t producers) {
    void *memory = mmap(NULL, sizeof(scene_ledger) + arrays_size(offsets, producers),
                        PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) abort();
    scene_ledger *ledger = memory;
    ledger->offsets = offsets;
    ledger->producers = producers;
    ledger->acknowledged = (void *)(ledger + 1);
    ledger->token = ledger->acknowledged + offsets;
    ledger->holder = (void *)(ledger->token + offsets);
    ledger->call = ledger->holder + offsets;
    ledger->doomed = ledger->call + producers;
    ledger->accept = (void *)(ledger->doomed + producers);
    scene_clear(ledger);
    return ledger;
}

void scene_clear(scene_ledger *ledger) {
    memset(ledger->turns, 0, sizeof ledger->turns);
    memset((void *)ledger->acknowledged, 0, arrays_size(ledger->offsets, ledger->producers));
    ledger->failure[0] = 0;
    ledger->failed = 0;
    ledger->slowest_ns = 0;
    ledger->committed = ledger->committing = MQL_NO_OFFSET;
    ledger->trimming = ledger->trimmed = 0;
    ledger->kept = 0;
    ledger->owner = ledger->proofs = ledger->next_name = 0;
}

_Noreturn void scene_fail(const actor *who, const char *format, ...) {
    uint32_t nobody = 0;
    if (atomic_compare_exchange_strong(&who->ledger->failed, &nobody, 1)) {
        char *at = who->ledger->failure;
        int done = snprintf(at, 64, "actor %u: ", who->name);
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(at + done, sizeof who->ledger->failure - (size_t)done, format, arguments);
        va_end(arguments);
    }
    _exit(3);
}

int scene_check(const actor *who, const char *what, int rc) {
    if (rc >= 0) return rc;
    const mql_error *error = mql_error_last();
    scene_fail(who, "%s gives %d: %s %s (errno %d)", what, rc, error->path, error->text,
               error->os_errno);
}

/* -- turns ------------------------------------------------------------------------------------- */
void scene_tell(scene_ledger *ledger, uint32_t word, uint32_t turn) {
    atomic_store_explicit(&ledger->turns[word], turn, memory_order_release);
    mql_os_wake(&ledger->turns[word], INT32_MAX);
}

void scene_await(scene_ledger *ledger, uint32_t word, uint32_t turn) {
    for (;;) {
        uint32_t now = atomic_load_explicit(&ledger->turns[word], memory_order_acquire);
        if (now >= turn) return;
        mql_os_wait(&ledger->turns[word], now, SLICE_NS);
    }
}

/* -- opening ----------------------------------------------------------------------------------- */
void scene_open(actor *who) {
    mql_open_options options = {.create = 1, .threads = who->threads};
    scene_check(who, "mql_open", mql_open(who->path, &options, &who->store));
    int64_t segment = who->segment_bytes == 0 ? SCENE_SEGMENT : who->segment_bytes;
    mql_log_options log = {.segment_bytes = segment,
                           .batch_bytes = 1024,
                           .max_message_bytes = 4096,
                           .sync_interval_ns = 100000000,
                           .retention_bytes = -1,
                           .retention_age_ms = -1};
    scene_check(who, "mql_partition", mql_partition(who->store, TOPIC, 0, 1, &log, &who->log));
}

void scene_share(actor *who) {
    mql_log_info info;
    scene_check(who, "mql_log_ends", mql_log_ends(who->log, &info));
    scene_check(who, "mql_share_open",
                mql_share_open(who->log, "workers", 1, info.start_offset, &who->share));
}

void scene_group(actor *who) {
    scene_check(who, "mql_group_open", mql_group_open(who->log, "readers", 1, &who->group));
}

void scene_close(actor *who) {
    scene_check(who, "mql_close", mql_close(who->store));
    mql_free(who->store);
    who->store = NULL;
    who->log = NULL;
    who->share = NULL;
    who->group = NULL;
}

/* -- appending --------------------------------------------------------------------------------- */
typedef struct value {
    uint32_t magic, producer, number, length, crc;
} value;

static void write_value(uint8_t *out, value head, int64_t length) {
    head.magic = MAGIC;
    head.length = (uint32_t)length;
    uint64_t word = ((uint64_t)head.producer << 32 | head.number) * UINT64_C(0x9e3779b97f4a7c15);
    for (int64_t at = (int64_t)sizeof head; at < length; at += 8, word++)
        memcpy(out + at, &word, (size_t)mql_base_min(8, length - at));
    head.crc = 0;
    memcpy(out, &head, sizeof head);
    head.crc = mql_crc32c(0, out, (size_t)length);
    memcpy(out, &head, sizeof head);
}

static value read_value(const actor *who, int64_t offset, const mql_value *got) {
    value head = {0};
    uint8_t again[SCENE_VALUE_MAX];
    if (got->length >= (int64_t)sizeof head) memcpy(&head, got->data, sizeof head);
    if (head.magic != MAGIC || head.length != got->length || head.length > SCENE_VALUE_MAX)
        scene_fail(who, "O2: at offset %lld stands what nobody put", (long long)offset);
    write_value(again, head, got->length);
    if (memcmp(again, got->data, head.length) != 0)
        scene_fail(who, "O2: the bytes at offset %lld are not those put", (long long)offset);
    return head;
}

static uint64_t mark(uint32_t producer, uint32_t number) {
    return (uint64_t)producer << 32 | ((uint64_t)number + 1);
}

static void note_put(actor *who, size_t count, int64_t offset) {
    for (size_t i = 0; i < count; i++) {
        int64_t at = offset + (int64_t)i;
        if (at >= who->ledger->offsets) scene_fail(who, "the ledger is full");
        uint64_t was = atomic_exchange(&who->ledger->acknowledged[at],
                                       mark(who->name, who->next + (uint32_t)i));
        if (was != 0) scene_fail(who, "O3: offset %lld was given twice", (long long)at);
    }
    who->next += (uint32_t)count;
}

int scene_try_put(actor *who, size_t count, int64_t length, int flags) {
    uint8_t *bytes = malloc(count * (size_t)length);
    mql_value *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        uint8_t *at = bytes + i * (size_t)length;
        write_value(at, (value){.producer = who->name, .number = who->next + (uint32_t)i}, length);
        values[i] = (mql_value){at, length};
    }
    int64_t offset;
    int rc;
    if (count == 1) {
        mql_record record = {.key = {NULL, -1}, .value = *values, .timestamp = MQL_NOW};
        rc = mql_append(who->log, &record, flags, &offset);
    } else {
        rc = mql_append_values(who->log, values, count, MQL_NOW, flags, &offset);
    }
    if (scene_check(who, "an append", rc) == MQL_OK) note_put(who, count, offset);
    free(values);
    free(bytes);
    return rc;
}

void scene_put(actor *who, size_t count, int64_t length) {
    while (scene_try_put(who, count, length, 0) == MQL_TIMEOUT) {}
}

int64_t scene_size(size_t count, int64_t length) {
    mql_value *values = calloc(count, sizeof *values);
    static const uint8_t zeros[SCENE_VALUE_MAX];
    for (size_t i = 0; i < count; i++) values[i] = (mql_value){zeros, length};
    int64_t total = 0;
    for (size_t at = 0; at < count;) {
        int64_t size;
        at += mql_batch_fit_values(values + at, count - at, 1024, &size);
        total += size;
    }
    free(values);
    return total;
}

/* -- share groups ------------------------------------------------------------------------------ */
uint32_t scene_take(const actor *who, _Atomic uint32_t *word) {
    uint32_t before = 0;
    while (!atomic_compare_exchange_strong(word, &before, who->name))
        if (before != 0 && atomic_load(&who->ledger->doomed[before]) == 0) return before;
    return 0;
}

static void note_acquired(const actor *who, const mql_acquired *one) {
    scene_ledger *ledger = who->ledger;
    long long offset = (long long)one->offset;
    uint32_t before = scene_take(who, &ledger->holder[offset]);
    if (before != 0) scene_fail(who, "O7: offset %lld has a live holder, actor %u", offset, before);
    if (atomic_load(&ledger->accept[offset]) == SCENE_ACCEPTED)
        scene_fail(who, "O7: offset %lld was accepted, and is delivered again", offset);
    uint64_t last = atomic_exchange(&ledger->token[offset], one->token);
    if (last >= one->token)
        scene_fail(who, "O7: the token of offset %lld goes from %llx to %llx", offset,
                   (unsigned long long)last, (unsigned long long)one->token);
}

int scene_try_acquire(actor *who, size_t count, int64_t lock_ms, int64_t slice_ns) {
    mql_acquire how = {.lock_ms = lock_ms, .slice_ns = slice_ns};
    size_t got = (size_t)mql_base_min((int64_t)count, SCENE_HELD);
    int rc = mql_share_acquire(who->share, &how, who->held, &got);
    scene_check(who, "mql_share_acquire", rc);
    who->holds = rc == MQL_OK ? got : 0;
    for (size_t i = 0; i < who->holds; i++) note_acquired(who, &who->held[i]);
    return rc;
}

size_t scene_acquire(actor *who, size_t count, int64_t lock_ms) {
    while (scene_try_acquire(who, count, lock_ms, SLICE_NS) == MQL_TIMEOUT) {}
    return who->holds;
}

void scene_settle(actor *who, int event, int flags) {
    mql_settle items[SCENE_HELD];
    scene_ledger *ledger = who->ledger;
    for (size_t i = 0; i < who->holds; i++) {
        int64_t offset = who->held[i].offset;
        items[i] = (mql_settle){.offset = offset, .token = who->held[i].token};
        if (event != MQL_RENEW) atomic_store(&ledger->holder[offset], 0);
        if (event == MQL_ACCEPT) atomic_store(&ledger->accept[offset], SCENE_ACCEPTING);
    }
    mql_settlement how = {.event = event, .flags = flags, .slice_ns = SLICE_NS};
    if (event == MQL_RENEW) how.when = 60000;
    size_t done = 0;
    while (done < who->holds) {
        int rc = mql_share_settle(who->share, items + done, who->holds - done, &how);
        scene_check(who, "mql_share_settle", rc);
        while (done < who->holds && items[done].result != MQL_TIMEOUT) done++;
    }
    for (size_t i = 0; i < who->holds; i++) {
        if (items[i].result != MQL_OK)
            scene_fail(who, "O7: what it held at offset %lld was taken from it (%d)",
                       (long long)items[i].offset, items[i].result);
        if (event != MQL_ACCEPT) continue;
        atomic_store(&ledger->accept[items[i].offset], SCENE_ACCEPTED);
        atomic_fetch_add(&ledger->kept, 1);
    }
    if (event != MQL_RENEW) who->holds = 0;
}

/* -- consumer groups --------------------------------------------------------------------------- */
void scene_join(actor *who) {
    scene_check(who, "mql_group_join", mql_group_join(who->group, &who->member));
    int64_t until = mql_os_monotonic_ns() + SCENE_HANG_NS;
    int rc;
    while ((rc = mql_group_claim(who->group, who->member)) == MQL_BUSY) {
        if (mql_os_monotonic_ns() > until) scene_fail(who, "O8: a dead consumer keeps its place");
        mql_os_sleep(1000000);
    }
    scene_check(who, "mql_group_claim", rc);
}

void scene_commit(actor *who, int64_t offset) {
    atomic_store(&who->ledger->committing, offset);
    scene_check(who, "mql_group_commit", mql_group_commit(who->group, who->member, offset, 0));
    atomic_store(&who->ledger->committed, offset);
}

static void take_over(actor *who) {
    int64_t committed;
    scene_group(who);
    scene_join(who);
    scene_check(who, "mql_group_committed", mql_group_committed(who->group, &committed));
    int64_t least = atomic_load(&who->ledger->committed);
    int64_t most = atomic_load(&who->ledger->committing);
    if (committed != least && committed != most)
        scene_fail(who, "O6: %lld is committed, not %lld or %lld", (long long)committed,
                   (long long)least, (long long)most);
    scene_commit(who, committed + 1);
    mql_group_drop(who->group, who->member);
    mql_group_leave(who->group, who->member);
}

/* -- reading ----------------------------------------------------------------------------------- */
typedef struct reading {
    actor *who;
    int64_t start;
    int64_t expected; /* offset */
    uint32_t *numbers; /* by producer: how many were seen, those trimmed away included */
} reading;

static void look_at(reading *read, const mql_record_view *record) {
    actor *who = read->who;
    scene_ledger *ledger = who->ledger;
    if (record->offset != read->expected)
        scene_fail(who, "O3: offset %lld follows where %lld is due", (long long)record->offset,
                   (long long)read->expected);
    value head = read_value(who, record->offset, &record->value);
    if (head.producer >= ledger->producers) scene_fail(who, "O2: producer %u", head.producer);
    uint32_t *number = &read->numbers[head.producer];
    if (*number == 0 && read->start > 0) *number = head.number; /* the rest was trimmed away */
    if (head.number != *number)
        scene_fail(who, "O3: producer %u's number %u is at offset %lld, where %u is due",
                   head.producer, head.number, (long long)record->offset, *number);
    *number = head.number + 1;
    uint64_t said = atomic_load(&ledger->acknowledged[record->offset]);
    if (said != 0 && said != mark(head.producer, head.number))
        scene_fail(who, "O1: offset %lld was acknowledged for %llx and holds %llx",
                   (long long)record->offset, (unsigned long long)said,
                   (unsigned long long)mark(head.producer, head.number));
    read->expected++;
}

static void look_at_batch(reading *read, const mql_batch *batch) {
    mql_walk walk;
    mql_record_view record;
    mql_walk_start(&walk, batch, batch->payload, (size_t)batch->payload_length);
    int rc;
    while ((rc = mql_walk_next(&walk, &record)) == MQL_OK) look_at(read, &record);
    scene_check(read->who, "mql_walk_next", rc);
}

/* Nobody appends meanwhile, or the ends are those of a moment: what was acknowledged before it
 * began must be read. */
int64_t scene_read(actor *who) {
    mql_log_info info;
    scene_check(who, "mql_log_ends", mql_log_ends(who->log, &info));
    reading read = {.who = who, .start = info.start_offset, .expected = info.start_offset};
    if (read.start < atomic_load(&who->ledger->trimmed) ||
        (read.start != atomic_load(&who->ledger->trimmed) &&
         read.start != atomic_load(&who->ledger->trimming)))
        scene_fail(who, "the log begins at %lld", (long long)read.start);
    read.numbers = calloc(who->ledger->producers, sizeof *read.numbers);
    mql_cursor *cursor;
    scene_check(who, "mql_cursor_open", mql_cursor_open(who->log, read.start, 0, &cursor));
    mql_batch batch;
    int rc;
    while ((rc = mql_cursor_next(cursor, &batch)) == MQL_OK) look_at_batch(&read, &batch);
    scene_check(who, "mql_cursor_next", rc);
    mql_cursor_free(cursor);
    if (read.expected < info.end_offset)
        scene_fail(who, "O4: the log is readable up to %lld, and ends at %lld",
                   (long long)read.expected, (long long)info.end_offset);
    for (int64_t offset = read.expected; offset < who->ledger->offsets; offset++)
        if (atomic_load(&who->ledger->acknowledged[offset]) != 0)
            scene_fail(who, "O1: acknowledged offset %lld is behind the log's end, %lld",
                       (long long)offset, (long long)read.expected);
    for (uint32_t producer = 0; producer < who->ledger->producers; producer++) {
        uint32_t call = atomic_load(&who->ledger->call[producer]);
        if (call > 1 && read.numbers[producer] % call != 0)
            scene_fail(who, "O5: %u records of producer %u, who appends %u a call",
                       read.numbers[producer], producer, call);
    }
    free(read.numbers);
    return read.expected - read.start;
}

/* -- living on --------------------------------------------------------------------------------- */
static void get_one(actor *who, int64_t until) {
    while (scene_acquire(who, 1, -1) == 0) {
        if (mql_os_monotonic_ns() > until) scene_fail(who, "O8: there is nothing to acquire");
        mql_os_sleep(1000000);
    }
    scene_settle(who, MQL_ACCEPT, 0);
}

void scene_prepare(actor *who) {
    atomic_store(&who->log->wants_room, true);
    scene_check(who, "mql_keeper_prepare", mql_keeper_prepare(who->store));
}

void scene_live_on(actor *who, bool group) {
    int64_t began = mql_os_monotonic_ns();
    scene_prepare(who); /* the background of a survivor knows of no repair that is owed */
    scene_put(who, 1, 50);
    scene_read(who);
    if (who->share == NULL) scene_share(who);
    get_one(who, began + SCENE_HANG_NS);
    if (group) take_over(who);
    int64_t took = mql_os_monotonic_ns() - began;
    if (took > atomic_load(&who->ledger->slowest_ns)) who->ledger->slowest_ns = took;
}

void scene_drain(actor *who) {
    int64_t until = mql_os_monotonic_ns() + SCENE_HANG_NS;
    mql_share_info info;
    for (;;) {
        while (scene_acquire(who, SCENE_HELD, -1) > 0) scene_settle(who, MQL_ACCEPT, 0);
        scene_check(who, "mql_share_describe", mql_share_describe(who->share, &info));
        if (info.acquired == 0 && info.ready == 0 && info.delayed == 0) break;
        if (mql_os_monotonic_ns() > until)
            scene_fail(who, "O7: %lld acquired, %lld ready and %lld delayed are not delivered",
                       (long long)info.acquired, (long long)info.ready, (long long)info.delayed);
        mql_os_sleep(1000000);
    }
    mql_log_info ends;
    scene_check(who, "mql_log_ends", mql_log_ends(who->log, &ends));
    if (info.first != ends.end_offset || info.end != ends.end_offset)
        scene_fail(who, "O7: all is accepted, and first is %lld, end %lld, of %lld",
                   (long long)info.first, (long long)info.end, (long long)ends.end_offset);
    int64_t accepted = 0;
    for (int64_t offset = 0; offset < ends.end_offset; offset++) {
        bool accept = atomic_load(&who->ledger->accept[offset]) != SCENE_OPEN;
        if (!accept && offset >= ends.start_offset)
            scene_fail(who, "O7: nobody has accepted offset %lld", (long long)offset);
        accepted += accept;
    }
    if (info.ends[MQL_ACCEPTED] != accepted)
        scene_fail(who, "O7: %lld accepts are counted, not %lld",
                   (long long)info.ends[MQL_ACCEPTED], (long long)accepted);
}

static void found(void *context, const char *file, int64_t position, const char *what) {
    scene_fail(context, "mql_verify: %s:%lld: %s", file, (long long)position, what);
}

void scene_verify(actor *who) {
    mql_verify_report report;
    scene_check(who, "mql_verify", mql_verify(who->log, found, NULL, who, &report));
    if (report.problems != 0) scene_fail(who, "mql_verify: problems");
}

void scene_blank(actor *who) {
    mql_control_end end;
    mql_segment *segment;
    mql_log_end(who->log, &end);
    scene_check(who, "mql_log_segment", mql_log_segment(who->log, end.segment, &segment));
    int64_t until = atomic_load(&who->log->control->allocated);
    until = mql_base_min(until, (int64_t)segment->map_length);
    for (int64_t at = end.position; at < until; at++)
        if (segment->map[at] != 0)
            scene_fail(who, "O4: the end is at %lld, and byte %lld is %02x",
                       (long long)end.position, (long long)at, segment->map[at]);
    mql_segment_release(segment);
}

/* -- what is left ------------------------------------------------------------------------------ */
static bool belongs(const char *name) {
    static const char *const names[] = {"store.lock", "doorbell", "mqlog.json", "control", "groups",
                                        "checkpoint", "shares", "leader-epoch-checkpoint", "dedupe",
                                        TOPIC "-0"};
    static const char *const suffixes[] = {".log",   ".index", ".timeindex", ".offset",
                                           ".state", ".live"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    const char *dot = strchr(name, '.');
    for (size_t i = 0; dot != NULL && i < sizeof suffixes / sizeof *suffixes; i++)
        if (strcmp(dot, suffixes[i]) == 0) return true;
    return false;
}

static void walk(actor *who, const char *path, int depth) {
    DIR *directory = opendir(path);
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (!belongs(entry->d_name)) scene_fail(who, "O10: %s/%s is left", path, entry->d_name);
        char below[4096];
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (entry->d_type == DT_DIR && depth < 4) walk(who, below, depth + 1);
    }
    if (directory != NULL) closedir(directory);
}

void scene_tidy(actor *who) { walk(who, who->path, 0); }

int scene_descriptors(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory) != NULL) count++;
    closedir(directory);
    return count;
}

int scene_mappings(const char *path) {
    int count = 0;
    char line[8192];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps) != NULL) count += strstr(line, path) != NULL;
    fclose(maps);
    return count;
}
