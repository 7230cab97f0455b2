/* sim_disk.h - a file system in memory whose every change may be recorded, failed, or counted.
 *
 * There are a few disks, "/simulated/0" and on. A file is one stretch of memory: each mapping of it
 * is a pointer into that, so what one sees all see, as with a shared mapping, and no page is ever
 * copied. Locks on bytes belong to the opening, as the system's do. What the engine may not know is
 * the same as on a real one: memory behind the end of a file is there, but a store to it is found
 * (sim_disk_strays).
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "mql_os.h"

#define SIM_DISKS 5
#define SIM_INODES 96
#define SIM_NAMES 128
#define SIM_NAME_BYTES 72
#define SIM_OPEN 96
#define SIM_LOCKS 64
#define SIM_PAGE 4096
#define SIM_FILE_PAGES 64 /* of the longest file that is recorded */
#define SIM_FILE_BYTES ((int64_t)4 << 20) /* of memory for one file: mappings reach past its end */
#define SIM_FIRST_FILE (1 << 20)          /* the first of our descriptors */
#define SIM_ROOT 0                        /* the inode of a disk's own directory */
#define SIM_NONE (-1)

/* What can fail, and is counted. */
enum sim_call {
    SIM_OPEN_FILE = 1,
    SIM_OPEN_DIRECTORY,
    SIM_STAT,
    SIM_READ,
    SIM_WRITE,
    SIM_ALLOCATE,
    SIM_WRITE_ZEROS,
    SIM_TRUNCATE,
    SIM_SYNC,
    SIM_SYNC_DIRECTORY,
    SIM_SYNC_MAP,
    SIM_RENAME,
    SIM_UNLINK,
    SIM_MAKE_DIRECTORY,
    SIM_LIST,
    SIM_FREE_BYTES,
    SIM_MAP,
    SIM_POPULATE,
    SIM_LOCK,
    SIM_MEMORY,
    SIM_CALLS
};

typedef struct sim_inode {
    bool used;
    bool directory;
    int64_t size;
    int64_t reach;   /* what lies behind it in the memory is zeros */
    int opens, maps; /* by whoever has it open or mapped */
    uint8_t *bytes;  /* lent by the arena */
    uint8_t clean[SIM_FILE_PAGES]; /* by a sync that failed: what is in memory is not dirty */
} sim_inode;

typedef struct sim_name {
    bool used;
    int16_t directory; /* inodes */
    int16_t inode;
    char name[SIM_NAME_BYTES];
} sim_name;

typedef struct sim_lock {
    mql_os_file file; /* 0: free */
    int16_t inode;
    bool exclusive;
    int64_t byte;
} sim_lock;

struct sim_trace;

typedef struct sim_disk {
    sim_inode inodes[SIM_INODES];
    sim_name names[SIM_NAMES];
    int16_t open[SIM_OPEN]; /* inode + 1; 0: free */
    sim_lock locks[SIM_LOCKS];
    int name_count; /* names and inodes above are free */
    int inode_count;
    uint64_t device, mount;
    struct sim_trace *trace; /* borrows; NULL: nothing is recorded */
} sim_disk;

/* The world around the disks. */
typedef struct sim_world {
    bool on; /* clocks, identity and chance are ours */
    uint8_t boot[16];
    int64_t wall_ms;
    int64_t boot_ns;
    uint64_t chance;
    uint64_t free_bytes;
    int64_t counts[SIM_CALLS];
    int64_t memory; /* allocations that have not been given back */
    /* the fault: call number `at` (from 1) of a kind fails, or all from it on */
    int fault_call;
    int fault_error;
    int64_t fault_at;
    bool fault_forever;
    int64_t fault_seen;
    int64_t fault_hits;
    int64_t strays; /* stores behind the end of a file: SIGBUS elsewhere */
    int64_t wrong_closes; /* of what is not open: elsewhere it may be somebody else's by then */
} sim_world;

extern sim_world sim_now;

/* Before anything else, if what a forked child does to the disks is to be seen by its parent. */
void sim_disk_share(void);
sim_disk *sim_disk_get(int number);
/* An empty disk: its directory and nothing in it. */
void sim_disk_format(sim_disk *disk);
/* The same names and bytes on another, and pages that a failed sync left clean; nothing is open
 * there. */
void sim_disk_copy(const sim_disk *from, sim_disk *to);
/* Descriptors and mappings that are held. */
int sim_disk_held(const sim_disk *disk);
/* Whoever had it open is gone: descriptors, mappings and locks end. */
void sim_disk_forget_holders(sim_disk *disk);
/* Counts bytes other than zero behind the end of each file into sim_now.strays. */
void sim_disk_strays(sim_disk *disk);
/* The inode at a path; SIM_NONE: there is none. */
int sim_disk_find(const sim_disk *disk, const char *path);
/* Makes a regular file of these bytes, not recorded. */
int sim_disk_put(sim_disk *disk, const char *path, const void *data, size_t length);
void sim_disk_path(const sim_disk *disk, int inode, char out[256]);
sim_inode *sim_disk_inode(sim_disk *disk, int number); /* free before: cleared */
void sim_disk_name(sim_disk *disk, int directory, const char *name, int inode);
/* Gives a file this length: what it loses is zeros afterwards. */
void sim_disk_resize(sim_inode *inode, int64_t size);

/* Arms the fault; call 0: none. Zeroes the counts. */
void sim_fault_arm(int call, int error, int64_t at, bool forever);
/* 0, or the negative errno of the fault that is due. Counts. */
int sim_fault_due(int call);

/* What mql_os.h says of each, for our descriptors and addresses. */
bool sim_owns(mql_os_file file);
bool sim_owns_path(const char *path);
bool sim_owns_address(const void *address);
int sim_open_root(const char *path, mql_os_file *out);
int sim_open_directory(mql_os_file directory, const char *name, mql_os_file *out);
int sim_open(mql_os_file directory, const char *name, unsigned flags, mql_os_file *out);
void sim_close(mql_os_file file);
int sim_stat_file(mql_os_file file, mql_os_stat *out);
int sim_stat_name(mql_os_file directory, const char *name, mql_os_stat *out);
int64_t sim_read(mql_os_file file, void *out, size_t length, int64_t position);
int sim_write(mql_os_file file, const void *data, size_t length, int64_t position);
int sim_allocate(mql_os_file file, int64_t position, int64_t length);
int sim_write_zeros(mql_os_file file, int64_t position, int64_t length);
int sim_truncate(mql_os_file file, int64_t size);
int sim_sync(mql_os_file file);
int sim_sync_directory(mql_os_file directory);
int sim_rename(mql_os_file directory, const char *from, const char *to, bool replace);
int sim_unlink(mql_os_file directory, const char *name, bool is_directory);
int sim_make_directory(mql_os_file directory, const char *name);
int sim_list(mql_os_file directory, int (*each)(void *context, const char *name), void *context);
int sim_map_at(mql_os_file file, int64_t position, size_t length, void **out);
void sim_unmap(void *address);
int sim_populate(void *address, size_t length);
int sim_sync_map(void *address, size_t length);
int sim_lock_byte(mql_os_file file, int64_t byte, bool exclusive);
int sim_unlock_byte(mql_os_file file, int64_t byte);
int sim_lock_test(mql_os_file file, int64_t byte);

#endif
