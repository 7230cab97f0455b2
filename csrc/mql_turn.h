/* mql_turn.h - whose turn it is to take a lock that is not ours: the one of an interpreter. */
#ifndef MQL_TURN_H
#define MQL_TURN_H

/* Waits for the turn, spinning and then yielding the processor, until some ten microseconds are
 * over at most, whether or not it is the caller's then: a turn keeps nobody out, it only saves
 * sleeps. Any thread. */
void mql_turn_take(void);
/* Ends it, whosesoever it was. */
void mql_turn_give(void);

#endif
