/* mql_arrays.c - growable arrays in the live file of a share group, and heaps in two of them.
 *
 * An array is parts, each as long as all before it together, so nothing ever moves and an index
 * finds its part by its highest bit. Parts are added under the grow lock and used
 * under the share lock, by processes that have mapped them: `usable` says how far that is here.
 *
 * A heap has no room for everything when the disk is full: what it had to leave out is remembered
 * as its horizon, the earliest of their times. All of it is derived and can be made anew.
 */
#include "mql_arrays.h"

#include <errno.h>

static const uint32_t FIRST[MQL_LIVE_ARRAYS] = {16, 16, 32, 64};
static const uint32_t ENTRY[MQL_LIVE_ARRAYS] = {sizeof(mql_format_timer), sizeof(mql_format_timer),
                                                sizeof(mql_format_live_page), sizeof(uint32_t)};

/* -- arrays ------------------------------------------------------------------------------------ */
void *mql_arrays_at(const mql_arrays *arrays, int array, uint32_t index) {
    uint32_t first = FIRST[array], part = 0, start = 0;
    if (index >= first) {
        part = 32 - (uint32_t)__builtin_clz(index / first);
        start = first << (part - 1);
    }
    uint8_t *base = atomic_load_explicit(&arrays->parts[array][part], memory_order_relaxed);
    return base + (size_t)(index - start) * ENTRY[array];
}

mql_format_timer *mql_arrays_timer(mql_arrays *arrays, int which, uint32_t index) {
    return mql_arrays_at(arrays, which, index);
}
/* Another thread may be at mapping more just now, which the share lock does not keep it from: who
 * sees the number sees its mapping, too. */
uint32_t mql_arrays_capacity(const mql_arrays *arrays, int array) {
    return atomic_load_explicit(&arrays->usable[array], memory_order_acquire);
}

/* The file that is mapped, not one that has got its name since. */
static int open_file(const mql_arrays *arrays, mql_os_file *file) {
    mql_os_stat stat;
    int rc = mql_os_open(arrays->root, arrays->path, MQL_OS_WRITE, 0, file);
    if (rc == 0) {
        rc = mql_os_stat_file(*file, &stat);
        if (rc == 0 && stat.inode != arrays->inode) rc = -ENOENT;
        if (rc < 0) mql_os_close(*file);
    }
    if (rc < 0) *file = MQL_OS_NO_FILE;
    if (rc == -ENOENT)
        return mql_base_fail(MQL_E_NOT_FOUND, arrays->path, "the share group was deleted");
    return rc < 0 ? mql_base_fail_os(rc, arrays->path, "cannot open the share group") : MQL_OK;
}

static int map_part(mql_arrays *arrays, int array, uint32_t part, mql_os_file *file) {
    if (atomic_load_explicit(&arrays->parts[array][part], memory_order_acquire) != NULL)
        return MQL_OK;
    int rc = *file == MQL_OS_NO_FILE ? open_file(arrays, file) : MQL_OK;
    if (rc < 0) return rc;
    int64_t at = atomic_load_explicit(&arrays->map->places[array][part], memory_order_relaxed);
    size_t length = (size_t)(FIRST[array] << (part - 1)) * ENTRY[array];
    void *map = NULL, *none = NULL;
    rc = mql_os_map_at(*file, at, length, &map);
    if (rc < 0) return mql_base_fail_os(rc, arrays->path, "cannot map the share group");
    if (!atomic_compare_exchange_strong(&arrays->parts[array][part], &none, map))
        mql_os_unmap(map, length); /* another thread was faster */
    return MQL_OK;
}

int mql_arrays_map(mql_arrays *arrays) {
    mql_os_file file = MQL_OS_NO_FILE;
    int rc = MQL_OK;
    for (int array = 0; rc == MQL_OK && array < MQL_LIVE_ARRAYS; array++) {
        uint32_t entries =
            atomic_load_explicit(&arrays->map->capacity[array], memory_order_acquire);
        uint32_t mapped = FIRST[array];
        for (uint32_t part = 1; rc == MQL_OK && mapped < entries; part++, mapped *= 2)
            rc = map_part(arrays, array, part, &file);
        if (rc == MQL_OK)
            atomic_store_explicit(&arrays->usable[array], mapped, memory_order_release);
    }
    mql_os_close(file);
    return rc;
}

/* The next part of an array, as long as all before it: blocks first, then its place, then its
 * use. */
static int add_part(mql_arrays *arrays, int array, mql_os_file file) {
    mql_format_live *map = arrays->map;
    uint32_t now = atomic_load_explicit(&map->capacity[array], memory_order_relaxed), part = 1;
    while (FIRST[array] << (part - 1) != now) part++;
    if (part >= MQL_LIVE_PARTS)
        return mql_base_fail_os(-ENOSPC, arrays->path, "a share group cannot grow any further");
    int64_t at = atomic_load_explicit(&map->bytes, memory_order_relaxed);
    int64_t length = mql_base_round_up((int64_t)now * ENTRY[array], MQL_PAGE);
    int rc = mql_os_allocate(file, at, length);
    if (rc < 0) return mql_base_fail_os(rc, arrays->path, "no space for a share group");
    atomic_store_explicit(&map->bytes, at + length, memory_order_relaxed);
    atomic_store_explicit(&map->places[array][part], at, memory_order_relaxed);
    atomic_store_explicit(&map->capacity[array], 2 * now, memory_order_release);
    atomic_fetch_add_explicit(&map->growth, 1, memory_order_acq_rel);
    return MQL_OK;
}

int mql_arrays_grow(mql_arrays *arrays, int array, uint32_t entries) {
    mql_os_file file = MQL_OS_NO_FILE;
    int rc = MQL_OK;
    while (rc == MQL_OK &&
           atomic_load_explicit(&arrays->map->capacity[array], memory_order_relaxed) < entries) {
        if (file == MQL_OS_NO_FILE) rc = open_file(arrays, &file);
        if (rc == MQL_OK) rc = add_part(arrays, array, file);
    }
    mql_os_close(file);
    return rc == MQL_OK ? mql_arrays_map(arrays) : rc;
}

/* -- the heaps --------------------------------------------------------------------------------- */
static bool before(const mql_format_timer *a, const mql_format_timer *b) {
    return a->time < b->time || (a->time == b->time && a->offset < b->offset);
}

static void set_count(mql_arrays *arrays, int which, uint32_t count) {
    atomic_store_explicit(&arrays->map->timers[which], count, memory_order_relaxed);
}

static void show_top(mql_arrays *arrays, int which) {
    int64_t next =
        mql_arrays_count(arrays, which) > 0 ? mql_arrays_timer(arrays, which, 0)->time : INT64_MAX;
    atomic_store_explicit(&arrays->map->next[which], next, memory_order_relaxed);
}

static void sift_up(mql_arrays *arrays, int which, uint32_t at, mql_format_timer timer) {
    while (at > 0) {
        uint32_t parent = (at - 1) / 2;
        mql_format_timer *above = mql_arrays_timer(arrays, which, parent);
        if (!before(&timer, above)) break;
        *mql_arrays_timer(arrays, which, at) = *above;
        at = parent;
    }
    *mql_arrays_timer(arrays, which, at) = timer;
}

static void sift_down(mql_arrays *arrays, int which, uint32_t at, mql_format_timer timer) {
    uint32_t count = mql_arrays_count(arrays, which);
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count) break;
        mql_format_timer *least = mql_arrays_timer(arrays, which, child);
        if (child + 1 < count && before(mql_arrays_timer(arrays, which, child + 1), least))
            least = mql_arrays_timer(arrays, which, ++child);
        if (!before(least, &timer)) break;
        *mql_arrays_timer(arrays, which, at) = *least;
        at = child;
    }
    *mql_arrays_timer(arrays, which, at) = timer;
}

void mql_arrays_push(mql_arrays *arrays, int which, int64_t time, int64_t offset) {
    mql_format_live *map = arrays->map;
    uint32_t count = mql_arrays_count(arrays, which);
    if (MQL_UNLIKELY(count >= mql_arrays_capacity(arrays, which))) {
        int64_t horizon = atomic_load_explicit(&map->horizon[which], memory_order_relaxed);
        if (time < horizon) atomic_store_explicit(&map->horizon[which], time, memory_order_relaxed);
        return;
    }
    set_count(arrays, which, count + 1);
    sift_up(arrays, which, count, (mql_format_timer){.time = time, .offset = offset});
    show_top(arrays, which);
}

bool mql_arrays_top(mql_arrays *arrays, int which, mql_format_timer *out) {
    if (mql_arrays_count(arrays, which) == 0) return false;
    *out = *mql_arrays_timer(arrays, which, 0);
    return true;
}

void mql_arrays_pop(mql_arrays *arrays, int which) {
    uint32_t last = mql_arrays_count(arrays, which) - 1;
    set_count(arrays, which, last);
    if (last > 0) sift_down(arrays, which, 0, *mql_arrays_timer(arrays, which, last));
    show_top(arrays, which);
}

void mql_arrays_unpush(mql_arrays *arrays, int which, int64_t offset) {
    uint32_t count = mql_arrays_count(arrays, which);
    if (count == 0 || mql_arrays_timer(arrays, which, count - 1)->offset != offset) return;
    set_count(arrays, which, count - 1);
    show_top(arrays, which);
}

void mql_arrays_filter(mql_arrays *arrays, int which, mql_arrays_valid *valid, void *context) {
    uint32_t count = mql_arrays_count(arrays, which), kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        mql_format_timer timer = *mql_arrays_timer(arrays, which, i);
        if (valid(context, &timer)) *mql_arrays_timer(arrays, which, kept++) = timer;
    }
    set_count(arrays, which, kept);
    for (uint32_t i = kept / 2; i-- > 0;)
        sift_down(arrays, which, i, *mql_arrays_timer(arrays, which, i));
    show_top(arrays, which);
}

/* -- opening ----------------------------------------------------------------------------------- */
int mql_arrays_open(mql_arrays *arrays, mql_os_file root, uint32_t mode) {
    mql_os_file file;
    mql_os_stat stat;
    void *map = NULL;
    arrays->root = root;
    int rc = mql_os_open(root, arrays->path, MQL_OS_WRITE | MQL_OS_CREATE, mode, &file);
    if (rc < 0) return mql_base_fail_os(rc, arrays->path, "cannot open the share group");
    rc = mql_os_stat_file(file, &stat);
    if (rc == 0 && mql_os_lacks_blocks(&stat, MQL_LIVE_BYTES))
        rc = mql_os_allocate(file, 0, MQL_LIVE_BYTES);
    if (rc == 0) rc = mql_os_map(file, MQL_LIVE_BYTES, true, &map);
    mql_os_close(file);
    if (rc < 0) return mql_base_fail_os(rc, arrays->path, "cannot map the share group");
    arrays->inode = stat.inode;
    arrays->map = map;
    void *first[MQL_LIVE_ARRAYS] = {arrays->map->first_due, arrays->map->first_deadlines,
                                    arrays->map->first_pages, arrays->map->first_hash};
    for (int array = 0; array < MQL_LIVE_ARRAYS; array++)
        atomic_store_explicit(&arrays->parts[array][0], first[array], memory_order_relaxed);
    return MQL_OK;
}

int mql_arrays_reset(mql_arrays *arrays) {
    mql_format_live *map = arrays->map;
    atomic_store_explicit(&map->instance, 0, memory_order_release);
    memset(map, 0, sizeof *map);
    memcpy(map->magic, MQL_LIVE_MAGIC, sizeof map->magic);
    map->layout = MQL_LAYOUT;
    map->oldest_writer = MQL_OLDEST_WRITER;
    int rc = mql_os_mutex_init_shared(&map->share);
    if (rc == 0) rc = mql_os_mutex_init_shared(&map->sync);
    if (rc == 0) rc = mql_os_mutex_init_shared(&map->grow);
    if (rc < 0) return mql_base_fail_os(rc, arrays->path, "cannot make a shared lock");
    for (int i = 0; i < MQL_LIVE_ARRAYS; i++)
        atomic_store_explicit(&map->capacity[i], FIRST[i], memory_order_relaxed);
    atomic_store_explicit(&map->bytes, MQL_LIVE_BYTES, memory_order_relaxed);
    return mql_arrays_map(arrays);
}

void mql_arrays_close(mql_arrays *arrays) {
    for (int array = 0; array < MQL_LIVE_ARRAYS; array++) {
        for (uint32_t part = 1; part < MQL_LIVE_PARTS; part++) {
            void *map =
                atomic_exchange_explicit(&arrays->parts[array][part], NULL, memory_order_relaxed);
            if (map != NULL) mql_os_unmap(map, (size_t)(FIRST[array] << (part - 1)) * ENTRY[array]);
        }
    }
    if (arrays->map != NULL) mql_os_unmap(arrays->map, MQL_LIVE_BYTES);
    arrays->map = NULL;
}
