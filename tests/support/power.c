/* power.c - every crash point of a workload, many images of each, recovery of every one.
 *
 * The workload is recorded once. The explorer goes along the record; at each point at which the
 * power may go it makes images, recovers those that it has not seen before, and compares. One in a
 * few is recorded in its turn while it is recovered and worked on, and cut again at each point of
 * that. Nothing depends on a clock or an address, so the same plan finds the same states.
 */
#include "power.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mql_log.h"
#include "power_check.h"

#define SEEN_ROOM ((size_t)1 << 22) /* of states, a power of two */
#define FIRST_BOOT_MS INT64_C(1700000000000)
#define BOOT_MS 3600000 /* from one boot to the next */
#define CLOSE_ONE_IN 4
#define DEEPER_SHARE 3 /* of what is left, what came after one recovery may take a third */
#define STRAYS_ONE_IN 16
#define DEPTH_MOST (SIM_DISKS - 2)

typedef struct exploring {
    const power_plan *plan;
    power_report *out;
    uint64_t *seen; /* owns: hashes of states */
    int weakly;     /* files of different times */
    int64_t limit;  /* of states: what is being explored has its share, so that all has */
    double clock;
    sim_trace *traces[DEPTH_MOST + 1];
    sim_model *models[DEPTH_MOST + 1];
    sim_image *images[DEPTH_MOST + 1];
    power_ledger *ledgers[DEPTH_MOST + 1];
    uint8_t boots[DEPTH_MOST + 1][16]; /* in which each was recorded */
    char path[DEPTH_MOST + 1][32];
} exploring;

/* One state that is to be looked at. */
typedef struct state {
    int level;
    uint64_t seed;
    const power_promise *promise;
} state;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The time since the last call goes to `what`. */
static void spend(exploring *explore, double *what) {
    double now = seconds();
    *what += now - explore->clock;
    explore->clock = now;
}

static void *zeroed(size_t size) {
    void *memory = calloc(1, size);
    assert(memory != NULL);
    return memory;
}

static void begin(exploring *explore, const power_plan *plan, power_report *out) {
    *explore = (exploring){.plan = plan, .out = out, .seen = zeroed(SEEN_ROOM * 8)};
    explore->limit = plan->states;
    *out = (power_report){0};
    for (int i = 0; i <= plan->depth && i <= DEPTH_MOST; i++) {
        explore->traces[i] = zeroed(sizeof(sim_trace));
        explore->models[i] = zeroed(sizeof(sim_model));
        explore->images[i] = zeroed(sizeof(sim_image));
        explore->ledgers[i] = zeroed(sizeof(power_ledger));
        explore->ledgers[i]->seed = plan->seed;
    }
    sim_now = (sim_world){.on = true, .free_bytes = UINT64_C(1) << 39};
    power_work_reboot(plan->seed, FIRST_BOOT_MS);
    explore->clock = seconds();
}

static void end(exploring *explore) {
    for (int i = 0; i <= DEPTH_MOST && explore->traces[i] != NULL; i++) {
        sim_trace_free(explore->traces[i]);
        free(explore->traces[i]);
        free(explore->models[i]);
        free(explore->images[i]);
        free(explore->ledgers[i]->promises);
        free(explore->ledgers[i]);
    }
    free(explore->seen);
    sim_fault_arm(0, 0, 0, false);
    sim_now.on = false;
}

/* -- violations -------------------------------------------------------------------------------- */
static bool report(exploring *explore, int level, const char *text) {
    power_report *out = explore->out;
    if (out->failed != 0) return false;
    out->failed = 1;
    snprintf(out->text, sizeof out->text, "%s", text);
    for (int i = 0; i <= level; i++) {
        size_t used = strlen(out->where);
        snprintf(out->where + used, sizeof out->where - used, "%s%s", i > 0 ? "/" : "",
                 explore->path[i]);
    }
    return false;
}

static bool done(const exploring *explore) {
    return explore->out->failed != 0 || explore->out->states >= explore->limit;
}

/* Whether a state is one of those that were asked for. */
static bool wanted(const exploring *explore, int level) {
    const char *only = explore->plan->only;
    if (only == NULL || only[0] == 0) return true;
    for (int i = 0; i < level; i++) {
        only = strchr(only, '/');
        if (only == NULL) return false;
        only++;
    }
    size_t length = strlen(explore->path[level]);
    return strncmp(only, explore->path[level], length) == 0 &&
           (only[length] == 0 || only[length] == '/');
}

/* -- one state --------------------------------------------------------------------------------- */
static bool is_new(exploring *explore, uint64_t key) {
    if (key == 0) key = 1;
    for (size_t at = key & (SEEN_ROOM - 1);; at = (at + 1) & (SEEN_ROOM - 1)) {
        if (explore->seen[at] == key) return false;
        if (explore->seen[at] != 0) continue;
        explore->seen[at] = key;
        return true;
    }
}

static bool failed_to(power_check *check, const char *what, int rc) {
    const mql_error *error = mql_error_last();
    if (check->text[0] == 0)
        snprintf(check->text, sizeof check->text, "O8: %s: %d: %.80s: %.200s (errno %d)", what, rc,
                 error->path, error->text, error->os_errno);
    return false;
}

static bool check_all(power_check *check, uint64_t seed) {
    bool fine = power_check_log(check) && power_check_group(check) && power_check_share(check) &&
                power_check_append(check) && power_check_strangers(check);
    if (fine && seed % CLOSE_ONE_IN == 0) {
        int rc = power_work_close(check->work);
        if (rc < 0) return failed_to(check, "closing after recovery", rc);
        rc = power_work_open(check->work);
        if (rc < 0) return failed_to(check, "opening after a clean close", rc);
        fine = power_check_log(check) && power_check_group(check);
    }
    return fine;
}

/* The machine has started again; or it has not, and the disk was away (P6). */
static void set_world(const exploring *explore, const state *what) {
    sim_disk *disk = sim_disk_get(what->level + 1);
    power_work_reboot(what->seed, FIRST_BOOT_MS + (what->level + 1) * BOOT_MS);
    unsigned how = what->seed >> 8 & 7;
    if (how > 1) return;
    memcpy(sim_now.boot, explore->boots[what->level], sizeof sim_now.boot);
    if (how == 0)
        disk->mount = what->seed | 1024; /* unmounted and mounted */
    else
        disk->device = what->seed | 1024; /* copied elsewhere */
}

/* Recovers the disk above `level` and compares; nothing is recorded. */
static bool look(exploring *explore, const state *what) {
    power_report *out = explore->out;
    power_work work = {.plan = explore->plan,
                       .ledger = explore->ledgers[what->level],
                       .disk = what->level + 1};
    power_check check = {.ledger = work.ledger,
                         .promise = what->promise,
                         .work = &work,
                         .extra = -1,
                         .weak = explore->weakly};
    sim_disk *disk = sim_disk_get(work.disk);
    set_world(explore, what);
    int rc = power_work_open(&work);
    spend(explore, &out->recover_s);
    bool fine = rc < 0 ? failed_to(&check, "recovery", rc) : check_all(&check, what->seed);
    if (work.store != NULL) {
        rc = power_work_close(&work);
        if (fine && rc < 0) fine = failed_to(&check, "closing after recovery", rc);
    }
    if (what->seed % STRAYS_ONE_IN == 0) sim_disk_strays(disk);
    if (fine && sim_now.strays > 0) {
        snprintf(check.text, sizeof check.text, "a store behind the end of a file");
        fine = false;
    }
    out->records += check.records;
    out->lost += check.lost;
    spend(explore, &out->check_s);
    return fine || report(explore, what->level, check.text);
}

/* -- a recovery that is itself cut ------------------------------------------------------------- */
/* What recovery has shown is so from now on. */
static void accept_recovery(power_work *work, const power_check *check) {
    power_ledger *ledger = work->ledger;
    for (int32_t i = 0; i < ledger->count; i++) {
        power_batch *batch = &ledger->batches[i];
        if (check->present[i]) batch->ghost = false;
        bool trimmed = batch->offset + batch->count <= mql_log_start(work->log);
        if (check->present[i] || trimmed || batch->lost != 0) continue;
        batch->lost = (int16_t)(work->now.generation + 1);
        batch->unborn = batch->offset >= check->promise->published;
    }
    work->now.generation++;
    work->now.repaired = ledger->count;
    work->now.durable = work->now.published = check->end;
    work->recovering = false;
}

static bool recover_and_go_on(exploring *explore, power_work *work) {
    power_promise before = work->now;
    power_check check = {
        .ledger = work->ledger, .promise = &before, .work = work, .extra = -1};
    int rc = power_work_open(work);
    bool fine = rc < 0 ? failed_to(&check, "recovery", rc) : power_check_log(&check);
    if (fine) {
        accept_recovery(work, &check);
        power_work_run(work, explore->plan->after);
    }
    rc = power_work_close(work);
    if (fine && rc < 0) fine = failed_to(&check, "closing what was recovered", rc);
    if (fine && work->text[0] != 0) {
        snprintf(check.text, sizeof check.text, "%s", work->text);
        fine = false;
    }
    if (fine && work->refused > 0)
        fine = failed_to(&check, "an operation after recovery", (int)work->refused);
    explore->out->records += check.records;
    return fine || report(explore, work->disk - 1, check.text);
}

static void explore_level(exploring *explore, int level, uint64_t history, int images);

static void go_on(exploring *explore, const state *what) {
    int level = what->level + 1;
    sim_trace *trace = explore->traces[level];
    power_ledger *ledger = explore->ledgers[level];
    power_promise promise = *what->promise;
    power_ledger_fork(explore->ledgers[what->level], &promise, ledger);
    power_work work = {.plan = explore->plan,
                       .ledger = ledger,
                       .disk = level,
                       .chance = what->seed,
                       .recovering = true,
                       .now = promise};
    set_world(explore, what);
    memcpy(explore->boots[level], sim_now.boot, sizeof sim_now.boot);
    trace->note = power_work_note;
    trace->context = &work;
    sim_trace_begin(trace, sim_disk_get(level));
    bool fine = recover_and_go_on(explore, &work);
    sim_trace_end(trace);
    spend(explore, &explore->out->recover_s);
    int64_t limit = explore->limit, left = limit - explore->out->states;
    explore->limit -= left - (left + DEEPER_SHARE - 1) / DEEPER_SHARE;
    if (fine) explore_level(explore, level, what->seed, explore->plan->images_again);
    explore->limit = limit;
}

/* -- all points -------------------------------------------------------------------------------- */
static int count_points(const sim_trace *trace) {
    int count = 0;
    for (size_t i = 0; i < trace->event_count; i++) count += trace->events[i].what == SIM_DID_POINT;
    return count;
}

static uint64_t lost_of(const power_ledger *ledger) {
    uint64_t hash = 0;
    for (int32_t i = 0; i < ledger->count; i++)
        hash = sim_mix(hash + (uint64_t)ledger->batches[i].lost + 1);
    return hash;
}

static void look_at(exploring *explore, state *what) {
    int level = what->level;
    sim_image *image = explore->images[level];
    sim_model_build(explore->models[level], image, sim_disk_get(level + 1));
    spend(explore, &explore->out->image_s);
    explore->out->states++;
    explore->out->again += level > 0;
    if (!look(explore, what)) return;
    bool deeper = level + 1 < explore->plan->depth &&
                  (what->seed >> 16) % (uint64_t)explore->plan->one_in == 0;
    if (!deeper || done(explore)) return;
    sim_model_build(explore->models[level], image, sim_disk_get(level + 1));
    go_on(explore, what);
}

static void explore_point(exploring *explore, int level, int number, uint64_t history, int images) {
    const power_plan *plan = explore->plan;
    sim_model *model = explore->models[level];
    state what = {.level = level};
    int64_t value = explore->models[level]->trace->events[model->at - 1].value;
    power_promise promise = explore->ledgers[level]->promises[value];
    uint64_t owed = power_ledger_hash(&promise) ^ history ^ lost_of(explore->ledgers[level]);
    what.promise = &promise;
    for (int i = 0; i < images && !done(explore); i++) {
        snprintf(explore->path[level], sizeof explore->path[level], "%d.%d", number, i);
        if (!wanted(explore, level)) continue;
        uint64_t seed = sim_mix(plan->seed + (uint64_t)number * 1000003 + sim_mix(history));
        sim_model_choose(model, seed, i, explore->images[level]);
        uint64_t key = explore->images[level]->hash ^ owed;
        bool fresh = is_new(explore, key);
        explore->out->same += !fresh;
        what.seed = sim_mix(seed + (uint64_t)i + 77);
        if (fresh) look_at(explore, &what);
    }
}

static void explore_level(exploring *explore, int level, uint64_t history, int images) {
    sim_model *model = explore->models[level];
    sim_model_begin(model, explore->traces[level]);
    int64_t value, limit = explore->limit, start = explore->out->states;
    int points = count_points(explore->traces[level]);
    for (int number = 0; sim_model_next(model, &value) && !explore->out->failed; number++) {
        explore->limit = start + (limit - start) / points * (number + 1);
        if (number + 1 == points) explore->limit = limit;
        explore->out->points += !done(explore);
        explore_point(explore, level, number, history, images);
    }
    explore->limit = limit;
}

/* -- the runs ---------------------------------------------------------------------------------- */
/* The workload's disk, with one file of somebody else's. */
static sim_disk *fresh_disk(void) {
    static const char bytes[] = "not yours";
    sim_disk *disk = sim_disk_get(0);
    sim_disk_format(disk);
    sim_disk_put(disk, POWER_OUTSIDE, bytes, sizeof bytes);
    return disk;
}

static power_work first_work(exploring *explore) {
    return (power_work){
        .plan = explore->plan, .ledger = explore->ledgers[0], .chance = explore->plan->seed};
}

static void record(exploring *explore, power_work *work) {
    sim_trace *trace = explore->traces[0];
    trace->note = power_work_note;
    trace->context = work;
    memcpy(explore->boots[0], sim_now.boot, sizeof sim_now.boot);
    sim_trace_begin(trace, fresh_disk());
    power_work_run(work, explore->plan->workload);
}

static bool finish_record(exploring *explore, power_work *work) {
    int rc = power_work_close(work);
    if (rc == MQL_OK && work->now.published > work->now.durable)
        work->now.durable = work->now.published;
    if (rc == MQL_OK) work->now.synced = work->now.done;
    sim_trace_end(explore->traces[0]);
    explore->out->refused = work->refused;
    if (work->text[0] != 0) return report(explore, -1, work->text);
    if (rc < 0) return report(explore, -1, mql_error_last()->text);
    return true;
}

void power_explore(const power_plan *plan, power_report *out) {
    exploring explore;
    begin(&explore, plan, out);
    power_work work = first_work(&explore);
    record(&explore, &work);
    bool fine = finish_record(&explore, &work);
    if (fine && work.refused > 0)
        fine = report(&explore, -1, mql_error_last()->text);
    if (fine) explore_level(&explore, 0, 0, plan->images);
    end(&explore);
}

/* -- faults ------------------------------------------------------------------------------------ */
/* When the fault is over the store goes on, in the same process or at least in a new opening. */
static bool goes_on(exploring *explore, power_work *work) {
    int rc = power_work_step(work, 'a');
    if (rc == MQL_E_DURABILITY) { /* every process has to close it first */
        power_work_close(work);
        rc = power_work_step(work, 'a');
    }
    if (rc < 0) return report(explore, -1, mql_error_last()->text);
    rc = power_work_step(work, 's');
    if (rc < 0) return report(explore, -1, mql_error_last()->text);
    power_promise now = work->now;
    power_check check = {.ledger = work->ledger, .promise = &now, .work = work, .extra = -1};
    now.durable = now.published; /* nobody has died: all that was visible is */
    bool fine = power_check_log(&check) && power_check_group(&check);
    explore->out->records += check.records;
    return fine || report(explore, -1, check.text);
}

void power_endure(const power_plan *plan, power_report *out) {
    exploring explore;
    begin(&explore, plan, out);
    power_work work = first_work(&explore);
    sim_fault_arm(plan->fault_call, plan->fault_error, plan->fault_at, plan->fault_forever != 0);
    record(&explore, &work);
    out->hits = sim_now.fault_hits;
    int64_t refused = work.refused;
    sim_fault_arm(0, 0, 0, false);
    bool fine = work.text[0] == 0 ? goes_on(&explore, &work) : true;
    fine = finish_record(&explore, &work) && fine;
    out->refused = refused;
    out->held = sim_disk_held(sim_disk_get(0));
    out->memory = sim_now.memory;
    sim_disk_strays(sim_disk_get(0));
    if (fine && out->held != 0) fine = report(&explore, -1, "O10: descriptors or mappings leak");
    if (fine && out->memory != 0) fine = report(&explore, -1, "O10: memory leaks");
    if (fine && sim_now.strays > 0) fine = report(&explore, -1, "a store behind the end of a file");
    if (fine && sim_now.wrong_closes > 0)
        fine = report(&explore, -1, "O10: a descriptor is closed that is not open");
    if (fine && plan->images > 0) explore_level(&explore, 0, 0, plan->images);
    end(&explore);
}

/* -- files of two moments ---------------------------------------------------------------------- */
/* The newest version of every page, of a model's moment. */
static void newest(sim_model *model, sim_image *image) {
    sim_model_choose(model, 0, 1, image);
}

/* Each file as it was at one of two moments; a file that only one of them has is there. */
static void mix_disk(exploring *explore, uint64_t chance, sim_disk *out) {
    sim_disk *other = sim_disk_get(SIM_DISKS - 1);
    sim_model_build(explore->models[1], explore->images[1], out);
    sim_model_build(explore->models[0], explore->images[0], other);
    for (int i = 1; i < SIM_INODES; i++) {
        bool both = explore->images[0]->size[i] >= 0 && explore->images[1]->size[i] >= 0;
        if (!both || other->inodes[i].directory || sim_chance(&chance) % 2 == 0) continue;
        sim_disk_resize(&out->inodes[i], 0);
        sim_disk_resize(&out->inodes[i], other->inodes[i].size);
        memcpy(out->inodes[i].bytes, other->inodes[i].bytes, (size_t)other->inodes[i].size);
    }
}

/* Stands at point `number`. */
static int64_t stand_at(sim_model *model, const sim_trace *trace, int number) {
    int64_t value = 0;
    sim_model_begin(model, trace);
    for (int i = 0; i <= number; i++) sim_model_next(model, &value);
    return value;
}

static void mix_at(exploring *explore, int first, int second) {
    const sim_trace *trace = explore->traces[0];
    stand_at(explore->models[0], trace, first);
    int64_t value = stand_at(explore->models[1], trace, second);
    newest(explore->models[0], explore->images[0]);
    newest(explore->models[1], explore->images[1]);
    power_promise promise = explore->ledgers[0]->promises[value];
    for (int i = 0; i < explore->plan->images && !done(explore); i++) {
        state what = {.promise = &promise};
        what.seed = sim_mix(explore->plan->seed + (uint64_t)first * 1000003 +
                            (uint64_t)second * 10007 + (uint64_t)i);
        snprintf(explore->path[0], sizeof explore->path[0], "%d-%d.%d", first, second, i);
        if (!wanted(explore, 0)) continue;
        mix_disk(explore, what.seed, sim_disk_get(1));
        spend(explore, &explore->out->image_s);
        explore->out->states++;
        look(explore, &what);
    }
}

void power_mix(const power_plan *plan, power_report *out) {
    exploring explore;
    begin(&explore, plan, out);
    explore.weakly = true;
    power_work work = first_work(&explore);
    record(&explore, &work);
    if (finish_record(&explore, &work)) {
        int points = count_points(explore.traces[0]);
        uint64_t chance = plan->seed;
        out->points = points;
        while (!done(&explore)) {
            int second = 1 + (int)(sim_chance(&chance) % (uint64_t)(points - 1));
            mix_at(&explore, (int)(sim_chance(&chance) % (uint64_t)second), second);
        }
    }
    end(&explore);
}

/* -- counts ------------------------------------------------------------------------------------ */
void power_count(const power_plan *plan, int64_t counts[SIM_CALLS]) {
    power_report out;
    exploring explore;
    begin(&explore, plan, &out);
    power_work work = first_work(&explore);
    fresh_disk();
    for (const char *at = plan->workload; *at != 0; at++) {
        if (at[1] == 0) sim_fault_arm(0, 0, 0, false);
        power_work_step(&work, *at);
    }
    memcpy(counts, sim_now.counts, sizeof sim_now.counts);
    power_work_close(&work);
    end(&explore);
}
