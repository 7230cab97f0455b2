/* mql_os_posix.c - mql_os.h on Linux: with mql_os_identity.c alone in making system calls.
 *
 * Each function is one call of the system and the little that makes it keep the header's word:
 *
 *   - No name is followed through a link or out of its directory. A name of several components is
 *     walked one by one (find_place), and each step and each opening says O_NOFOLLOW. Opening says
 *     O_NONBLOCK too and looks at what it got before anything else, so that a FIFO or a device
 *     planted under one of our names neither blocks us nor is read.
 *   - No descriptor is 0, 1 or 2: a process started with those closed would print into a log.
 *   - No file is extended past RLIMIT_FSIZE: the kernel answers that with SIGXFSZ, which kills.
 *   - EINTR is tried again, except where a signal must end a wait. A sync that failed otherwise is
 *     never tried again here: the second call would report success for bytes that are lost.
 *   - Nothing here sleeps unless it is told to, logs, or keeps state of its own.
 */
#define _GNU_SOURCE
#include "mql_os.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* What the kernel knows and an older header may not. */
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define STATX_MOUNT_PLACE 0x90 /* of the mount id in struct statx; unnamed in old headers */

#define NS_PER_S 1000000000
#define NS_PER_MS 1000000
#define THREAD_STACK ((size_t)256 * 1024)
#define FIRST_DESCRIPTOR 3

static_assert(sizeof(pthread_mutex_t) <= sizeof(mql_os_mutex), "a mutex must fit its place");
static_assert(_Alignof(pthread_mutex_t) <= _Alignof(mql_os_mutex), "and its alignment");
static_assert(sizeof(struct statx) == 256, "the kernel's struct statx");
static_assert(sizeof(time_t) == 8 && sizeof(off_t) == 8, "64-bit times and sizes");
static_assert(sizeof(_Atomic uint32_t) == 4, "a futex word");

/* `rc` becomes the result of `call`, made again while signals interrupt it. */
#define RETRY(rc, call)                           \
    do {                                          \
        (rc) = (call);                            \
    } while ((rc) < 0 && errno == EINTR)

/* -- files ------------------------------------------------------------------------------------- */
/* Takes over a fresh descriptor (or the failure to make one), moving it above the standard ones. */
static int finish_open(int fd, mql_os_file *out) {
    if (fd < 0) return -errno;
    if (fd < FIRST_DESCRIPTOR) {
        int moved = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);
        int error = errno;
        close(fd);
        if (moved < 0) return -error;
        fd = moved;
    }
    *out = fd;
    return 0;
}

static bool is_link(mql_os_file directory, const char *name) {
    struct stat status;
    return fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode);
}

/* One step down, never through a link. */
static int step(int directory, const char *name, size_t length, int flags) {
    char component[NAME_MAX + 1];
    if (length == 0 || (length == 2 && memcmp(name, "..", 2) == 0)) return -EINVAL;
    if (length > NAME_MAX) return -ENAMETOOLONG;
    memcpy(component, name, length);
    component[length] = '\0';
    int fd;
    RETRY(fd, openat(directory, component, flags | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (fd >= 0) return fd;
    int error = errno;
    return error == ENOTDIR && is_link(directory, component) ? -ELOOP : -error;
}

/* Where the last component of a name is to be looked for. */
typedef struct place {
    int directory; /* owns, unless it is the one that the name was relative to */
    bool is_owned;
    const char *name; /* borrows */
} place;

static void leave_place(const place *at) {
    if (at->is_owned) close(at->directory);
}

static int find_place(mql_os_file directory, const char *name, place *out) {
    place at = {.directory = directory, .name = name};
    for (const char *slash; (slash = strchr(at.name, '/')) != NULL; at.name = slash + 1) {
        int next = step(at.directory, at.name, (size_t)(slash - at.name), O_PATH);
        leave_place(&at);
        if (next < 0) return next;
        at.directory = next;
        at.is_owned = true;
    }
    if (at.name[0] == '\0' || strcmp(at.name, "..") == 0) {
        leave_place(&at);
        return -EINVAL;
    }
    *out = at;
    return 0;
}

int mql_os_open_root(const char *path, mql_os_file *out) {
    int fd;
    RETRY(fd, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return finish_open(fd, out);
}

/* Syncs the directory that holds the last component of `path`, which is put back as it was. */
static int sync_parent(char *path) {
    char *slash = strrchr(path, '/');
    const char *parent = ".";
    if (slash == path) parent = "/";
    if (slash != NULL && slash != path) {
        *slash = '\0';
        parent = path;
    }
    mql_os_file directory = MQL_OS_NO_FILE;
    int rc = mql_os_open_root(parent, &directory);
    if (slash != NULL) *slash = '/';
    if (rc < 0) return rc;
    rc = mql_os_sync_directory(directory);
    mql_os_close(directory);
    return rc;
}

/* One directory, and the entry that leads to it on stable storage; there already: 0. */
static int make_one(char *path, uint32_t mode) {
    if (mkdir(path, mode) == 0) return sync_parent(path);
    int error = errno;
    struct stat status;
    if (error != EEXIST) return -error;
    if (stat(path, &status) < 0) return -errno;
    return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

int mql_os_make_root(const char *path, uint32_t mode) {
    char copy[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof copy) return -ENAMETOOLONG;
    memcpy(copy, path, length + 1);
    while (length > 1 && copy[length - 1] == '/') copy[--length] = '\0';

    int rc = make_one(copy, mode);
    if (rc != -ENOENT || length == 0) return rc;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        rc = make_one(copy, 0777);
        *slash = '/';
        if (rc < 0) return rc;
    }
    return make_one(copy, mode);
}

int mql_os_open_directory(mql_os_file directory, const char *name, mql_os_file *out) {
    place at;
    int rc = find_place(directory, name, &at);
    if (rc < 0) return rc;
    int fd = step(at.directory, at.name, strlen(at.name), O_RDONLY);
    leave_place(&at);
    if (fd < 0) return fd;
    return finish_open(fd, out);
}

static int open_flags(unsigned flags) {
    int result = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    result |= (flags & MQL_OS_WRITE) ? O_RDWR : O_RDONLY;
    if (flags & MQL_OS_CREATE) result |= O_CREAT;
    if (flags & MQL_OS_EXCLUSIVE) result |= O_EXCL;
    return result;
}

static int open_any(mql_os_file directory, const char *name, unsigned flags, uint32_t mode,
                    mql_os_file *out) {
    place at;
    int rc = find_place(directory, name, &at);
    if (rc < 0) return rc;
    int fd;
    RETRY(fd, openat(at.directory, at.name, open_flags(flags), (mode_t)mode));
    rc = finish_open(fd, out);
    leave_place(&at);
    /* What directories, sockets and devices without a driver answer before one can look. */
    return rc == -EISDIR || rc == -ENXIO || rc == -ENODEV ? -EINVAL : rc;
}

int mql_os_open(mql_os_file directory, const char *name, unsigned flags, uint32_t mode,
                mql_os_file *out) {
    mql_os_file file = MQL_OS_NO_FILE;
    struct stat status;
    int rc = open_any(directory, name, flags, mode, &file);
    if (rc < 0) return rc;
    if (fstat(file, &status) < 0)
        rc = -errno;
    else if (!S_ISREG(status.st_mode))
        rc = -EINVAL;
    else if ((flags & MQL_OS_TRUNCATE) && status.st_size > 0)
        rc = mql_os_truncate(file, 0);
    if (rc < 0) {
        close(file);
        return rc;
    }
    *out = file;
    return 0;
}

/* Not tried again after EINTR: on Linux the descriptor is gone either way. */
void mql_os_close(mql_os_file file) { close(file); }

static int kind_of(unsigned mode) {
    if (S_ISREG(mode)) return MQL_OS_REGULAR;
    if (S_ISDIR(mode)) return MQL_OS_DIRECTORY;
    if (S_ISLNK(mode)) return MQL_OS_LINK;
    return MQL_OS_OTHER;
}

static int stat_any(int fd, const char *name, int flags, mql_os_stat *out) {
    struct statx x;
    int rc;
    RETRY(rc, statx(fd, name, flags, STATX_BASIC_STATS | STATX_MNT_ID_UNIQUE, &x));
    if (rc < 0) return -errno;
    uint64_t mount = 0;
    if (x.stx_mask & STATX_MNT_ID_UNIQUE) {
        memcpy(&mount, (const char *)&x + STATX_MOUNT_PLACE, sizeof mount);
    }
    *out = (mql_os_stat){
        .device = (uint64_t)x.stx_dev_major << 32 | x.stx_dev_minor,
        .inode = x.stx_ino,
        .size = (int64_t)x.stx_size,
        .allocated = (int64_t)x.stx_blocks * 512,
        .modified_ms = (int64_t)x.stx_mtime.tv_sec * 1000 + x.stx_mtime.tv_nsec / NS_PER_MS,
        .mount = mount,
        .kind = kind_of(x.stx_mode),
    };
    return 0;
}

int mql_os_stat_file(mql_os_file file, mql_os_stat *out) {
    return stat_any(file, "", AT_EMPTY_PATH, out);
}

int mql_os_stat_name(mql_os_file directory, const char *name, mql_os_stat *out) {
    place at;
    int rc = find_place(directory, name, &at);
    if (rc < 0) return rc;
    rc = stat_any(at.directory, at.name, AT_SYMLINK_NOFOLLOW, out);
    leave_place(&at);
    return rc;
}

int64_t mql_os_read(mql_os_file file, void *out, size_t length, int64_t position) {
    size_t done = 0;
    while (done < length) {
        ssize_t n;
        RETRY(n, pread(file, (char *)out + done, length - done, position + (int64_t)done));
        if (n < 0) return -errno;
        if (n == 0) break;
        done += (size_t)n;
    }
    return (int64_t)done;
}

/* Whether a file that reaches `position` + `length` would cost this process its life. */
static bool over_limit(int64_t position, uint64_t length) {
    struct rlimit limit;
    int64_t end;
    if (position < 0 || __builtin_add_overflow(position, length, &end)) return true;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return false;
    return (uint64_t)end > limit.rlim_cur;
}

int mql_os_write(mql_os_file file, const void *data, size_t length, int64_t position) {
    if (over_limit(position, length)) return -EFBIG;
    size_t done = 0;
    while (done < length) {
        ssize_t n;
        RETRY(n, pwrite(file, (const char *)data + done, length - done, position + (int64_t)done));
        if (n < 0) return -errno;
        if (n == 0) return -EIO;
        done += (size_t)n;
    }
    return 0;
}

/* Never posix_fallocate: where the file system has no such call it writes a byte into each block,
 * and that write races with stores through a mapping. Mode 0 lengthens the file too. */
int mql_os_allocate(mql_os_file file, int64_t position, int64_t length) {
    if (length <= 0) return -EINVAL;
    if (over_limit(position, (uint64_t)length)) return -EFBIG;
    int rc;
    RETRY(rc, fallocate(file, 0, position, length));
    return rc < 0 ? -errno : 0;
}

int mql_os_write_zeros(mql_os_file file, int64_t position, int64_t length, size_t piece) {
    static const char zeros[1 << 16];
    if (piece == 0 || piece > sizeof zeros) return -EINVAL;
    for (int64_t done = 0; done < length;) {
        /* The first one may be shorter: the others begin where pieces do. */
        size_t some = piece - (size_t)((uint64_t)(position + done) % piece);
        if (length - done < (int64_t)some) some = (size_t)(length - done);
        int rc = mql_os_write(file, zeros, some, position + done);
        if (rc < 0) return rc;
        done += (int64_t)some;
    }
    return 0;
}

int mql_os_start_sync(mql_os_file file, int64_t position, int64_t length) {
    int rc;
    RETRY(rc, sync_file_range(file, position, length, SYNC_FILE_RANGE_WRITE));
    return rc < 0 ? -errno : 0;
}

int mql_os_truncate(mql_os_file file, int64_t size) {
    struct stat status;
    if (size < 0) return -EINVAL;
    if (over_limit(size, 0)) {
        if (fstat(file, &status) < 0) return -errno;
        if (status.st_size < size) return -EFBIG;
    }
    int rc;
    RETRY(rc, ftruncate(file, size));
    return rc < 0 ? -errno : 0;
}

int mql_os_sync(mql_os_file file) {
    int rc;
    RETRY(rc, fdatasync(file));
    return rc < 0 ? -errno : 0;
}

int mql_os_sync_directory(mql_os_file directory) {
    int rc;
    RETRY(rc, fsync(directory));
    return rc < 0 ? -errno : 0;
}

static int rename_replacing(const place *from, const place *to) {
    return renameat(from->directory, from->name, to->directory, to->name) < 0 ? -errno : 0;
}

/* EINVAL comes from file systems that cannot rename without replacing (ZFS before 2.2). A second
 * name and the loss of the first is as good for a file; a death in between leaves both names. */
static int rename_unless_there(const place *from, const place *to) {
    int rc = renameat2(from->directory, from->name, to->directory, to->name, RENAME_NOREPLACE);
    if (rc == 0 || errno != EINVAL) return rc < 0 ? -errno : 0;
    if (linkat(from->directory, from->name, to->directory, to->name, 0) < 0) return -errno;
    return unlinkat(from->directory, from->name, 0) < 0 ? -errno : 0;
}

static int rename_by(int (*how)(const place *from, const place *to), mql_os_file directory,
                     const char *from, const char *to) {
    place source, target;
    int rc = find_place(directory, from, &source);
    if (rc < 0) return rc;
    rc = find_place(directory, to, &target);
    if (rc == 0) {
        rc = how(&source, &target);
        leave_place(&target);
    }
    leave_place(&source);
    return rc;
}

int mql_os_rename(mql_os_file directory, const char *from, const char *to) {
    return rename_by(rename_replacing, directory, from, to);
}

int mql_os_rename_new(mql_os_file directory, const char *from, const char *to) {
    return rename_by(rename_unless_there, directory, from, to);
}

static int give_name(const place *from, const place *to) {
    return linkat(from->directory, from->name, to->directory, to->name, 0) < 0 ? -errno : 0;
}

int mql_os_link(mql_os_file directory, const char *from, const char *to) {
    return rename_by(give_name, directory, from, to);
}

static int unlink_any(mql_os_file directory, const char *name, int flags) {
    place at;
    int rc = find_place(directory, name, &at);
    if (rc < 0) return rc;
    rc = unlinkat(at.directory, at.name, flags) < 0 ? -errno : 0;
    leave_place(&at);
    return rc;
}

int mql_os_unlink(mql_os_file directory, const char *name) {
    return unlink_any(directory, name, 0);
}

int mql_os_make_directory(mql_os_file directory, const char *name, uint32_t mode) {
    place at;
    int rc = find_place(directory, name, &at);
    if (rc < 0) return rc;
    RETRY(rc, mkdirat(at.directory, at.name, (mode_t)mode));
    rc = rc < 0 ? -errno : 0;
    leave_place(&at);
    return rc;
}

int mql_os_remove_directory(mql_os_file directory, const char *name) {
    return unlink_any(directory, name, AT_REMOVEDIR);
}

static bool is_self_or_parent(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* A description of its own: a duplicate would share its place with other threads' listings. */
int mql_os_list(mql_os_file directory, int (*each)(void *context, const char *name),
                void *context) {
    int fd;
    RETRY(fd, openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) return -errno;
    DIR *stream = fdopendir(fd);
    if (stream == NULL) {
        int error = errno;
        close(fd);
        return -error;
    }
    int rc = 0;
    while (rc == 0) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (entry == NULL) {
            rc = -errno;
            break;
        }
        if (!is_self_or_parent(entry->d_name)) rc = each(context, entry->d_name);
    }
    closedir(stream);
    return rc;
}

int mql_os_free_bytes(mql_os_file directory, uint64_t *available, uint64_t *total) {
    struct statvfs status;
    int rc;
    RETRY(rc, fstatvfs(directory, &status));
    if (rc < 0) return -errno;
    *available = (uint64_t)status.f_bavail * status.f_frsize;
    *total = (uint64_t)status.f_blocks * status.f_frsize;
    return 0;
}

/* By statfs type, as linux/magic.h has them. Two machines, or a machine and a server in user space,
 * see such a file through caches of their own. */
static const struct {
    uint32_t type;
    const char *name;
} untrusted[] = {
    {0x00006969, "NFS"},  {0xff534d42, "CIFS"}, {0xfe534d42, "SMB"},  {0x0000517b, "SMB"},
    {0x01021997, "9p"},   {0x65735546, "FUSE"}, {0x00c36400, "Ceph"},
};
#define BTRFS 0x9123683eU
#define EXT4 0xef53U
#define XFS 0x58465342U
#define TMPFS 0x01021994U

static int filesystem_type(mql_os_file directory, uint32_t *out) {
    struct statfs status;
    int rc;
    RETRY(rc, fstatfs(directory, &status));
    if (rc < 0) return -errno;
    *out = (uint32_t)status.f_type;
    return 0;
}

int mql_os_check_filesystem(mql_os_file directory, const char **name) {
    uint32_t type = 0;
    int rc = filesystem_type(directory, &type);
    if (rc < 0) return rc;
    for (size_t i = 0; i < sizeof untrusted / sizeof *untrusted; i++) {
        if (untrusted[i].type != type) continue;
        *name = untrusted[i].name;
        return -ENOTSUP;
    }
    return 0;
}

/* Those that this was measured on; elsewhere a block may be written anew, and need another. */
bool mql_os_overwrites(mql_os_file file) {
    uint32_t type = 0;
    return filesystem_type(file, &type) == 0 && (type == EXT4 || type == XFS || type == TMPFS);
}

int mql_os_no_copy_on_write(mql_os_file directory) {
    uint32_t type = 0;
    int rc = filesystem_type(directory, &type);
    if (rc < 0 || type != BTRFS) return rc;
    int flags = 0;
    if (ioctl(directory, FS_IOC_GETFLAGS, &flags) < 0) return -errno;
    if (flags & FS_NOCOW_FL) return 0;
    flags |= FS_NOCOW_FL;
    return ioctl(directory, FS_IOC_SETFLAGS, &flags) < 0 ? -errno : 0;
}

/* -- mappings ---------------------------------------------------------------------------------- */
int mql_os_map(mql_os_file file, size_t length, bool writable, void **out) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *address = mmap(NULL, length, protection, MAP_SHARED, file, 0);
    if (address != MAP_FAILED) *out = address;
    return address == MAP_FAILED ? -errno : 0;
}

/* Widens a range to whole pages; returns its new length. */
static size_t whole_pages(void **address, size_t length) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)*address & ~(page - 1);
    uintptr_t end = ((uintptr_t)*address + length + page - 1) & ~(page - 1);
    *address = (char *)*address - ((uintptr_t)*address - start);
    return end - start;
}

int mql_os_map_at(mql_os_file file, int64_t position, size_t length, void **out) {
    int64_t page = sysconf(_SC_PAGESIZE), start = position / page * page;
    size_t before = (size_t)(position - start);
    void *address =
        mmap(NULL, length + before, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)start);
    if (address == MAP_FAILED) return -errno;
    *out = (char *)address + before;
    return 0;
}

void mql_os_unmap(void *address, size_t length) {
    length = whole_pages(&address, length);
    munmap(address, length);
}

/* A kernel older than 5.14 says EINVAL; its pages come by faults, as they would have anyway. */
int mql_os_populate(void *address, size_t length) {
    int rc;
    length = whole_pages(&address, length);
    RETRY(rc, madvise(address, length, MADV_POPULATE_WRITE));
    return rc < 0 && errno != EINVAL ? -errno : 0;
}

/* Of a shared mapping this loses nothing: what is dirty is noted as dirty in the page cache. */
void mql_os_unpopulate(void *address, size_t length) {
    (void)madvise(address, length, MADV_DONTNEED);
}

int mql_os_sync_map(void *address, size_t length) {
    int rc;
    length = whole_pages(&address, length);
    RETRY(rc, msync(address, length, MS_SYNC));
    return rc < 0 ? -errno : 0;
}

/* -- byte locks -------------------------------------------------------------------------------- */
static struct flock one_byte(int64_t byte, short type) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

int mql_os_lock(mql_os_file file, int64_t byte, bool exclusive) {
    struct flock lock = one_byte(byte, exclusive ? F_WRLCK : F_RDLCK);
    int rc;
    RETRY(rc, fcntl(file, F_OFD_SETLK, &lock));
    if (rc == 0) return 0;
    return errno == EAGAIN || errno == EACCES ? MQL_OS_HELD : -errno;
}

int mql_os_unlock(mql_os_file file, int64_t byte) {
    struct flock lock = one_byte(byte, F_UNLCK);
    int rc;
    RETRY(rc, fcntl(file, F_OFD_SETLK, &lock));
    return rc < 0 ? -errno : 0;
}

int mql_os_lock_test(mql_os_file file, int64_t byte) {
    struct flock lock = one_byte(byte, F_WRLCK);
    int rc;
    RETRY(rc, fcntl(file, F_OFD_GETLK, &lock));
    if (rc < 0) return -errno;
    return lock.l_type == F_UNLCK ? 0 : MQL_OS_HELD;
}

/* -- mutexes ----------------------------------------------------------------------------------- */
static pthread_mutex_t *native(mql_os_mutex *mutex) {
    return (pthread_mutex_t *)(void *)mutex->opaque;
}

int mql_os_mutex_init_shared(mql_os_mutex *mutex) {
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);
    if (error != 0) return -error;
    error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (error == 0) error = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (error == 0) error = pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_NORMAL);
    if (error == 0) error = pthread_mutex_init(native(mutex), &attributes);
    pthread_mutexattr_destroy(&attributes);
    return -error;
}

int mql_os_mutex_init_private(mql_os_mutex *mutex) {
    return -pthread_mutex_init(native(mutex), NULL);
}

static int mutex_result(int error) {
    if (error == EBUSY || error == ETIMEDOUT) return MQL_OS_BUSY;
    return error == EOWNERDEAD ? MQL_OS_OWNER_DIED : -error;
}

int mql_os_mutex_try(mql_os_mutex *mutex) {
    return mutex_result(pthread_mutex_trylock(native(mutex)));
}

static struct timespec to_timespec(int64_t ns) {
    if (ns < 0) ns = 0;
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = (long)(ns % NS_PER_S)};
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static struct timespec deadline(clockid_t clock, int64_t timeout_ns) {
    int64_t end;
    if (__builtin_add_overflow(clock_ns(clock), timeout_ns, &end)) end = INT64_MAX;
    return to_timespec(end);
}

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
static int lock_within(pthread_mutex_t *mutex, int64_t timeout_ns) {
    struct timespec end = deadline(CLOCK_MONOTONIC, timeout_ns);
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &end);
}
#else /* there is only the wall clock: a jump makes one slice shorter or longer */
static int lock_within(pthread_mutex_t *mutex, int64_t timeout_ns) {
    struct timespec end = deadline(CLOCK_REALTIME, timeout_ns);
    return pthread_mutex_timedlock(mutex, &end);
}
#endif

int mql_os_mutex_take(mql_os_mutex *mutex, int64_t timeout_ns) {
    int error = pthread_mutex_trylock(native(mutex));
    if (error == EBUSY && timeout_ns < 0) error = pthread_mutex_lock(native(mutex));
    if (error == EBUSY && timeout_ns > 0) error = lock_within(native(mutex), timeout_ns);
    return mutex_result(error);
}

void mql_os_mutex_consistent(mql_os_mutex *mutex) { pthread_mutex_consistent(native(mutex)); }
/* A robust mutex is given back by an exchange, since a waiter's mark in the word must not be lost:
 * on x86 that is a full fence, and another one would cost as much again. */
#if defined(__x86_64__)
#define FENCE_OF_DROP() ((void)0)
#else
#define FENCE_OF_DROP() atomic_thread_fence(memory_order_seq_cst)
#endif
void mql_os_mutex_drop(mql_os_mutex *mutex) {
    pthread_mutex_unlock(native(mutex));
    FENCE_OF_DROP();
}

/* -- waiting on a word ------------------------------------------------------------------------- */
/* Not the PRIVATE flavours: the word is in memory that several processes map. */
int mql_os_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec timeout = to_timespec(timeout_ns);
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0) == 0) return MQL_OS_WOKEN;
    if (errno == ETIMEDOUT) return MQL_OS_TIMED_OUT;
    return errno == EAGAIN || errno == EINTR ? MQL_OS_WOKEN : -errno;
}

int mql_os_wake(_Atomic uint32_t *word, int count) {
    return (int)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

/* -- threads ----------------------------------------------------------------------------------- */
struct mql_os_thread {
    pthread_t thread;
    void (*body)(void *context);
    void *context; /* borrowed until the join */
};

static void *run(void *argument) {
    mql_os_thread *thread = argument;
    pthread_setname_np(pthread_self(), "mqlog");
    thread->body(thread->context);
    return NULL;
}

/* All signals but those that a thread brings upon itself: these would only hide the fault. */
static void block_signals(sigset_t *before) {
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    sigset_t all;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, before);
}

int mql_os_thread_start(void (*body)(void *context), void *context, mql_os_thread **out) {
    mql_os_thread *thread = malloc(sizeof *thread);
    if (thread == NULL) return -ENOMEM;
    *thread = (mql_os_thread){.body = body, .context = context};

    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0) goto fail;
    error = pthread_attr_setstacksize(&attributes, THREAD_STACK);
    if (error == 0) {
        sigset_t before;
        block_signals(&before); /* inherited: the thread must not run a moment without */
        error = pthread_create(&thread->thread, &attributes, run, thread);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    if (error != 0) goto fail;
    *out = thread;
    return 0;

fail:
    free(thread);
    return -error;
}

void mql_os_thread_join(mql_os_thread *thread) {
    pthread_join(thread->thread, NULL);
    free(thread);
}

int mql_os_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
    return -pthread_atfork(before, parent, child);
}

void mql_os_yield(void) { sched_yield(); }

void mql_os_sleep(int64_t ns) {
    struct timespec left = to_timespec(ns);
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
}

/* -- clocks and the process -------------------------------------------------------------------- */
int64_t mql_os_now_ms(void) { return clock_ns(CLOCK_REALTIME_COARSE) / NS_PER_MS; }
int64_t mql_os_wall_ms(void) { return clock_ns(CLOCK_REALTIME) / NS_PER_MS; }
int64_t mql_os_monotonic_ns(void) { return clock_ns(CLOCK_BOOTTIME); }
int64_t mql_os_coarse_ns(void) { return clock_ns(CLOCK_MONOTONIC_COARSE); }
/* There is no CLOCK_BOOTTIME_COARSE: the monotonic one, and how long the machine was suspended.
 * That only grows, and not within a tick, since nobody runs then, and ticks go on before anybody
 * does. It is seen a moment too small, never too large; threads take the largest that any has seen.
 */
int64_t mql_os_tick_ns(void) {
    static _Thread_local int64_t tick = -1;
    static _Atomic int64_t suspended;
    int64_t now = mql_os_coarse_ns();
    int64_t most = atomic_load_explicit(&suspended, memory_order_relaxed);
    if (now != tick) {
        int64_t boot = clock_ns(CLOCK_BOOTTIME), seen = boot - clock_ns(CLOCK_MONOTONIC);
        while (seen > most && !atomic_compare_exchange_weak(&suspended, &most, seen)) {
        }
        if (seen > most) most = seen;
        tick = now;
    }
    return now + most;
}

uint32_t mql_os_process(void) { return (uint32_t)getpid(); }
void *mql_os_allocate_memory(size_t size) { return calloc(1, size); }
void mql_os_free_memory(void *memory) { free(memory); }
