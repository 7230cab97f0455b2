/* mql_os.h - everything mqlog asks of an operating system, on one page.
 *
 * mql_os_posix.c implements it, and mql_os_identity.c; tests link another in the first one's place.
 * Results: 0 or a count, or a negative errno; EINTR is retried inside unless said. Names are
 * relative to an open directory and are never followed through a symbolic link; descriptors are
 * close-on-exec. Sizes and positions are bytes. What is in memory is process-shared, so the structs
 * here are opaque but of fixed size.
 */
#ifndef MQL_OS_H
#define MQL_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int mql_os_file;
#define MQL_OS_NO_FILE (-1)

/* -- files ------------------------------------------------------------------------------------- */
enum mql_os_kind { MQL_OS_OTHER = 0, MQL_OS_REGULAR = 1, MQL_OS_DIRECTORY = 2, MQL_OS_LINK = 3 };
enum mql_os_open_flags {
    MQL_OS_READ = 0,
    MQL_OS_WRITE = 1,
    MQL_OS_CREATE = 2,
    MQL_OS_EXCLUSIVE = 4,
    MQL_OS_TRUNCATE = 8
};

typedef struct mql_os_stat {
    uint64_t device;
    uint64_t inode;
    int64_t size;
    int64_t allocated;   /* bytes of disk */
    int64_t modified_ms; /* since 1970 */
    uint64_t mount;      /* unique id of the mount since boot; 0 where the system has none */
    int kind;
} mql_os_stat;

/* Whether a store through a mapping of `length` bytes may meet a page without blocks: the file is
 * shorter, or somebody has copied it and left out its zeros. */
static inline bool mql_os_lacks_blocks(const mql_os_stat *stat, int64_t length) {
    return stat->size < length || stat->allocated < stat->size;
}

/* `path` may be any path, links followed: the store's own directory. */
int mql_os_open_root(const char *path, mql_os_file *out);
int mql_os_make_root(const char *path, uint32_t mode); /* parents too; there already: 0 */
int mql_os_open_directory(mql_os_file directory, const char *name, mql_os_file *out);
/* A regular file only: anything else is -EINVAL (a FIFO must not block the open). */
int mql_os_open(mql_os_file directory, const char *name, unsigned flags, uint32_t mode,
                mql_os_file *out);
void mql_os_close(mql_os_file file);
int mql_os_stat_file(mql_os_file file, mql_os_stat *out);
int mql_os_stat_name(mql_os_file directory, const char *name, mql_os_stat *out);
/* Short only at the end of the file. */
int64_t mql_os_read(mql_os_file file, void *out, size_t length, int64_t position);
/* All of it. */
int mql_os_write(mql_os_file file, const void *data, size_t length, int64_t position);
/* Real blocks, zeros; lengthens. */
int mql_os_allocate(mql_os_file file, int64_t position, int64_t length);
/* Whether a block that was written is written again where it is, and needs no other. */
bool mql_os_overwrites(mql_os_file file);
/* Zeros, written `piece` bytes at a time (at most 64 KiB), where nobody else writes. What comes by
 * one call newer kernels keep together: it costs less to map and to sync, but a byte of it that is
 * stored later has all of it written. */
int mql_os_write_zeros(mql_os_file file, int64_t position, int64_t length, size_t piece);
int mql_os_start_sync(mql_os_file file, int64_t position, int64_t length); /* waits for nothing */
int mql_os_truncate(mql_os_file file, int64_t size);
int mql_os_sync(mql_os_file file); /* data and what finds it */
int mql_os_sync_directory(mql_os_file directory);
int mql_os_rename(mql_os_file directory, const char *from, const char *to); /* replaces `to` */
/* -EEXIST if `to` is there. */
int mql_os_rename_new(mql_os_file directory, const char *from, const char *to);
int mql_os_link(mql_os_file directory, const char *from, const char *to); /* a second name */
int mql_os_unlink(mql_os_file directory, const char *name);
int mql_os_make_directory(mql_os_file directory, const char *name, uint32_t mode);
int mql_os_remove_directory(mql_os_file directory, const char *name);
/* Calls `each` per entry (never . or ..), in no order; a result other than 0 ends it and is
 * returned. */
int mql_os_list(mql_os_file directory, int (*each)(void *context, const char *name), void *context);
int mql_os_free_bytes(mql_os_file directory, uint64_t *available, uint64_t *total);
/* 0, or -ENOTSUP with the file system's name where shared mappings or locks cannot be trusted. */
int mql_os_check_filesystem(mql_os_file directory, const char **name);
int mql_os_no_copy_on_write(mql_os_file directory); /* asked of btrfs; 0 elsewhere */

/* -- mappings ---------------------------------------------------------------------------------- */
/* Shared; may reach past the end of the file. */
int mql_os_map(mql_os_file file, size_t length, bool writable, void **out);
/* The same from `position` on, writable. */
int mql_os_map_at(mql_os_file file, int64_t position, size_t length, void **out);
void mql_os_unmap(void *address, size_t length);
/* Makes pages writable without faults; -EFAULT past the end of the file. */
int mql_os_populate(void *address, size_t length);
/* Takes whole pages out of this process's tables; the next access faults, and finds the same. */
void mql_os_unpopulate(void *address, size_t length);
int mql_os_sync_map(void *address, size_t length); /* any address: widened to whole pages */

/* -- byte locks on files: gone when the description is closed or its last process dies --------- */
enum mql_os_lock_result { MQL_OS_HELD = 1 }; /* somebody else has it */
/* At once: 0, MQL_OS_HELD, -errno; also converts. */
int mql_os_lock(mql_os_file file, int64_t byte, bool exclusive);
int mql_os_unlock(mql_os_file file, int64_t byte);
int mql_os_lock_test(mql_os_file file, int64_t byte); /* MQL_OS_HELD by another description, or 0 */

/* -- shared mutexes: robust, process-shared; private ones for one process ---------------------- */
typedef struct mql_os_mutex {
    _Alignas(8) uint8_t opaque[64];
} mql_os_mutex;
enum mql_os_mutex_result { MQL_OS_BUSY = 1, MQL_OS_OWNER_DIED = 2 };

int mql_os_mutex_init_shared(mql_os_mutex *mutex);
int mql_os_mutex_init_private(mql_os_mutex *mutex);
int mql_os_mutex_try(mql_os_mutex *mutex);                      /* 0, BUSY, OWNER_DIED (held) */
int mql_os_mutex_take(mql_os_mutex *mutex, int64_t timeout_ns); /* the same; < 0: waits for ever */
void mql_os_mutex_consistent(mql_os_mutex *mutex);              /* after OWNER_DIED, repaired */
/* Of a shared one a full fence, too: who looks for sleepers after it sees the flag of each that
 * has not seen what was stored before it. */
void mql_os_mutex_drop(mql_os_mutex *mutex);

/* -- waiting on a word (across processes) ------------------------------------------------------ */
enum mql_os_wait_result { MQL_OS_WOKEN = 0, MQL_OS_TIMED_OUT = 1 };
/* Woken also: spuriously, by a signal (EINTR is not retried), or as the word is not `expected`. */
int mql_os_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns);
int mql_os_wake(_Atomic uint32_t *word, int count); /* INT32_MAX: all; how many were woken */

/* -- threads: all signals blocked -------------------------------------------------------------- */
typedef struct mql_os_thread mql_os_thread;
int mql_os_thread_start(void (*body)(void *context), void *context, mql_os_thread **out);
void mql_os_thread_join(mql_os_thread *thread);
int mql_os_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void));
void mql_os_sleep(int64_t ns);
void mql_os_yield(void); /* to whoever else wants this processor; at once if nobody does */
static inline void mql_os_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* -- clocks and identity ----------------------------------------------------------------------- */
int64_t mql_os_now_ms(void);        /* wall clock since 1970, a few ms of grain, cheap */
int64_t mql_os_wall_ms(void);       /* the same, exact */
int64_t mql_os_monotonic_ns(void);  /* since boot, suspend included (CLOCK_BOOTTIME) */
int64_t mql_os_tick_ns(void);       /* the same, as of the last tick, some ms ago; cheap */
int64_t mql_os_coarse_ns(void);     /* monotonic, a few ms of grain, cheap */
uint64_t mql_os_random(void);

typedef struct mql_os_identity {
    uint8_t boot[16];         /* of this boot */
    uint64_t pid_namespace;
    uint64_t time_namespace;
    uint64_t c_library;       /* hash of its name and version: whose mutexes these are */
} mql_os_identity;
int mql_os_identify(mql_os_identity *out);
uint32_t mql_os_process(void); /* the process id, for messages only */
#if defined(__aarch64__) /* elsewhere the compiler knows */
bool mql_os_has_crc32c(void); /* the CPU has the instruction; cheap enough to be asked each time */
#endif

void *mql_os_allocate_memory(size_t size); /* zeroed; NULL: none */
void mql_os_free_memory(void *memory);

#endif
