/* mql_slots.h - the state file of a share group: what it has not finished. */
#ifndef MQL_SLOTS_H
#define MQL_SLOTS_H

#include "mql_crc32c.h"
#include "mql_format.h"

#define MQL_SLOTS_REGIONS_MAX 16384 /* 2.1 thousand million unfinished records */
#define MQL_SLOTS_REGION_BYTES ((int64_t)(MQL_SHARE_REGION_PAGES + 1) * MQL_PAGE)
#define MQL_SLOTS_TIME_MAX ((INT64_C(1) << 48) - 1) /* the latest time a slot can hold */

/* Kafka's states of a record in a share group, with its numbers. */
enum mql_share_state {
    MQL_SHARE_AVAILABLE = 0,
    MQL_SHARE_ACQUIRED = 1,
    MQL_SHARE_ACKNOWLEDGED = 2,
    MQL_SHARE_ARCHIVING = 3,
    MQL_SHARE_ARCHIVED = 4
};

/* One slot, decoded. `sound`: both checks are right, and so are its numbers. */
typedef struct mql_slots_slot {
    int64_t time;
    uint32_t token;
    uint32_t member;
    uint32_t deliveries;
    uint8_t state;
    uint8_t clock;
    bool fresh; /* never touched */
    bool sound;
} mql_slots_slot;

typedef struct mql_slots {
    mql_format_share *header;     /* owns the mapping of one page */
    uint8_t *_Atomic *regions;    /* owns: mappings of whole regions; NULL: not mapped yet */
    uint64_t inode;               /* of the file: another may get its name */
    uint64_t device, mount;       /* likewise: another mount of it may hold older bytes */
    char path[MQL_PATH_MAX + 16]; /* within the store */
} mql_slots;

/* Where a page begins in the file, and how many a file of `size` bytes has. */
int64_t mql_slots_position(uint32_t page);
uint32_t mql_slots_count(int64_t size);
/* Pages that the records [end, offset) may need: their chunks, and what marks those as done. */
int64_t mql_slots_needed(int64_t end, int64_t offset);
/* Judges the header: MQL_E_NOT_FOUND, unless `create`, where no group was made yet; MQL_E_FORMAT,
 * MQL_E_CORRUPT. The bytes that no CRC covers are put right there if a window says whose it is. */
int mql_slots_judge(const mql_slots *slots, bool create);
/* Maps the header of the file; it is made, with its first page, when `create`. *pages: how many
 * have blocks. A header that is damaged is put right if a window says whose it is. Blocks.
 * Fails: MQL_E_NOT_FOUND, MQL_E_FORMAT, MQL_E_OS. The calls after it: MQL_E_NOT_FOUND when the file
 * was removed, whatever has its name now. */
int mql_slots_open(mql_slots *slots, mql_os_file root, uint32_t mode, bool create, uint32_t *pages);
void mql_slots_close(mql_slots *slots);
/* Maps the regions of pages [0, pages). */
int mql_slots_map(mql_slots *slots, mql_os_file root, uint32_t pages);
/* Blocks of zeros for pages [from, to). */
int mql_slots_allocate(const mql_slots *slots, mql_os_file root, uint32_t from, uint32_t to);
/* The same for what a copy, or damage, has left without blocks of pages [0, pages). */
int mql_slots_fill_holes(const mql_slots *slots, mql_os_file root, uint32_t pages);
/* Gives back the blocks of pages from `pages` on. */
int mql_slots_cut(const mql_slots *slots, mql_os_file root, uint32_t pages);
/* Takes the names off pages that the file has lost. Their regions are mapped. */
void mql_slots_forget(const mql_slots *slots, uint32_t pages);
/* All changes made before are on stable storage; `names`: those of its directories too. */
int mql_slots_sync(const mql_slots *slots, mql_os_file root, bool names);
/* Makes the header, or a page and its name, dirty and writable: a sync leaves them clean. */
void mql_slots_touch_header(const mql_slots *slots);
void mql_slots_touch_page(const mql_slots *slots, uint32_t page);

/* Of which boot's memory of this very file the caller sees: what acquired records before may be
 * gone from the disk if the answer is another one. */
void mql_slots_memory(const mql_slots *slots, const uint8_t boot[16], uint8_t out[16]);

/* -- pages ------------------------------------------------------------------------------------- */
static inline uint8_t *mql_slots_region(const mql_slots *slots, uint32_t page) {
    return atomic_load_explicit(&slots->regions[page / MQL_SHARE_REGION_PAGES],
                                memory_order_acquire);
}
static inline void *mql_slots_page(const mql_slots *slots, uint32_t page) {
    return mql_slots_region(slots, page) + (size_t)MQL_PAGE * (page % MQL_SHARE_REGION_PAGES + 1);
}
static inline _Atomic uint64_t *mql_slots_name(const mql_slots *slots, uint32_t page) {
    return (_Atomic uint64_t *)(void *)mql_slots_region(slots, page) +
           page % MQL_SHARE_REGION_PAGES;
}
/* A directory or done word of 48 bits, and `place`: where it stands. */
uint64_t mql_slots_word(uint64_t bits, uint64_t place);
/* *bits of a word; false: it is damaged. */
bool mql_slots_unword(uint64_t word, uint64_t place, uint64_t *bits);

/* -- slots ------------------------------------------------------------------------------------- */
static inline mql_format_slot *mql_slots_at(const mql_slots *slots, uint32_t page, int64_t offset) {
    return (mql_format_slot *)mql_slots_page(slots, page) + (offset & (MQL_SHARE_SLOTS - 1));
}
void mql_slots_load(const mql_format_slot *at, int64_t offset, mql_slots_slot *out);
/* Word 1, then word 0, with one release store: a death in between leaves a valid slot. */
void mql_slots_store(mql_format_slot *at, int64_t offset, const mql_slots_slot *slot);
/* Word 1, word 0 alone. */
void mql_slots_store_state(mql_format_slot *at, int64_t offset, const mql_slots_slot *slot);
void mql_slots_store_time(mql_format_slot *at, int64_t offset, const mql_slots_slot *slot);
static inline bool mql_slots_is_final(const mql_slots_slot *slot) {
    return slot->state == MQL_SHARE_ACKNOWLEDGED || slot->state == MQL_SHARE_ARCHIVED;
}

/* -- the window -------------------------------------------------------------------------------- */
/* The newest sound one. MQL_E_CORRUPT: both are damaged. */
int mql_slots_window(const mql_slots *slots, mql_format_share_window *out);
/* The one that `window` has replaced. False: it is not there any more. */
bool mql_slots_window_before(const mql_slots *slots, const mql_format_share_window *window,
                             mql_format_share_window *out);
/* Replaces the older one; its sequence is given here. Under the share lock. */
void mql_slots_set_window(mql_slots *slots, mql_format_share_window *window);

#endif
