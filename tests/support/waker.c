/* waker.c - looks for a wake-up that is lost.
 *
 *     waker DIRECTORY stream|share HAND-OFFS SEED
 *
 * Two processes hand one record after the other to each other; before each step either waits a
 * random while, so that flags are raised, looked at and taken back in every order. All waits of the
 * engine are bounded, so a lost wake-up hangs nobody: it is found by its length. One is lost when
 * the waiter slept a whole slice, and the other had done its part near the beginning of it.
 *
 * The last line of the output is the sum. Its first word is "ok" or "VIOLATION".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mql_os.h"
#include "mqlog.h"

#define SLICE_NS INT64_C(250000000)
#define SLEPT_NS (SLICE_NS * 9 / 10)
#define EARLY_NS INT64_C(100000000)
#define LATE_MOST 10 /* then both give up */
#define DELAY_NS 25000 /* the engine spins for about 10 us before it sleeps */

typedef struct shared {
    _Atomic int64_t done_ns[2]; /* when each side's last step was over */
    _Atomic int64_t late;
    _Atomic int64_t failed;
    _Atomic int64_t slept; /* waits that were no mere look */
} shared;

typedef struct side {
    shared *both;
    int own;
    int schedule; /* /proc/self/schedstat */
    int64_t began, kept;
    uint64_t seed;
    mql_store *store;
    mql_log *log;
    mql_share *share;
} side;

static uint64_t draw(uint64_t *seed, uint64_t below) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % below;
}

static void delay(side *who) {
    uint64_t longest = 1 + draw(&who->seed, DELAY_NS);
    int64_t until = mql_os_monotonic_ns() + (int64_t)draw(&who->seed, longest);
    while (mql_os_monotonic_ns() < until) mql_os_pause();
}

static int check(side *who, int rc) {
    if (rc >= 0) return rc;
    fprintf(stderr, "%s %s\n", mql_error_last()->path, mql_error_last()->text);
    atomic_store(&who->both->failed, 1);
    _exit(1);
}

static void open_side(side *who, const char *path) {
    mql_open_options options = {.create = 1};
    check(who, mql_open(path, &options, &who->store));
    mql_log_options log = {.segment_bytes = INT64_C(64) << 20,
                           .batch_bytes = 4096,
                           .max_message_bytes = 4096,
                           .sync_interval_ns = 100000000,
                           .retention_bytes = -1,
                           .retention_age_ms = -1};
    check(who, mql_partition(who->store, "orders", 0, 1, &log, &who->log));
    check(who, mql_share_open(who->log, "workers", 1, 0, &who->share));
}

static void put(side *who) {
    uint8_t byte = 'x';
    mql_record record = {.key = {NULL, -1}, .value = {&byte, 1}, .timestamp = MQL_NOW};
    int64_t offset;
    delay(who);
    while (check(who, mql_append(who->log, &record, 0, &offset)) == MQL_TIMEOUT) {}
    atomic_store(&who->both->done_ns[who->own], mql_os_monotonic_ns());
}

/* Nanoseconds that this process could have run and was not let. */
static int64_t kept_waiting(const side *who) {
    char text[128] = "";
    if (pread(who->schedule, text, sizeof text - 1, 0) <= 0) return 0;
    const char *second = strchr(text, ' ');
    return second == NULL ? 0 : atoll(second);
}

static void begin_wait(side *who) {
    who->kept = kept_waiting(who);
    who->began = mql_os_monotonic_ns();
}

/* A wait has ended: whether it slept on for long after the other had done its part. That it was
 * woken, and the machine had no processor for it, is not the engine's fault. */
static void end_wait(side *who) {
    int64_t took = mql_os_monotonic_ns() - who->began;
    if (atomic_load(&who->both->late) >= LATE_MOST) _exit(1);
    atomic_fetch_add(&who->both->slept, took > 20000);
    if (took < SLEPT_NS) return;
    int64_t slept = took - (kept_waiting(who) - who->kept);
    int64_t done = atomic_load(&who->both->done_ns[1 - who->own]) - who->began;
    if (slept >= SLEPT_NS && done >= 0 && done < EARLY_NS)
        atomic_fetch_add(&who->both->late, 1);
}

/* Both append in turn to one log, and each waits for the other's record. */
static void play_stream(side *who, int64_t count) {
    for (int64_t offset = 0; offset < count; offset++) {
        if (offset % 2 == who->own) {
            put(who);
            continue;
        }
        delay(who);
        for (int rc = MQL_TIMEOUT; rc == MQL_TIMEOUT;) {
            begin_wait(who);
            rc = check(who, mql_wait(who->log, offset, SLICE_NS));
            end_wait(who);
        }
    }
}

static void accept_one(side *who) {
    mql_acquire how = {.lock_ms = -1, .slice_ns = SLICE_NS};
    mql_acquired got;
    size_t one = 1;
    while (check(who, mql_share_acquire(who->share, &how, &got, &one)) != MQL_OK) {
        begin_wait(who);
        check(who, mql_share_wait(who->share, SLICE_NS));
        end_wait(who);
        one = 1;
    }
    delay(who);
    mql_settle item = {.offset = got.offset, .token = got.token, .result = MQL_TIMEOUT};
    mql_settlement accept = {.event = MQL_ACCEPT, .slice_ns = SLICE_NS};
    while (item.result == MQL_TIMEOUT) check(who, mql_share_settle(who->share, &item, 1, &accept));
    atomic_store(&who->both->done_ns[who->own], mql_os_monotonic_ns());
}

/* One puts and waits until it is accepted, the other waits for it and accepts: two hand-offs. */
static void play_share(side *who, int64_t count) {
    for (int64_t offset = 0; offset < count / 2; offset++) {
        if (who->own == 1) {
            accept_one(who);
            continue;
        }
        put(who);
        for (int rc = MQL_TIMEOUT; rc == MQL_TIMEOUT;) {
            begin_wait(who);
            rc = check(who, mql_share_wait_final(who->share, offset + 1, SLICE_NS));
            end_wait(who);
        }
    }
}

static int unlink_one(const char *path, const struct stat *stat, int kind, struct FTW *walk) {
    (void)stat, (void)kind, (void)walk;
    return remove(path);
}

int main(int count, char **words) {
    if (count != 5) return 2;
    char path[512];
    snprintf(path, sizeof path, "%s/store-%d", words[1], (int)getpid());
    void (*play)(side *, int64_t) = strcmp(words[2], "stream") == 0 ? play_stream : play_share;
    int64_t hand_offs = atoll(words[3]);
    shared *both = mmap(NULL, sizeof *both, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                        0);
    pid_t pids[2];
    for (int own = 0; own < 2; own++) {
        side who = {.both = both, .own = own, .seed = strtoull(words[4], NULL, 10) + (uint64_t)own};
        pids[own] = fork();
        if (pids[own] != 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        who.schedule = open("/proc/self/schedstat", O_RDONLY);
        open_side(&who, path);
        play(&who, hand_offs);
        mql_close(who.store);
        mql_free(who.store);
        _exit(0);
    }
    bool fine = true;
    for (int own = 0; own < 2; own++) {
        int status;
        waitpid(pids[own], &status, 0);
        fine = fine && status == 0;
        if (!fine) kill(pids[1 - own], SIGKILL);
    }
    nftw(path, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
    fine = fine && both->late == 0;
    printf("%s handoffs=%lld waits=%lld violations=%lld\n", fine ? "ok" : "VIOLATION",
           (long long)hand_offs, (long long)both->slept, (long long)both->late + !fine);
    return fine ? 0 : 1;
}
