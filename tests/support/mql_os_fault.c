/* mql_os_fault.c - mql_os.h for tests: the real system with a hook, or disks in memory.
 *
 * Takes the place of mql_os_posix.c and mql_os_identity.c, both of which are in here under other
 * names. Mutexes, futexes and threads are the real ones in either case.
 */
#define _GNU_SOURCE
#include "mql_os_fault.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "sim_disk.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#define mql_os_open_root real_open_root
#define mql_os_make_root real_make_root
#define mql_os_open_directory real_open_directory
#define mql_os_open real_open
#define mql_os_close real_close
#define mql_os_stat_file real_stat_file
#define mql_os_stat_name real_stat_name
#define mql_os_read real_read
#define mql_os_write real_write
#define mql_os_allocate real_allocate
#define mql_os_overwrites real_overwrites
#define mql_os_write_zeros real_write_zeros
#define mql_os_start_sync real_start_sync
#define mql_os_truncate real_truncate
#define mql_os_sync real_sync
#define mql_os_sync_directory real_sync_directory
#define mql_os_rename real_rename
#define mql_os_rename_new real_rename_new
#define mql_os_unlink real_unlink
#define mql_os_make_directory real_make_directory
#define mql_os_remove_directory real_remove_directory
#define mql_os_list real_list
#define mql_os_free_bytes real_free_bytes
#define mql_os_check_filesystem real_check_filesystem
#define mql_os_no_copy_on_write real_no_copy_on_write
#define mql_os_map real_map
#define mql_os_map_at real_map_at
#define mql_os_link real_link
#define mql_os_unmap real_unmap
#define mql_os_populate real_populate
#define mql_os_unpopulate real_unpopulate
#define mql_os_sync_map real_sync_map
#define mql_os_wait real_wait
#define mql_os_yield real_yield
#define mql_os_lock real_lock
#define mql_os_unlock real_unlock
#define mql_os_lock_test real_lock_test
#define mql_os_now_ms real_now_ms
#define mql_os_wall_ms real_wall_ms
#define mql_os_monotonic_ns real_monotonic_ns
#define mql_os_coarse_ns real_coarse_ns
#define mql_os_tick_ns real_tick_ns
#define mql_os_random real_random
#define mql_os_identify real_identify
#define mql_os_allocate_memory real_allocate_memory
#define mql_os_free_memory real_free_memory
/* Those that are called before they are defined. */
int real_sync_directory(mql_os_file directory);
int real_truncate(mql_os_file file, int64_t size);
int64_t real_read(mql_os_file file, void *out, size_t length, int64_t position);
void real_close(mql_os_file file);
#include "../../csrc/mql_os_posix.c"
#include "../../csrc/mql_os_identity.c"
#undef mql_os_open_root
#undef mql_os_make_root
#undef mql_os_open_directory
#undef mql_os_open
#undef mql_os_close
#undef mql_os_stat_file
#undef mql_os_stat_name
#undef mql_os_read
#undef mql_os_write
#undef mql_os_allocate
#undef mql_os_overwrites
#undef mql_os_write_zeros
#undef mql_os_start_sync
#undef mql_os_truncate
#undef mql_os_sync
#undef mql_os_sync_directory
#undef mql_os_rename
#undef mql_os_rename_new
#undef mql_os_unlink
#undef mql_os_make_directory
#undef mql_os_remove_directory
#undef mql_os_list
#undef mql_os_free_bytes
#undef mql_os_check_filesystem
#undef mql_os_no_copy_on_write
#undef mql_os_map
#undef mql_os_map_at
#undef mql_os_link
#undef mql_os_unmap
#undef mql_os_populate
#undef mql_os_unpopulate
#undef mql_os_sync_map
#undef mql_os_wait
#undef mql_os_yield
#undef mql_os_lock
#undef mql_os_unlock
#undef mql_os_lock_test
#undef mql_os_now_ms
#undef mql_os_wall_ms
#undef mql_os_monotonic_ns
#undef mql_os_coarse_ns
#undef mql_os_tick_ns
#undef mql_os_random
#undef mql_os_identify
#undef mql_os_allocate_memory
#undef mql_os_free_memory
#pragma GCC diagnostic pop

#define CALL_NS 1000 /* what each look at a clock of ours takes */

/* -- the hook ---------------------------------------------------------------------------------- */
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

/* -- how far syncs have come ------------------------------------------------------------------- */
static _Atomic int64_t *counted;

void mql_os_fault_count_syncs(_Atomic int64_t counts[2]) { counted = counts; }

static int64_t sync_begins(void) {
    return counted == NULL ? 0 : atomic_fetch_add(&counted[0], 1) + 1;
}

static int sync_ends(int64_t number, int rc) {
    if (counted == NULL || rc != 0) return rc;
    int64_t last = atomic_load(&counted[1]);
    while (last < number && !atomic_compare_exchange_weak(&counted[1], &last, number)) continue;
    return rc;
}

int mql_os_allocate(mql_os_file file, int64_t position, int64_t length) {
    if (sim_owns(file)) return sim_allocate(file, position, length);
    int rc = ask(MQL_FAULT_ALLOCATE, file);
    return rc != 0 ? rc : real_allocate(file, position, length);
}

bool mql_os_overwrites(mql_os_file file) {
    (void)file;
    return true; /* whatever the tests' directories are on */
}

int mql_os_write_zeros(mql_os_file file, int64_t position, int64_t length, size_t piece) {
    if (sim_owns(file)) return sim_write_zeros(file, position, length);
    int rc = ask(MQL_FAULT_WRITE_ZEROS, file);
    return rc != 0 ? rc : real_write_zeros(file, position, length, piece);
}

int mql_os_start_sync(mql_os_file file, int64_t position, int64_t length) {
    return sim_owns(file) ? 0 : real_start_sync(file, position, length);
}

int mql_os_truncate(mql_os_file file, int64_t size) {
    if (sim_owns(file)) return sim_truncate(file, size);
    int rc = ask(MQL_FAULT_TRUNCATE, file);
    return rc != 0 ? rc : real_truncate(file, size);
}

int mql_os_sync(mql_os_file file) {
    if (sim_owns(file)) return sim_sync(file);
    int64_t number = sync_begins();
    int rc = ask(MQL_FAULT_SYNC, file);
    return sync_ends(number, rc != 0 ? rc : real_sync(file));
}

int mql_os_sync_directory(mql_os_file directory) {
    if (sim_owns(directory)) return sim_sync_directory(directory);
    int rc = ask(MQL_FAULT_SYNC_DIRECTORY, directory);
    return rc != 0 ? rc : real_sync_directory(directory);
}

int mql_os_map(mql_os_file file, size_t length, bool writable, void **out) {
    if (sim_owns(file)) return sim_map_at(file, 0, length, out);
    int rc = ask(MQL_FAULT_MAP, file);
    return rc != 0 ? rc : real_map(file, length, writable, out);
}

int mql_os_map_at(mql_os_file file, int64_t position, size_t length, void **out) {
    if (sim_owns(file)) return sim_map_at(file, position, length, out);
    int rc = ask(MQL_FAULT_MAP, file);
    return rc != 0 ? rc : real_map_at(file, position, length, out);
}

/* -- the rest: ours or the real one ------------------------------------------------------------ */
int mql_os_open_root(const char *path, mql_os_file *out) {
    return sim_owns_path(path) ? sim_open_root(path, out) : real_open_root(path, out);
}
int mql_os_make_root(const char *path, uint32_t mode) {
    return sim_owns_path(path) ? 0 : real_make_root(path, mode);
}
int mql_os_open_directory(mql_os_file directory, const char *name, mql_os_file *out) {
    return sim_owns(directory) ? sim_open_directory(directory, name, out)
                               : real_open_directory(directory, name, out);
}
int mql_os_open(mql_os_file directory, const char *name, unsigned flags, uint32_t mode,
                mql_os_file *out) {
    return sim_owns(directory) ? sim_open(directory, name, flags, out)
                               : real_open(directory, name, flags, mode, out);
}
void mql_os_close(mql_os_file file) {
    if (sim_owns(file))
        sim_close(file);
    else if (sim_now.on)
        sim_now.wrong_closes += file != MQL_OS_NO_FILE;
    else
        real_close(file);
}
int mql_os_stat_file(mql_os_file file, mql_os_stat *out) {
    return sim_owns(file) ? sim_stat_file(file, out) : real_stat_file(file, out);
}
int mql_os_stat_name(mql_os_file directory, const char *name, mql_os_stat *out) {
    return sim_owns(directory) ? sim_stat_name(directory, name, out)
                               : real_stat_name(directory, name, out);
}
int64_t mql_os_read(mql_os_file file, void *out, size_t length, int64_t position) {
    if (sim_owns(file)) return sim_read(file, out, length, position);
    int rc = ask(MQL_FAULT_READ, file);
    return rc != 0 ? rc : real_read(file, out, length, position);
}
int mql_os_write(mql_os_file file, const void *data, size_t length, int64_t position) {
    if (sim_owns(file)) return sim_write(file, data, length, position);
    int rc = ask(MQL_FAULT_WRITE, file);
    return rc != 0 ? rc : real_write(file, data, length, position);
}
int mql_os_rename(mql_os_file directory, const char *from, const char *to) {
    if (sim_owns(directory)) return sim_rename(directory, from, to, true);
    int rc = ask(MQL_FAULT_RENAME, directory);
    return rc != 0 ? rc : real_rename(directory, from, to);
}
/* The disks in memory know no second names, as some file systems do not. */
int mql_os_link(mql_os_file directory, const char *from, const char *to) {
    int rc = sim_owns(directory) ? -EPERM : ask(MQL_FAULT_LINK, directory);
    return rc != 0 ? rc : real_link(directory, from, to);
}
int mql_os_rename_new(mql_os_file directory, const char *from, const char *to) {
    return sim_owns(directory) ? sim_rename(directory, from, to, false)
                               : real_rename_new(directory, from, to);
}
int mql_os_unlink(mql_os_file directory, const char *name) {
    if (sim_owns(directory)) return sim_unlink(directory, name, false);
    int rc = ask(MQL_FAULT_UNLINK, directory);
    return rc != 0 ? rc : real_unlink(directory, name);
}
int mql_os_make_directory(mql_os_file directory, const char *name, uint32_t mode) {
    return sim_owns(directory) ? sim_make_directory(directory, name)
                               : real_make_directory(directory, name, mode);
}
int mql_os_remove_directory(mql_os_file directory, const char *name) {
    return sim_owns(directory) ? sim_unlink(directory, name, true)
                               : real_remove_directory(directory, name);
}
static mql_os_fault_hook *listed;

void mql_os_fault_after_list(mql_os_fault_hook *wanted) { listed = wanted; }

int mql_os_list(mql_os_file directory, int (*each)(void *context, const char *name),
                void *context) {
    if (sim_owns(directory)) return sim_list(directory, each, context);
    int rc = real_list(directory, each, context);
    mql_os_fault_hook *told = listed;
    if (told == NULL || inside) return rc;
    inside = true;
    (void)told(0, directory);
    inside = false;
    return rc;
}
int mql_os_free_bytes(mql_os_file directory, uint64_t *available, uint64_t *total) {
    if (!sim_owns(directory)) {
        int rc = ask(MQL_FAULT_FREE_BYTES, directory);
        return rc != 0 ? rc : real_free_bytes(directory, available, total);
    }
    *available = sim_now.free_bytes;
    *total = UINT64_C(1) << 40;
    return sim_fault_due(SIM_FREE_BYTES);
}
int mql_os_check_filesystem(mql_os_file directory, const char **name) {
    return sim_owns(directory) ? 0 : real_check_filesystem(directory, name);
}
int mql_os_no_copy_on_write(mql_os_file directory) {
    return sim_owns(directory) ? 0 : real_no_copy_on_write(directory);
}
void mql_os_unmap(void *address, size_t length) {
    if (sim_owns_address(address))
        sim_unmap(address);
    else
        real_unmap(address, length);
}
int mql_os_populate(void *address, size_t length) {
    return sim_owns_address(address) ? sim_populate(address, length)
                                     : real_populate(address, length);
}
/* Whether all of it is in one shared mapping: what is private would be gone. */
static bool in_one_mapping(const void *address, size_t length) {
    FILE *maps = fopen("/proc/self/maps", "re");
    assert(maps != NULL);
    char line[4600], shared = 'p';
    uintptr_t start, end, first = (uintptr_t)address;
    bool found = false;
    while (!found && fgets(line, sizeof line, maps) != NULL)
        found = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*3c%c", &start, &end, &shared) == 3 &&
                start <= first && first < end && length <= end - first;
    fclose(maps);
    return found && shared == 's';
}
void mql_os_unpopulate(void *address, size_t length) {
    if (sim_owns_address(address)) return;
    assert(in_one_mapping(address, length));
    real_unpopulate(address, length);
}
int mql_os_sync_map(void *address, size_t length) {
    if (sim_owns_address(address)) return sim_sync_map(address, length);
    int64_t number = sync_begins();
    int rc = ask(MQL_FAULT_SYNC_MAP, MQL_OS_NO_FILE);
    return sync_ends(number, rc != 0 ? rc : real_sync_map(address, length));
}
static _Atomic int64_t wait_least, last_wait;
void mql_os_fault_wait_at_least(int64_t ns) { wait_least = ns; }
int64_t mql_os_fault_last_wait(void) { return last_wait; }
int mql_os_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    int rc = sim_now.on ? 0 : ask(MQL_FAULT_WAIT, MQL_OS_NO_FILE);
    last_wait = timeout_ns;
    if (timeout_ns > 0 && timeout_ns < wait_least) timeout_ns = wait_least;
    return rc != 0 ? rc : real_wait(word, expected, timeout_ns);
}
void mql_os_yield(void) {
    if (!sim_now.on) (void)ask(MQL_FAULT_YIELD, MQL_OS_NO_FILE);
    real_yield();
}
int mql_os_lock(mql_os_file file, int64_t byte, bool exclusive) {
    return sim_owns(file) ? sim_lock_byte(file, byte, exclusive) : real_lock(file, byte, exclusive);
}
int mql_os_unlock(mql_os_file file, int64_t byte) {
    return sim_owns(file) ? sim_unlock_byte(file, byte) : real_unlock(file, byte);
}
int mql_os_lock_test(mql_os_file file, int64_t byte) {
    return sim_owns(file) ? sim_lock_test(file, byte) : real_lock_test(file, byte);
}

/* -- clocks, identity, chance, memory ---------------------------------------------------------- */
int64_t mql_os_now_ms(void) { return sim_now.on ? sim_now.wall_ms : real_now_ms(); }
int64_t mql_os_wall_ms(void) { return sim_now.on ? sim_now.wall_ms : real_wall_ms(); }
static _Atomic int64_t stopped_ns;
void mql_os_fault_stop_clock(int64_t ns) { stopped_ns = ns; }
int64_t mql_os_monotonic_ns(void) {
    if (stopped_ns != 0) return stopped_ns;
    return sim_now.on ? (sim_now.boot_ns += CALL_NS) : real_monotonic_ns();
}
int64_t mql_os_coarse_ns(void) { return sim_now.on ? sim_now.boot_ns : real_coarse_ns(); }
int64_t mql_os_tick_ns(void) { return sim_now.on ? mql_os_monotonic_ns() : real_tick_ns(); }

uint64_t mql_os_random(void) {
    if (!sim_now.on) return real_random();
    sim_now.chance = sim_now.chance * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return sim_now.chance ^ sim_now.chance >> 29;
}

int mql_os_identify(mql_os_identity *out) {
    if (!sim_now.on) return real_identify(out);
    *out = (mql_os_identity){.pid_namespace = 1, .time_namespace = 2, .c_library = 3};
    memcpy(out->boot, sim_now.boot, sizeof out->boot);
    return 0;
}

void *mql_os_allocate_memory(size_t size) {
    if (sim_now.on && sim_fault_due(SIM_MEMORY) < 0) return NULL;
    void *memory = real_allocate_memory(size);
    if (sim_now.on && memory != NULL) sim_now.memory++;
    return memory;
}

void mql_os_free_memory(void *memory) {
    if (sim_now.on && memory != NULL) sim_now.memory--;
    real_free_memory(memory);
}
