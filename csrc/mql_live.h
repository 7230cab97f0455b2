/* mql_live.h - the volatile half of a share group: its lock, and what is derived from its slots. */
#ifndef MQL_LIVE_H
#define MQL_LIVE_H

#include "mql_arrays.h"
#include "mql_log.h"
#include "mql_slots.h"

typedef struct mql_live {
    mql_log *log; /* borrows */
    mql_slots slots;
    mql_arrays arrays;
    mql_format_live *map;  /* that of `arrays` */
    _Atomic uint32_t seen; /* the growth of which everything is mapped here */
    _Atomic uint32_t taken; /* pages named here since the next ones were made writable */
    /* the chunk looked up last; under the share lock */
    uint64_t last_word;
    int64_t last_number;
    uint32_t last_page;
} mql_live;

/* A slot in its chunk. */
typedef struct mql_live_place {
    mql_format_slot *slot;
    int64_t offset;
    uint32_t page;
} mql_live_place;

/* Says which files those of group `name` are. */
void mql_live_call(mql_live *live, const char *name);
/* Opens both files of group `name`; `create`: makes a group that begins at `start`. Under the gate
 * of the store. Fails: MQL_E_NOT_FOUND, MQL_E_RANGE, MQL_E_FORMAT, MQL_E_CORRUPT, MQL_E_OS. */
int mql_live_open(mql_live *live, const char *name, bool create, int64_t start);
void mql_live_close(mql_live *live); /* again: nothing */

/* Takes the share lock, and repairs what its last owner left if it died inside. MQL_OK: held;
 * MQL_TIMEOUT after `timeout_ns` (0: at once). Fails without holding it. */
int mql_live_enter(mql_live *live, int64_t timeout_ns);
void mql_live_leave(mql_live *live);

/* Around each change of slots, pages or what is derived from them. */
static inline void mql_live_begin(mql_live *live) {
    atomic_store_explicit(&live->map->busy, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* a death finds `busy` stored first */
}
static inline void mql_live_end(mql_live *live) {
    uint64_t changes = atomic_load_explicit(&live->map->changes, memory_order_relaxed);
    atomic_store_explicit(&live->map->changes, changes + 1, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&live->map->busy, 0, memory_order_relaxed);
}

/* Derives everything anew, under the share lock. `fresh`: nobody else is there, nobody holds
 * anything any more, and the heaps grow as they must. */
int mql_live_rebuild(mql_live *live, bool fresh);

/* -- under the share lock ---------------------------------------------------------------------- */
/* The place of an offset whose chunk has a page. */
bool mql_live_find(mql_live *live, int64_t offset, mql_live_place *out);
/* The same, its chunk given a page if it has none. MQL_BUSY: there is no clean page. */
int mql_live_make(mql_live *live, int64_t offset, mql_live_place *out);
/* Whether the offset is final for want of a page: below the start, or in a finished chunk. */
bool mql_live_is_past(mql_live *live, int64_t offset);
/* The first of the chunks [number, stop) that is not marked as finished; `stop`: none. */
int64_t mql_live_pass_done(mql_live *live, int64_t number, int64_t stop);
/* How many of the chunks [number, stop) are marked as finished. */
int64_t mql_live_count_done(mql_live *live, int64_t number, int64_t stop);
/* Whether the page is clean: nobody's, and zeros also on the disk. */
bool mql_live_is_clean(const mql_live *live, uint32_t page);
/* The offset has become final: counts it, and gives its chunk's page up when it was the last. */
void mql_live_finish(mql_live *live, const mql_live_place *place, int kind);
/* Up to where the chunks [number, stop), of which the first is untouched, can be finished at once:
 * where the window begins, all before the next that a page speaks of; else, or if a done page
 * speaks of them, those of one word, as far as they are untouched. */
int64_t mql_live_untouched(mql_live *live, int64_t number, int64_t stop);
/* Whole chunks [from, to) are final, which mql_live_untouched gave: `kind` counts all their
 * offsets. MQL_BUSY: there is no clean page, and nothing has changed. */
int mql_live_finish_chunks(mql_live *live, int64_t from, int64_t to, int kind);

/* Folds chunks that were finished when there was no page to mark it in. */
void mql_live_fold_rest(mql_live *live);
/* Adds to a counter of the shared state, its lock held. Damage may have put any number there, so
 * it wraps. */
static inline void mql_live_add(_Atomic int64_t *counter, int64_t much) {
    uint64_t now = (uint64_t)atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, (int64_t)(now + (uint64_t)much), memory_order_release);
}
/* How a final record came to its end. */
static inline int mql_live_kind(const mql_slots_slot *slot) {
    if (slot->state == MQL_SHARE_ACKNOWLEDGED) return MQL_ACCEPTED;
    int kind = slot->clock - MQL_CLOCK_KIND;
    return kind > MQL_ACCEPTED && kind < MQL_SHARE_KINDS ? kind : MQL_DEAD;
}

/* The chunk whose page this is, or -1. */
int64_t mql_live_chunk(const mql_live *live, uint32_t page);
/* A page of zeros that has no name. */
void mql_live_add_clean(mql_live *live, uint32_t page);
/* Notes up to `room` of the retired pages; how many. They stay retired until they are said to be
 * clean; a rebuilding forgets that they were noted. */
uint32_t mql_live_note_retired(mql_live *live, uint32_t *pages, uint32_t room);
/* Those noted last are zeros: they lose their names, and are clean. */
void mql_live_clean_noted(mql_live *live);

/* The high half of tokens; 0: not known yet. Pairs with the release store of whoever synced it. */
static inline uint32_t mql_live_tokens(const mql_live *live) {
    return atomic_load_explicit(&live->map->tokens_ready, memory_order_acquire);
}
/* Whether there are changes that no sync has covered. */
static inline bool mql_live_is_unsynced(const mql_live *live) {
    return atomic_load_explicit(&live->map->synced, memory_order_acquire) <
           atomic_load_explicit(&live->map->changes, memory_order_acquire);
}
/* How many pages are clean, and retired: hints without the lock. */
static inline uint32_t mql_live_clean(const mql_live *live) {
    return atomic_load_explicit(&live->map->clean, memory_order_relaxed);
}
static inline uint32_t mql_live_retired(const mql_live *live) {
    return atomic_load_explicit(&live->map->retired, memory_order_relaxed);
}

/* Maps what other processes have added. */
int mql_live_map(mql_live *live);

#endif
