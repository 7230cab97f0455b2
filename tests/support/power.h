/* power.h - work on a simulated disk, cut the power everywhere, and look at what recovery makes of
 * it: what tests plan in Python and run here.
 *
 * A workload is a string, a letter for each operation:
 *
 *   a  append one record              m  append a few in one call      b  append several batches
 *   z  append a compressed batch      d  append one, durable           s  sync the log
 *   k  a round of the sync thread     p  a round of the prepare thread t  trim
 *   c  close and open again           x  every process dies; open again
 *   y  a writer dies: a whole batch lies behind the end                n  a stranger's file appears
 *   o  commit an offset               O  commit one, durable
 *   q  open the share group           g  acquire some                  G  acquire one
 *   A  accept some of them            D  accept one, durable           R  release one
 *   J  archive one, as a dead letter  E  archive one, durable          S  sync the share group
 *   Z  append a batch of 256 records  Q  acquire all that there are    F  accept all of them
 *   L  accept all but the first       P  recycle the pages of what is finished
 *   0  to 9: nothing; different names for the same workload
 *
 * What was accepted or archived is durable after S, k and c too, also if it was before a death.
 */
#ifndef POWER_H
#define POWER_H

#include "sim_disk.h"

typedef struct power_plan {
    const char *workload;
    const char *after; /* what is done after a recovery that is itself cut */
    int durability;    /* enum mql_durability */
    int64_t segment_bytes;
    uint64_t seed;
    int64_t states;    /* at most so many */
    int images;        /* tried at each crash point */
    int images_again;  /* the same, of a recovery that is cut */
    int depth;         /* power cuts one after another */
    int one_in;        /* of so many states one is gone on from, and cut again */
    const char *only;  /* "12.3" or "12.3/4.1": this state alone; "": all */
    /* a fault while the workload runs; call 0: none */
    int fault_call;
    int fault_error;
    int64_t fault_at;
    int fault_forever;
} power_plan;

typedef struct power_report {
    int64_t states;    /* different ones that were recovered and checked */
    int64_t again;     /* of these, cuts of a recovery or of what came after one */
    int64_t same;      /* images that were the same as an earlier one */
    int64_t points;    /* crash points */
    int64_t records;   /* read and compared */
    int64_t lost;      /* states in which something that was not durable was gone */
    int64_t hits;      /* calls that failed */
    int64_t refused;   /* operations of the workload that said so */
    int64_t memory;    /* allocations that were not given back */
    int64_t held;      /* descriptors and mappings likewise */
    double image_s, recover_s, check_s;
    int failed;        /* a violation: `text` says which, `where` the state, as for `only` */
    char text[400];
    char where[64];
} power_report;

/* Runs the plan up to the first violation. */
void power_explore(const power_plan *plan, power_report *out);
/* Runs the workload with the fault, goes on when it is over, and cuts the power at some points. */
void power_endure(const power_plan *plan, power_report *out);
/* Files of two moments beside each other. `states` of them. */
void power_mix(const power_plan *plan, power_report *out);
/* Counts of what the letters of the workload called, those of the last letter alone. */
void power_count(const power_plan *plan, int64_t counts[SIM_CALLS]);

#endif
