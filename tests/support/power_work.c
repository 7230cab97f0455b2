/* power_work.c - the letters of a workload.
 *
 * What an operation may leave is in the ledger before it is called, what it promised after it has
 * returned. In between, the ends that the log shows to everybody are read at each crash point: who
 * has seen a record as durable, or an offset as given, may rely on it from that moment.
 */
#include "power_work.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mql_batch.h"
#include "mql_log.h"
#include "mql_os_fault.h"
#include "mql_reserve.h"
#include "mql_share.h"

#define BATCH_BYTES 1500 /* for letter b */
#define MANY 6
#define WHOLE MQL_SHARE_SLOTS /* records, for letter Z: as many as a page has slots */
#define SPARE (SIM_DISKS - 1)
#define LOCK_MS 3600000

static uint64_t below(power_work *work, uint64_t bound) {
    return sim_chance(&work->chance) % bound;
}

void power_work_reboot(uint64_t seed, int64_t wall_ms) {
    uint64_t boot = sim_mix(seed + 1);
    memcpy(sim_now.boot, &boot, sizeof boot);
    sim_now.wall_ms = wall_ms;
    sim_now.boot_ns = 1000000;
    sim_now.chance = sim_mix(seed) | 1;
}

int64_t power_work_note(void *context) {
    power_work *work = context;
    bool open = work->log != NULL && work->log->control != NULL && !work->recovering;
    if (open && !work->log->home->closing) {
        mql_control_end published, durable;
        mql_log_end(work->log, &published);
        mql_log_durable(work->log, &durable);
        if (published.offset > work->now.published) work->now.published = published.offset;
        if (durable.offset > work->now.durable) work->now.durable = durable.offset;
    }
    return power_ledger_promise(work->ledger, &work->now);
}

/* -- opening and closing ----------------------------------------------------------------------- */
mql_log_options power_work_options(const power_plan *plan) {
    return (mql_log_options){.segment_bytes = plan->segment_bytes,
                             .batch_bytes = BATCH_BYTES,
                             .max_message_bytes = plan->segment_bytes,
                             .sync_interval_ns = 1,
                             .retention_bytes = -1,
                             .retention_age_ms = -1,
                             .durability = plan->durability};
}

static int open_rest(power_work *work) {
    mql_log_options options = power_work_options(work->plan);
    int rc = mql_partition(work->store, POWER_TOPIC, 0, 1, &options, &work->log);
    if (rc == MQL_OK && work->now.commits)
        rc = mql_group_open(work->log, POWER_GROUP, 1, &work->group);
    if (rc == MQL_OK && work->group != NULL) rc = mql_group_join(work->group, &work->member);
    if (rc == MQL_OK && work->group != NULL) rc = mql_group_claim(work->group, work->member);
    if (rc == MQL_OK && work->now.shared)
        rc = mql_share_open(work->log, POWER_GROUP, 1, mql_log_start(work->log), &work->share);
    return rc;
}

static void forget(power_work *work) {
    work->store = NULL;
    work->log = NULL;
    work->group = NULL;
    work->share = NULL;
    work->held_count = 0;
    work->member = 0;
}

int power_work_open(power_work *work) {
    char path[16];
    snprintf(path, sizeof path, "/simulated/%d", work->disk);
    mql_open_options options = {.create = 1};
    int rc = mql_open(path, &options, &work->store);
    if (rc < 0) {
        forget(work);
        return rc;
    }
    rc = open_rest(work);
    if (rc < 0) {
        mql_error error = *mql_error_last();
        mql_close(work->store);
        mql_free(work->store);
        forget(work);
        *(mql_error *)mql_error_last() = error;
    }
    return rc;
}

int power_work_close(power_work *work) {
    mql_store *store = work->store;
    if (store == NULL) return MQL_OK;
    int rc = mql_close(store);
    forget(work);
    mql_free(store);
    return rc;
}

/* Every process dies at once: what they would have done at their end is not done. */
static void die(power_work *work) {
    sim_disk *disk = sim_disk_get(work->disk), *spare = sim_disk_get(SPARE);
    sim_trace *trace = disk->trace;
    if (trace != NULL) sim_trace_point(trace);
    sim_disk_copy(disk, spare);
    disk->trace = NULL;
    power_work_close(work);
    sim_disk_copy(spare, disk);
    disk->trace = trace;
}

/* -- appending --------------------------------------------------------------------------------- */
typedef struct giving {
    mql_value values[MANY];
    int32_t first;
    size_t count;
    int32_t batch; /* the first in the ledger */
    int64_t end;
} giving;

static void take_values(power_work *work, giving *give, size_t count) {
    give->first = work->ledger->values;
    give->count = count;
    for (size_t i = 0; i < count; i++) {
        size_t length;
        const uint8_t *bytes =
            power_ledger_value(work->ledger->seed, give->first + (int32_t)i, &length);
        give->values[i] = (mql_value){bytes, (int64_t)length};
    }
    work->ledger->values += (int32_t)count;
}

/* What the call may leave, batch for batch, as the engine will divide it. */
static void expect(power_work *work, giving *give, bool opaque) {
    mql_control_end end;
    mql_log_end(work->log, &end);
    int64_t offset = end.offset;
    give->batch = work->ledger->count;
    for (size_t at = 0; at < give->count;) {
        int64_t size;
        size_t fit = opaque ? give->count
                            : mql_batch_fit_values(give->values + at, give->count - at,
                                                   BATCH_BYTES, &size);
        power_ledger_add(work->ledger, (power_batch){.offset = offset,
                                                     .count = (int32_t)fit,
                                                     .first = give->first + (int32_t)at,
                                                     .generation = (int16_t)work->now.generation,
                                                     .opaque = opaque});
        at += fit;
        offset += (int64_t)fit;
    }
    give->end = offset;
    work->now.tried = work->ledger->count;
}

static void wrong(power_work *work, const char *what, int64_t a, int64_t b) {
    if (work->text[0] == 0)
        snprintf(work->text, sizeof work->text, "%s (%lld, %lld)", what, (long long)a,
                 (long long)b);
}

/* The call has returned: what it says is so, is so. */
static void conclude(power_work *work, const giving *give, int rc, int64_t offset, bool durable) {
    mql_control_end end;
    mql_log_end(work->log, &end);
    int64_t first = work->ledger->batches[give->batch].offset;
    if (rc == MQL_OK && offset != first) wrong(work, "an append got another offset", offset, first);
    bool visible = rc == MQL_OK || rc == MQL_E_DURABILITY;
    if (visible && end.offset < give->end) {
        if (rc == MQL_OK) wrong(work, "an append is not visible", end.offset, give->end);
        visible = false;
    }
    if (!visible && end.offset > first) wrong(work, "a failed append is visible", first, rc);
    for (int32_t i = give->batch; !visible && i < work->ledger->count; i++)
        work->ledger->batches[i].failed = true;
    if (visible && give->end > work->now.published) work->now.published = give->end;
    if (rc == MQL_OK && durable && give->end > work->now.durable) work->now.durable = give->end;
    /* An append by a living writer repairs what a dead one left. */
    if (rc == MQL_OK) work->now.repaired = work->ledger->count;
}

static int append(power_work *work, size_t count, int flags) {
    giving give;
    int64_t offset = -1;
    take_values(work, &give, count);
    expect(work, &give, false);
    int rc = mql_append_values(work->log, give.values, count, sim_now.wall_ms, flags, &offset);
    bool durable = (flags & MQL_DURABLE) != 0 || work->plan->durability == MQL_DURABILITY_SYNC;
    conclude(work, &give, rc, offset, durable);
    return rc;
}

/* One compressed batch: to the engine its payload is bytes. Returns its size. */
static size_t make_batch(giving *give, uint8_t out[MQL_BATCH_HEADER + POWER_VALUE_MOST]) {
    mql_record records[WHOLE] = {{.timestamp = 1}, {.timestamp = 2}};
    size_t length = (size_t)give->values[0].length;
    int rc = mql_batch_build(records, give->count, sim_now.wall_ms, MQL_LZ4, give->values[0].data,
                             length, out);
    assert(rc == MQL_OK);
    memcpy(out + MQL_BATCH_HEADER, give->values[0].data, length);
    return MQL_BATCH_HEADER + length;
}

/* Of so many records; the ledger knows them by one value, since they have one payload. */
static int append_compressed(power_work *work, size_t count) {
    uint8_t batch[MQL_BATCH_HEADER + POWER_VALUE_MOST];
    giving give;
    int64_t offset = -1;
    take_values(work, &give, 1);
    give.count = count;
    expect(work, &give, true);
    size_t size = make_batch(&give, batch);
    int rc = mql_append_batches(work->log, batch, size, 0, &offset);
    conclude(work, &give, rc, offset, work->plan->durability == MQL_DURABILITY_SYNC);
    return rc;
}

/* A writer dies when it has stored its whole batch and not published it. */
static int die_writing(power_work *work) {
    mql_control_end end;
    mql_log_end(work->log, &end);
    mql_format_control *control = work->log->control;
    mql_segment *segment = mql_log_mapped(work->log, end.segment);
    giving give;
    take_values(work, &give, 1);
    int64_t size = 0;
    mql_batch_fit_values(give.values, 1, BATCH_BYTES, &size);
    if (segment != NULL && end.position > 0 && end.position + size <= (int64_t)control->allocated) {
        power_ledger_add(work->ledger, (power_batch){.offset = end.offset,
                                                     .count = 1,
                                                     .first = give.first,
                                                     .generation = (int16_t)work->now.generation,
                                                     .ghost = true});
        work->now.tried = work->ledger->count;
        control->dirty = end.position + size;
        mql_batch_write_values(segment->map + end.position, size, give.values, 1, sim_now.wall_ms,
                               end.offset, control->epoch);
    }
    mql_segment_release(segment);
    die(work);
    int rc = power_work_open(work);
    if (rc == MQL_OK) work->now.repaired = work->ledger->count;
    return rc;
}

/* -- the other letters ------------------------------------------------------------------------- */
static int trim(power_work *work) {
    mql_log_info info;
    int rc = mql_log_ends(work->log, &info);
    if (rc < 0) return rc;
    int64_t most = info.end_offset - info.start_offset;
    int64_t before = info.start_offset + (most > 0 ? (int64_t)below(work, (uint64_t)most) : 0);
    if (before > work->now.start) work->now.start = before;
    return mql_trim(work->log, before);
}

static int reopen(power_work *work, bool dies) {
    int rc = MQL_OK;
    int64_t end = work->now.published;
    if (dies)
        die(work);
    else
        rc = power_work_close(work);
    if (rc == MQL_OK && !dies && end > work->now.durable) work->now.durable = end;
    if (rc == MQL_OK && !dies) work->now.synced = work->now.done;
    int opened = power_work_open(work);
    if (opened == MQL_OK) work->now.repaired = work->ledger->count;
    return opened < 0 ? opened : rc;
}

static int make_stranger(power_work *work) {
    static const char bytes[] = "not yours";
    mql_os_file file, directory;
    int rc = mql_os_open(work->log->home->root, POWER_STRANGER, MQL_OS_WRITE | MQL_OS_CREATE, 0600,
                         &file);
    if (rc < 0) return MQL_OK;
    rc = mql_os_write(file, bytes, sizeof bytes, 0);
    if (rc == 0) rc = mql_os_sync(file);
    mql_os_close(file);
    if (rc == 0) rc = mql_log_sync_directory(work->log, true);
    if (rc == 0 && mql_os_open_directory(work->log->home->root, "t-0", &directory) == 0)
        mql_os_close(directory);
    work->now.stranger = rc == 0;
    return MQL_OK;
}

static int commit(power_work *work, bool durable) {
    int rc = MQL_OK;
    if (work->group == NULL) rc = mql_group_open(work->log, POWER_GROUP, 1, &work->group);
    if (rc == MQL_OK && work->member == 0) rc = mql_group_join(work->group, &work->member);
    if (rc == MQL_OK) rc = mql_group_claim(work->group, work->member);
    if (rc != MQL_OK) return rc;
    mql_log_info info;
    rc = mql_log_ends(work->log, &info);
    if (rc < 0) return rc;
    int64_t before = 0;
    if (mql_group_committed(work->group, &before) < 0 || before < 0) before = 0;
    if (before < info.start_offset) before = info.start_offset;
    int64_t readable = mql_log_readable(work->log);
    int64_t offset = before >= readable
                         ? before
                         : before + 1 + (int64_t)below(work, (uint64_t)(readable - before));
    power_ledger_note(work->ledger, (power_event){
                                        .what = POWER_COMMITTED, .durable = durable,
                                        .offset = offset});
    work->now.events = work->ledger->event_count;
    work->now.commits = true;
    rc = mql_group_commit(work->group, work->member, offset, durable);
    if (rc == MQL_OK) work->now.done = work->now.events;
    if (rc < 0) work->ledger->events[work->now.events - 1].durable = false;
    return rc;
}

static int acquire(power_work *work, size_t count) {
    mql_acquire how = {.lock_ms = LOCK_MS, .slice_ns = 1000000};
    if (work->share == NULL) return MQL_OK;
    if (count > (size_t)(POWER_HELD - work->held_count))
        count = (size_t)(POWER_HELD - work->held_count);
    mql_acquired *out = work->held + work->held_count;
    int rc = count == 0 ? MQL_END : mql_share_acquire(work->share, &how, out, &count);
    if (rc != MQL_OK) return rc == MQL_END ? MQL_OK : rc;
    for (size_t i = 0; i < count; i++)
        power_ledger_note(work->ledger, (power_event){.what = POWER_ACQUIRED,
                                                      .offset = out[i].offset,
                                                      .token = out[i].token});
    work->held_count += (int)count;
    work->now.events = work->now.done = work->ledger->event_count;
    return MQL_OK;
}

/* Of those that are held, `from` is the first. */
static int settle(power_work *work, int event, int from, int count, bool durable) {
    mql_settle items[POWER_HELD];
    mql_acquired *held = work->held + from;
    if (count > work->held_count - from) count = work->held_count - from;
    if (count <= 0) return MQL_OK;
    bool ends = event != MQL_RELEASE;
    bool synced = durable || work->plan->durability == MQL_DURABILITY_SYNC;
    int32_t first = work->ledger->event_count;
    for (int i = 0; i < count; i++) {
        items[i] = (mql_settle){
            .offset = held[i].offset, .token = held[i].token, .result = MQL_TIMEOUT};
        power_ledger_note(work->ledger,
                          (power_event){.what = ends ? POWER_ENDED : POWER_RELEASED,
                                        .durable = synced && ends,
                                        .offset = items[i].offset});
    }
    work->now.events = work->ledger->event_count;
    mql_settlement how = {.event = event,
                          .flags = durable ? MQL_DURABLE : 0,
                          .when = event == MQL_ARCHIVE ? MQL_DEAD : 0,
                          .slice_ns = 1000000};
    int rc = mql_share_settle(work->share, items, (size_t)count, &how);
    for (int i = 0; i < count; i++) {
        if (rc == MQL_OK && items[i].result != MQL_OK)
            wrong(work, "a lock that is held was lost", items[i].offset, items[i].result);
        if (rc < 0) work->ledger->events[first + i].durable = false;
        work->ledger->events[first + i].took = items[i].result == MQL_OK;
    }
    work->held_count -= count;
    memmove(held, held + count, sizeof *held * (size_t)(work->held_count - from));
    work->now.done = work->now.events;
    return rc;
}

/* What was done to the share group is on stable storage, if the call says so. */
static int all_synced(power_work *work, int rc) {
    if (rc == MQL_OK && work->share != NULL) work->now.synced = work->now.done;
    return rc;
}

static int recycle(power_work *work) {
    int rc = work->share == NULL ? MQL_END : mql_reserve_recycle(&work->share->live);
    return rc == MQL_END ? MQL_OK : rc;
}

static int open_share(power_work *work) {
    work->now.shared = true;
    return mql_share_open(work->log, POWER_GROUP, 1, mql_log_start(work->log), &work->share);
}

static int log_letter(power_work *work, char letter) {
    switch (letter) {
    case 'a': return append(work, 1, 0);
    case 'd': return append(work, 1, MQL_DURABLE);
    case 'm': return append(work, 2 + below(work, 2), 0);
    case 'b': return append(work, MANY, 0);
    case 'z': return append_compressed(work, 1 + below(work, MANY - 1));
    case 'Z': return append_compressed(work, WHOLE);
    case 'y': return die_writing(work);
    case 's': return mql_log_sync(work->log);
    case 'k': return all_synced(work, mql_keeper_sync(work->store));
    case 'p': return mql_keeper_prepare(work->store) < 0 ? MQL_E_OS : MQL_OK;
    case 't': return trim(work);
    case 'c': return reopen(work, false);
    case 'x': return reopen(work, true);
    case 'n': return make_stranger(work);
    default: return MQL_OK;
    }
}

static int group_letter(power_work *work, char letter) {
    switch (letter) {
    case 'o': return commit(work, false);
    case 'O': return commit(work, true);
    case 'q': return open_share(work);
    case 'g': return acquire(work, 5);
    case 'G': return acquire(work, 1);
    case 'Q': return acquire(work, POWER_HELD);
    case 'A': return settle(work, MQL_ACCEPT, 0, 3, false);
    case 'D': return settle(work, MQL_ACCEPT, 0, 1, true);
    case 'F': return settle(work, MQL_ACCEPT, 0, POWER_HELD, false);
    case 'L': return settle(work, MQL_ACCEPT, 1, POWER_HELD, false);
    case 'R': return settle(work, MQL_RELEASE, 0, 1, false);
    case 'J': return settle(work, MQL_ARCHIVE, 0, 1, false);
    case 'E': return settle(work, MQL_ARCHIVE, 0, 1, true);
    case 'S': return work->share == NULL ? MQL_OK : all_synced(work, mql_share_sync(work->share));
    case 'P': return recycle(work);
    default: return MQL_OK;
    }
}

int power_work_step(power_work *work, char letter) {
    if (work->store == NULL) {
        int rc = power_work_open(work);
        if (rc < 0) return rc;
    }
    sim_now.wall_ms += 7;
    int rc = strchr("oOqgGQADFLRJESP", letter) != NULL ? group_letter(work, letter)
                                                  : log_letter(work, letter);
    sim_trace *trace = sim_disk_get(work->disk)->trace;
    if (trace != NULL) sim_trace_point(trace);
    return rc < 0 ? rc : MQL_OK;
}

/* O9: the failure names what happened, and keeps the system's own word for it. Who has not `met` it
 * himself finds a log that is poisoned, and has nothing better than EIO. */
static void judge(power_work *work, int rc, bool met) {
    int given = mql_error_last()->os_errno, expected = sim_now.fault_error;
    work->refused++;
    if (sim_now.fault_call == 0) return;
    bool fine = rc == MQL_E_DURABILITY || rc == MQL_E_OS || rc == MQL_E_MEMORY;
    if (!fine) wrong(work, "O9: a failing call is told as something else", rc, given);
    if (rc == MQL_E_OS && given != expected) wrong(work, "O9: another errno", given, expected);
    if (rc == MQL_E_MEMORY && expected != ENOMEM) wrong(work, "O9: memory?", rc, expected);
    if (rc == MQL_E_DURABILITY && given != expected && (met || given != EIO))
        wrong(work, "O9: another errno", given, expected);
}

void power_work_run(power_work *work, const char *letters) {
    for (const char *at = letters; *at != 0; at++) {
        int64_t before = sim_now.fault_hits;
        int rc = power_work_step(work, *at);
        if (rc < 0) judge(work, rc, sim_now.fault_hits > before);
    }
}
