/* stepper.c - kills a process at every instruction of what it does, and looks who lives on.
 *
 *     stepper DIRECTORY list
 *     stepper DIRECTORY try      whether this machine lets it step at all
 *     stepper DIRECTORY kill  DEED STATE with|alone SHARD SHARDS SAMPLES [STEP]
 *     stepper DIRECTORY twice DEED STATE with|alone SHARD SHARDS EVERY [STEP [STEP]]
 *     stepper DIRECTORY stop  DEED STATE with SHARD SHARDS EVERY [STEP]
 *     stepper DIRECTORY pair  FIRST SCHEDULES [kill]
 *
 * A trial sets the scene anew in DIRECTORY: a process that lives on has the store open all along
 * ("with"; or is killed before, so that everybody is dead: "alone"), the victim is brought to one
 * instruction and killed there by the kernel, then the survivor and a newcomer go on, and all that
 * scene.h knows must hold. `twice` kills the one that mends, too; `stop` lets the victim stand
 * still while the survivor goes on, and then continue; in a `pair` two take turns, and where each
 * ends follows from the schedule's number. SAMPLES: so many of the instructions that leave nothing
 * new behind, too. EVERY: just each so-manyth of those that do; of all, where one is stopped.
 *
 * The last line of the output is the sum. Its first word is "ok" or "VIOLATION".
 */
#define _GNU_SOURCE
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deeds.h"
#include "stepping.h"

#define OFFSETS 1024
#define PRODUCERS 32
#define ALIKE 40 /* schedules of the same two deeds */
#define SECONDS_MOST 150 /* second deaths after one first */
#define STANDS_NS INT64_C(60000000)

/* Words of the ledger on which processes wait, and what is told there. */
enum word { ZERO_DOES, ZERO_DID, NEW_DOES, NEW_DID };
enum turn { SET_SCENE = 1, LOOK_AT_STOPPED, LIVE_ON, LEAVE };
enum name { ZERO = 0, VICTIM = 1, SECOND = 2, NEWCOMER = 3, SURVIVOR = 4 };

typedef struct plan {
    char path[512]; /* of the store */
    scene_ledger *ledger;
    const deed *deed;
    const char *state;
    bool alone;
} plan;

typedef struct tally {
    size_t steps, news, kills, slow, strays, violations;
} tally;

/* What is done with a process that stands at a mark. */
typedef struct blow {
    const trace *steps;
    size_t index;
    trace *record; /* not NULL: step all of it, and note it */
} blow;

/* -- processes --------------------------------------------------------------------------------- */
static actor new_actor(const plan *now, uint32_t name) {
    return (actor){.ledger = now->ledger, .path = now->path, .name = name};
}

static void look_at_stopped(actor *who);

/* Has the store open all along. */
_Noreturn static void be_zero(const plan *now) {
    actor who = new_actor(now, ZERO);
    int descriptors = scene_descriptors();
    deed_set_scene(&who, now->deed, now->state);
    scene_tell(now->ledger, ZERO_DID, SET_SCENE);
    who.name = SURVIVOR;
    who.next = 0;
    for (uint32_t turn = SET_SCENE; turn != LEAVE;) {
        scene_await(now->ledger, ZERO_DOES, turn + 1);
        turn = atomic_load(&now->ledger->turns[ZERO_DOES]);
        if (turn == LOOK_AT_STOPPED) look_at_stopped(&who);
        if (turn == LIVE_ON) scene_live_on(&who, (now->deed->traits & DEED_GROUP) != 0);
        if (turn == LEAVE) scene_close(&who);
        if (turn == LEAVE && scene_descriptors() != descriptors)
            scene_fail(&who, "O10: it has %d descriptors more than before",
                       scene_descriptors() - descriptors);
        if (turn == LEAVE && scene_mappings(now->path) != 0)
            scene_fail(&who, "O10: %d mappings are left", scene_mappings(now->path));
        scene_tell(now->ledger, ZERO_DID, turn);
    }
    _exit(0);
}

/* Comes after the death, and is the last to leave. */
_Noreturn static void be_newcomer(const plan *now) {
    actor who = new_actor(now, NEWCOMER);
    scene_open(&who);
    scene_live_on(&who, (now->deed->traits & DEED_GROUP) != 0);
    scene_blank(&who);
    scene_drain(&who);
    scene_verify(&who);
    scene_tell(now->ledger, NEW_DID, LIVE_ON);
    scene_await(now->ledger, NEW_DOES, LEAVE);
    scene_close(&who);
    scene_tidy(&who);
    scene_open(&who);
    mql_recovered what;
    if (mql_recovered_at(who.store, 0, &what) == MQL_OK)
        scene_fail(&who, "after a clean close, opening found R%d", what.row);
    scene_read(&who);
    scene_verify(&who);
    scene_close(&who);
    _exit(0);
}

_Noreturn static void be_victim(const plan *now, uint32_t name, const deed *deed) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    actor who = new_actor(now, name);
    deed_prepare(&who, deed, now->state);
    step_mark();
    deed->act(&who, deed);
    step_mark();
    _exit(0);
}

static pid_t begin(void) {
    pid_t parent = getpid(), child = fork();
    if (child != 0) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    return 0;
}

static bool fails(const plan *now, const char *what) {
    uint32_t nobody = 0;
    if (atomic_compare_exchange_strong(&now->ledger->failed, &nobody, 1))
        snprintf(now->ledger->failure, sizeof now->ledger->failure, "%s", what);
    return false;
}

/* Until `word` is told `turn`. False: the process ended before, or hangs. */
static bool await(const plan *now, pid_t pid, enum word word, enum turn turn) {
    int64_t until = mql_os_monotonic_ns() + 2 * SCENE_HANG_NS;
    _Atomic uint32_t *at = &now->ledger->turns[word];
    for (;;) {
        uint32_t seen = atomic_load_explicit(at, memory_order_acquire);
        if (seen >= (uint32_t)turn) return true;
        mql_os_wait(at, seen, 20000000);
        int status;
        bool ended = waitpid(pid, &status, WNOHANG | WNOWAIT) == pid ||
                     atomic_load(&now->ledger->failed) != 0;
        if (ended && atomic_load(at) < (uint32_t)turn)
            return fails(now, word == ZERO_DID ? "the survivor died" : "the newcomer died");
        if (mql_os_monotonic_ns() > until)
            return fails(now,
                         word == ZERO_DID ? "O8: the survivor hangs" : "O8: the newcomer hangs");
    }
}

static void bury(pid_t *pid) {
    if (*pid <= 0) return;
    kill(*pid, SIGKILL);
    waitpid(*pid, NULL, 0);
    *pid = 0;
}

/* Ends by itself, and well. */
static bool ends_well(const plan *now, pid_t *pid) {
    int status = 0;
    waitpid(*pid, &status, 0);
    *pid = 0;
    return status == 0 || fails(now, "it did not end well");
}

/* -- scenes ------------------------------------------------------------------------------------ */
static int unlink_one(const char *path, const struct stat *stat, int kind, struct FTW *walk) {
    (void)stat, (void)kind, (void)walk;
    return remove(path);
}

static void clear_scene(const plan *now) {
    nftw(now->path, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
    scene_clear(now->ledger);
}

typedef struct cast {
    pid_t zero, victim, second, newcomer;
} cast;

static void dismiss(cast *all) {
    bury(&all->victim);
    bury(&all->second);
    bury(&all->newcomer);
    bury(&all->zero);
}

static bool to_mark(const plan *now, pid_t pid) {
    int why = 0;
    return step_to_mark(pid, &why) || fails(now, "it does not come to its deed");
}

static pid_t begin_victim(const plan *now, uint32_t name, const deed *deed) {
    pid_t pid = begin();
    if (pid == 0) be_victim(now, name, deed);
    return to_mark(now, pid) ? pid : -1;
}

static bool set_scene(const plan *now, cast *all) {
    clear_scene(now);
    if ((now->deed->traits & DEED_FIRST) != 0) return true;
    all->zero = begin();
    if (all->zero == 0) be_zero(now);
    return await(now, all->zero, ZERO_DID, SET_SCENE);
}

/* What a dead holder has is nobody's. */
static void forget_holder(const plan *now, uint32_t name) {
    atomic_store(&now->ledger->doomed[name], 1);
}

static bool strike(const plan *now, pid_t *pid, const blow *how, tally *sum) {
    int why = 0;
    bool strayed = false, fine;
    if (how->record != NULL)
        fine = step_trace(*pid, now->path, how->record, &why);
    else
        fine = step_until(*pid, how->steps, how->index, &strayed);
    sum->strays += strayed;
    if (!fine) fails(now, "it crashed while it was stepped");
    return fine;
}

/* The survivor and the newcomer go on, and leave. */
static bool live_on(const plan *now, cast *all) {
    bool fine = true;
    if (all->zero > 0) {
        scene_tell(now->ledger, ZERO_DOES, LIVE_ON);
        fine = await(now, all->zero, ZERO_DID, LIVE_ON);
    }
    if (!fine) return false;
    all->newcomer = begin();
    if (all->newcomer == 0) be_newcomer(now);
    fine = await(now, all->newcomer, NEW_DID, LIVE_ON);
    if (fine && all->zero > 0) {
        scene_tell(now->ledger, ZERO_DOES, LEAVE);
        fine = await(now, all->zero, ZERO_DID, LEAVE) && ends_well(now, &all->zero);
    }
    scene_tell(now->ledger, NEW_DOES, LEAVE);
    return fine && ends_well(now, &all->newcomer);
}

/* One trial. `again`, if not NULL, is how the one that mends is killed in its turn. */
static bool try_once(const plan *now, const blow *first, const blow *again, tally *sum) {
    cast all = {0};
    const deed *mends = deed_named(now->alone ? "reopen" : "mend");
    bool fine = set_scene(now, &all);
    if (fine) fine = (all.victim = begin_victim(now, VICTIM, now->deed)) > 0;
    if (fine && again != NULL && !now->alone)
        fine = (all.second = begin_victim(now, SECOND, mends)) > 0;
    if (fine && now->alone) bury(&all.zero);
    if (fine) fine = strike(now, &all.victim, first, sum);
    bury(&all.victim);
    forget_holder(now, VICTIM);
    if (fine && again != NULL && now->alone)
        fine = (all.second = begin_victim(now, SECOND, mends)) > 0;
    if (fine && again != NULL) fine = strike(now, &all.second, again, sum);
    bury(&all.second);
    forget_holder(now, SECOND);
    if (fine) fine = live_on(now, &all);
    dismiss(&all);
    return fine && atomic_load(&now->ledger->failed) == 0;
}

/* A machine that is busy elsewhere is slow, too: what is the engine's fault comes again. */
static bool too_slow(const plan *now) {
    return atomic_load(&now->ledger->slowest_ns) > SCENE_PATIENCE_NS;
}

static bool try(const plan *now, const blow *first, const blow *again, tally *sum) {
    bool fine = try_once(now, first, again, sum);
    for (int i = 0; i < 3 && fine && too_slow(now); i++) {
        sum->slow++;
        fine = try_once(now, first, again, sum);
    }
    if (fine && too_slow(now)) fine = fails(now, "O8: it took more than a second, again and again");
    sum->kills += again != NULL ? 2 : 1;
    if (fine) return true;
    sum->violations++;
    printf("VIOLATION %s, %s, %s: kill at %zu", now->deed->name, now->state,
           now->alone ? "alone" : "with", first->index);
    if (again != NULL) printf(", then at %zu", again->index);
    printf(": %s\n", now->ledger->failure);
    return false;
}

/* -- kill -------------------------------------------------------------------------------------- */
typedef struct share {
    size_t own, all; /* of so many processes that divide the work */
    size_t every;
    long only, then; /* >= 0: just these steps */
} share;

static bool wanted(const trace *steps, size_t index, size_t samples) {
    bool last = index + 1 == steps->count;
    bool sample = samples > 0 && index % (steps->count / samples + 1) == 0;
    return steps->steps[index].news || last || sample;
}

static bool record(const plan *now, const blow *first, trace *steps, tally *sum) {
    blow all = {.record = steps};
    bool fine = first == NULL ? try_once(now, &all, NULL, sum) : try_once(now, first, &all, sum);
    sum->steps += steps->count;
    sum->news += steps->news;
    if (fine) return true;
    sum->violations++;
    printf("VIOLATION %s, %s, %s: not killed at all: %s\n", now->deed->name, now->state,
           now->alone ? "alone" : "with", now->ledger->failure);
    return false;
}

static void kill_everywhere(const plan *now, const share *part, tally *sum) {
    trace steps = {0};
    if (record(now, NULL, &steps, sum)) {
        size_t chosen = 0;
        for (size_t i = 0; i < steps.count && sum->violations < 10; i++) {
            bool only = part->only < 0 || (size_t)part->only == i;
            if (!only || (part->only < 0 && !wanted(&steps, i, part->every))) continue;
            if (chosen++ % part->all != part->own) continue;
            blow first = {.steps = &steps, .index = i};
            try(now, &first, NULL, sum);
        }
    }
    step_forget(&steps);
}

/* After the death at `first`, the one that mends dies at each of its steps that leave news; where
 * there are many, at some of them, and after another first death at others. */
static void kill_again(const plan *now, const blow *first, const share *part, tally *sum) {
    trace steps = {0};
    if (record(now, first, &steps, sum)) {
        size_t stride = steps.news / SECONDS_MOST + 1, news = first->index;
        for (size_t i = 0; i < steps.count && sum->violations < 10; i++) {
            bool only = part->then < 0 || (size_t)part->then == i;
            bool due = wanted(&steps, i, 0) && news++ % stride == 0;
            if (!only || (part->then < 0 && !due)) continue;
            blow again = {.steps = &steps, .index = i};
            try(now, first, &again, sum);
        }
    }
    step_forget(&steps);
}

static void kill_twice(const plan *now, const share *part, tally *sum) {
    trace steps = {0};
    tally nothing = {0};
    if (record(now, NULL, &steps, &nothing)) {
        size_t chosen = 0, news = 0;
        for (size_t i = 0; i < steps.count && sum->violations < 10; i++) {
            bool only = part->only < 0 || (size_t)part->only == i;
            bool due = steps.steps[i].news && news++ % part->every == part->every / 2;
            if (!only || (part->only < 0 && !due)) continue;
            if (chosen++ % part->all != part->own) continue;
            blow first = {.steps = &steps, .index = i};
            kill_again(now, &first, part, sum);
        }
    }
    step_forget(&steps);
}

/* -- stop -------------------------------------------------------------------------------------- */
/* The victim stands still, maybe with a lock. Who does not wait is not held up, and what it holds
 * though its deadline has passed is somebody else's. */
static void look_at_stopped(actor *who) {
    int rc = scene_try_put(who, 1, 50, MQL_NOWAIT);
    if (rc != MQL_OK && rc != MQL_BUSY) scene_fail(who, "an append without waiting gives %d", rc);
    if (who->share == NULL) return;
    bool late = atomic_load(&who->ledger->turns[NEW_DOES]) == LOOK_AT_STOPPED;
    if (late) { /* its locks hold a millisecond */
        mql_os_sleep(3000000);
        for (int64_t i = 0; i < OFFSETS; i++) atomic_store(&who->ledger->holder[i], 0);
    }
    while ((rc = scene_try_acquire(who, 1, -1, late ? 50000000 : 0)) == MQL_OK)
        scene_settle(who, MQL_ACCEPT, 0);
    if (rc != MQL_END && rc != MQL_TIMEOUT) scene_fail(who, "an acquire gives %d", rc);
}

/* It stands for longer than anybody waits for a lock at once, or until nobody needs it. */
static bool stand_still(const plan *now, cast *all) {
    int why = 0;
    scene_tell(now->ledger, ZERO_DOES, LOOK_AT_STOPPED);
    if (!await(now, all->zero, ZERO_DID, LOOK_AT_STOPPED)) return false;
    scene_tell(now->ledger, ZERO_DOES, LIVE_ON);
    int64_t until = mql_os_monotonic_ns() + STANDS_NS;
    _Atomic uint32_t *did = &now->ledger->turns[ZERO_DID];
    while (atomic_load(did) < LIVE_ON && mql_os_monotonic_ns() < until)
        mql_os_wait(did, LOOK_AT_STOPPED, STANDS_NS / 10);
    if (step_at_mark(all->victim) || step_past_mark(all->victim)) return true;
    ptrace(PTRACE_CONT, all->victim, 0, 0);
    return step_to_mark(all->victim, &why) || fails(now, "it does not finish its deed");
}

static bool stop_once(const plan *now, const blow *how, tally *sum) {
    cast all = {0};
    bool fine = set_scene(now, &all);
    if (strcmp(now->deed->name, "accept late") == 0)
        atomic_store(&now->ledger->turns[NEW_DOES], LOOK_AT_STOPPED);
    if (fine) fine = (all.victim = begin_victim(now, VICTIM, now->deed)) > 0;
    if (fine) fine = strike(now, &all.victim, how, sum);
    if (fine && how->record == NULL) fine = stand_still(now, &all);
    atomic_store(&now->ledger->turns[NEW_DOES], 0);
    bury(&all.victim);
    forget_holder(now, VICTIM);
    if (fine) fine = live_on(now, &all);
    dismiss(&all);
    return fine && atomic_load(&now->ledger->failed) == 0;
}

static void stop_everywhere(const plan *now, const share *part, tally *sum) {
    trace steps = {0};
    blow all = {.record = &steps};
    if (!stop_once(now, &all, sum)) steps.count = 0, sum->violations++;
    for (size_t i = part->own * part->every; i < steps.count && sum->violations < 10; i++) {
        bool only = part->only < 0 || (size_t)part->only == i;
        if (!only || (part->only < 0 && i % (part->all * part->every) != part->own * part->every))
            continue;
        blow how = {.steps = &steps, .index = i};
        sum->kills++;
        if (stop_once(now, &how, sum)) continue;
        sum->violations++;
        printf("VIOLATION %s, %s: stopped at %zu: %s\n", now->deed->name, now->state, i,
               now->ledger->failure);
    }
    if (sum->violations > 0 && steps.count == 0) printf("VIOLATION %s\n", now->ledger->failure);
    step_forget(&steps);
}

/* -- pair -------------------------------------------------------------------------------------- */
static const struct {
    const char *states;
    const char *deeds[12];
} companies[] = {
    {"empty middle crossing last full prepared",
     {"append", "append many", "append", "roll", "roll many", "prepare", "sync", "open", "close",
      "open share", "join", "mend"}},
    {"empty middle crossing edge last",
     {"put", "put many", "acquire", "accept", "release", "renew", "work", "work", "accept durably",
      "close share", "put", "accept"}},
};

static uint64_t draw(uint64_t *seed, uint64_t below) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % below;
}

static const deed *draw_deed(uint64_t *seed, size_t company) {
    return deed_named(companies[company].deeds[draw(seed, 12)]);
}

/* One of two that take turns. */
typedef struct runner {
    pid_t pid;
    uint32_t name;
    const deed *deed;
    const trace *steps; /* of it alone */
    size_t at;          /* in them, if nobody has got in its way */
    uint64_t target;    /* the instruction to stop at; 0: the mark */
    uint32_t left;      /* how often it is still to come by there */
    bool under_way;     /* it runs, or waits in a system call */
    bool over;          /* at its mark, or dead */
} runner;

static bool sleeps(pid_t pid) {
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) return false;
    bool got = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    const char *after = got ? strrchr(line, ')') : NULL;
    return after != NULL && (after[2] == 'S' || after[2] == 'D');
}

/* Until it has come to its target, or its end, or is seen to sleep in a system call: then it is
 * left to itself, and goes on as soon as it is let. False: it crashed. */
static bool run(runner *one) {
    int why;
    while (!one->over) {
        if (!one->under_way && one->left == 0) return true;
        if (!one->under_way) step_run(one->pid, one->target);
        one->under_way = true;
        int got = step_poll(one->pid, &why);
        if (got < 0) return false;
        if (got == 0 && sleeps(one->pid)) return true;
        if (got == 0) sched_yield();
        if (got <= 0) continue;
        one->under_way = false;
        one->left -= one->left > 0;
        if (step_at_mark(one->pid) || step_past_mark(one->pid)) one->over = true;
    }
    return true;
}

/* Somewhere ahead, mostly where it has just shared something. */
static void draw_target(runner *one, uint64_t *seed) {
    size_t ahead = one->steps->count - 1 - one->at, to = one->at;
    if (ahead == 0 || one->under_way) return;
    to += 1 + draw(seed, draw(seed, 2) == 0 ? ahead : ahead < 300 ? ahead : 300);
    bool news = draw(seed, 4) > 0;
    while (news && to + 1 < one->steps->count && !one->steps->steps[to].news) to++;
    one->left = step_occurrences(one->steps, one->at, to);
    one->target = one->steps->steps[to].at;
    one->at = to;
}

static void draw_end(runner *one) {
    if (one->under_way) return; /* it comes by later */
    one->target = 0;
    one->left = 1;
}

/* A few turns of each, then both to their ends. */
static bool take_turns(const plan *now, runner pair[2], uint64_t *seed, bool deadly, tally *sum) {
    size_t who = draw(seed, 2), turns = 1 + draw(seed, 6);
    int64_t until = mql_os_monotonic_ns() + SCENE_HANG_NS;
    for (size_t turn = 0; turn < turns; turn++, who = 1 - who) {
        draw_target(&pair[who], seed);
        if (!run(&pair[who])) return false;
        sum->steps++;
    }
    runner *doomed = &pair[draw(seed, 2)];
    if (deadly && !doomed->over) {
        forget_holder(now, doomed->name);
        bury(&doomed->pid);
        doomed->over = true;
        sum->kills++;
    }
    while (!pair[0].over || !pair[1].over) {
        draw_end(&pair[who]);
        if (!run(&pair[who])) return false;
        who = 1 - who;
        if (mql_os_monotonic_ns() > until) return false;
    }
    return true;
}

/* Steps of a deed from a state, alone; kept for all schedules. NULL: it fails even so. */
static const trace *steps_of(plan *now, const deed *deed) {
    static struct {
        const struct deed *deed;
        const char *state;
        bool apart;
        trace steps;
    } known[128];
    size_t i = 0;
    for (; i < 128 && known[i].deed != NULL; i++)
        if (known[i].deed == deed && strcmp(known[i].state, now->state) == 0)
            return &known[i].steps;
    if (i == 128) return NULL;
    plan alone = *now;
    tally nothing = {0};
    alone.deed = deed;
    alone.alone = false;
    if (!record(&alone, NULL, &known[i].steps, &nothing)) return NULL;
    known[i].deed = deed;
    known[i].state = strdup(now->state);
    return &known[i].steps;
}

static bool play(plan *now, runner pair[2], uint64_t *seed, bool deadly, tally *sum) {
    cast all = {0};
    bool fine = set_scene(now, &all);
    if (fine) fine = (all.victim = begin_victim(now, VICTIM, pair[0].deed)) > 0;
    if (fine) fine = (all.second = begin_victim(now, SECOND, pair[1].deed)) > 0;
    pair[0].pid = all.victim;
    pair[1].pid = all.second;
    if (fine && !take_turns(now, pair, seed, deadly, sum))
        fine = fails(now, "O8: they do not finish");
    all.victim = pair[0].pid;
    all.second = pair[1].pid;
    bury(&all.victim);
    bury(&all.second);
    forget_holder(now, VICTIM);
    forget_holder(now, SECOND);
    if (fine) fine = live_on(now, &all);
    dismiss(&all);
    return fine && atomic_load(&now->ledger->failed) == 0;
}

/* All of a schedule follows from its number: what is done from one that so many share. */
static bool pair_once(plan *now, uint64_t number, bool deadly, tally *sum) {
    uint64_t seed = number / ALIKE * UINT64_C(2654435761) + 1;
    char states[64], *rest = states;
    for (int i = 0; i < 8; i++) draw(&seed, 2);
    size_t company = draw(&seed, 2), skip = draw(&seed, company == 0 ? 6 : 5);
    snprintf(states, sizeof states, "%s", companies[company].states);
    for (now->state = strsep(&rest, " "); skip > 0; skip--) now->state = strsep(&rest, " ");
    runner pair[2] = {{.name = VICTIM, .deed = draw_deed(&seed, company)},
                      {.name = SECOND, .deed = draw_deed(&seed, company)}};
    for (int i = 0; i < 2; i++)
        if ((pair[i].steps = steps_of(now, pair[i].deed)) == NULL) return false;
    now->deed = pair[0].deed;
    seed += number % ALIKE * UINT64_C(0x9e3779b97f4a7c15);
    if (play(now, pair, &seed, deadly, sum)) return true;
    printf("VIOLATION schedule %llu, %s beside %s, %s%s: %s\n", (unsigned long long)number,
           pair[0].deed->name, pair[1].deed->name, now->state, deadly ? ", one killed" : "",
           now->ledger->failure);
    return false;
}

static void pair_all(plan *now, uint64_t first, uint64_t count, bool deadly, tally *sum) {
    for (uint64_t number = first; number < first + count && sum->violations < 10; number++) {
        sum->news++;
        if (!pair_once(now, number, deadly, sum)) sum->violations++;
    }
}

/* -- the program ------------------------------------------------------------------------------- */
static int list_all(void) {
    for (size_t i = 0; deed_at(i) != NULL; i++)
        printf("%s:%s\n", deed_at(i)->name, deed_at(i)->states);
    return 0;
}

static int try_to_step(void) {
    trace steps = {0};
    int why;
    pid_t pid = begin();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        step_mark();
        for (volatile int i = 0; i < 9; i++) {}
        step_mark();
        _exit(0);
    }
    bool fine = step_to_mark(pid, &why) && step_trace(pid, "/dev/null", &steps, &why);
    bury(&pid);
    step_forget(&steps);
    return fine ? 0 : 1;
}

static int tell(const tally *sum) {
    printf("%s steps=%zu news=%zu kills=%zu slow=%zu strays=%zu violations=%zu\n",
           sum->violations == 0 ? "ok" : "VIOLATION", sum->steps, sum->news, sum->kills, sum->slow,
           sum->strays, sum->violations);
    return sum->violations == 0 ? 0 : 1;
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count == 3 && strcmp(words[2], "list") == 0) return list_all();
    if (count == 3 && strcmp(words[2], "try") == 0) return try_to_step();
    plan now = {.ledger = scene_new(OFFSETS, PRODUCERS)};
    snprintf(now.path, sizeof now.path, "%s/store-%d", words[1], (int)getpid());
    tally sum = {0};
    if (count >= 5 && strcmp(words[2], "pair") == 0) {
        pair_all(&now, strtoull(words[3], NULL, 10), strtoull(words[4], NULL, 10), count > 5, &sum);
        clear_scene(&now);
        return tell(&sum);
    }
    if (count < 9 || (now.deed = deed_named(words[3])) == NULL) return 2;
    now.state = words[4];
    now.alone = strcmp(words[5], "alone") == 0;
    share part = {.own = strtoul(words[6], NULL, 10),
                  .all = strtoul(words[7], NULL, 10),
                  .every = strtoul(words[8], NULL, 10),
                  .only = count > 9 ? atol(words[9]) : -1,
                  .then = count > 10 ? atol(words[10]) : -1};
    if (strcmp(words[2], "kill") == 0) kill_everywhere(&now, &part, &sum);
    if (strcmp(words[2], "twice") == 0) kill_twice(&now, &part, &sum);
    if (strcmp(words[2], "stop") == 0) stop_everywhere(&now, &part, &sum);
    clear_scene(&now);
    return tell(&sum);
}
