/* judge.h - what may not be, counted by what it is and where, so that one run shows all of it. */
#ifndef JUDGE_H
#define JUDGE_H

#include <stdbool.h>
#include <stdio.h>

/* The state to come: the file that is damaged, and how. */
__attribute__((format(printf, 2, 3))) void judge_state(const char *file, const char *format, ...);
__attribute__((format(printf, 1, 2))) void judge_wrong(const char *format, ...);
/* Prints what was wrong; how many kinds of it. */
size_t judge_told(void);
bool judge_ends_in(const char *name, const char *suffix);

#endif
