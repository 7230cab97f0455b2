/* mql_live_open.c - the two files of a share group are opened, and made ready by the first of the
 * machine: nothing in the live file is believed then, and what the state file says is derived anew.
 */
#include "mql_live.h"

#include <stdio.h>

/* How many pages there is a use for: those behind the last that has a name, and are more than all
 * the records of the log may need, have none. */
static uint32_t pages_of_use(const mql_live *live, uint32_t pages, int64_t start) {
    mql_control_end end;
    mql_log_end(live->log, &end);
    uint32_t named = pages;
    while (named > 1 && atomic_load_explicit(mql_slots_name(&live->slots, named - 1),
                                             memory_order_relaxed) == 0)
        named--;
    return (uint32_t)mql_base_min(pages, named + mql_slots_needed(start, end.offset));
}

static int reset_live(mql_live *live, uint32_t pages, int64_t start) {
    mql_os_file root = live->log->home->root;
    int rc = mql_arrays_reset(&live->arrays);
    if (rc == MQL_OK) rc = mql_slots_map(&live->slots, root, pages);
    if (rc == MQL_OK) pages = pages_of_use(live, pages, start);
    if (rc == MQL_OK) rc = mql_arrays_grow(&live->arrays, MQL_LIVE_PAGES, pages);
    if (rc == MQL_OK) rc = mql_arrays_grow(&live->arrays, MQL_LIVE_HASH, 2 * pages);
    /* A power cut may have kept a name and taken the length of the file. */
    if (rc == MQL_OK) rc = mql_slots_cut(&live->slots, root, pages);
    if (rc == MQL_OK) rc = mql_slots_fill_holes(&live->slots, root, pages);
    if (rc == MQL_OK) mql_slots_forget(&live->slots, pages);
    if (rc == MQL_OK) atomic_store_explicit(&live->map->pages, pages, memory_order_release);
    return rc;
}

/* A new group. Both windows are written, so that damage to the one is not the end of it. */
static int begin_group(mql_live *live, int64_t start, mql_format_share_window *window) {
    mql_control_end end;
    mql_log_end(live->log, &end);
    if (start < mql_log_start(live->log) || start > end.offset)
        return mql_base_fail_range(start, mql_log_start(live->log), end.offset);
    window->start = start;
    for (int i = 0; i < 2; i++) mql_slots_set_window(&live->slots, window);
    return MQL_OK;
}

/* What only the page of memory knows, if it is this boot's: which `boots` is on the disk, whether a
 * sync has failed, or is owed. The file is read from memory too: what it says may not be there. */
typedef struct remembered {
    uint32_t tokens_ready;
    uint32_t unsure;
    bool unsynced;
} remembered;

static remembered remember(const mql_live *live) {
    const mql_format_live *map = live->map;
    if (memcmp(map->magic, MQL_LIVE_MAGIC, sizeof map->magic) != 0 || map->instance == 0)
        return (remembered){.unsure = 1, .unsynced = true}; /* its maker came to no end */
    return (remembered){mql_live_tokens(live), map->unsure,
                        map->busy != 0 || mql_live_is_unsynced(live)};
}

static int make_ready(mql_live *live, bool create, int64_t start, uint32_t pages) {
    remembered before = remember(live);
    mql_format_share_window window;
    int rc = mql_slots_window(&live->slots, &window);
    if (rc < 0) return rc;
    if (window.sequence == 0 && !create)
        return mql_base_fail(MQL_E_NOT_FOUND, live->slots.path, "there is no such share group");
    if (window.sequence == 0) rc = begin_group(live, start, &window);
    if (rc == MQL_OK) rc = reset_live(live, pages, window.start);
    if (rc == MQL_OK) rc = mql_live_rebuild(live, true);
    if (rc < 0) return rc;
    uint8_t boot[sizeof window.boot];
    mql_slots_memory(&live->slots, live->log->home->identity.boot, boot);
    bool same = memcmp(window.boot, boot, sizeof boot) == 0;
    if (same && before.tokens_ready == (uint32_t)window.boots)
        atomic_store_explicit(&live->map->tokens_ready, before.tokens_ready, memory_order_release);
    live->map->unsure = before.unsure;
    uint64_t owed = !same || before.unsynced; /* by whoever lives, if this one dies in turn */
    atomic_store_explicit(&live->map->owed, owed, memory_order_release);
    atomic_store_explicit(&live->map->changes, owed, memory_order_release);
    atomic_store_explicit(&live->map->instance, live->log->home->instance, memory_order_release);
    return MQL_OK;
}

void mql_live_call(mql_live *live, const char *group) {
    const char *directory = live->log->directory;
    snprintf(live->slots.path, sizeof live->slots.path, "%s/shares/%s.state", directory, group);
    snprintf(live->arrays.path, sizeof live->arrays.path, "%s/shares/%s.live", directory, group);
}

int mql_live_open(mql_live *live, const char *group, bool create, int64_t start) {
    mql_log *log = live->log;
    live->last_number = -1;
    mql_live_call(live, group);
    uint32_t pages;
    int rc = mql_slots_open(&live->slots, log->home->root, log->home->mode, create, &pages);
    if (rc == MQL_OK) rc = mql_arrays_open(&live->arrays, log->home->root, log->home->mode);
    if (rc < 0) return rc;
    live->map = live->arrays.map;
    bool ready =
        memcmp(live->map->magic, MQL_LIVE_MAGIC, sizeof live->map->magic) == 0 &&
        atomic_load_explicit(&live->map->instance, memory_order_acquire) == log->home->instance;
    return ready ? mql_live_map(live) : make_ready(live, create, start, pages);
}

void mql_live_close(mql_live *live) {
    mql_arrays_close(&live->arrays);
    mql_slots_close(&live->slots);
    live->map = NULL;
}
