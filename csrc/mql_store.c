/* mql_store.c - a store as one process has it open.
 *
 * Who is alive is said by byte locks on store.lock, which the kernel drops when a process dies:
 * "alive" is held shared by every opening and exclusively, for a moment, by the first and the last;
 * byte 16 + n belongs to member n. They sit on descriptors that are never mapped, close on exec,
 * and are closed first thing in a forked child, so a child never keeps its dead parent's place.
 *
 * One mql_store per directory and process, counted. The list of them is the engine's one mutable
 * global besides the last error: pthread_atfork must find what is open.
 */
#include "mql_store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "mql_append.h"
#include "mql_bell.h"
#include "mql_commit.h"
#include "mql_cursor.h"
#include "mql_dedupe.h"
#include "mql_group.h"
#include "mql_keeper.h"
#include "mql_shares.h"
#include "mql_sweep.h"

#define GATE_OPEN_NS (INT64_C(10) * 1000000000)
#define REFUSED_APART_NS INT64_C(1000000000)
#define RECOVERED_MAX 256
#define OPTIONS_FILE "mqlog.json"
#define OPTIONS_MAX ((int64_t)16 << 20)

struct mql_store {
    mql_store *next; /* of the process's list, under the registry lock */
    int opens;       /* not closed yet, under the registry lock */
    int references;  /* not freed yet, likewise */
    uint64_t device, inode;
    _Atomic int pins;   /* calls in flight that may use what is mapped */
    _Atomic bool ended; /* closed: once nothing is pinned, descriptors and mappings go */
    mql_log_home home;
    mql_os_file alive;                 /* owns: holds "alive" shared */
    mql_os_file member;                /* owns: holds byte 16 + number */
    mql_os_file gate;                  /* owns, while the gate is held */
    const void *_Atomic gate_holder; /* the thread that has it: an address of its own */
    int gate_depth;                    /* the holder's */
    uint64_t number;                   /* member number */
    mql_log *_Atomic logs;           /* owns */
    mql_os_mutex lock;                 /* private: opening logs, the recovered list */
    mql_keeper keeper;
    bool kept; /* its threads ran before a fork */
    mql_recovered *recovered; /* owns */
    size_t recovered_count;
    char path[4096];
};

/* -- the process's stores ---------------------------------------------------------------------- */
static mql_store *stores;
static mql_os_mutex registry;
static _Atomic int registry_state; /* 0 not made, 1 being made, 2 made */

static void registry_unlock(void) { mql_os_mutex_drop(&registry); }

static void before_fork(void) {
    mql_os_mutex_take(&registry, -1);
    for (mql_store *store = stores; store != NULL; store = store->next) {
        store->kept = atomic_load_explicit(&store->keeper.running, memory_order_acquire);
        mql_keeper_stop(&store->keeper);
    }
}

/* What was to be synced when the threads were stopped nobody asks for again. */
static void parent_forked(void) {
    for (mql_store *store = stores; store != NULL; store = store->next)
        if (store->kept) mql_keeper_start(&store->keeper);
    registry_unlock();
}

static void close_locks(mql_store *store) {
    mql_os_close(store->gate);
    mql_os_close(store->member);
    mql_os_close(store->alive);
    store->gate = store->member = store->alive = MQL_OS_NO_FILE;
}

static void child_forked(void) {
    for (mql_store *store = stores; store != NULL; store = store->next) {
        close_locks(store);
        atomic_store_explicit(&store->home.gone, MQL_E_FORKED, memory_order_release);
    }
    mql_os_mutex_init_private(&registry);
    /* Later openings of the child are its own: the parent's stores are only freed, by their
     * references. */
    stores = NULL;
}

/* A private lock whose holder may be opening or closing. MQL_E_LATER: only if in a hurry. */
static int take_private(mql_os_mutex *mutex) {
    int rc;
    do {
        bool busy = mql_os_mutex_take(mutex, mql_base_slice(MQL_SLICE_NS)) == MQL_OS_BUSY;
        rc = mql_base_later(busy ? MQL_TIMEOUT : MQL_OK);
    } while (rc == MQL_TIMEOUT);
    return rc;
}

static int registry_lock(void) {
    int made = 0;
    if (atomic_compare_exchange_strong(&registry_state, &made, 1)) {
        mql_os_mutex_init_private(&registry);
        mql_os_at_fork(before_fork, parent_forked, child_forked);
        atomic_store_explicit(&registry_state, 2, memory_order_release);
    }
    while (atomic_load_explicit(&registry_state, memory_order_acquire) != 2) mql_os_pause();
    return take_private(&registry);
}

/* Where nothing can be given up. */
static void registry_lock_surely(void) {
    int hurry = mql_base_swap_hurry(0);
    (void)registry_lock();
    mql_base_swap_hurry(hurry);
}

static int usable(mql_store *store) {
    int gone = atomic_load_explicit(&store->home.gone, memory_order_acquire);
    if (gone == 0) return MQL_OK; /* also while closing: the closer itself comes by here */
    return mql_base_fail(gone, store->path,
                         gone == MQL_E_FORKED
                             ? "the store was opened before a fork: open it again in this process"
                             : "the store is closed");
}

/* -- the gate ---------------------------------------------------------------------------------- */
static const void *this_thread(void) {
    static _Thread_local char own;
    return &own;
}

int mql_store_gate(mql_store *store, int64_t timeout_ns) {
    if (atomic_load_explicit(&store->gate_holder, memory_order_relaxed) == this_thread()) {
        store->gate_depth++;
        return MQL_OK;
    }
    int rc = usable(store);
    if (rc < 0) return rc;
    mql_os_file file;
    rc = mql_os_open(store->home.root, "store.lock", MQL_OS_WRITE, 0, &file);
    if (rc < 0) return mql_base_fail_os(rc, "store.lock", "cannot open");
    int64_t until = mql_os_monotonic_ns() + timeout_ns, pause = 50000;
    while ((rc = mql_os_lock(file, MQL_LOCK_GATE, true)) == MQL_OS_HELD) {
        if (mql_os_monotonic_ns() >= until) break;
        mql_os_sleep(pause);
        pause = mql_base_min(2 * pause, 5000000);
    }
    if (rc != 0) {
        mql_os_close(file);
        return rc < 0 ? mql_base_fail_os(rc, "store.lock", "cannot lock the gate") : MQL_TIMEOUT;
    }
    store->gate = file;
    store->gate_depth = 1;
    atomic_store_explicit(&store->gate_holder, this_thread(), memory_order_relaxed);
    return MQL_OK;
}

void mql_store_ungate(mql_store *store) {
    if (atomic_load_explicit(&store->gate_holder, memory_order_relaxed) != this_thread()) return;
    if (--store->gate_depth > 0) return;
    mql_os_file file = store->gate;
    store->gate = MQL_OS_NO_FILE;
    atomic_store_explicit(&store->gate_holder, NULL, memory_order_relaxed);
    mql_os_close(file);
}

/* -- what a store does for its logs ------------------------------------------------------------ */
/* Of a thread in a hurry: since when it comes back, a moment later each time, for a gate that is
 * not to be had. */
static _Thread_local int64_t refused_ns, refused_last_ns;

static bool is_patient(int64_t now) {
    if (now - refused_last_ns > REFUSED_APART_NS) refused_ns = now;
    refused_last_ns = now;
    return now - refused_ns < GATE_OPEN_NS;
}

static int home_gate(void *context) {
    int64_t until = mql_os_monotonic_ns() + GATE_OPEN_NS, now;
    int rc;
    do {
        rc = mql_base_later(mql_store_gate(context, mql_base_slice(MQL_SLICE_NS)));
        now = mql_os_monotonic_ns();
    } while (rc == MQL_TIMEOUT && now < until);
    if (rc == MQL_E_LATER && is_patient(now)) return rc;
    refused_last_ns = 0;
    if (rc != MQL_TIMEOUT && rc != MQL_E_LATER) return rc;
    return mql_base_fail_os(-ETIMEDOUT, "store.lock",
                            "another process holds the store's gate for too long");
}
static void home_ungate(void *context) { mql_store_ungate(context); }
static void home_want_prepare(void *context) {
    mql_keeper_want_prepare(&((mql_store *)context)->keeper);
}
static bool home_want_sync(void *own) { return mql_keeper_want_sync(&((mql_store *)own)->keeper); }

static void home_recovered(void *context, const mql_recovered *what) {
    mql_store *store = context;
    if (store->recovered == NULL)
        store->recovered = mql_os_allocate_memory(RECOVERED_MAX * sizeof *store->recovered);
    if (store->recovered == NULL || store->recovered_count == RECOVERED_MAX) return;
    store->recovered[store->recovered_count++] = *what;
}

static uint64_t home_new_member(void *context) {
    mql_store *store = context;
    uint64_t counter =
        atomic_fetch_add_explicit(&store->home.bell->next_id, 1, memory_order_relaxed);
    return store->number << MQL_MEMBER_SHIFT | (counter & MQL_MEMBER_COUNTER);
}

/* A member is dead when its process's number has been given to another since, or its byte is free.
 */
static bool home_alive(void *context, uint64_t member) {
    mql_store *store = context;
    uint64_t number = member >> MQL_MEMBER_SHIFT;
    if (number >= MQL_MEMBERS_MAX || store->alive == MQL_OS_NO_FILE) return false;
    uint64_t joined =
        atomic_load_explicit(&store->home.bell->members[number], memory_order_acquire);
    if ((member & MQL_MEMBER_COUNTER) < joined) return false;
    if (number == store->number) return true;
    return mql_os_lock_test(store->alive, MQL_LOCK_MEMBER + (int64_t)number) != 0;
}

/* -- opening ----------------------------------------------------------------------------------- */
/* Takes a member number: the first whose byte nobody has. Under the gate. */
static int join(mql_store *store) {
    int rc = mql_os_open(store->home.root, "store.lock", MQL_OS_WRITE, 0, &store->member);
    if (rc < 0) return mql_base_fail_os(rc, "store.lock", "cannot open");
    for (uint64_t number = 0; number < MQL_MEMBERS_MAX; number++) {
        rc = mql_os_lock(store->member, MQL_LOCK_MEMBER + (int64_t)number, true);
        if (rc == MQL_OS_HELD) continue;
        if (rc < 0) return mql_base_fail_os(rc, "store.lock", "cannot take a member's place");
        store->number = number;
        uint64_t joined =
            atomic_fetch_add_explicit(&store->home.bell->next_id, 1, memory_order_relaxed);
        atomic_store_explicit(&store->home.bell->members[number], joined & MQL_MEMBER_COUNTER,
                              memory_order_release);
        store->home.self = number << MQL_MEMBER_SHIFT | (joined & MQL_MEMBER_COUNTER);
        return MQL_OK;
    }
    return mql_base_fail(MQL_E_REFUSED, store->path,
                         "%d processes have the store open, which is the most", MQL_MEMBERS_MAX);
}

/* Enters the store: the first opener of the machine resets its memory, the others look that they
 * fit. */
static int enter_gated(mql_store *store, const mql_open_options *options) {
    int rc = mql_os_open(store->home.root, "store.lock", MQL_OS_WRITE, 0, &store->alive);
    if (rc < 0) return mql_base_fail_os(rc, "store.lock", "cannot open");
    rc = mql_bell_map(&store->home);
    if (rc < 0) return rc;
    rc = mql_os_lock(store->alive, MQL_LOCK_ALIVE, true);
    if (rc < 0) return mql_base_fail_os(rc, "store.lock", "cannot lock");
    bool first = rc == 0;
    if (first) {
        mql_sweep_deleted(store->home.root);
        mql_bell_reset(&store->home, options);
    }
    rc = mql_os_lock(store->alive, MQL_LOCK_ALIVE, false);
    if (rc != 0) return mql_base_fail_os(rc < 0 ? rc : -EAGAIN, "store.lock", "cannot lock");
    if (!first) rc = mql_bell_check(&store->home, store->path);
    if (rc < 0) return rc;
    store->home.instance = atomic_load_explicit(&store->home.bell->instance, memory_order_acquire);
    if (!first && options->min_free_bytes != MQL_DEFAULT_FREE)
        atomic_store_explicit(&store->home.bell->min_free_bytes, options->min_free_bytes,
                              memory_order_relaxed);
    if (!first && options->max_bytes != 0)
        atomic_store_explicit(&store->home.bell->max_bytes, options->max_bytes,
                              memory_order_relaxed);
    return join(store);
}

static int enter(mql_store *store, const mql_open_options *options) {
    mql_os_file file;
    int rc = mql_os_open(store->home.root, "store.lock", MQL_OS_WRITE | MQL_OS_CREATE,
                         store->home.mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, "store.lock", "cannot open");
    mql_os_close(file);
    rc = home_gate(store);
    if (rc < 0) return rc;
    rc = enter_gated(store, options);
    mql_store_ungate(store);
    return rc;
}

/* Read-only: whether anybody has the store open, and in which instance. */
static int look(mql_store *store) {
    mql_os_file file;
    if (mql_os_open(store->home.root, "store.lock", MQL_OS_READ, 0, &file) == 0) {
        store->home.live = mql_os_lock_test(file, MQL_LOCK_ALIVE) == MQL_OS_HELD;
        mql_os_close(file);
    }
    mql_format_doorbell bell;
    memset(&bell, 0, sizeof bell);
    if (mql_os_open(store->home.root, "doorbell", MQL_OS_READ, 0, &file) == 0) {
        int64_t got = mql_os_read(file, &bell, sizeof bell, 0);
        mql_os_close(file);
        if (got == (int64_t)sizeof bell && memcmp(bell.magic, MQL_DOORBELL_MAGIC, 8) == 0 &&
            mql_format_is_newer(bell.layout, bell.oldest_writer))
            return mql_base_fail(
                MQL_E_FORMAT, "doorbell",
                "the store was written by a newer mqlog (layout %u, this one knows %u)",
                bell.layout, MQL_LAYOUT);
    }
    return MQL_OK;
}

static int open_root(mql_store *store, const char *path, const mql_open_options *options) {
    int rc = mql_os_open_root(path, &store->home.root);
    if (rc == -ENOENT && options->create && !options->read_only) {
        rc = mql_os_make_root(path, 0700);
        if (rc < 0) return mql_base_fail_os(rc, path, "cannot make the store's directory");
        rc = mql_os_open_root(path, &store->home.root);
    }
    if (rc == -ENOENT) return mql_base_fail(MQL_E_NOT_FOUND, path, "there is no store");
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot open the store's directory");
    const char *kind = "";
    rc = mql_os_check_filesystem(store->home.root, &kind);
    if (rc < 0)
        return mql_base_fail(MQL_E_REFUSED, path,
                             "the store is on %s, whose locks and mappings cannot be shared "
                             "safely: use a local disk",
                             kind);
    mql_os_stat stat;
    rc = mql_os_stat_file(store->home.root, &stat);
    if (rc < 0) return mql_base_fail_os(rc, path, "cannot look at the store's directory");
    store->device = stat.device;
    store->inode = stat.inode;
    return MQL_OK;
}

static void set_home(mql_store *store, const mql_open_options *options) {
    store->home.root = store->alive = store->member = store->gate = MQL_OS_NO_FILE;
    store->home.mode = options->file_mode == 0 ? 0600 : options->file_mode;
    store->home.read_only = options->read_only != 0;
    store->home.context = store;
    store->home.gate = home_gate;
    store->home.ungate = home_ungate;
    store->home.want_prepare = home_want_prepare;
    store->home.want_sync = home_want_sync;
    store->home.recovered = home_recovered;
    store->home.new_member = home_new_member;
    store->home.reserve = mql_shares_reserve;
    store->home.backlog = mql_shares_backlog;
    store->home.alive = home_alive;
    mql_os_mutex_init_private(&store->lock);
    mql_keeper_init(&store->keeper, &store->logs, options->threads != 0);
}

/* Gives back the mappings and the store's descriptor; leases keep theirs. Again: nothing. */
static void give_back(mql_store *store) {
    for (mql_log *log = atomic_load_explicit(&store->logs, memory_order_relaxed); log != NULL;
         log = log->next) {
        mql_cursor_unmap_all(log);
        mql_group_unmap_all(log);
        mql_shares_unmap_all(log);
        mql_dedupe_unmap(log);
        mql_log_unmap(log);
    }
    if (store->home.bell != NULL) mql_os_unmap(store->home.bell, MQL_DOORBELL_BYTES);
    store->home.bell = NULL;
    mql_os_close(store->home.root);
    mql_os_close(store->alive);
    store->home.root = store->alive = MQL_OS_NO_FILE;
}

static void destroy(mql_store *store) {
    give_back(store);
    mql_log *log = atomic_load_explicit(&store->logs, memory_order_relaxed);
    while (log != NULL) {
        mql_log *next = log->next;
        mql_group_free_all(log);
        mql_shares_free_all(log);
        mql_dedupe_free(log);
        mql_log_free(log);
        log = next;
    }
    close_locks(store);
    mql_os_free_memory(store->recovered);
    mql_os_free_memory(store);
}

/* The same directory, already open in this process in the same way. Under the registry lock. */
static mql_store *known(const mql_store *like) {
    for (mql_store *store = stores; store != NULL; store = store->next)
        if (store->device == like->device && store->inode == like->inode && store->opens > 0 &&
            !store->home.read_only && !like->home.read_only)
            return store;
    return NULL;
}

int mql_store_open(const char *path, const mql_open_options *options, mql_store **out) {
    mql_store *store = mql_os_allocate_memory(sizeof *store);
    if (store == NULL) return mql_base_fail(MQL_E_MEMORY, path, "no memory for a store");
    set_home(store, options);
    snprintf(store->path, sizeof store->path, "%s", path);
    int rc = open_root(store, path, options);
    if (rc == MQL_OK)
        rc = mql_os_identify(&store->home.identity) < 0
                 ? mql_base_fail(MQL_E_REFUSED, path,
                                 "cannot tell this boot from others: /proc is needed")
                 : MQL_OK;
    if (rc < 0) {
        destroy(store);
        return rc;
    }
    rc = registry_lock();
    if (rc < 0) {
        destroy(store);
        return rc;
    }
    mql_store *other = known(store);
    if (other != NULL) {
        other->opens++;
        other->references++;
        registry_unlock();
        destroy(store);
        *out = other;
        return MQL_OK;
    }
    rc = store->home.read_only ? look(store) : enter(store, options);
    if (rc == MQL_OK) {
        store->opens = store->references = 1;
        store->next = stores;
        stores = store;
    }
    registry_unlock();
    if (rc != MQL_OK) {
        destroy(store);
        return rc;
    }
    *out = store;
    return MQL_OK;
}

/* -- logs -------------------------------------------------------------------------------------- */
static mql_log *find_log(mql_store *store, const char *topic, int partition) {
    for (mql_log *log = atomic_load_explicit(&store->logs, memory_order_acquire); log != NULL;
         log = log->next)
        if (log->partition == partition && strcmp(log->topic, topic) == 0 &&
            (log->control == NULL ||
             (atomic_load_explicit(&log->control->state, memory_order_relaxed) &
              MQL_STATE_DELETED) == 0))
            return log;
    return NULL;
}

int mql_store_log(mql_store *store, const char *topic, int partition, bool create,
                  const mql_log_options *options, mql_log **out) {
    int rc = usable(store);
    if (rc < 0) return rc;
    mql_log *log = find_log(store, topic, partition);
    /* Opening may need the gate, which stands above this lock. */
    bool gated = log == NULL && !store->home.read_only;
    if (gated) rc = home_gate(store);
    if (rc < 0) return rc;
    rc = take_private(&store->lock);
    if (rc < 0) {
        if (gated) mql_store_ungate(store);
        return rc;
    }
    log = find_log(store, topic, partition);
    if (log == NULL) {
        rc = mql_log_open(&store->home, topic, partition, create, options, &log);
        if (rc == MQL_OK) {
            log->next = atomic_load_explicit(&store->logs, memory_order_relaxed);
            atomic_store_explicit(&store->logs, log, memory_order_release);
        }
    } else if (store->home.read_only) {
        rc = mql_log_refresh(log);
    } else {
        mql_log_set(log, options);
    }
    mql_os_mutex_drop(&store->lock);
    if (gated) mql_store_ungate(store);
    if (rc != MQL_OK) return rc;
    if (!store->home.read_only) mql_keeper_start(&store->keeper);
    *out = log;
    return MQL_OK;
}

/* -- closing ----------------------------------------------------------------------------------- */
typedef struct finishing {
    mql_store *store;
    int rc;
    mql_error error;
} finishing;

static void keep_error(finishing *finish, int rc) {
    if (rc >= 0 || finish->rc < 0 || rc == MQL_E_DELETED) return;
    finish->rc = rc;
    finish->error = *mql_error_last();
}

/* Ends a partition that somebody of this instance has used, also one that is not open here. */
static int finish_one(void *context, const char *name) {
    finishing *finish = context;
    mql_store *store = finish->store;
    const char *dash = strrchr(name, '-');
    char topic[MQL_NAME_MAX + 1];
    char *end = NULL;
    if (dash == NULL || dash == name || dash[1] < '0' || dash[1] > '9' ||
        strlen(name) > MQL_NAME_MAX)
        return 0;
    long partition = strtol(dash + 1, &end, 10);
    if (*end != 0 || partition < 0 || partition > MQL_PARTITIONS_MAX) return 0;
    snprintf(topic, sizeof topic, "%.*s", (int)(dash - name), name);
    char path[MQL_PATH_MAX];
    snprintf(path, sizeof path, "%s/control", name);
    mql_log *log = find_log(store, topic, (int)partition);
    if (log == NULL) {
        mql_os_file file;
        uint64_t instance = 0;
        if (mql_os_open(store->home.root, path, MQL_OS_READ, 0, &file) < 0) return 0;
        int64_t got =
            mql_os_read(file, &instance, sizeof instance, offsetof(mql_format_control, instance));
        mql_os_close(file);
        if (got != (int64_t)sizeof instance || instance != store->home.instance) return 0;
        mql_log_options options = {.segment_bytes = MQL_PAGE,
                                   .batch_bytes = MQL_PAGE,
                                   .max_message_bytes = MQL_PAGE,
                                   .retention_bytes = -1,
                                   .retention_age_ms = -1};
        int rc = mql_store_log(store, topic, (int)partition, false, &options, &log);
        if (rc < 0) keep_error(finish, rc);
        if (rc < 0) return 0;
    }
    int rc = mql_append_settle(log);
    if (rc == MQL_OK) rc = mql_commit_finish(log);
    if (rc == MQL_OK) rc = mql_shares_sync(log);
    keep_error(finish, rc);
    return 0;
}

/* The last one of the machine has nobody to wait for but calls of its own that are under way. */
static void finish_all(finishing *finish) {
    int hurry = mql_base_swap_hurry(0);
    mql_os_list(finish->store->home.root, finish_one, finish);
    mql_base_swap_hurry(hurry);
}

/* Leaves the store: the last one of the machine leaves exact lengths. Under the registry lock.
 * MQL_E_LATER: it has not, but if it abandons all. */
static int leave(mql_store *store, bool abandon) {
    finishing finish = {.store = store};
    int rc = abandon ? mql_store_gate(store, 0) : home_gate(store);
    if (rc == MQL_E_LATER) return rc;
    if (rc != MQL_OK) { /* the gate's descriptor is its holder's; the next opener does the rest */
        mql_os_close(store->member);
        store->member = MQL_OS_NO_FILE;
        return rc;
    }
    mql_os_close(store->member);
    store->member = MQL_OS_NO_FILE;
    rc = mql_os_lock(store->alive, MQL_LOCK_ALIVE, true);
    if (rc == 0) {
        finish_all(&finish);
        if (finish.rc == 0)
            atomic_store_explicit(&store->home.bell->instance, 0, memory_order_release);
    }
    return finish.rc;
}

/* MQL_E_LATER: it is as open as before. Another failure: it has left. */
static int end_writing(mql_store *store, bool abandon) {
    int rc = MQL_OK;
    mql_error error;
    mql_keeper_stop(&store->keeper);
    for (mql_log *log = atomic_load(&store->logs); log != NULL; log = log->next) {
        if (!abandon) mql_shares_let_go(log);
        /* Nobody else may know of the group. */
        int one = abandon ? MQL_OK : mql_shares_sync(log);
        if (one == MQL_E_LATER) return one;
        if (one < 0) rc = one, error = *mql_error_last();
    }
    atomic_store_explicit(&store->home.closing, true, memory_order_seq_cst);
    int left = leave(store, abandon);
    if (left == MQL_E_LATER)
        atomic_store_explicit(&store->home.closing, false, memory_order_seq_cst);
    if (left < 0) return left;
    if (rc < 0) *mql_base_error() = error;
    return rc;
}

int mql_store_close(mql_store *store, bool abandon) {
    int rc = registry_lock();
    if (rc < 0) return rc;
    if (store->opens == 0 || store->opens > 1 ||
        atomic_load_explicit(&store->home.gone, memory_order_relaxed) != 0) {
        if (store->opens > 0) store->opens--;
        registry_unlock();
        return MQL_OK;
    }
    bool enabled = store->keeper.enabled, running = store->keeper.running;
    store->keeper.enabled = false;
    if (!store->home.read_only) rc = end_writing(store, abandon);
    if (rc == MQL_E_LATER) {
        store->keeper.enabled = enabled; /* somebody may open it meanwhile */
        if (running) mql_keeper_start(&store->keeper);
        registry_unlock();
        return rc;
    }
    mql_error error = *mql_error_last();
    store->opens = 0;
    atomic_store_explicit(&store->home.gone, MQL_E_CLOSED, memory_order_release);
    mql_store_wake(store);
    if (!store->home.read_only) {
        /* In this order: who passes the gate must not meet the last one's exclusive lock. The
         * descriptor stays for calls in flight, which ask it who is alive; without the gate also
         * the lock, until they are over: else somebody could be the first beside them. */
        if (atomic_load_explicit(&store->gate_holder, memory_order_relaxed) == this_thread())
            mql_os_unlock(store->alive, MQL_LOCK_ALIVE);
        mql_store_ungate(store);
    }
    /* Pairs with mql_store_unpin: either the last pin is gone here, or it sees the end there. */
    atomic_store_explicit(&store->ended, true, memory_order_seq_cst);
    if (atomic_load_explicit(&store->pins, memory_order_seq_cst) == 0) give_back(store);
    registry_unlock();
    if (rc < 0) *mql_base_error() = error;
    return rc;
}

void mql_store_pin(mql_store *store) {
    atomic_fetch_add_explicit(&store->pins, 1, memory_order_seq_cst);
}

void mql_store_unpin(mql_store *store) {
    if (atomic_fetch_sub_explicit(&store->pins, 1, memory_order_seq_cst) != 1 ||
        !atomic_load_explicit(&store->ended, memory_order_seq_cst))
        return;
    registry_lock_surely();
    give_back(store);
    registry_unlock();
}

void mql_store_free(mql_store *store) {
    if (store == NULL) return;
    registry_lock_surely();
    bool last = --store->references == 0;
    for (mql_store **at = &stores; last && *at != NULL; at = &(*at)->next)
        if (*at == store) {
            *at = store->next;
            break;
        }
    registry_unlock();
    if (last) destroy(store);
}

/* -- options ----------------------------------------------------------------------------------- */
int mql_store_read_options(mql_store *store, uint8_t **data, size_t *length) {
    int rc = usable(store);
    if (rc < 0) return rc;
    mql_os_file file;
    rc = mql_os_open(store->home.root, OPTIONS_FILE, MQL_OS_READ, 0, &file);
    if (rc == -ENOENT) return MQL_END;
    if (rc < 0) return mql_base_fail_os(rc, OPTIONS_FILE, "cannot open");
    mql_os_stat stat;
    uint8_t *bytes = NULL;
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && stat.size > OPTIONS_MAX) rc = -EFBIG;
    if (rc == 0) bytes = mql_os_allocate_memory((size_t)stat.size + 1);
    if (rc == 0 && bytes == NULL) rc = -ENOMEM;
    int64_t got = rc == 0 ? mql_os_read(file, bytes, (size_t)stat.size, 0) : rc;
    mql_os_close(file);
    if (got < 0) {
        mql_os_free_memory(bytes);
        return mql_base_fail_os((int)got, OPTIONS_FILE, "cannot read");
    }
    *data = bytes;
    *length = (size_t)got;
    return MQL_OK;
}

int mql_store_write_options(mql_store *store, const uint8_t *data, size_t length) {
    int rc = usable(store);
    if (rc < 0) return rc;
    if (store->home.read_only)
        return mql_base_fail(MQL_E_READ_ONLY, store->path, "the store is open for reading only");
    if (atomic_load_explicit(&store->gate_holder, memory_order_relaxed) != this_thread())
        return mql_base_fail(MQL_E_ARGUMENT, OPTIONS_FILE, "options are written under the gate");
    static const char temporary[] = OPTIONS_FILE ".tmp";
    mql_os_file file;
    rc = mql_os_open(store->home.root, temporary, MQL_OS_WRITE | MQL_OS_CREATE | MQL_OS_TRUNCATE,
                     store->home.mode, &file);
    if (rc == 0) {
        rc = mql_os_write(file, data, length, 0);
        if (rc == 0) rc = mql_os_sync(file);
        mql_os_close(file);
    }
    if (rc == 0) rc = mql_os_rename(store->home.root, temporary, OPTIONS_FILE);
    if (rc == 0) rc = mql_os_sync_directory(store->home.root);
    if (rc < 0) return mql_base_fail_os(rc, OPTIONS_FILE, "cannot write the options");
    atomic_fetch_add_explicit(&store->home.bell->options_generation, 1, memory_order_release);
    return MQL_OK;
}

uint32_t mql_store_generation(const mql_store *store) {
    if (store->home.bell == NULL) return 0;
    return atomic_load_explicit(&store->home.bell->options_generation, memory_order_acquire);
}

int mql_store_set_limits(mql_store *store, uint64_t min_free_bytes, uint64_t max_bytes) {
    int rc = usable(store);
    if (rc < 0) return rc;
    if (store->home.read_only)
        return mql_base_fail(MQL_E_READ_ONLY, store->path, "the store is open for reading only");
    atomic_store_explicit(&store->home.bell->min_free_bytes, min_free_bytes, memory_order_relaxed);
    atomic_store_explicit(&store->home.bell->max_bytes, max_bytes, memory_order_relaxed);
    return MQL_OK;
}

/* -- the rest ---------------------------------------------------------------------------------- */
int mql_store_sync(mql_store *store) {
    int rc = usable(store);
    if (rc < 0) return rc;
    if (store->home.read_only)
        return mql_base_fail(MQL_E_READ_ONLY, store->path, "the store is open for reading only");
    for (mql_log *log = atomic_load_explicit(&store->logs, memory_order_acquire); log != NULL;
         log = log->next) {
        int one = mql_commit_all(log);
        if (one == MQL_E_LATER) return one;
        if (one < 0 && one != MQL_E_DELETED) rc = one;
    }
    return rc;
}

/* Arms the bell: whatever is published after this call moves it. */
uint32_t mql_store_bell(mql_store *store) {
    mql_format_doorbell *bell = store->home.bell;
    if (bell == NULL) return 0;
    uint32_t seen = atomic_load_explicit(&bell->bell, memory_order_acquire);
    atomic_store_explicit(&bell->waiting, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the drop before mql_log_wake */
    return seen;
}

int64_t mql_store_wall(const mql_store *store) { return mql_log_wall_ms(&store->home); }

void mql_store_set_wall(mql_store *store, int64_t now_ms) {
    atomic_store_explicit(&store->home.wall_ms, now_ms, memory_order_relaxed);
}

int mql_store_wait(mql_store *store, uint32_t seen, int64_t timeout_ns) {
    int rc = usable(store);
    if (rc < 0) return rc;
    mql_format_doorbell *bell = store->home.bell;
    if (bell == NULL)
        return mql_base_fail(MQL_E_READ_ONLY, store->path, "the store is open for reading only");
    atomic_store_explicit(&bell->waiting, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the drop before mql_log_wake */
    if (atomic_load_explicit(&bell->bell, memory_order_acquire) == seen)
        mql_os_wait(&bell->bell, seen, mql_base_min(timeout_ns, MQL_SLICE_NS));
    rc = usable(store);
    if (rc < 0) return rc;
    return atomic_load_explicit(&bell->bell, memory_order_acquire) != seen ? MQL_OK : MQL_TIMEOUT;
}

void mql_store_wake(mql_store *store) {
    if (store->home.bell == NULL) return;
    for (mql_log *log = atomic_load_explicit(&store->logs, memory_order_acquire); log != NULL;
         log = log->next)
        mql_log_wake_everybody(log);
    atomic_fetch_add_explicit(&store->home.bell->bell, 1, memory_order_release);
    mql_os_wake(&store->home.bell->bell, INT32_MAX);
}

int mql_store_recovered_at(mql_store *store, size_t index, mql_recovered *out) {
    mql_os_mutex_take(&store->lock, -1);
    int rc = index < store->recovered_count ? MQL_OK : MQL_END;
    if (rc == MQL_OK) *out = store->recovered[index];
    mql_os_mutex_drop(&store->lock);
    return rc;
}

int mql_store_prepare(mql_store *store) { return mql_keeper_prepare_round(&store->keeper); }

int mql_store_sync_round(mql_store *store) {
    int64_t wait_ns;
    return mql_keeper_sync_round(&store->keeper, mql_os_monotonic_ns(), true, &wait_ns);
}
