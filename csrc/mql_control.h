/* mql_control.h - the shared page of a partition: whose it is, its two ends, its locks and waiters.
 */
#ifndef MQL_CONTROL_H
#define MQL_CONTROL_H

#include "mql_crc32c.h"
#include "mql_format.h"

/* One end of the log, copied out of a latch. */
typedef struct mql_control_end {
    int64_t segment;
    int64_t position;
    int64_t offset;
} mql_control_end;

/* The current end. Wait-free for the owner of the latch; a reader repeats while the owner overtakes
 * it. Pairs with the release store of mql_control_publish. */
static inline void mql_control_read(mql_format_latch *latch, mql_control_end *out) {
    uint64_t generation = atomic_load_explicit(&latch->generation, memory_order_acquire);
    for (;;) {
        mql_format_end *slot = &latch->slots[generation & 1];
        out->segment = atomic_load_explicit(&slot->segment, memory_order_relaxed);
        out->position = atomic_load_explicit(&slot->position, memory_order_relaxed);
        out->offset = atomic_load_explicit(&slot->offset, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        uint64_t again = atomic_load_explicit(&latch->generation, memory_order_acquire);
        if (MQL_LIKELY(again == generation)) return;
        generation = again;
    }
}

/* The owner's own view: the current slot, which nobody else changes. */
static inline mql_format_end *mql_control_current(mql_format_latch *latch) {
    return &latch->slots[atomic_load_explicit(&latch->generation, memory_order_relaxed) & 1];
}

/* Makes `end` the current one. The caller owns the latch (holds its lock). Whatever was stored
 * before, the records' bytes among it, is visible to whoever reads this end. */
static inline void mql_control_publish(mql_format_latch *latch, const mql_control_end *end) {
    uint64_t generation = atomic_load_explicit(&latch->generation, memory_order_relaxed) + 1;
    mql_format_end *slot = &latch->slots[generation & 1];
    /* A reader that still copies this slot must see the generation move: order its stores behind.
     */
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&slot->segment, end->segment, memory_order_relaxed);
    atomic_store_explicit(&slot->position, end->position, memory_order_relaxed);
    atomic_store_explicit(&slot->offset, end->offset, memory_order_relaxed);
    atomic_store_explicit(&slot->crc, mql_crc32c(0, end, sizeof *end), memory_order_relaxed);
    atomic_store_explicit(&latch->generation, generation, memory_order_release);
}

/* The word that waiters of a latch sleep on: the low half of its generation. */
static inline _Atomic uint32_t *mql_control_word(mql_format_latch *latch) {
    return (_Atomic uint32_t *)(void *)&latch->generation;
}

/* The current end of a page that nobody vouches for: false unless the slot's CRC is right and its
 * numbers can be an end. `abandoned`, nobody writes any more: the end that is ahead. */
bool mql_control_trust(const mql_format_latch *latch, bool abandoned, mql_control_end *out);
/* Publishes `end` in both slots. */
void mql_control_set(mql_format_latch *latch, const mql_control_end *end);

/* Identity: what must be the same for the page to be this boot's memory of this very file. */
typedef struct mql_control_identity {
    uint8_t boot[16];
    uint64_t device;
    uint64_t inode;
    uint64_t mount;
} mql_control_identity;

/* Whether the page's word on what it is may be believed at all: magic and CRC are right. */
bool mql_control_is_sound(const mql_format_control *control);
bool mql_control_is(const mql_format_control *control, const mql_control_identity *identity);
/* Writes the identity, and nothing else. */
void mql_control_name(mql_format_control *control, const mql_control_identity *identity);
/* Wipes the page and gives it this identity; not ready yet (instance 0). The ends stay in one that
 * has this identity already: who dies while it is made ready must leave them to the next. */
int mql_control_reset(mql_format_control *control, const mql_control_identity *identity);

/* After a publish: ends the sleep of whoever waits on the latch. No system call when nobody does.
 * The drop of the lock before it pairs with the fence in mql_control_wait: either the waiter sees
 * the new end, or we see its flag. */
static inline bool mql_control_take_flag(_Atomic uint32_t *flag) {
    return MQL_UNLIKELY(atomic_load_explicit(flag, memory_order_relaxed) != 0) &&
           atomic_exchange_explicit(flag, 0, memory_order_acq_rel) != 0;
}
static inline void mql_control_wake(mql_format_waiters *waiters, mql_format_latch *latch) {
    if (mql_control_take_flag(&waiters->flag)) mql_os_wake(mql_control_word(latch), INT32_MAX);
}
/* Ends the sleep of up to `count` of those who wait on the word itself. */
void mql_control_wake_some(mql_format_waiters *waiters, int64_t count);
static inline void mql_control_ring(mql_format_waiters *waiters, int64_t count) {
    if (MQL_UNLIKELY(atomic_load_explicit(&waiters->flag, memory_order_relaxed) != 0))
        mql_control_wake_some(waiters, count);
}
/* The same without asking: deaths, closing, deleting, poison. */
void mql_control_wake_all(mql_format_control *control);

/* Sleeps until the latch's offset is above `offset`, spinning briefly first: MQL_OK; MQL_TIMEOUT
 * after `timeout_ns` (at most MQL_SLICE_NS) or spuriously. */
int mql_control_wait(mql_format_waiters *waiters, mql_format_latch *latch, int64_t offset,
                     int64_t timeout_ns);

#endif
