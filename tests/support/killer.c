/* killer.c - kills processes at random moments, while others go on.
 *
 *     killer DIRECTORY random FIRST ROUNDS KILLS
 *     killer DIRECTORY orphans FIRST ROUNDS
 *
 * `random`: in each round one to eight workers append, roll, acquire, accept, release and commit in
 * one store, and so does a survivor. So many times one of them is killed, and another takes its
 * place; after each kill the survivor must come to an end of what it does within a second. Then all
 * are killed at once, sometimes the survivor too, and everything is compared with the ledger.
 * `orphans`: a worker that holds messages and a partition forks and is killed, and its child lives.
 *
 * Which round does what follows from its number; the moments of the kills are the machine's.
 * The last line of the output is the sum. Its first word is "ok" or "VIOLATION".
 */
#define _GNU_SOURCE
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mql_share.h"
#include "scene.h"

#define OFFSETS (1 << 17)
#define PRODUCERS 4096
#define WORKERS_MAX 8
#define SEGMENT 65536
#define LONGEST_NS 800000 /* until the next kill */

enum word { ALL_GO_ON, SURVIVOR_DID, ORPHAN_LIVES, ORPHAN_ENDS };

typedef struct round {
    char path[512];
    scene_ledger *ledger;
    uint64_t seed;
} round_;

typedef struct tally {
    size_t kills, rounds, records, accepts, slow, violations;
} tally;

static uint64_t draw(uint64_t *seed, uint64_t below) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % below;
}

static void spin(int64_t ns) {
    for (int64_t until = mql_os_monotonic_ns() + ns; mql_os_monotonic_ns() < until;) mql_os_pause();
}

/* Mostly not at all, so that deaths come while it does something. */
static void pause_a_while(uint64_t *seed) {
    if (draw(seed, 4) == 0) mql_os_sleep((int64_t)draw(seed, 200000));
}

/* -- workers ----------------------------------------------------------------------------------- */
/* The ledger has an end: a round is over long before. */
static bool is_full(const scene_ledger *ledger) {
    return atomic_load(&ledger->acknowledged[OFFSETS / 2]) != 0;
}

static void append_for_ever(actor *who, uint64_t seed, size_t count) {
    atomic_store(&who->ledger->call[who->name], (uint32_t)count);
    for (;;) {
        if (!is_full(who->ledger)) scene_put(who, count, 24 + (int64_t)draw(&seed, 90));
        pause_a_while(&seed);
    }
}

static void work_for_ever(actor *who, uint64_t seed) {
    scene_share(who);
    for (;;) {
        if (scene_acquire(who, 1 + draw(&seed, 8), -1) == 0) mql_share_wait(who->share, 100000000);
        pause_a_while(&seed);
        scene_settle(who, draw(&seed, 4) == 0 ? MQL_RELEASE : MQL_ACCEPT, 0);
    }
}

/* One of the group has the partition, and reads on where the one before has committed. */
static void consume_for_ever(actor *who, uint64_t seed) {
    scene_ledger *ledger = who->ledger;
    scene_group(who);
    scene_check(who, "mql_group_join", mql_group_join(who->group, &who->member));
    int rc;
    while ((rc = mql_group_claim(who->group, who->member)) == MQL_BUSY) mql_os_sleep(500000);
    scene_check(who, "mql_group_claim", rc);
    uint32_t other = scene_take(who, &ledger->owner);
    if (other != 0) scene_fail(who, "the partition has another owner, actor %u", other);
    int64_t at;
    mql_log_info info;
    scene_check(who, "mql_group_committed", mql_group_committed(who->group, &at));
    if (at != atomic_load(&ledger->committed) && at != atomic_load(&ledger->committing))
        scene_fail(who, "O6: %lld is committed", (long long)at);
    for (at = mql_base_max(at, 0);;) {
        scene_check(who, "mql_log_ends", mql_log_ends(who->log, &info));
        if (at < info.end_offset) scene_commit(who, ++at);
        pause_a_while(&seed);
    }
}

_Noreturn static void be_worker(const round_ *now, uint32_t name, uint64_t seed) {
    actor who = {.ledger = now->ledger, .path = now->path, .name = name,
                 .segment_bytes = SEGMENT};
    who.threads = draw(&seed, 2) == 0;
    scene_open(&who);
    switch (draw(&seed, 6)) {
    case 0:
    case 1:
        append_for_ever(&who, seed, 1);
        break;
    case 2:
        append_for_ever(&who, seed, 2 + draw(&seed, 22));
        break;
    case 3:
        consume_for_ever(&who, seed);
        break;
    default:
        work_for_ever(&who, seed);
    }
    _exit(0);
}

/* -- the survivor, and who comes after --------------------------------------------------------- */
static void look_at_all(actor *who) {
    scene_read(who);
    if (who->share == NULL) scene_share(who);
    scene_drain(who);
    scene_verify(who);
    scene_close(who);
    scene_tidy(who);
    scene_open(who);
    mql_recovered what;
    if (mql_recovered_at(who->store, 0, &what) == MQL_OK)
        scene_fail(who, "after a clean close, opening found R%d", what.row);
    scene_read(who);
    scene_verify(who);
    scene_close(who);
}

_Noreturn static void be_survivor(const round_ *now, uint32_t name) {
    actor who = {.ledger = now->ledger, .path = now->path, .name = name, .threads = 1,
                 .segment_bytes = SEGMENT};
    int descriptors = scene_descriptors();
    scene_open(&who);
    scene_share(&who);
    scene_tell(now->ledger, SURVIVOR_DID, 1);
    while (atomic_load(&now->ledger->turns[ALL_GO_ON]) == 0) {
        scene_put(&who, 1, 40);
        if (scene_acquire(&who, 2, -1) > 0) {
            scene_settle(&who, MQL_ACCEPT, 0);
            atomic_fetch_add(&now->ledger->proofs, 1);
            mql_os_wake(&now->ledger->proofs, INT32_MAX);
        }
        mql_os_sleep(20000);
    }
    look_at_all(&who);
    if (scene_descriptors() != descriptors || scene_mappings(now->path) != 0)
        scene_fail(&who, "O10: descriptors or mappings are left");
    _exit(0);
}

_Noreturn static void be_newcomer(const round_ *now, uint32_t name) {
    actor who = {.ledger = now->ledger, .path = now->path, .name = name,
                 .segment_bytes = SEGMENT};
    scene_open(&who);
    scene_live_on(&who, true);
    look_at_all(&who);
    _exit(0);
}

/* -- processes --------------------------------------------------------------------------------- */
static pid_t begin(void) {
    pid_t parent = getpid(), child = fork();
    if (child != 0) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    return 0;
}

static bool fails(const round_ *now, const char *what) {
    uint32_t nobody = 0;
    if (atomic_compare_exchange_strong(&now->ledger->failed, &nobody, 1))
        snprintf(now->ledger->failure, sizeof now->ledger->failure, "%s", what);
    return false;
}

static void kill_now(const round_ *now, pid_t *pid, uint32_t name) {
    if (*pid <= 0) return;
    atomic_store(&now->ledger->doomed[name], 1);
    kill(*pid, SIGKILL);
    waitpid(*pid, NULL, 0);
    *pid = 0;
}

/* Ends by itself, and well, in time. */
static bool ends_well(const round_ *now, pid_t *pid) {
    int status = 0;
    int64_t until = mql_os_monotonic_ns() + 4 * SCENE_HANG_NS;
    while (waitpid(*pid, &status, WNOHANG) == 0) {
        if (mql_os_monotonic_ns() > until) return fails(now, "O8: what is left cannot be read");
        mql_os_sleep(200000);
    }
    *pid = 0;
    return status == 0 || fails(now, "it did not end well");
}

/* The survivor begins a round after now and comes to its end. False: not within so long. */
static bool lives_on(const round_ *now, pid_t pid, int64_t within_ns) {
    uint32_t before = atomic_load(&now->ledger->proofs), seen;
    int64_t until = mql_os_monotonic_ns() + within_ns;
    while ((seen = atomic_load(&now->ledger->proofs)) < before + 2) {
        if (waitpid(pid, NULL, WNOHANG | WNOWAIT) != 0 && kill(pid, 0) < 0) return false;
        if (atomic_load(&now->ledger->failed) != 0 || mql_os_monotonic_ns() > until) return false;
        mql_os_wait(&now->ledger->proofs, seen, 10000000);
    }
    return true;
}

static int unlink_one(const char *path, const struct stat *stat, int kind, struct FTW *walk) {
    (void)stat, (void)kind, (void)walk;
    return remove(path);
}

static void clear_scene(const round_ *now) {
    nftw(now->path, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
    scene_clear(now->ledger);
}

/* -- random ------------------------------------------------------------------------------------ */
typedef struct crew {
    pid_t survivor;
    uint32_t survivor_name;
    size_t count;
    pid_t pids[WORKERS_MAX];
    uint32_t names[WORKERS_MAX];
} crew;

static void hire(round_ *now, crew *all, size_t seat) {
    uint64_t seed = now->seed + draw(&now->seed, 1 << 30);
    all->names[seat] = ++now->ledger->next_name;
    all->pids[seat] = begin();
    if (all->pids[seat] == 0) be_worker(now, all->names[seat], seed);
}

static bool begin_round(round_ *now, crew *all) {
    clear_scene(now);
    *all = (crew){.survivor_name = ++now->ledger->next_name, .count = 1 + draw(&now->seed, 8)};
    all->survivor = begin();
    if (all->survivor == 0) be_survivor(now, all->survivor_name);
    for (size_t seat = 0; seat < all->count; seat++) hire(now, all, seat);
    return lives_on(now, all->survivor, SCENE_HANG_NS);
}

/* What was late is looked at once more: a machine that is busy is late now and then, an engine that
 * waits for the dead is late for ever. */
static bool is_in_time(round_ *now, const crew *all, tally *sum) {
    if (lives_on(now, all->survivor, SCENE_PATIENCE_NS)) return true;
    if (atomic_load(&now->ledger->failed) != 0) return false;
    sum->slow++;
    if (lives_on(now, all->survivor, SCENE_PATIENCE_NS)) return true;
    return fails(now, "O8: the survivor does not go on");
}

static bool finish_round(round_ *now, crew *all, bool everybody) {
    uint32_t last = all->survivor_name;
    if (everybody) {
        kill_now(now, &all->survivor, last);
        last = ++now->ledger->next_name;
        all->survivor = begin();
        if (all->survivor == 0) be_newcomer(now, last);
    }
    scene_tell(now->ledger, ALL_GO_ON, 1);
    bool fine = ends_well(now, &all->survivor);
    return fine;
}

static bool play(round_ *now, size_t kills, tally *sum) {
    crew all;
    bool fine = begin_round(now, &all) || fails(now, "O8: they do not begin");
    for (size_t i = 0; fine && i < kills && !is_full(now->ledger); i++) {
        size_t seat = draw(&now->seed, all.count);
        spin((int64_t)draw(&now->seed, LONGEST_NS));
        kill_now(now, &all.pids[seat], all.names[seat]);
        sum->kills++;
        fine = is_in_time(now, &all, sum);
        hire(now, &all, seat);
    }
    bool everybody = draw(&now->seed, 4) == 0;
    for (size_t seat = 0; seat < all.count; seat++) {
        kill_now(now, &all.pids[seat], all.names[seat]);
        sum->kills++;
    }
    sum->kills += everybody;
    if (fine) fine = finish_round(now, &all, everybody);
    kill_now(now, &all.survivor, all.survivor_name);
    for (int64_t i = 0; i < OFFSETS; i++) sum->records += now->ledger->acknowledged[i] != 0;
    sum->accepts += (size_t)atomic_load(&now->ledger->kept);
    return fine && atomic_load(&now->ledger->failed) == 0;
}

/* -- orphans ----------------------------------------------------------------------------------- */
static void be_orphan(actor *who) {
    int64_t offset;
    mql_record record = {.key = {NULL, -1}, .value = {NULL, -1}, .timestamp = MQL_NOW};
    int rc = mql_append(who->log, &record, 0, &offset);
    if (rc != MQL_E_FORKED) scene_fail(who, "O14: the child's append gives %d", rc);
    scene_tell(who->ledger, ORPHAN_LIVES, 1);
    for (int i = 0; i < 20000 && atomic_load(&who->ledger->turns[ORPHAN_ENDS]) == 0; i++)
        mql_os_sleep(1000000);
    _exit(0);
}

_Noreturn static void be_parent(const round_ *now, uint32_t name, bool threads) {
    actor who = {.ledger = now->ledger, .path = now->path, .name = name, .threads = threads};
    scene_open(&who);
    scene_share(&who);
    scene_group(&who);
    scene_join(&who);
    scene_commit(&who, 3);
    scene_acquire(&who, 4, -1);
    if (who.holds != 4) scene_fail(&who, "it has %zu of 4", who.holds);
    scene_tell(now->ledger, ALL_GO_ON, 1);
    if (fork() == 0) be_orphan(&who);
    for (;;) pause();
}

_Noreturn static void be_heir(const round_ *now, uint32_t name) {
    actor who = {.ledger = now->ledger, .path = now->path, .name = name, .threads = 1};
    scene_open(&who);
    scene_share(&who);
    for (int i = 0; i < 10; i++) scene_put(&who, 1, 40);
    scene_tell(now->ledger, SURVIVOR_DID, 1);
    scene_await(now->ledger, SURVIVOR_DID, 2);
    scene_live_on(&who, true);
    scene_drain(&who);
    if (atomic_load(&now->ledger->slowest_ns) > SCENE_PATIENCE_NS)
        scene_fail(&who, "O8: it took more than a second");
    scene_tell(now->ledger, ORPHAN_ENDS, 1);
    look_at_all(&who);
    _exit(0);
}

/* The kill comes before, in or after the fork: most children have been born. */
static bool orphan(round_ *now, tally *sum) {
    clear_scene(now);
    pid_t heir = begin();
    if (heir == 0) be_heir(now, 1);
    scene_await(now->ledger, SURVIVOR_DID, 1);
    pid_t parent = begin();
    if (parent == 0) be_parent(now, 2, draw(&now->seed, 2) == 0);
    scene_await(now->ledger, ALL_GO_ON, 1);
    spin((int64_t)draw(&now->seed, 4000000));
    kill_now(now, &parent, 2);
    sum->kills++;
    mql_os_sleep(300000);
    sum->accepts += atomic_load(&now->ledger->turns[ORPHAN_LIVES]);
    scene_tell(now->ledger, SURVIVOR_DID, 2);
    bool fine = ends_well(now, &heir);
    scene_tell(now->ledger, ORPHAN_ENDS, 1);
    kill_now(now, &heir, 1);
    mql_os_sleep(3000000); /* the orphan goes: the ledger is cleared for the next */
    return fine && atomic_load(&now->ledger->failed) == 0;
}

/* -- the program ------------------------------------------------------------------------------- */
int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count < 5) return 2;
    bool random = strcmp(words[2], "random") == 0;
    if (count < (random ? 6 : 5)) return 2;
    round_ now = {.ledger = scene_new(OFFSETS, PRODUCERS)};
    snprintf(now.path, sizeof now.path, "%s/store-%d", words[1], (int)getpid());
    tally sum = {0};
    uint64_t first = strtoull(words[3], NULL, 10), rounds = strtoull(words[4], NULL, 10);
    for (uint64_t number = first; number < first + rounds && sum.violations < 2; number++) {
        now.seed = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
        bool fine = random ? play(&now, strtoull(words[5], NULL, 10), &sum) : orphan(&now, &sum);
        sum.rounds++;
        sum.violations += !fine;
        if (!fine)
            printf("VIOLATION round %llu: %s\n", (unsigned long long)number, now.ledger->failure);
    }
    clear_scene(&now);
    printf("%s kills=%zu rounds=%zu records=%zu accepts=%zu slow=%zu violations=%zu\n",
           sum.violations == 0 ? "ok" : "VIOLATION", sum.kills, sum.rounds, sum.records,
           sum.accepts, sum.slow, sum.violations);
    return sum.violations == 0 ? 0 : 1;
}
