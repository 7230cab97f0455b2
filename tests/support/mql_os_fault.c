/* mql_os_fault.c - mql_os_posix.c with a hook before the calls that a full or broken disk fails. */
#define mql_os_allocate real_allocate
#define mql_os_truncate real_truncate
#define mql_os_sync real_sync
#define mql_os_sync_directory real_sync_directory
#define mql_os_map real_map
#define mql_os_map_at real_map_at
#define mql_os_read real_read
#include "../../csrc/mql_os_posix.c"
#undef mql_os_allocate
#undef mql_os_truncate
#undef mql_os_sync
#undef mql_os_sync_directory
#undef mql_os_map
#undef mql_os_map_at
#undef mql_os_read

#include "mql_os_fault.h"

int mql_os_allocate(mql_os_file file, int64_t position, int64_t length);
int mql_os_truncate(mql_os_file file, int64_t size);
int mql_os_sync(mql_os_file file);
int mql_os_sync_directory(mql_os_file directory);
int mql_os_map(mql_os_file file, size_t length, bool writable, void **out);
int mql_os_map_at(mql_os_file file, int64_t position, size_t length, void **out);
int64_t mql_os_read(mql_os_file file, void *out, size_t length, int64_t position);

static mql_os_fault_hook *hook;
static _Thread_local bool inside;

void mql_os_fault_set(mql_os_fault_hook *wanted) { hook = wanted; }

static int ask(int call, mql_os_file file) {
    if (hook == NULL || inside) return 0;
    inside = true;
    int rc = hook(call, file);
    inside = false;
    return rc;
}

int mql_os_allocate(mql_os_file file, int64_t position, int64_t length) {
    int rc = ask(MQL_FAULT_ALLOCATE, file);
    return rc != 0 ? rc : real_allocate(file, position, length);
}

int mql_os_truncate(mql_os_file file, int64_t size) {
    int rc = ask(MQL_FAULT_TRUNCATE, file);
    return rc != 0 ? rc : real_truncate(file, size);
}

int mql_os_sync(mql_os_file file) {
    int rc = ask(MQL_FAULT_SYNC, file);
    return rc != 0 ? rc : real_sync(file);
}

int mql_os_sync_directory(mql_os_file directory) {
    int rc = ask(MQL_FAULT_SYNC_DIRECTORY, directory);
    return rc != 0 ? rc : real_sync_directory(directory);
}

int mql_os_map(mql_os_file file, size_t length, bool writable, void **out) {
    int rc = ask(MQL_FAULT_MAP, file);
    return rc != 0 ? rc : real_map(file, length, writable, out);
}

int mql_os_map_at(mql_os_file file, int64_t position, size_t length, void **out) {
    int rc = ask(MQL_FAULT_MAP, file);
    return rc != 0 ? rc : real_map_at(file, position, length, out);
}

int64_t mql_os_read(mql_os_file file, void *out, size_t length, int64_t position) {
    int rc = ask(MQL_FAULT_READ, file);
    return rc != 0 ? rc : real_read(file, out, length, position);
}
