/* pin.h - threads on processors of their own. Needs _GNU_SOURCE. */
#ifndef PIN_H
#define PIN_H

#include <sched.h>

/* The thread stays on the `which`th of those that the process may use, if there are so many. */
static inline void pin_to(int which) {
    cpu_set_t may, one;
    CPU_ZERO(&one);
    sched_getaffinity(0, sizeof may, &may);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &may) && which-- == 0) CPU_SET(i, &one);
    if (CPU_COUNT(&one) > 0) sched_setaffinity(0, sizeof one, &one);
}

#endif
