/* mql_keeper.h - the two background threads of a store's opening: one prepares, one syncs. */
#ifndef MQL_KEEPER_H
#define MQL_KEEPER_H

#include "mql_log.h"

/* One round over the logs of the store: *wait_ns is how long the thread may sleep afterwards (<= 0:
 * not). */
typedef struct mql_keeper {
    mql_log *_Atomic *logs; /* borrows the store's list, which only grows */
    _Atomic uint32_t prepare_word;
    _Atomic uint32_t sync_word;
    _Atomic bool stopping;
    _Atomic bool running;
    _Atomic bool enabled;    /* threads may be started */
    mql_os_mutex lock;       /* private: starting and stopping */
    mql_os_thread *preparer; /* owned; NULL: not running */
    mql_os_thread *syncer;
} mql_keeper;

void mql_keeper_init(mql_keeper *keeper, mql_log *_Atomic *logs, bool enabled);
/* Starts the threads if they do not run. A failure to is left for the next call. */
void mql_keeper_start(mql_keeper *keeper);
/* Ends and joins them. Blocks: for a round. They may be started again. */
void mql_keeper_stop(mql_keeper *keeper);
/* There is something to prepare, to sync. Starts the threads if need be. want_sync: false if there
 * are none that will do it. */
void mql_keeper_want_prepare(mql_keeper *keeper);
bool mql_keeper_want_sync(mql_keeper *keeper);

/* One round each, by hand. */
int mql_keeper_prepare_round(mql_keeper *keeper);
int mql_keeper_sync_round(mql_keeper *keeper, int64_t now_ns, bool at_once, int64_t *wait_ns);

#endif
