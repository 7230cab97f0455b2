/* mql_os_fault.h - an operating system that tests look into, and make fail.
 *
 * What lies below "/simulated/" is on disks in memory (sim_disk.h); everything else is on the real
 * ones, where a hook may fail the calls that a full or broken disk fails.
 */
#ifndef MQL_OS_FAULT_H
#define MQL_OS_FAULT_H

#include "mql_os.h"

enum mql_os_fault_call {
    MQL_FAULT_ALLOCATE = 1,
    MQL_FAULT_TRUNCATE = 2,
    MQL_FAULT_SYNC = 3,
    MQL_FAULT_SYNC_DIRECTORY = 4,
    MQL_FAULT_MAP = 5,
    MQL_FAULT_SYNC_MAP = 6, /* of this and the next the file is MQL_OS_NO_FILE */
    MQL_FAULT_WAIT = 7,
    MQL_FAULT_WRITE = 8,
    MQL_FAULT_RENAME = 9, /* of this and those that follow it is the directory */
    MQL_FAULT_LINK = 10,
    MQL_FAULT_UNLINK = 11,
    MQL_FAULT_READ = 12,
    MQL_FAULT_WRITE_ZEROS = 13,
    MQL_FAULT_FREE_BYTES = 14,
    MQL_FAULT_YIELD = 15 /* of this it is MQL_OS_NO_FILE, too; what it says is not heard */
};

/* Called before each of these: a result other than 0 is the call's, which is not made. Not called
 * from within itself. NULL: nothing is. */
typedef int mql_os_fault_hook(int call, mql_os_file file);
void mql_os_fault_set(mql_os_fault_hook *hook);
/* From now on syncs of files and mappings are counted, in memory that the caller lends, and may
 * share with others: how many have begun, and the last one begun that has ended well. */
void mql_os_fault_count_syncs(_Atomic int64_t counts[2]);
/* Called after a directory was listed, likewise. */
void mql_os_fault_after_list(mql_os_fault_hook *hook);
/* From now on who waits for a word, and is not woken, does so for at least so long: a wake-up that
 * is left out shows. 0: as long as it says. */
void mql_os_fault_wait_at_least(int64_t ns);
/* For how long the last one of all who waited for a word was ready to wait. */
int64_t mql_os_fault_last_wait(void);
/* From now on it is this time by the monotonic clock. 0: it goes on. */
void mql_os_fault_stop_clock(int64_t ns);

#endif
