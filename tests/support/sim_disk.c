/* sim_disk.c - the file system in memory.
 *
 * Before each call that changes what a power cut would leave, a recorded disk notes a point: the
 * power may go there. Pages are compared at a point, so stores through a mapping are seen without
 * being told of. A sync that fails marks the dirty pages of its range as clean and takes the right
 * to write from them: whoever stores there meets on_fault, and the page is dirty again. So a second
 * sync writes exactly what was dirtied since, as the kernel's does.
 */
#define _GNU_SOURCE
#include "sim_disk.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sim_trace.h"

#define ARENA_BYTES ((size_t)SIM_FILE_BYTES * SIM_INODES * SIM_DISKS)
#define ROOT_PATH "/simulated/"

sim_world sim_now;
static sim_disk *disks;
static uint8_t *arena;

/* -- memory ------------------------------------------------------------------------------------ */
static sim_inode *inode_at(const void *address, int64_t *position) {
    size_t at = (size_t)((const uint8_t *)address - arena);
    size_t number = at / (size_t)SIM_FILE_BYTES;
    *position = (int64_t)(at % (size_t)SIM_FILE_BYTES);
    return &disks[number / SIM_INODES].inodes[number % SIM_INODES];
}

bool sim_owns_address(const void *address) {
    const uint8_t *at = address;
    return arena != NULL && at >= arena && at < arena + ARENA_BYTES;
}

static void protect(const sim_inode *inode, int64_t page, bool writable) {
    int how = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    mprotect(inode->bytes + page * SIM_PAGE, SIM_PAGE, how);
}

/* A store to a page that a failed sync has left clean: now it is dirty. */
static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    if (sim_owns_address(info->si_addr)) {
        int64_t position;
        sim_inode *inode = inode_at(info->si_addr, &position);
        int64_t page = position / SIM_PAGE;
        if (page < SIM_FILE_PAGES && inode->clean[page] != 0) {
            inode->clean[page] = 0;
            protect(inode, page, true);
            return;
        }
    }
    signal(number, SIG_DFL);
}

static void *zeros(size_t length, int how) {
    int flags = how | MAP_ANONYMOUS | MAP_NORESERVE;
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    assert(memory != MAP_FAILED);
    return memory;
}

static void make_arena(int how) {
    arena = zeros(ARENA_BYTES, how);
    disks = zeros(SIM_DISKS * sizeof *disks, how);
    for (size_t i = 0; i < SIM_DISKS * SIM_INODES; i++)
        disks[i / SIM_INODES].inodes[i % SIM_INODES].bytes = arena + i * (size_t)SIM_FILE_BYTES;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
}

void sim_disk_share(void) { make_arena(MAP_SHARED); }

sim_disk *sim_disk_get(int number) {
    if (arena == NULL) make_arena(MAP_PRIVATE);
    return &disks[number];
}

static int64_t whole_pages(int64_t size) { return (size + SIM_PAGE - 1) / SIM_PAGE * SIM_PAGE; }

static void wipe(sim_inode *inode) {
    for (int64_t page = 0; page < SIM_FILE_PAGES; page++)
        if (inode->clean[page] != 0) protect(inode, page, true);
    memset(inode->bytes, 0, (size_t)inode->reach);
    uint8_t *bytes = inode->bytes;
    *inode = (sim_inode){.bytes = bytes};
}

/* -- disks ------------------------------------------------------------------------------------- */
sim_inode *sim_disk_inode(sim_disk *disk, int number) {
    sim_inode *inode = &disk->inodes[number];
    wipe(inode);
    inode->used = true;
    if (number >= disk->inode_count) disk->inode_count = number + 1;
    return inode;
}

void sim_disk_forget_holders(sim_disk *disk) {
    for (int i = 0; i < disk->inode_count; i++) disk->inodes[i].opens = disk->inodes[i].maps = 0;
    memset(disk->open, 0, sizeof disk->open);
    memset(disk->locks, 0, sizeof disk->locks);
}

void sim_disk_format(sim_disk *disk) {
    for (int i = 0; i < disk->inode_count; i++) wipe(&disk->inodes[i]);
    for (int i = 0; i < disk->name_count; i++) disk->names[i].used = false;
    disk->inode_count = disk->name_count = 0;
    sim_disk_forget_holders(disk);
    disk->trace = NULL;
    disk->device = (uint64_t)(disk - disks) + 77;
    disk->mount = disk->device;
    sim_disk_inode(disk, SIM_ROOT)->directory = true;
}

void sim_disk_resize(sim_inode *inode, int64_t size) {
    if (size < inode->size) {
        for (int64_t page = size / SIM_PAGE; page < SIM_FILE_PAGES; page++)
            if (inode->clean[page] != 0) inode->clean[page] = 0, protect(inode, page, true);
        memset(inode->bytes + size, 0, (size_t)(inode->reach - size));
    }
    inode->size = size;
    if (whole_pages(size) > inode->reach) inode->reach = whole_pages(size);
}

void sim_disk_copy(const sim_disk *from, sim_disk *to) {
    sim_disk_format(to);
    for (int i = 0; i < from->inode_count; i++) {
        const sim_inode *inode = &from->inodes[i];
        if (!inode->used) continue;
        sim_inode *made = sim_disk_inode(to, i);
        made->directory = inode->directory;
        sim_disk_resize(made, inode->size);
        memcpy(made->bytes, inode->bytes, (size_t)inode->size);
        for (int64_t page = 0; page < SIM_FILE_PAGES; page++)
            if (inode->clean[page] != 0) made->clean[page] = 1, protect(made, page, false);
    }
    memcpy(to->names, from->names, sizeof to->names);
    to->name_count = from->name_count;
    to->device = from->device;
    to->mount = from->mount;
}

int sim_disk_held(const sim_disk *disk) {
    int held = 0;
    for (int i = 0; i < disk->inode_count; i++)
        held += disk->inodes[i].opens + disk->inodes[i].maps;
    return held;
}

static bool only_zeros(const uint8_t *bytes, size_t length) {
    return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

static void find_stray(sim_inode *inode) {
    int64_t end = whole_pages(inode->size);
    if (!inode->used || inode->directory || only_zeros(inode->bytes + end, 4 * SIM_PAGE)) return;
    sim_now.strays++;
    memset(inode->bytes + end, 0, 4 * SIM_PAGE);
}

void sim_disk_strays(sim_disk *disk) {
    for (int i = 0; i < disk->inode_count; i++) find_stray(&disk->inodes[i]);
}

/* -- names ------------------------------------------------------------------------------------- */
static sim_name *find_name(sim_disk *disk, int directory, const char *name) {
    for (int i = 0; i < disk->name_count; i++) {
        sim_name *at = &disk->names[i];
        if (at->used && at->directory == directory && strcmp(at->name, name) == 0) return at;
    }
    return NULL;
}

void sim_disk_name(sim_disk *disk, int directory, const char *name, int inode) {
    sim_name *at = find_name(disk, directory, name);
    for (int i = 0; at == NULL && i < SIM_NAMES; i++)
        if (!disk->names[i].used) at = &disk->names[i];
    assert(at != NULL && strlen(name) < SIM_NAME_BYTES);
    *at = (sim_name){.used = true, .directory = (int16_t)directory, .inode = (int16_t)inode};
    memcpy(at->name, name, strlen(name));
    if (at - disk->names >= disk->name_count) disk->name_count = (int)(at - disk->names) + 1;
}

/* An inode whose last name and last user are gone is free. Not of a recorded disk, whose trace
 * speaks of inodes by their numbers. */
static void let_go(sim_disk *disk, int number) {
    sim_inode *inode = &disk->inodes[number];
    if (disk->trace != NULL || inode->opens > 0 || inode->maps > 0 || number == SIM_ROOT) return;
    for (int i = 0; i < disk->name_count; i++)
        if (disk->names[i].used && disk->names[i].inode == number) return;
    wipe(inode);
}

static int new_inode(sim_disk *disk) {
    int number = 0;
    while (number < SIM_INODES && disk->inodes[number].used) number++;
    assert(number < SIM_INODES);
    sim_disk_inode(disk, number);
    return number;
}

/* The directory that the last component of a path is in, and that component. */
static int walk(sim_disk *disk, int from, const char *path, char last[SIM_NAME_BYTES]) {
    for (;;) {
        const char *slash = strchr(path, '/');
        size_t length = slash == NULL ? strlen(path) : (size_t)(slash - path);
        if (length == 0) return -EINVAL;
        if (length >= SIM_NAME_BYTES) return -ENAMETOOLONG;
        memcpy(last, path, length);
        last[length] = 0;
        if (slash == NULL) return from;
        const sim_name *step = find_name(disk, from, last);
        if (step == NULL) return -ENOENT;
        if (!disk->inodes[step->inode].directory) return -ENOTDIR;
        from = step->inode;
        path = slash + 1;
    }
}

int sim_disk_find(const sim_disk *disk, const char *path) {
    char last[SIM_NAME_BYTES];
    int at = walk((sim_disk *)disk, SIM_ROOT, path, last);
    const sim_name *name = at < 0 ? NULL : find_name((sim_disk *)disk, at, last);
    return name == NULL ? SIM_NONE : name->inode;
}

int sim_disk_put(sim_disk *disk, const char *path, const void *data, size_t length) {
    char last[SIM_NAME_BYTES];
    int at = walk(disk, SIM_ROOT, path, last), inode = sim_disk_find(disk, path);
    if (at < 0) return at;
    if (inode == SIM_NONE) inode = new_inode(disk);
    sim_disk_name(disk, at, last, inode);
    sim_disk_resize(&disk->inodes[inode], 0);
    sim_disk_resize(&disk->inodes[inode], (int64_t)length);
    memcpy(disk->inodes[inode].bytes, data, length);
    return inode;
}

void sim_disk_path(const sim_disk *disk, int inode, char out[256]) {
    char text[256] = "";
    for (int depth = 0; depth < 8 && inode != SIM_ROOT; depth++) {
        const sim_name *name = NULL;
        for (int i = 0; i < disk->name_count && name == NULL; i++)
            if (disk->names[i].used && disk->names[i].inode == inode) name = &disk->names[i];
        if (name == NULL) break;
        char longer[256 + SIM_NAME_BYTES + 2];
        size_t length = strlen(name->name);
        memcpy(longer, name->name, length);
        longer[length] = text[0] == 0 ? 0 : '/';
        memcpy(longer + length + (text[0] != 0), text, strlen(text) + 1);
        memcpy(text, longer, sizeof text - 1);
        inode = name->directory;
    }
    memcpy(out, text, sizeof text);
}

/* -- faults ------------------------------------------------------------------------------------ */
void sim_fault_arm(int call, int error, int64_t at, bool forever) {
    sim_now.fault_call = call;
    sim_now.fault_error = error;
    sim_now.fault_at = at;
    sim_now.fault_forever = forever;
    sim_now.fault_seen = sim_now.fault_hits = 0;
    memset(sim_now.counts, 0, sizeof sim_now.counts);
}

int sim_fault_due(int call) {
    sim_now.counts[call]++;
    if (sim_now.fault_call != call) return 0;
    int64_t seen = ++sim_now.fault_seen;
    if (seen != sim_now.fault_at && !(sim_now.fault_forever && seen > sim_now.fault_at)) return 0;
    sim_now.fault_hits++;
    return -sim_now.fault_error;
}

/* -- descriptors ------------------------------------------------------------------------------- */
bool sim_owns(mql_os_file file) { return file >= SIM_FIRST_FILE; }
bool sim_owns_path(const char *path) {
    return strncmp(path, ROOT_PATH, sizeof ROOT_PATH - 1) == 0;
}

static sim_disk *disk_of(mql_os_file file) {
    return &disks[(file - SIM_FIRST_FILE) / SIM_OPEN];
}

static int number_of(mql_os_file file) {
    int16_t held = disk_of(file)->open[(file - SIM_FIRST_FILE) % SIM_OPEN];
    assert(held > 0);
    return held - 1;
}

static int new_file(sim_disk *disk, int inode, mql_os_file *out) {
    for (int i = 0; i < SIM_OPEN; i++) {
        if (disk->open[i] != 0) continue;
        disk->open[i] = (int16_t)(inode + 1);
        disk->inodes[inode].opens++;
        *out = SIM_FIRST_FILE + (int)(disk - disks) * SIM_OPEN + i;
        return 0;
    }
    return -EMFILE;
}

/* The power may go before a call that changes anything. */
static void point(sim_disk *disk) {
    if (disk->trace != NULL) sim_trace_point(disk->trace);
}

int sim_open_root(const char *path, mql_os_file *out) {
    int number = path[sizeof ROOT_PATH - 1] - '0';
    if (number < 0 || number >= SIM_DISKS || path[sizeof ROOT_PATH] != 0) return -ENOENT;
    int rc = sim_fault_due(SIM_OPEN_DIRECTORY);
    return rc < 0 ? rc : new_file(sim_disk_get(number), SIM_ROOT, out);
}

int sim_open_directory(mql_os_file directory, const char *name, mql_os_file *out) {
    char last[SIM_NAME_BYTES];
    sim_disk *disk = disk_of(directory);
    int rc = sim_fault_due(SIM_OPEN_DIRECTORY);
    int at = rc < 0 ? rc : walk(disk, number_of(directory), name, last);
    if (at < 0) return at;
    const sim_name *found = find_name(disk, at, last);
    if (found == NULL) return -ENOENT;
    if (!disk->inodes[found->inode].directory) return -ENOTDIR;
    return new_file(disk, found->inode, out);
}

static int create(sim_disk *disk, int directory, const char *name) {
    point(disk);
    int inode = new_inode(disk);
    sim_disk_name(disk, directory, name, inode);
    if (disk->trace != NULL) sim_trace_name(disk->trace, directory, name, inode);
    return inode;
}

int sim_open(mql_os_file directory, const char *name, unsigned flags, mql_os_file *out) {
    char last[SIM_NAME_BYTES];
    sim_disk *disk = disk_of(directory);
    int rc = sim_fault_due(SIM_OPEN_FILE);
    int at = rc < 0 ? rc : walk(disk, number_of(directory), name, last);
    if (at < 0) return at;
    const sim_name *found = find_name(disk, at, last);
    if (found == NULL && (flags & MQL_OS_CREATE) == 0) return -ENOENT;
    if (found != NULL && (flags & MQL_OS_EXCLUSIVE) != 0) return -EEXIST;
    int inode = found == NULL ? create(disk, at, last) : found->inode;
    if (disk->inodes[inode].directory) return -EINVAL;
    rc = new_file(disk, inode, out);
    if (rc == 0 && (flags & MQL_OS_TRUNCATE) != 0 && disk->inodes[inode].size > 0)
        rc = sim_truncate(*out, 0);
    return rc;
}

void sim_close(mql_os_file file) {
    sim_disk *disk = disk_of(file);
    int16_t *held = &disk->open[(file - SIM_FIRST_FILE) % SIM_OPEN];
    sim_now.wrong_closes += *held == 0;
    if (*held == 0) return;
    int number = *held - 1;
    *held = 0;
    disk->inodes[number].opens--;
    for (int i = 0; i < SIM_LOCKS; i++)
        if (disk->locks[i].file == file) disk->locks[i].file = 0;
    let_go(disk, number);
}

/* -- files ------------------------------------------------------------------------------------- */
static void fill_stat(const sim_disk *disk, int number, mql_os_stat *out) {
    const sim_inode *inode = &disk->inodes[number];
    *out = (mql_os_stat){.device = disk->device,
                         .inode = (uint64_t)number + 1000,
                         .size = inode->size,
                         .allocated = inode->size,
                         .modified_ms = sim_now.wall_ms,
                         .mount = disk->mount,
                         .kind = inode->directory ? MQL_OS_DIRECTORY : MQL_OS_REGULAR};
}

int sim_stat_file(mql_os_file file, mql_os_stat *out) {
    int rc = sim_fault_due(SIM_STAT);
    if (rc == 0) fill_stat(disk_of(file), number_of(file), out);
    return rc;
}

int sim_stat_name(mql_os_file directory, const char *name, mql_os_stat *out) {
    char last[SIM_NAME_BYTES];
    sim_disk *disk = disk_of(directory);
    int rc = sim_fault_due(SIM_STAT);
    int at = rc < 0 ? rc : walk(disk, number_of(directory), name, last);
    if (at < 0) return at;
    const sim_name *found = find_name(disk, at, last);
    if (found == NULL) return -ENOENT;
    fill_stat(disk, found->inode, out);
    return 0;
}

int64_t sim_read(mql_os_file file, void *out, size_t length, int64_t position) {
    int rc = sim_fault_due(SIM_READ);
    if (rc < 0) return rc;
    const sim_inode *inode = &disk_of(file)->inodes[number_of(file)];
    int64_t left = inode->size - position;
    if (left <= 0) return 0;
    if ((int64_t)length > left) length = (size_t)left;
    memcpy(out, inode->bytes + position, length);
    return (int64_t)length;
}

static void lengthen(sim_disk *disk, int number, int64_t size) {
    assert(size <= SIM_FILE_BYTES);
    if (size <= disk->inodes[number].size) return;
    sim_disk_resize(&disk->inodes[number], size);
    if (disk->trace != NULL) sim_trace_size(disk->trace, number, size, false);
}

/* A call that fails may have written a part: the first half is there. */
int sim_write(mql_os_file file, const void *data, size_t length, int64_t position) {
    sim_disk *disk = disk_of(file);
    int number = number_of(file), rc = sim_fault_due(SIM_WRITE);
    if (rc < 0) length /= 2;
    if (length > 0) {
        point(disk);
        lengthen(disk, number, position + (int64_t)length);
        memcpy(disk->inodes[number].bytes + position, data, length);
    }
    return rc;
}

int sim_allocate(mql_os_file file, int64_t position, int64_t length) {
    int rc = length <= 0 ? -EINVAL : sim_fault_due(SIM_ALLOCATE);
    if (rc < 0) return rc;
    sim_disk *disk = disk_of(file);
    int number = number_of(file);
    point(disk);
    find_stray(&disk->inodes[number]);
    lengthen(disk, number, position + length);
    return 0;
}

/* Over whatever is there: a caller who does it where records are loses them. */
int sim_write_zeros(mql_os_file file, int64_t position, int64_t length) {
    sim_disk *disk = disk_of(file);
    int number = number_of(file), rc = sim_fault_due(SIM_WRITE_ZEROS);
    if (rc < 0) length /= 2;
    point(disk);
    assert(position + length <= disk->inodes[number].size);
    memset(disk->inodes[number].bytes + position, 0, (size_t)length);
    return rc;
}

int sim_truncate(mql_os_file file, int64_t size) {
    int rc = size < 0 ? -EINVAL : sim_fault_due(SIM_TRUNCATE);
    if (rc < 0) return rc;
    sim_disk *disk = disk_of(file);
    int number = number_of(file);
    point(disk);
    bool shorter = size < disk->inodes[number].size;
    sim_disk_resize(&disk->inodes[number], size);
    if (disk->trace != NULL) sim_trace_size(disk->trace, number, size, shorter);
    return 0;
}

/* -- syncs ------------------------------------------------------------------------------------- */
/* The pages [from, to) that are dirty are written; those that a failed sync left clean are not. */
static void write_pages(sim_disk *disk, int number, int64_t from, int64_t to) {
    const sim_inode *inode = &disk->inodes[number];
    if (disk->trace == NULL) return;
    for (int64_t page = from; page < to;) {
        int64_t end = page;
        while (end < to && inode->clean[end] == 0) end++;
        if (end > page) sim_trace_sync(disk->trace, number, (int)page, (int)end);
        page = end + 1;
    }
    if (from == to) sim_trace_sync(disk->trace, number, (int)from, (int)to);
}

static void lose_pages(sim_disk *disk, int number, int64_t from, int64_t to) {
    sim_inode *inode = &disk->inodes[number];
    for (int64_t page = from; page < to; page++) {
        if (inode->clean[page] != 0) continue;
        inode->clean[page] = 1;
        protect(inode, page, false);
    }
}

static int sync_pages(sim_disk *disk, int number, int64_t from, int64_t to, int call) {
    point(disk);
    int64_t most = whole_pages(disk->inodes[number].size) / SIM_PAGE;
    if (to > most) to = most;
    if (from > to) from = to;
    assert(to <= SIM_FILE_PAGES);
    int rc = sim_fault_due(call);
    if (rc < 0)
        lose_pages(disk, number, from, to);
    else
        write_pages(disk, number, from, to);
    return rc;
}

int sim_sync(mql_os_file file) {
    return sync_pages(disk_of(file), number_of(file), 0, SIM_FILE_PAGES, SIM_SYNC);
}

int sim_sync_map(void *address, size_t length) {
    int64_t position;
    sim_inode *inode = inode_at(address, &position);
    size_t number = (size_t)(inode->bytes - arena) / (size_t)SIM_FILE_BYTES;
    int64_t end = (position + (int64_t)length + SIM_PAGE - 1) / SIM_PAGE;
    return sync_pages(&disks[number / SIM_INODES], (int)(number % SIM_INODES), position / SIM_PAGE,
                      end, SIM_SYNC_MAP);
}

int sim_sync_directory(mql_os_file directory) {
    sim_disk *disk = disk_of(directory);
    point(disk);
    int rc = sim_fault_due(SIM_SYNC_DIRECTORY);
    if (rc == 0 && disk->trace != NULL) sim_trace_sync_names(disk->trace, number_of(directory));
    return rc;
}

/* -- changes of names -------------------------------------------------------------------------- */
int sim_rename(mql_os_file directory, const char *from, const char *to, bool replace) {
    char old[SIM_NAME_BYTES], new[SIM_NAME_BYTES];
    sim_disk *disk = disk_of(directory);
    int rc = sim_fault_due(SIM_RENAME);
    int source = rc < 0 ? rc : walk(disk, number_of(directory), from, old);
    int target = source < 0 ? source : walk(disk, number_of(directory), to, new);
    if (target < 0) return target;
    sim_name *was = find_name(disk, source, old), *over = find_name(disk, target, new);
    if (was == NULL) return -ENOENT;
    if (over != NULL && !replace) return -EEXIST;
    point(disk);
    if (disk->trace != NULL) sim_trace_rename(disk->trace, was, target, new);
    int inode = was->inode, lost = over == NULL ? SIM_NONE : over->inode;
    was->used = false;
    sim_disk_name(disk, target, new, inode);
    if (lost != SIM_NONE) let_go(disk, lost);
    return 0;
}

static bool is_empty(const sim_disk *disk, int directory) {
    for (int i = 0; i < disk->name_count; i++)
        if (disk->names[i].used && disk->names[i].directory == directory) return false;
    return true;
}

int sim_unlink(mql_os_file directory, const char *name, bool is_directory) {
    char last[SIM_NAME_BYTES];
    sim_disk *disk = disk_of(directory);
    int rc = sim_fault_due(SIM_UNLINK);
    int at = rc < 0 ? rc : walk(disk, number_of(directory), name, last);
    if (at < 0) return at;
    sim_name *found = find_name(disk, at, last);
    if (found == NULL) return -ENOENT;
    if (disk->inodes[found->inode].directory != is_directory) return is_directory ? -ENOTDIR
                                                                                  : -EISDIR;
    if (is_directory && !is_empty(disk, found->inode)) return -ENOTEMPTY;
    point(disk);
    if (disk->trace != NULL) sim_trace_name(disk->trace, at, last, SIM_NONE);
    found->used = false;
    let_go(disk, found->inode);
    return 0;
}

int sim_make_directory(mql_os_file directory, const char *name) {
    char last[SIM_NAME_BYTES];
    sim_disk *disk = disk_of(directory);
    int rc = sim_fault_due(SIM_MAKE_DIRECTORY);
    int at = rc < 0 ? rc : walk(disk, number_of(directory), name, last);
    if (at < 0) return at;
    if (find_name(disk, at, last) != NULL) return -EEXIST;
    disk->inodes[create(disk, at, last)].directory = true;
    return 0;
}

int sim_list(mql_os_file directory, int (*each)(void *context, const char *name), void *context) {
    const sim_disk *disk = disk_of(directory);
    int number = number_of(directory), rc = sim_fault_due(SIM_LIST);
    for (int i = 0; rc == 0 && i < disk->name_count; i++) {
        if (!disk->names[i].used || disk->names[i].directory != number) continue;
        char name[SIM_NAME_BYTES];
        memcpy(name, disk->names[i].name, sizeof name);
        rc = each(context, name);
    }
    return rc;
}

/* -- mappings ---------------------------------------------------------------------------------- */
int sim_map_at(mql_os_file file, int64_t position, size_t length, void **out) {
    int rc = sim_fault_due(SIM_MAP);
    if (rc < 0) return rc;
    sim_inode *inode = &disk_of(file)->inodes[number_of(file)];
    assert(position + (int64_t)length <= SIM_FILE_BYTES);
    inode->maps++;
    *out = inode->bytes + position;
    return 0;
}

void sim_unmap(void *address) {
    int64_t position;
    sim_inode *inode = inode_at(address, &position);
    if (inode->maps == 0) return; /* its holder was made to forget it */
    inode->maps--;
    size_t number = (size_t)(inode->bytes - arena) / (size_t)SIM_FILE_BYTES;
    let_go(&disks[number / SIM_INODES], (int)(number % SIM_INODES));
}

int sim_populate(void *address, size_t length) {
    int64_t position;
    const sim_inode *inode = inode_at(address, &position);
    int rc = sim_fault_due(SIM_POPULATE);
    if (rc == 0 && position + (int64_t)length > whole_pages(inode->size)) rc = -EFAULT;
    return rc;
}

/* -- locks ------------------------------------------------------------------------------------- */
static bool is_held(const sim_disk *disk, mql_os_file file, int64_t byte, bool exclusive) {
    int inode = number_of(file);
    for (int i = 0; i < SIM_LOCKS; i++) {
        const sim_lock *lock = &disk->locks[i];
        if (lock->file == 0 || lock->file == file || lock->inode != inode || lock->byte != byte)
            continue;
        if (exclusive || lock->exclusive) return true;
    }
    return false;
}

int sim_unlock_byte(mql_os_file file, int64_t byte) {
    sim_disk *disk = disk_of(file);
    for (int i = 0; i < SIM_LOCKS; i++)
        if (disk->locks[i].file == file && disk->locks[i].byte == byte) disk->locks[i].file = 0;
    return 0;
}

int sim_lock_byte(mql_os_file file, int64_t byte, bool exclusive) {
    sim_disk *disk = disk_of(file);
    int rc = sim_fault_due(SIM_LOCK);
    if (rc < 0) return rc;
    if (is_held(disk, file, byte, exclusive)) return MQL_OS_HELD;
    sim_unlock_byte(file, byte);
    for (int i = 0; i < SIM_LOCKS; i++) {
        if (disk->locks[i].file != 0) continue;
        disk->locks[i] = (sim_lock){.file = file,
                                    .inode = (int16_t)number_of(file),
                                    .exclusive = exclusive,
                                    .byte = byte};
        return 0;
    }
    return -ENOLCK;
}

int sim_lock_test(mql_os_file file, int64_t byte) {
    return is_held(disk_of(file), file, byte, true) ? MQL_OS_HELD : 0;
}
