/* mql_bell.c - the doorbell's page, which all who have a store open share.
 *
 * The first opener resets what is volatile in it, under the gate; `instance`, stored last, says
 * that it is done. Those who come later look whether they fit: shared locks work only within one
 * PID namespace and one C library, times only within one time namespace.
 */
#include "mql_bell.h"

#include "mql_sweep.h"

int mql_bell_map(mql_log_home *home) {
    mql_os_file file;
    int rc =
        mql_os_open(home->root, "doorbell", MQL_OS_WRITE | MQL_OS_CREATE, home->mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, "doorbell", "cannot open");
    mql_os_stat stat;
    void *map = NULL;
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && mql_os_lacks_blocks(&stat, MQL_DOORBELL_BYTES))
        rc = mql_os_allocate(file, 0, MQL_DOORBELL_BYTES);
    if (rc == 0) rc = mql_os_map(file, MQL_DOORBELL_BYTES, true, &map);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, "doorbell", "cannot map");
    home->bell = map;
    if (memcmp(home->bell->magic, MQL_DOORBELL_MAGIC, 8) == 0 &&
        mql_format_is_newer(home->bell->layout, home->bell->oldest_writer))
        return mql_base_fail(
            MQL_E_FORMAT, "doorbell",
            "the store was written by a newer mqlog (layout %u, this one knows %u)",
            home->bell->layout, MQL_LAYOUT);
    return MQL_OK;
}

/* The first opener resets what is volatile; `instance`, stored last, says that it is done. */
void mql_bell_reset(mql_log_home *home, const mql_open_options *options) {
    mql_format_doorbell *bell = home->bell;
    bool ours = memcmp(bell->magic, MQL_DOORBELL_MAGIC, sizeof bell->magic) == 0;
    /* Ids must never come back: go on from the last one, or from a clock when it is lost. */
    uint64_t next = (uint64_t)mql_os_now_ms() << 10 & MQL_MEMBER_COUNTER;
    uint64_t last =
        ours ? atomic_load_explicit(&bell->next_id, memory_order_relaxed) & MQL_MEMBER_COUNTER : 0;
    uint32_t generation =
        ours ? atomic_load_explicit(&bell->options_generation, memory_order_relaxed) : 0;
    atomic_store_explicit(&bell->instance, 0, memory_order_release);
    memset(bell->members, 0, sizeof bell->members);
    memcpy(bell->magic, MQL_DOORBELL_MAGIC, sizeof bell->magic);
    bell->layout = MQL_LAYOUT;
    bell->oldest_writer = MQL_OLDEST_WRITER;
    memcpy(bell->boot, home->identity.boot, sizeof bell->boot);
    bell->pid_namespace = home->identity.pid_namespace;
    bell->time_namespace = home->identity.time_namespace;
    bell->c_library = home->identity.c_library;
    atomic_store_explicit(&bell->next_id, next > last ? next : last, memory_order_relaxed);
    atomic_store_explicit(&bell->waiting, 0, memory_order_relaxed);
    atomic_store_explicit(&bell->options_generation, generation + 1, memory_order_relaxed);
    atomic_store_explicit(&bell->min_free_bytes, options->min_free_bytes, memory_order_relaxed);
    atomic_store_explicit(&bell->max_bytes, options->max_bytes, memory_order_relaxed);
    int64_t used;
    (void)mql_sweep_used(home->root, &used);
    atomic_store_explicit(&bell->used_bytes, used, memory_order_relaxed);
    uint64_t instance;
    do instance = mql_os_random();
    while (instance == 0);
    atomic_store_explicit(&bell->instance, instance, memory_order_release);
}

int mql_bell_check(const mql_log_home *home, const char *path) {
    const mql_format_doorbell *bell = home->bell;
    const mql_os_identity *own = &home->identity;
    if (bell->pid_namespace != own->pid_namespace)
        return mql_base_fail(
            MQL_E_REFUSED, path,
            "the store is open in another PID namespace: let the containers share one (--pid)");
    if (bell->time_namespace != own->time_namespace)
        return mql_base_fail(MQL_E_REFUSED, path,
                             "the store is open in another time namespace: use the same one");
    if (bell->c_library != own->c_library)
        return mql_base_fail(
            MQL_E_REFUSED, path,
            "the store is open in a process with another C library: use one image for all of them");
    if (bell->layout != MQL_LAYOUT)
        return mql_base_fail(
            MQL_E_FORMAT, path,
            "the store is open in a process with another mqlog (layout %u, not %u)", bell->layout,
            MQL_LAYOUT);
    return MQL_OK;
}
