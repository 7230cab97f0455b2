/* mql_control.c - the shared page of a partition.
 *
 * Why a latch is enough. Writers of a latch exclude each other by its lock, so there is one at a
 * time. It writes the slot that no reader is sent to, and one release store of the generation sends
 * them there. A reader that was still copying the slot which is now being refilled sees the
 * generation moved and copies again. A writer that dies before its store leaves the old slot
 * current and whole; after it, the new one. There is no state in which a reader waits for a dead
 * writer.
 *
 * When all are dead, whoever comes next takes the slot that is ahead: its end was about to be
 * published, or it was and a bit of the generation has flipped, which has no CRC. So no slot may be
 * ahead whose records are not there: a repair fills both (mql_control_set) before it wipes.
 */
#include "mql_control.h"

#define SPINS                                                                                      \
    2000 /* about 20 us: more than a hand-off between two busy cores, less than a sleep            \
          */

static bool sound_end(const mql_format_end *slot, mql_control_end *out) {
    *out = (mql_control_end){
        .segment = atomic_load_explicit(&slot->segment, memory_order_relaxed),
        .position = atomic_load_explicit(&slot->position, memory_order_relaxed),
        .offset = atomic_load_explicit(&slot->offset, memory_order_relaxed),
    };
    uint32_t crc = atomic_load_explicit(&slot->crc, memory_order_relaxed);
    if (crc != mql_crc32c(0, out, sizeof *out)) return false;
    if (out->segment < 0 || out->position < 0 || out->position > MQL_SEGMENT_BYTES_MAX)
        return false;
    return out->offset >= out->segment && out->offset <= MQL_OFFSET_MAX;
}

static bool is_behind(const mql_control_end *end, const mql_control_end *other) {
    if (end->offset != other->offset) return end->offset < other->offset;
    return end->segment < other->segment;
}

bool mql_control_trust(const mql_format_latch *latch, bool abandoned, mql_control_end *out) {
    uint64_t generation = atomic_load_explicit(&latch->generation, memory_order_acquire);
    mql_control_end end, other;
    if (!sound_end(&latch->slots[generation & 1], &end)) return false;
    bool two = abandoned && sound_end(&latch->slots[~generation & 1], &other);
    *out = two && is_behind(&end, &other) ? other : end;
    return true;
}

void mql_control_set(mql_format_latch *latch, const mql_control_end *end) {
    mql_control_publish(latch, end);
    mql_control_publish(latch, end);
}

static uint32_t identity_crc(const mql_format_control *control) {
    return mql_crc32c(0, control, offsetof(mql_format_control, identity_crc));
}

bool mql_control_is_sound(const mql_format_control *control) {
    return memcmp(control->magic, MQL_CONTROL_MAGIC, sizeof control->magic) == 0 &&
           control->identity_crc == identity_crc(control);
}

bool mql_control_is(const mql_format_control *control, const mql_control_identity *identity) {
    return mql_control_is_sound(control) && control->layout == MQL_LAYOUT &&
           memcmp(control->boot, identity->boot, sizeof control->boot) == 0 &&
           control->device == identity->device && control->inode == identity->inode &&
           control->mount == identity->mount;
}

void mql_control_name(mql_format_control *control, const mql_control_identity *identity) {
    memcpy(control->magic, MQL_CONTROL_MAGIC, sizeof control->magic);
    control->layout = MQL_LAYOUT;
    control->oldest_writer = MQL_OLDEST_WRITER;
    memcpy(control->boot, identity->boot, sizeof control->boot);
    control->device = identity->device;
    control->inode = identity->inode;
    control->mount = identity->mount;
    control->identity_crc = identity_crc(control);
}

int mql_control_reset(mql_format_control *control, const mql_control_identity *identity) {
    uint8_t *bytes = (uint8_t *)control;
    size_t named = 0, ends = sizeof *control, rest = sizeof *control;
    if (mql_control_is(control, identity)) {
        named = offsetof(mql_format_control, instance);
        ends = offsetof(mql_format_control, published);
        rest = offsetof(mql_format_control, waiters_published);
    }
    memset(bytes + named, 0, ends - named);
    memset(bytes + rest, 0, sizeof *control - rest);
    mql_control_name(control, identity);
    mql_os_mutex *locks[] = {&control->writer, &control->commit, &control->prepare,
                             &control->reclaim};
    for (size_t i = 0; i < sizeof locks / sizeof *locks; i++) {
        int rc = mql_os_mutex_init_shared(locks[i]);
        if (rc < 0) return mql_base_fail_os(rc, "control", "cannot make a shared lock");
    }
    return MQL_OK;
}

/* The flags stay as they are: a waiter between its flag and its sleep must still be woken later. */
void mql_control_wake_all(mql_format_control *control) {
    mql_os_wake(mql_control_word(&control->published), INT32_MAX);
    mql_os_wake(mql_control_word(&control->durable), INT32_MAX);
    mql_format_waiters *others[] = {&control->waiters_queue, &control->waiters_room,
                                    &control->waiters_rounds[0], &control->waiters_rounds[1]};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        atomic_fetch_add_explicit(&others[i]->word, 1, memory_order_release);
        mql_os_wake(&others[i]->word, INT32_MAX);
    }
}

/* The flag stays up while somebody may sleep, so that a ringer who comes while this one is at it
 * wakes another. When fewer slept than were to be woken it comes down, and whoever raised it
 * meanwhile is sent round once more. */
void mql_control_wake_some(mql_format_waiters *waiters, int64_t count) {
    if (count < INT32_MAX) {
        atomic_fetch_add_explicit(&waiters->word, 1, memory_order_release);
        if (mql_os_wake(&waiters->word, (int)count) >= count) return;
    }
    if (!mql_control_take_flag(&waiters->flag)) return;
    atomic_fetch_add_explicit(&waiters->word, 1, memory_order_release);
    mql_os_wake(&waiters->word, INT32_MAX);
}

static bool beyond(mql_format_latch *latch, int64_t offset) {
    mql_control_end end;
    mql_control_read(latch, &end);
    return end.offset > offset;
}

int mql_control_wait(mql_format_waiters *waiters, mql_format_latch *latch, int64_t offset,
                     int64_t timeout_ns) {
    if (beyond(latch, offset)) return MQL_OK;
    if (timeout_ns <= 0) return MQL_TIMEOUT;
    for (int i = 0; i < SPINS; i++) {
        mql_os_pause();
        if (beyond(latch, offset)) return MQL_OK;
    }
    uint32_t seen = atomic_load_explicit(mql_control_word(latch), memory_order_acquire);
    atomic_store_explicit(&waiters->flag, 1, memory_order_relaxed);
    /* Pairs with the drop of the lock before mql_control_wake: see there. */
    atomic_thread_fence(memory_order_seq_cst);
    if (beyond(latch, offset)) return MQL_OK;
    mql_os_wait(mql_control_word(latch), seen, mql_base_min(timeout_ns, MQL_SLICE_NS));
    return beyond(latch, offset) ? MQL_OK : MQL_TIMEOUT;
}
