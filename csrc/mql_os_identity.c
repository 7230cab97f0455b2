/* mql_os_identity.c - which boot, namespaces, C library and processor this is, on Linux.
 *
 * What is shared in memory is only for those for whom all of these are the same: another boot's
 * locks are nobody's, a PID of another namespace is somebody else's, and another C library's mutex
 * is another struct.
 */
#define _GNU_SOURCE
#include "mql_os.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define HASH_START UINT64_C(0xcbf29ce484222325)

/* FNV-1a, continued from `hash`. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t length) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < length; i++) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* Not for secrets: it tells instances and ids apart. Where a sandbox forbids getrandom, clocks, the
 * process and an address do. */
uint64_t mql_os_random(void) {
    uint64_t value;
    ssize_t n;
    do {
        n = getrandom(&value, sizeof value, 0);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof value) return value;
    struct {
        int64_t now, elapsed;
        uint64_t address, process;
    } seed = {mql_os_now_ms(), mql_os_monotonic_ns(), (uint64_t)(uintptr_t)&seed,
              (uint64_t)getpid()};
    return hash_bytes(HASH_START, &seed, sizeof seed);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 32 hexadecimal digits with dashes between groups. */
static int parse_uuid(const char *text, size_t length, uint8_t out[16]) {
    size_t digits = 0;
    memset(out, 0, 16);
    for (size_t i = 0; i < length && digits < 32; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0 && text[i] == '-') continue;
        if (digit < 0) return -EINVAL;
        out[digits / 2] = (uint8_t)(out[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == 32 ? 0 : -EINVAL;
}

static int read_boot(uint8_t out[16]) {
    char text[64];
    int fd;
    do {
        fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return -errno;
    int64_t length = mql_os_read(fd, text, sizeof text, 0);
    close(fd);
    return length < 0 ? (int)length : parse_uuid(text, (size_t)length, out);
}

/* A kernel built without the namespace has no such file, and one namespace: 0. */
static int namespace_of(const char *path, uint64_t *out) {
    struct stat status;
    *out = 0;
    if (stat(path, &status) < 0) return errno == ENOENT ? 0 : -errno;
    *out = status.st_ino;
    return 0;
}

#if defined(__GLIBC__)
static uint64_t hash_c_library(void) {
    const char *version = gnu_get_libc_version();
    return hash_bytes(hash_bytes(HASH_START, "glibc", 5), version, strlen(version));
}
#else
static uint64_t hash_c_library(void) { return hash_bytes(HASH_START, "musl", 4); }
#endif

int mql_os_identify(mql_os_identity *out) {
    mql_os_identity identity = {.c_library = hash_c_library()};
    int rc = read_boot(identity.boot);
    if (rc == 0) rc = namespace_of("/proc/self/ns/pid", &identity.pid_namespace);
    if (rc == 0) rc = namespace_of("/proc/self/ns/time", &identity.time_namespace);
    if (rc < 0) return rc;
    *out = identity;
    return 0;
}

#if defined(__aarch64__)
bool mql_os_has_crc32c(void) { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif
