/* tsan.h - included before everything when ThreadSanitizer watches.
 *
 * The runtime of gcc 12 does not know pthread_mutex_clocklock: whoever got the lock by it would be
 * taken for somebody without. It knows trylock, also of robust mutexes.
 */
#ifndef MQL_TSAN_H
#define MQL_TSAN_H

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

static inline int tsan_clocklock(pthread_mutex_t *mutex, clockid_t clock,
                                 const struct timespec *end) {
    for (;;) {
        int error = pthread_mutex_trylock(mutex);
        struct timespec now;
        clock_gettime(clock, &now);
        bool late = now.tv_sec != end->tv_sec ? now.tv_sec > end->tv_sec
                                              : now.tv_nsec >= end->tv_nsec;
        if (error != EBUSY) return error;
        if (late) return ETIMEDOUT;
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
}
#define pthread_mutex_clocklock tsan_clocklock

#endif
