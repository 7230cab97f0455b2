/* mql_base.c - the thread's last failure, and the slow half of the varint reader. */
#include "mql_base.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local mql_error last_error = {.position = -1, .start = -1, .stop = -1};

static _Thread_local int hurried;     /* how often */
static _Thread_local int64_t left_ns; /* of the slice, if hurried */

void mql_base_hurry(bool on) {
    hurried += on ? 1 : -1;
    if (on) left_ns = MQL_LOCK_SLICE_NS;
}

int mql_base_swap_hurry(int count) {
    int before = hurried;
    hurried = count;
    return before;
}

int64_t mql_base_rest(int64_t most) { return hurried > 0 ? mql_base_min(most, left_ns) : most; }

int mql_base_later(int rc) {
    if (rc != MQL_TIMEOUT || hurried == 0) return rc;
    left_ns = 0;
    return mql_base_fail(MQL_E_LATER, NULL, "a lock was not to be had");
}

static void reset(int code, const char *path) {
    last_error.code = code;
    last_error.os_errno = 0;
    last_error.position = last_error.start = last_error.stop = -1;
    snprintf(last_error.path, sizeof last_error.path, "%s", path ? path : "");
}

void mql_base_file_name(char out[MQL_PATH_MAX], const char *directory, int64_t base,
                        const char *suffix) {
    snprintf(out, MQL_PATH_MAX, "%s/%020lld%s", directory, (long long)base, suffix);
}

const mql_error *mql_error_last(void) { return &last_error; }

mql_error *mql_base_error(void) { return &last_error; }

int mql_base_fail(int code, const char *path, const char *format, ...) {
    assert(code < 0);
    reset(code, path);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error.text, sizeof last_error.text, format, arguments);
    va_end(arguments);
    return code;
}

int mql_base_fail_os(int negative_errno, const char *path, const char *doing) {
    assert(negative_errno < 0);
    reset(MQL_E_OS, path);
    last_error.os_errno = -negative_errno;
    snprintf(last_error.text, sizeof last_error.text, "%s", doing);
    return MQL_E_OS;
}

int mql_base_fail_corrupt(const char *path, int64_t position, int64_t start, int64_t stop,
                          const char *what) {
    reset(MQL_E_CORRUPT, path);
    last_error.position = position;
    last_error.start = start;
    last_error.stop = stop;
    snprintf(last_error.text, sizeof last_error.text, "%s", what);
    return MQL_E_CORRUPT;
}

int mql_base_fail_range(int64_t offset, int64_t start, int64_t stop) {
    reset(MQL_E_RANGE, NULL);
    last_error.start = start;
    last_error.stop = stop;
    snprintf(last_error.text, sizeof last_error.text,
             "offset %lld is outside the log, which holds %lld .. %lld", (long long)offset,
             (long long)start, (long long)stop);
    return MQL_E_RANGE;
}

const uint8_t *mql_base_varint_get_long(const uint8_t *p, const uint8_t *end, int most,
                                        int64_t *out) {
    uint64_t u = 0;
    for (int i = 0; i < most; i++) {
        if (p >= end) return NULL;
        uint8_t byte = *p++;
        u |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            if (most == 5 && u > UINT32_MAX) return NULL;
            *out = mql_base_unzigzag(u);
            return p;
        }
    }
    return NULL;
}
