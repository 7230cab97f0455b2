/* stepping.h - a process under a tracer: one instruction at a time, and up to one of them.
 *
 * What a death leaves behind is what the process shared: the files that it has mapped, what the
 * kernel keeps for it, and the list of robust mutexes that the kernel goes through. The kernel's
 * part changes in system calls alone. So two deaths between which no byte of the files or of the
 * list has changed, and no system call was made, are one death; a trace marks where a new one
 * begins.
 */
#ifndef STEPPING_H
#define STEPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Before one instruction of the traced deed. */
typedef struct step {
    uint64_t at;         /* the instruction that comes next */
    uint32_t occurrence; /* how often it has come next, this time included */
    bool news;           /* what would be left behind is not what was before */
} step;

typedef struct trace {
    step *steps; /* owns; the last stands at the end of the deed */
    size_t count, capacity;
    size_t news;
} trace;

/* In the process that is traced: stops it, to be stepped from here to the next call. */
void step_mark(void);

/* Waits until `pid`, a child that has asked to be traced, stands at a mark. False: it has ended or
 * crashed; *why says how. */
bool step_to_mark(pid_t pid, int *why);
/* One instruction. False: it ended, crashed, or is at a mark. */
bool step_once(pid_t pid, int *why);
bool step_at_mark(pid_t pid);
bool step_past_mark(pid_t pid); /* it ran, and came by one */
uint64_t step_address(pid_t pid);

/* Steps from one mark to the next, and notes all of it; `directory` holds the files. */
bool step_trace(pid_t pid, const char *directory, trace *out, int *why);
void step_forget(trace *trace);
/* From a mark to where `steps` has come at `index`. *strayed: it did not come by there. */
bool step_until(pid_t pid, const trace *steps, size_t index, bool *strayed);

/* How often the instruction at `to` comes next behind `from`, up to there. 0: it repeats itself. */
uint32_t step_occurrences(const trace *steps, size_t from, size_t to);
/* Runs on and does not wait: to the next occurrence of an instruction, or (0) to the mark.
 * step_poll: 1 stopped, 0 not yet, -1 ended. */
void step_run(pid_t pid, uint64_t address);
int step_poll(pid_t pid, int *why);

#endif
