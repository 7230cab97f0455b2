/* mql_reserve.c - space for what a share group will write.
 *
 * Why a full disk does not stop consumers. Before a record is put there are pages for its slot and
 * for those of all records that are not acquired yet, so acquiring, accepting and releasing never
 * need a block; where there is space they take some rather than wait for a sync. A finished chunk's
 * page serves again, in three steps that a power cut may end anywhere: what marks the chunk as
 * finished is on stable storage; the page is zeros there; its name is taken away. So a page that
 * says "nothing was touched" says so of a chunk that is not finished, or of none. Who recycles has
 * only noted the pages that it wipes: they stay retired until they are clean, so a death, a failure
 * or a rebuilding in between leaves nothing to repair.
 *
 * Why "synced" is true. A sync that fails leaves its pages clean with the old bytes on the disk,
 * and the next one would succeed. So after a failure, and after the death of one who may have been
 * told of it, every page is made dirty again before the next sync.
 *
 * Lock order: sync < grow < share. Nothing here is called with the share lock held.
 */
#include "mql_reserve.h"

#include <errno.h>

#include "mql_room.h"

#define CLEAN_KEPT 64 /* pages that are not given back */
#define LEAD_MOST (CLEAN_KEPT / 2)
#define MORE 32          /* pages that are added rather than waited for, */
#define RETIRED_MOST 128 /* while no more wait to be recycled: all in all less than 1 MiB */

/* Who died with it may have added something and not told. */
static int take_grow(mql_live *live) {
    uint32_t died = 0;
    int rc = mql_log_lock(live->log, &live->map->grow, &died);
    if (rc == MQL_OK && died != 0)
        atomic_fetch_add_explicit(&live->map->growth, 1, memory_order_acq_rel);
    return rc;
}

static int take_sync(mql_live *live) {
    return mql_log_lock(live->log, &live->map->sync, &live->map->unsure);
}

static int enter(mql_live *live) {
    int rc;
    do {
        rc = mql_base_later(mql_live_enter(live, mql_base_slice(MQL_SLICE_NS)));
    } while (rc == MQL_TIMEOUT);
    return rc;
}

/* -- pages ahead ------------------------------------------------------------------------------- */
/* Up to where `pages` are enough, in whole chunks. */
static int64_t covered_by(int64_t end, int64_t pages) {
    if (pages <= 0) return end;
    int64_t chunks = pages < 3 ? 1 : pages - 1 - pages / MQL_SHARE_DONE_CHUNKS - 1;
    chunks = end / MQL_SHARE_SLOTS + mql_base_max(chunks, 1);
    return mql_base_min(chunks, INT64_MAX / MQL_SHARE_SLOTS) * MQL_SHARE_SLOTS; /* if damaged */
}

/* Blocks, and room in the arrays, for pages [from, to). */
static int lengthen(mql_live *live, uint32_t from, uint32_t to) {
    int rc = mql_arrays_grow(&live->arrays, MQL_LIVE_PAGES, to);
    if (rc == MQL_OK) rc = mql_arrays_grow(&live->arrays, MQL_LIVE_HASH, 2 * to);
    if (rc == MQL_OK) rc = mql_slots_allocate(&live->slots, live->log->home->root, from, to);
    if (rc == MQL_OK) rc = mql_slots_map(&live->slots, live->log->home->root, to);
    return rc;
}

/* `generously`: the more the more there are. */
static int add_pages(mql_live *live, int64_t least, bool generously) {
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    int64_t most = (int64_t)MQL_SLOTS_REGIONS_MAX * MQL_SHARE_REGION_PAGES - pages;
    if (least > most)
        return mql_base_fail_os(-ENOSPC, live->slots.path, "too many unfinished records");
    int64_t more = generously ? mql_base_min(mql_base_max(least, pages / 4), most) : least;
    int rc = lengthen(live, pages, pages + (uint32_t)more);
    if (rc == MQL_E_OS && more > least) {
        more = least;
        rc = lengthen(live, pages, pages + (uint32_t)more);
    }
    if (rc == MQL_OK) rc = enter(live);
    if (rc < 0) return rc;
    mql_live_begin(live);
    for (int64_t i = more; i-- > 0;) mql_live_add_clean(live, pages + (uint32_t)i);
    atomic_store_explicit(&live->map->pages, pages + (uint32_t)more, memory_order_release);
    atomic_fetch_add_explicit(&live->map->growth, 1, memory_order_acq_rel);
    mql_live_end(live);
    mql_live_leave(live);
    return mql_live_map(live);
}

/* Of the chunks of records [end, offset), those that are finished. Under the share lock. */
static int64_t done_between(mql_live *live, int64_t end, int64_t offset) {
    return mql_live_count_done(live, end / MQL_SHARE_SLOTS, offset / MQL_SHARE_SLOTS);
}

/* What there is for the records [*end, offset): finished chunks need no page. */
static int look(mql_live *live, int64_t offset, int64_t *end, int64_t *have) {
    int rc = enter(live);
    if (rc < 0) return rc;
    *end = atomic_load_explicit(&live->map->end, memory_order_relaxed);
    *have = (int64_t)mql_live_clean(live) + mql_live_retired(live);
    *have += done_between(live, *end, offset);
    mql_live_leave(live);
    return MQL_OK;
}

/* `lead`: pages beyond those that are needed, where there is space for them. */
static int provide(mql_live *live, int64_t offset, int64_t lead, int64_t *until) {
    int64_t end, have, spare = 0;
    int rc = take_grow(live);
    if (rc < 0) return rc;
    rc = look(live, offset, &end, &have);
    int64_t need = rc == MQL_OK ? mql_slots_needed(end, offset) : 0, more = need + lead - have;
    if (rc == MQL_OK && have < need) {
        rc = add_pages(live, need - have, true);
    } else if (rc == MQL_OK && more > 0 && mql_room_spare(live->log, &spare) == MQL_OK &&
               spare > more * MQL_PAGE) {
        rc = add_pages(live, more, false);
        if (rc == MQL_E_OS) rc = MQL_OK;
    }
    if (rc == MQL_OK) rc = look(live, offset, &end, &have);
    mql_os_mutex_drop(&live->map->grow);
    if (rc == MQL_OK) *until = mql_base_max(offset, covered_by(end, have));
    return rc;
}

int mql_reserve_until(mql_live *live, int64_t offset, int64_t *until) {
    return provide(live, offset, 0, until);
}

int mql_reserve_ahead(mql_live *live, int64_t offset, int64_t *until) {
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    return provide(live, offset, mql_base_min(pages / 4, LEAD_MOST), until);
}

static int have_clean(mql_live *live, int64_t count, bool generously) {
    int rc = take_grow(live);
    if (rc < 0) return rc;
    rc = enter(live);
    if (rc == MQL_OK) {
        int64_t have = mql_live_clean(live);
        mql_live_leave(live);
        if (have < count) rc = add_pages(live, count - have, generously);
    }
    mql_os_mutex_drop(&live->map->grow);
    return rc;
}

int mql_reserve_pages(mql_live *live, int64_t count) { return have_clean(live, count, true); }

int mql_reserve_timers(mql_live *live, int which, uint32_t more) {
    int rc = take_grow(live);
    if (rc < 0) return rc;
    rc = enter(live);
    if (rc == MQL_OK) {
        more += mql_arrays_count(&live->arrays, which);
        mql_live_leave(live);
        rc = mql_arrays_grow(&live->arrays, which, more);
    }
    mql_os_mutex_drop(&live->map->grow);
    return rc;
}

/* The clean pages that are given out next; how many. Under the share lock. */
static uint32_t note_next(mql_live *live, uint32_t pages[MQL_RESERVE_POPULATED]) {
    uint32_t count = 0;
    for (uint32_t next = live->map->clean_list; next != 0 && count < MQL_RESERVE_POPULATED;) {
        const mql_format_live_page *facts =
            mql_arrays_at(&live->arrays, MQL_LIVE_PAGES, next - 1);
        pages[count++] = next - 1;
        next = facts->next;
    }
    return count;
}

void mql_reserve_populate(mql_live *live) {
    uint32_t pages[MQL_RESERVE_POPULATED], count = 0, died = 0;
    if (mql_log_take(live->log, &live->map->grow, 0, &died) != MQL_OK) return;
    if (died != 0) atomic_fetch_add_explicit(&live->map->growth, 1, memory_order_acq_rel);
    if (mql_live_enter(live, 0) == MQL_OK) {
        count = note_next(live, pages);
        atomic_store_explicit(&live->taken, 0, memory_order_relaxed);
        mql_live_leave(live);
        mql_slots_touch_header(&live->slots);
    }
    /* None is given back meanwhile; one that is taken is only touched once more. */
    for (uint32_t i = 0; i < count; i++) mql_slots_touch_page(&live->slots, pages[i]);
    mql_os_mutex_drop(&live->map->grow);
}

/* -- stable storage ---------------------------------------------------------------------------- */
/* Makes every page dirty again; none goes away meanwhile. */
static int touch(mql_live *live) {
    int rc = take_grow(live);
    if (rc < 0) return rc;
    rc = mql_live_map(live);
    if (rc == MQL_OK) {
        uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
        mql_slots_touch_header(&live->slots);
        for (uint32_t page = 0; page < pages; page++) mql_slots_touch_page(&live->slots, page);
    }
    mql_os_mutex_drop(&live->map->grow);
    return rc;
}

/* Under the sync lock: everything done before is on stable storage. */
static int sync_state(mql_live *live, bool names) {
    uint64_t changes = atomic_load_explicit(&live->map->changes, memory_order_acquire);
    int rc = MQL_OK;
    if (MQL_UNLIKELY(live->map->unsure != 0)) rc = touch(live);
    live->map->unsure = 1; /* also for who opens the group when all have died in here */
    if (rc == MQL_OK) rc = mql_slots_sync(&live->slots, live->log->home->root, names);
    live->map->unsure = rc < 0;
    if (rc == MQL_OK && atomic_load_explicit(&live->map->synced, memory_order_relaxed) < changes)
        atomic_store_explicit(&live->map->synced, changes, memory_order_release);
    return rc;
}

static int not_durable(mql_live *live) {
    int code = mql_base_error()->os_errno;
    int rc = mql_base_fail(MQL_E_DURABILITY, live->slots.path,
                           "done, and seen by every process, but not known to be on disk");
    mql_base_error()->os_errno = code;
    return rc;
}

int mql_reserve_sync(mql_live *live, uint64_t changes) {
    if (atomic_load_explicit(&live->map->synced, memory_order_acquire) >= changes) return MQL_OK;
    int rc = take_sync(live);
    if (rc < 0) return rc;
    if (atomic_load_explicit(&live->map->synced, memory_order_relaxed) < changes)
        rc = sync_state(live, false);
    mql_os_mutex_drop(&live->map->sync);
    return rc == MQL_E_OS ? not_durable(live) : rc;
}

/* The window says that this boot acquires. */
static int note_boot(mql_live *live, mql_format_share_window *window) {
    uint8_t boot[sizeof window->boot];
    mql_slots_memory(&live->slots, live->log->home->identity.boot, boot);
    int rc = mql_slots_window(&live->slots, window);
    bool same = rc == MQL_OK && memcmp(window->boot, boot, sizeof window->boot) == 0;
    if (rc < 0 || (same && (uint32_t)window->boots != 0)) return rc;
    mql_live_begin(live);
    memcpy(window->boot, boot, sizeof window->boot);
    window->boots++;
    if ((uint32_t)window->boots == 0) window->boots++; /* of which a token has half: 0 is none */
    mql_slots_set_window(&live->slots, window);
    mql_live_end(live);
    return MQL_OK;
}

int mql_reserve_tokens(mql_live *live) {
    int rc = take_sync(live);
    if (rc < 0) return rc;
    mql_format_share_window window = {0};
    rc = enter(live);
    bool wanted = rc == MQL_OK && mql_live_tokens(live) == 0;
    if (wanted) rc = note_boot(live, &window);
    if (rc == MQL_OK || wanted) mql_live_leave(live);
    if (rc == MQL_OK && wanted) rc = sync_state(live, true);
    if (rc == MQL_OK && wanted)
        atomic_store_explicit(&live->map->tokens_ready, (uint32_t)window.boots,
                              memory_order_release);
    mql_os_mutex_drop(&live->map->sync);
    return rc;
}

/* -- pages again ------------------------------------------------------------------------------- */
/* The retired pages, noted, in memory owned by the caller; *count: how many. */
static int note_retired(mql_live *live, uint32_t **noted, uint32_t *count) {
    uint32_t room = mql_live_retired(live) + 64; /* a hint: read without the lock */
    *noted = mql_os_allocate_memory(room * sizeof **noted);
    if (*noted == NULL) return mql_base_fail(MQL_E_MEMORY, live->slots.path, "no memory for pages");
    int rc = enter(live);
    if (rc < 0) return rc;
    *count = mql_live_note_retired(live, *noted, room);
    mql_live_leave(live);
    return MQL_OK;
}

/* Zeros, on stable storage, in pages of which it was there that they are finished. */
static int wipe(mql_live *live, const uint32_t *noted, uint32_t count) {
    int rc = sync_state(live, false);
    for (uint32_t i = 0; rc == MQL_OK && i < count; i++)
        memset(mql_slots_page(&live->slots, noted[i]), 0, MQL_PAGE);
    return rc == MQL_OK ? sync_state(live, false) : rc;
}

static int recycle_locked(mql_live *live) {
    uint32_t *noted = NULL, count = 0;
    int rc = note_retired(live, &noted, &count);
    if (rc == MQL_OK && count > 0) rc = wipe(live, noted, count);
    mql_os_free_memory(noted);
    if (rc < 0 || count == 0) return rc < 0 ? rc : MQL_END;
    rc = enter(live);
    if (rc < 0) return rc;
    mql_live_begin(live);
    mql_live_clean_noted(live);
    mql_live_fold_rest(live);
    mql_live_end(live);
    mql_live_leave(live);
    return MQL_OK;
}

int mql_reserve_recycle(mql_live *live) {
    int rc = take_sync(live);
    if (rc < 0) return rc;
    rc = recycle_locked(live);
    mql_os_mutex_drop(&live->map->sync);
    return rc;
}

int mql_reserve_some(mql_live *live, int64_t count) {
    int64_t spare = 0;
    if (mql_live_retired(live) >= RETIRED_MOST || mql_room_spare(live->log, &spare) < 0 ||
        spare <= count * MQL_PAGE)
        return MQL_END;
    int rc = have_clean(live, count, false);
    return rc == MQL_E_OS ? MQL_END : rc;
}

int mql_reserve_page(mql_live *live, int64_t offset) {
    int rc = mql_reserve_some(live, MORE); /* rather than that a consumer waits for a sync */
    if (rc == MQL_END) rc = mql_reserve_recycle(live);
    if (rc != MQL_END) return rc;
    int64_t until;
    return mql_reserve_until(live, offset + 1, &until);
}

/* -- blocks given back ------------------------------------------------------------------------- */
/* The list of clean pages below `pages`, the lowest first. */
static void relist_clean(mql_live *live, uint32_t pages) {
    live->map->clean_list = 0;
    atomic_store_explicit(&live->map->clean, 0, memory_order_relaxed);
    for (uint32_t page = pages; page-- > 0;)
        if (mql_live_is_clean(live, page)) mql_live_add_clean(live, page);
}

/* How many pages have to stay, if records below `ready` are to have slots. */
static uint32_t least_pages(mql_live *live, uint32_t pages, int64_t ready) {
    int64_t end = atomic_load_explicit(&live->map->end, memory_order_relaxed);
    int64_t need = mql_slots_needed(end, ready) - done_between(live, end, ready);
    int64_t spare = (int64_t)mql_live_clean(live) - mql_base_max(need, 0);
    while (pages > 1 && spare > CLEAN_KEPT && mql_live_is_clean(live, pages - 1)) pages--, spare--;
    return pages;
}

/* How many pages are to stay: those that records have, or were promised. A promise that is being
 * made meanwhile is taken back. */
static uint32_t to_keep(mql_live *live, uint32_t pages) {
    mql_format_control *control = live->log->control;
    mql_control_end end;
    int rc = mql_os_mutex_try(&control->prepare); /* never waited for: consumers wait behind us */
    if (rc == MQL_OS_OWNER_DIED) mql_os_mutex_consistent(&control->prepare);
    if (rc < 0 || rc == MQL_OS_BUSY) return pages;
    int64_t ready = atomic_load_explicit(&control->slots_ready, memory_order_relaxed);
    mql_log_end(live->log, &end);
    ready = mql_base_max(ready == INT64_MAX ? 0 : ready, end.offset);
    uint32_t keep = least_pages(live, pages, ready);
    if (keep < pages)
        atomic_fetch_add_explicit(&control->shares_generation, 1, memory_order_release);
    mql_os_mutex_drop(&control->prepare);
    return keep;
}

int mql_reserve_give_back(mql_live *live) {
    if (mql_live_clean(live) <= CLEAN_KEPT) return MQL_OK; /* a hint: read without the lock */
    int rc = take_grow(live);
    if (rc < 0) return rc;
    rc = enter(live);
    uint32_t pages = 0, keep = 0;
    if (rc == MQL_OK) {
        pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
        keep = to_keep(live, pages);
        if (keep < pages) {
            mql_live_begin(live);
            relist_clean(live, keep);
            atomic_store_explicit(&live->map->pages, keep, memory_order_release);
            mql_live_end(live);
        }
        mql_live_leave(live);
    }
    if (keep < pages) rc = mql_slots_cut(&live->slots, live->log->home->root, keep);
    mql_os_mutex_drop(&live->map->grow);
    return rc;
}
