/* mql_os_fault.h - an operating system that tests look into, and make fail. */
#ifndef MQL_OS_FAULT_H
#define MQL_OS_FAULT_H

#include "mql_os.h"

enum mql_os_fault_call {
    MQL_FAULT_ALLOCATE = 1,
    MQL_FAULT_TRUNCATE = 2,
    MQL_FAULT_SYNC = 3,
    MQL_FAULT_SYNC_DIRECTORY = 4,
    MQL_FAULT_MAP = 5,
    MQL_FAULT_READ = 6
};

/* Called before each of these: a result other than 0 is the call's, which is not made. Not called
 * from within itself. NULL: nothing is. */
typedef int mql_os_fault_hook(int call, mql_os_file file);
void mql_os_fault_set(mql_os_fault_hook *hook);

#endif
