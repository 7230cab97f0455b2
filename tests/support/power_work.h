/* power_work.h - a store in use: the letters of a workload, each told to a ledger. */
#ifndef POWER_WORK_H
#define POWER_WORK_H

#include "mqlog.h"
#include "power.h"
#include "power_ledger.h"
#include "sim_trace.h"

#define POWER_HELD 600
#define POWER_TOPIC "t"
#define POWER_GROUP "g"
#define POWER_STRANGER "t-0/stranger.bin"
#define POWER_OUTSIDE "notes.txt"

typedef struct power_work {
    const power_plan *plan; /* borrows */
    power_ledger *ledger;   /* borrows */
    int disk;
    uint64_t chance;
    mql_store *store; /* owns; NULL: not open */
    mql_log *log;
    mql_group *group;
    uint64_t member;
    mql_share *share;
    power_promise now;
    bool recovering; /* what the log shows has not been looked at yet: nobody relies on it */
    mql_acquired held[POWER_HELD];
    int held_count;
    int64_t refused;  /* operations that failed, as they may under a fault */
    char text[256];   /* what went wrong that may not; "": nothing */
} power_work;

mql_log_options power_work_options(const power_plan *plan);
/* Opens store and partition: a result of mqlog.h. */
int power_work_open(power_work *work);
int power_work_close(power_work *work);
/* One letter: MQL_OK, or the failure. */
int power_work_step(power_work *work, char letter);
/* All letters; failures are counted and gone on from. */
void power_work_run(power_work *work, const char *letters);
/* For sim_trace: the number of what is promised now. */
int64_t power_work_note(void *context);
/* The machine has started again, at this time; which boot it is, and chance, follow from `seed`. */
void power_work_reboot(uint64_t seed, int64_t wall_ms);

#endif
