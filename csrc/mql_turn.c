/* mql_turn.c - whose turn it is to take a lock that is not ours.
 *
 * Threads of an interpreter that one sync has served wake up together, and all want its one lock.
 * Who finds it taken sleeps again, and is woken by whoever lets it go: two sleeps for one call. As
 * each of them needs the lock for a microsecond until it calls again, whoever comes next spins that
 * long. A turn is a hint: who has it may be away with the lock for long, or may have died with it
 * (a fork's child), so nobody waits for it longer than a sleep would take, and not again for some
 * time once nobody's turn was over meanwhile, or the processor is not free for spinning.
 */
#include "mql_turn.h"

#include "mql_os.h"

#define SPINS 100 /* 5 us where a pause is long; the yields make up for it where it is short */
#define YIELDS_NS 10000
#define LATE_NS 50000 /* a yield took so long: others have the processor */
#define UNTRIED 64    /* turns that are not waited for after one that was in vain */

static _Atomic uint32_t turn; /* odd: somebody has it */
static _Atomic uint32_t untried;

static bool took(uint32_t now) {
    return (now & 1) == 0 && atomic_compare_exchange_strong_explicit(
                                 &turn, &now, now + 1, memory_order_relaxed, memory_order_relaxed);
}

void mql_turn_take(void) {
    uint32_t left = atomic_load_explicit(&untried, memory_order_relaxed);
    if (left > 0) {
        atomic_store_explicit(&untried, left - 1, memory_order_relaxed);
        return;
    }
    uint32_t now = atomic_load_explicit(&turn, memory_order_relaxed), before = now;
    for (int i = 0; i < SPINS; i++) {
        if (took(now)) return;
        mql_os_pause();
        now = atomic_load_explicit(&turn, memory_order_relaxed);
    }
    int64_t time = mql_os_monotonic_ns(), until = time + YIELDS_NS;
    do {
        mql_os_yield();
        now = atomic_load_explicit(&turn, memory_order_relaxed);
        if (took(now)) return;
        time = mql_os_monotonic_ns();
    } while (time < until);
    if (now == before || time - until > LATE_NS)
        atomic_store_explicit(&untried, UNTRIED, memory_order_relaxed);
}

void mql_turn_give(void) {
    uint32_t now = atomic_load_explicit(&turn, memory_order_relaxed);
    if ((now & 1) != 0) atomic_store_explicit(&turn, now + 1, memory_order_relaxed);
}
