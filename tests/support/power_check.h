/* power_check.h - whether what recovery made of a disk keeps what was promised: the oracles. */
#ifndef POWER_CHECK_H
#define POWER_CHECK_H

#include "power_work.h"

typedef struct power_check {
    power_ledger *ledger;         /* borrows */
    const power_promise *promise; /* borrows */
    power_work *work;             /* borrows: open */
    int64_t extra;                /* a record appended since, -1: none */
    int32_t extra_value;
    bool present[POWER_BATCHES];
    int64_t records;
    int64_t end;
    bool lost; /* something that was not durable is gone */
    bool weak; /* files of different times: nothing need be there, but nothing may be invented */
    char text[400]; /* the first violation; "": none */
} power_check;

/* O1 .. O5, O12: reads the whole log. */
bool power_check_log(power_check *check);
/* O6: the committed offset. */
bool power_check_group(power_check *check);
/* O7: what is delivered again, and what is not. */
bool power_check_share(power_check *check);
/* O3, O8: an append gets an offset that nobody has seen, and can be read. */
bool power_check_append(power_check *check);
/* O12: files of others. */
bool power_check_strangers(power_check *check);

#endif
