/* litmus.c - whoever changes something sees who sleeps, or the sleeper sees the change.
 *
 *     litmus wake|ring|sleep|own|early|count TIMES
 *
 * Two threads begin a step at the same moment, a little apart, on two processors. One raises its
 * flag, looks once more, and would sleep; the other changes what it looks for, and looks at the
 * flag. Without a full fence between store and load on either side both may miss each other. The
 * fence of who changes something is that he drops a lock then, and looks after it.
 *
 *   wake   a publish, the drop, and mql_log_wake, against a sleeper of this file's
 *   ring   a change, the drop, and mql_share_ring, likewise
 *   sleep  mql_sleep_until against a waker of this file's
 *   own    both of this file's, and the sleeper's fence left out: how often this would be seen
 *   early  mql_share_ring before the drop: likewise
 *   count  something else: two threads hold on to a segment, again and again, and none is lost;
 *          they wait for each other every PIECE times
 *
 * The last line of the output is the sum. Its first word is "ok" or "VIOLATION".
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define mql_os_wait litmus_wait
#define mql_os_wake litmus_wake
#define mql_sleep_for litmus_sleep_for
#define mql_sleep_for_room litmus_sleep_for_room
#define mql_sleep_due litmus_sleep_due
#define mql_sleep_until litmus_sleep_until
#include "../../csrc/mql_sleep.c"
#include "pin.h"

#define APART 32      /* turns of a loop: by so much each step is moved at random */
#define APART_MOST 4000
#define PIECE 1000

enum mode { WAKE, RING, SLEEP, OWN, EARLY, COUNT };
static const char *const modes[] = {"wake", "ring", "sleep", "own", "early", "count"};

static mql_format_control control;
static mql_format_doorbell bell;
static mql_log_home home = {.bell = &bell};
static mql_log sleepers = {.home = &home, .control = &control};
static mql_os_mutex lock; /* who changes something has it */

/* Each on a line of its own, as the flag and the word are. */
static struct {
    _Alignas(128) _Atomic int64_t changed;
    _Alignas(128) _Atomic int64_t step; /* that may begin */
    _Alignas(128) _Atomic int64_t over; /* how often a thread was through with one */
    _Alignas(128) bool asleep;
    _Alignas(128) bool woke;
} both;

static enum mode mode;
static int64_t times;

/* As the kernel does it: a full barrier, then it looks whether the word has moved. */
int litmus_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    (void)timeout_ns;
    atomic_thread_fence(memory_order_seq_cst);
    both.asleep = atomic_load_explicit(word, memory_order_relaxed) == expected;
    return 0;
}

int litmus_wake(_Atomic uint32_t *word, int count) {
    (void)word;
    both.woke = true;
    return count;
}

static bool changed(void *context) {
    return atomic_load_explicit(&both.changed, memory_order_relaxed) == *(int64_t *)context;
}

static uint64_t generation(void) {
    return atomic_load_explicit(&control.published.generation, memory_order_relaxed);
}

static void fall_asleep(int64_t step) {
    mql_format_waiters *waiters =
        mode == WAKE ? &control.waiters_published : &control.waiters_queue;
    uint64_t seen = mode == WAKE ? (uint64_t)step - 1 : 0;
    if (mode == SLEEP) {
        mql_sleep_until(&sleepers, 1, changed, &step);
        return;
    }
    atomic_store_explicit(&waiters->flag, 1, memory_order_relaxed);
    if (mode != OWN) atomic_thread_fence(memory_order_seq_cst);
    both.asleep = mode == WAKE ? generation() == seen : !changed(&step);
}

static void change(int64_t step) {
    if (mode == WAKE) {
        mql_control_end end = {.offset = step};
        mql_os_mutex_try(&lock);
        mql_control_publish(&control.published, &end);
        mql_os_mutex_drop(&lock);
        mql_log_wake(&sleepers, &control.waiters_published, &control.published);
        return;
    }
    if (mode == RING || mode == EARLY) {
        uint32_t before = control.waiters_queue.word;
        mql_os_mutex_try(&lock);
        atomic_store_explicit(&both.changed, step, memory_order_relaxed);
        if (mode == RING) mql_os_mutex_drop(&lock);
        mql_share_ring(&sleepers, INT32_MAX);
        if (mode == EARLY) mql_os_mutex_drop(&lock);
        both.woke = control.waiters_queue.word != before;
        return;
    }
    atomic_store_explicit(&both.changed, step, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    mql_format_waiters *waiters = mode == SLEEP ? &control.waiters_room : &control.waiters_queue;
    both.woke = mql_control_take_flag(&waiters->flag);
}

static void until(_Atomic int64_t *word, int64_t value) {
    for (int i = 0; atomic_load_explicit(word, memory_order_acquire) < value; i++)
        if (i > 2000) sched_yield();
}

static void apart(uint64_t *seed, int64_t turns) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    turns += (int64_t)((*seed >> 33) % APART);
    for (int64_t i = 0; i < turns; i++) __asm__ volatile("");
}

/* The sleeper begins so much later that it comes too late every second time. */
static int64_t tuned(int64_t turns) {
    turns += both.asleep ? 1 : -1;
    return turns < 0 ? 0 : turns > APART_MOST ? APART_MOST : turns;
}

static void *change_each(void *nothing) {
    pin_to(1);
    uint64_t seed = 1;
    for (int64_t step = 1; step <= times; step++) {
        until(&both.step, step);
        apart(&seed, 0);
        change(step);
        atomic_fetch_add_explicit(&both.over, 1, memory_order_release);
    }
    return nothing;
}

static void begin(int64_t step) {
    mql_format_waiters *all[] = {&control.waiters_published, &control.waiters_queue,
                                 &control.waiters_room};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        atomic_store_explicit(&all[i]->flag, 0, memory_order_relaxed);
    both.asleep = both.woke = false;
    atomic_store_explicit(&both.step, step, memory_order_release);
}

static mql_segment shared;

static void *hold(void *which) {
    pin_to(which == NULL);
    for (int64_t i = 0; i < times; i++) {
        if (i % PIECE == 0) {
            atomic_fetch_add_explicit(&both.over, 1, memory_order_release);
            until(&both.over, 2 * (i / PIECE + 1));
        }
        mql_segment_retain(&shared);
    }
    return NULL;
}

static int count(void) {
    pthread_t other;
    if (pthread_create(&other, NULL, hold, &shared) != 0) return 2;
    hold(NULL);
    pthread_join(other, NULL);
    int64_t lost = 2 * times - atomic_load(&shared.references);
    printf("%s times=%lld lost=%lld violations=%d\n", lost == 0 ? "ok" : "VIOLATION",
           (long long)times, (long long)lost, lost != 0);
    return lost != 0;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    while (strcmp(argv[1], modes[mode]) != 0)
        if (++mode > COUNT) return 2;
    times = atoll(argv[2]);
    if (mode == COUNT) return count();
    if (mql_os_mutex_init_shared(&lock) != 0) return 2;
    pthread_t other;
    uint64_t seed = 2;
    int64_t lost = 0, slept = 0, later = 0;
    if (pthread_create(&other, NULL, change_each, NULL) != 0) return 2;
    pin_to(0);
    for (int64_t step = 1; step <= times; step++) {
        begin(step);
        apart(&seed, later);
        fall_asleep(step);
        until(&both.over, step);
        later = tuned(later);
        slept += both.asleep;
        lost += both.asleep && !both.woke;
    }
    pthread_join(other, NULL);
    printf("%s times=%lld slept=%lld lost=%lld violations=%d\n", lost == 0 ? "ok" : "VIOLATION",
           (long long)times, (long long)slept, (long long)lost, lost != 0);
    return lost != 0;
}
