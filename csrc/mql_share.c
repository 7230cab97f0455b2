/* mql_share.c - share groups: consumers that compete for the records of a queue.
 *
 * Why no record has two holders. A slot is changed under the share lock only, and a change of
 * holder raises its token; whoever settles shows the token, so one whose lock has passed to another
 * changes nothing. Why none is lost: a slot becomes final by its holder's word alone, and a holder
 * that is gone, because its deadline passed or because the kernel dropped its member byte, is taken
 * off its slots by the next consumer. The wall clock decides on delays alone.
 *
 * Under the lock nothing is allocated and nothing is read from the log: an offset is acquired
 * first, its record looked at after, and what turns out not to be for delivery is settled again.
 */
#include "mql_share.h"

#include <errno.h>
#include <stdio.h>

#include "mql_reserve.h"

#define SPINS 1000     /* about 10 us */
#define AT_A_TIME 1024 /* records settled under one holding of the lock */
#define EXPIRE_AT_A_TIME 256
#define RUNS_AT_A_TIME 1024 /* of chunks passed over: some milliseconds, 12 million offsets */
#define REAP_MS 200
#define NEAR_MS 1000
#define STALE_MOST 1024 /* deadlines that nobody has any more, beside as many as are held */
#define TIME_NEVER MQL_SLOTS_TIME_MAX
#define NOBODY MQL_MEMBERS_MAX
#define ABANDONED (-1) /* in place of a due time: at once, its holder is gone without a word */

static int64_t boot_ms(void) { return mql_os_monotonic_ns() / 1000000; }
static int64_t wall_ms(const mql_share *share) { return mql_log_wall_ms(share->live.log->home); }
/* So many milliseconds from now, since boot; negative: never. */
static int64_t deadline_in(int64_t ms, int64_t now) {
    return ms < 0 ? TIME_NEVER : now + mql_base_min(ms, TIME_NEVER - 1 - now);
}
/* A time as slots and heaps hold it. */
static int64_t time_of(int64_t ms) { return mql_base_min(mql_base_max(ms, 0), TIME_NEVER); }
static uint32_t own_number(const mql_share *share) {
    return (uint32_t)(share->live.log->home->self >> MQL_MEMBER_SHIFT);
}

/* -- the lock ---------------------------------------------------------------------------------- */
int mql_share_enter(mql_share *share, int64_t timeout_ns) {
    int rc = mql_log_writable(share->live.log);
    if (MQL_UNLIKELY(rc < 0)) return rc;
    rc = mql_live_enter(&share->live, timeout_ns);
    if (MQL_UNLIKELY(rc == MQL_OK &&
                     atomic_load_explicit(&share->live.map->removed, memory_order_relaxed) != 0)) {
        mql_live_leave(&share->live);
        return mql_base_fail(MQL_E_NOT_FOUND, share->live.slots.path,
                             "the share group was deleted");
    }
    return rc;
}

/* -- waking ------------------------------------------------------------------------------------ */
/* The lock was dropped before: the fence that pairs with those of mql_sleep and of the doorbell. */
void mql_share_ring(mql_log *log, int64_t records) {
    mql_log_ring(log, records);
    mql_format_doorbell *bell = log->home->bell;
    if (!mql_control_take_flag(&bell->waiting)) return;
    atomic_fetch_add_explicit(&bell->bell, 1, memory_order_release);
    mql_os_wake(&bell->bell, INT32_MAX);
}

static void ring_room(mql_log *log) {
    mql_control_ring(&log->control->waiters_room, INT32_MAX);
}

/* -- changes of one slot, under the lock ------------------------------------------------------- */
static void count_held(mql_share *share, uint32_t member, int much) {
    if (member >= MQL_MEMBERS_MAX) return;
    _Atomic uint32_t *held = &share->live.map->held[member];
    uint32_t now = atomic_load_explicit(held, memory_order_relaxed);
    atomic_store_explicit(held, now + (uint32_t)much, memory_order_relaxed);
}

/* The slot's holder has it no longer: it is to be delivered from `due` on, or its move finished.
 * Whoever takes it next is told if it was abandoned: a record that its put was about to delay may
 * have been acquired before, and its holder gone before it saw that it is early. */
static void let_go(mql_share *share, const mql_live_place *place, mql_slots_slot *slot,
                   int64_t due) {
    mql_live *live = &share->live;
    mql_arrays_unpush(&live->arrays, MQL_LIVE_DEADLINES, place->offset);
    count_held(share, slot->member, -1);
    bool abandoned = due == ABANDONED;
    if (abandoned) due = 0;
    slot->member = NOBODY;
    if (slot->state == MQL_SHARE_ACQUIRED) {
        slot->state = MQL_SHARE_AVAILABLE;
        slot->member = 0;
        slot->time = due;
        slot->clock = abandoned ? MQL_CLOCK_NONE : MQL_CLOCK_WALL;
    }
    mql_slots_store(place->slot, place->offset, slot);
    mql_arrays_push(&live->arrays, MQL_LIVE_DUE, due, place->offset);
    mql_live_add(&live->map->acquired, -1);
    mql_live_add(&live->map->available, 1);
    mql_live_add(&live->map->unavailable, -1);
}

/* The record, held by somebody or to be delivered, is final. */
static void finish(mql_share *share, const mql_live_place *place, mql_slots_slot *slot, int end) {
    mql_live *live = &share->live;
    if (mql_share_is_held(slot)) {
        mql_arrays_unpush(&live->arrays, MQL_LIVE_DEADLINES, place->offset);
        count_held(share, slot->member, -1);
        mql_live_add(&live->map->acquired, -1);
    } else {
        mql_live_add(&live->map->available, -1);
        mql_live_add(&live->map->unavailable, 1);
    }
    slot->state = end == MQL_ACCEPTED ? MQL_SHARE_ACKNOWLEDGED : MQL_SHARE_ARCHIVED;
    slot->time = 0;
    slot->clock = end == MQL_ACCEPTED ? MQL_CLOCK_NONE : (uint8_t)(MQL_CLOCK_KIND + end);
    if (end == MQL_ACCEPTED)
        mql_slots_store_state(place->slot, place->offset, slot);
    else
        mql_slots_store(place->slot, place->offset, slot);
    mql_live_finish(live, place, end);
}

bool mql_share_deadline_valid(void *context, const mql_format_timer *timer) {
    mql_live *live = context;
    mql_live_place place;
    mql_slots_slot slot;
    if (!mql_live_find(live, timer->offset, &place)) return false;
    mql_slots_load(place.slot, place.offset, &slot);
    return slot.sound && slot.state == MQL_SHARE_ACQUIRED &&
           (slot.clock == MQL_CLOCK_BOOT ? slot.time : 0) == timer->time;
}

/* What cannot be read is for acquire to meet. */
bool mql_share_due_valid(void *context, const mql_format_timer *timer) {
    mql_live *live = context;
    mql_live_place place;
    mql_slots_slot slot;
    if (!mql_live_find(live, timer->offset, &place)) return false;
    mql_slots_load(place.slot, place.offset, &slot);
    if (!slot.sound) return true;
    if (slot.state == MQL_SHARE_ARCHIVING) return slot.member >= MQL_MEMBERS_MAX;
    return slot.state == MQL_SHARE_AVAILABLE &&
           (slot.clock == MQL_CLOCK_WALL ? slot.time : 0) == timer->time;
}

/* What a heap had no room for has become due. */
static bool behind_horizon(mql_share *share, int which) {
    mql_format_live *map = share->live.map;
    int64_t horizon = atomic_load_explicit(&map->horizon[which], memory_order_relaxed);
    int64_t next = atomic_load_explicit(&map->next[which], memory_order_relaxed);
    if (MQL_LIKELY(horizon == INT64_MAX)) return false;
    return horizon <= (which == MQL_LIVE_DUE ? wall_ms(share) : boot_ms()) && horizon < next;
}

/* Deadlines that nobody has any more go, when there are too many. */
static void forget_stale(mql_live *live, size_t wanted) {
    uint32_t count = mql_arrays_count(&live->arrays, MQL_LIVE_DEADLINES);
    int64_t held = atomic_load_explicit(&live->map->acquired, memory_order_relaxed);
    if (MQL_UNLIKELY(count + wanted > mql_arrays_capacity(&live->arrays, MQL_LIVE_DEADLINES) ||
                     count > 2 * held + STALE_MOST))
        mql_arrays_filter(&live->arrays, MQL_LIVE_DEADLINES, mql_share_deadline_valid, live);
}

/* -- acquiring --------------------------------------------------------------------------------- */
typedef enum need_kind {
    NEED_NOTHING,
    NEED_PAGES,
    NEED_DUE,       /* room in the heap of what is due */
    NEED_DEADLINES, /* and in that of deadlines */
    NEED_TOKENS,
    NEED_REBUILDING /* a slot is damaged that was sound when it was counted */
} need_kind;

typedef struct acquiring {
    mql_share *share;
    const mql_acquire *how;
    int64_t now;  /* since boot */
    int64_t wall; /* since 1970; read when there is something delayed */
    int64_t deadline;
    int64_t released; /* locks that had passed */
    size_t count;     /* acquired so far */
    need_kind need;
    bool no_room[2]; /* in a heap: what does not fit goes behind its horizon */
} acquiring;

static int damaged(mql_share *share, const mql_live_place *place, mql_slots_slot *slot) {
    slot->state = MQL_SHARE_AVAILABLE;
    slot->deliveries = slot->token = slot->member = 0;
    slot->sound = true;
    finish(share, place, slot, MQL_DAMAGED);
    return mql_base_fail_corrupt(share->live.slots.path, -1, place->offset, place->offset + 1,
                                 "what was noted of the record is damaged: it is archived");
}

/* Takes locks whose deadline has passed off their holders, some at a time. */
static void expire(acquiring *acquire) {
    mql_live *live = &acquire->share->live;
    mql_format_timer timer;
    for (int i = 0;
         i < EXPIRE_AT_A_TIME && mql_arrays_top(&live->arrays, MQL_LIVE_DEADLINES, &timer); i++) {
        if (timer.time > acquire->now) break;
        bool valid = mql_share_deadline_valid(live, &timer);
        mql_arrays_pop(&live->arrays, MQL_LIVE_DEADLINES);
        mql_live_place place;
        mql_slots_slot slot;
        if (!mql_live_find(live, timer.offset, &place)) continue;
        mql_slots_load(place.slot, place.offset, &slot);
        if (!slot.sound) acquire->need = NEED_REBUILDING;
        if (!valid) continue;
        let_go(acquire->share, &place, &slot, ABANDONED);
        acquire->released++;
    }
}

/* The record due longest, off its heap. MQL_END: there is none; MQL_BUSY: it is damaged, which is
 * told alone. */
static int next_due(acquiring *acquire, mql_live_place *place, mql_slots_slot *slot) {
    mql_share *share = acquire->share;
    mql_live *live = &share->live;
    mql_format_timer timer;
    while (mql_arrays_top(&live->arrays, MQL_LIVE_DUE, &timer)) {
        if (timer.time > 0 && acquire->wall == 0) acquire->wall = wall_ms(share);
        if (timer.time > acquire->wall && !acquire->how->any) return MQL_END;
        bool valid = mql_share_due_valid(live, &timer);
        if (valid) mql_live_find(live, timer.offset, place);
        if (valid) mql_slots_load(place->slot, place->offset, slot);
        if (valid && !slot->sound && acquire->count > 0) return MQL_BUSY;
        mql_arrays_pop(&live->arrays, MQL_LIVE_DUE);
        if (!valid) continue;
        if (!slot->sound) return damaged(share, place, slot);
        mql_live_add(&live->map->available, -1);
        return MQL_OK;
    }
    return MQL_END;
}

/* The record at SPEO. MQL_END: none; MQL_BUSY: its chunk needs a page. */
static int next_new(acquiring *acquire, mql_live_place *place, mql_slots_slot *slot) {
    mql_live *live = &acquire->share->live;
    int64_t end = atomic_load_explicit(&live->map->end, memory_order_relaxed);
    int rc = MQL_END;
    while (mql_share_has(acquire->share, end)) {
        if (!mql_live_find(live, end, place)) {
            if (mql_live_is_past(live, end)) {
                end = (end / MQL_SHARE_SLOTS + 1) * MQL_SHARE_SLOTS;
                continue;
            }
            rc = mql_live_make(live, end, place);
            if (rc != MQL_OK) {
                if (acquire->need == NEED_NOTHING) acquire->need = NEED_PAGES;
                break;
            }
        }
        mql_slots_load(place->slot, end, slot);
        rc = slot->fresh ? MQL_OK : MQL_END;
        if (!slot->sound) {
            acquire->need = NEED_REBUILDING;
            rc = MQL_BUSY;
            break;
        }
        end++;
        if (slot->fresh) break; /* else it was delayed, and has its own place in the heap */
    }
    atomic_store_explicit(&live->map->end, end, memory_order_release);
    return rc;
}

static void give(acquiring *acquire, const mql_live_place *place, mql_slots_slot *slot,
                 mql_acquired *out) {
    mql_share *share = acquire->share;
    mql_live *live = &share->live;
    slot->member = own_number(share);
    slot->token++;
    *out = (mql_acquired){.offset = place->offset, .moving = -1, .holder = live->log->home->self};
    if (slot->state == MQL_SHARE_ARCHIVING) {
        out->moving = slot->time;
    } else {
        out->abandoned = slot->deliveries > 0 && slot->clock != MQL_CLOCK_WALL;
        slot->state = MQL_SHARE_ACQUIRED;
        if (slot->deliveries < 255) slot->deliveries++;
        slot->time = acquire->deadline;
        slot->clock = MQL_CLOCK_BOOT;
    }
    mql_slots_store(place->slot, place->offset, slot);
    if (slot->state == MQL_SHARE_ACQUIRED)
        mql_arrays_push(&live->arrays, MQL_LIVE_DEADLINES, slot->time, place->offset);
    mql_live_add(&live->map->acquired, 1);
    mql_live_add(&live->map->unavailable, 1);
    count_held(share, slot->member, 1);
    out->token = (uint64_t)mql_live_tokens(live) << 32 | slot->token;
    out->deliveries = slot->deliveries;
    out->deadline_ms = acquire->deadline == TIME_NEVER ? INT64_MAX : acquire->deadline;
}

/* What this member's number held when another process had it is released first. */
static void become_member(mql_share *share);

/* Whether everything is there that so many acquisitions need. */
static bool prepared(acquiring *acquire, size_t wanted) {
    mql_share *share = acquire->share;
    mql_live *live = &share->live;
    mql_format_live *map = live->map;
    uint32_t due = mql_arrays_count(&live->arrays, MQL_LIVE_DUE);
    uint32_t due_room = mql_arrays_capacity(&live->arrays, MQL_LIVE_DUE);
    if (MQL_UNLIKELY(mql_live_tokens(live) == 0)) acquire->need = NEED_TOKENS;
    uint64_t self = live->log->home->self;
    if (MQL_UNLIKELY(atomic_load_explicit(&map->members[own_number(share)], memory_order_relaxed) !=
                     self))
        become_member(share);
    forget_stale(live, wanted);
    uint32_t room = mql_arrays_capacity(&live->arrays, MQL_LIVE_DEADLINES);
    bool left_out =
        atomic_load_explicit(&map->horizon[MQL_LIVE_DUE], memory_order_relaxed) != INT64_MAX &&
        atomic_load_explicit(&map->available, memory_order_relaxed) > due_room;
    bool passed =
        atomic_load_explicit(&map->next[MQL_LIVE_DEADLINES], memory_order_relaxed) <= acquire->now;
    if (MQL_UNLIKELY((left_out || (passed && due + EXPIRE_AT_A_TIME > due_room)) &&
                     !acquire->no_room[MQL_LIVE_DUE] && acquire->need == NEED_NOTHING))
        acquire->need = NEED_DUE;
    if (MQL_UNLIKELY(mql_arrays_count(&live->arrays, MQL_LIVE_DEADLINES) + wanted > room &&
                     !acquire->no_room[MQL_LIVE_DEADLINES] && acquire->need == NEED_NOTHING))
        acquire->need = NEED_DEADLINES;
    return acquire->need == NEED_NOTHING;
}

static int acquire_locked(acquiring *acquire, mql_acquired *out, size_t wanted) {
    mql_share *share = acquire->share;
    mql_format_live *map = share->live.map;
    if (!prepared(acquire, wanted)) return MQL_BUSY;
    if (behind_horizon(share, MQL_LIVE_DEADLINES) || behind_horizon(share, MQL_LIVE_DUE)) {
        int rc = mql_live_rebuild(&share->live, false);
        if (rc < 0) return rc;
    }
    expire(acquire);
    int rc = MQL_OK;
    while (rc == MQL_OK && acquire->count < wanted) {
        int64_t most = acquire->how->max_acquired;
        if (most > 0 && atomic_load_explicit(&map->acquired, memory_order_relaxed) >= most) break;
        mql_live_place place;
        mql_slots_slot slot;
        rc = next_due(acquire, &place, &slot);
        if (rc == MQL_END) rc = next_new(acquire, &place, &slot);
        if (rc == MQL_OK) give(acquire, &place, &slot, &out[acquire->count++]);
    }
    if (acquire->count > 0) return MQL_OK;
    if (rc >= 0 && acquire->need == NEED_REBUILDING) return MQL_BUSY;
    return rc == MQL_OK ? MQL_END : rc;
}

/* Room in a heap for all that may have to be in it. A full disk: what does not fit is found by
 * looking. */
static int make_heap_larger(acquiring *acquire, int which) {
    const mql_format_live *map = acquire->share->live.map;
    int64_t all = atomic_load_explicit(which == MQL_LIVE_DUE ? &map->available : &map->acquired,
                                       memory_order_relaxed);
    int64_t have = mql_arrays_count(&acquire->share->live.arrays, which);
    int64_t more = mql_base_max(all - have, 0) + AT_A_TIME;
    int rc = mql_reserve_timers(&acquire->share->live, which, (uint32_t)more);
    acquire->no_room[which] = rc == MQL_E_OS;
    return rc == MQL_E_OS ? MQL_OK : rc;
}

static int meet_need(acquiring *acquire) {
    mql_live *live = &acquire->share->live;
    need_kind need = acquire->need;
    acquire->need = NEED_NOTHING;
    if (need == NEED_REBUILDING) return MQL_OK; /* who enters next does it */
    if (need == NEED_TOKENS) return mql_reserve_tokens(live);
    if (need == NEED_DUE) return make_heap_larger(acquire, MQL_LIVE_DUE);
    if (need == NEED_DEADLINES) return make_heap_larger(acquire, MQL_LIVE_DEADLINES);
    return mql_reserve_page(live, atomic_load_explicit(&live->map->end, memory_order_relaxed));
}

static int take_some(acquiring *acquire, mql_acquired *out, size_t wanted) {
    mql_share *share = acquire->share;
    int rc = mql_share_enter(share, 0);
    if (MQL_UNLIKELY(rc == MQL_TIMEOUT && acquire->how->slice_ns > 0)) {
        rc = mql_share_enter(share, mql_base_slice(acquire->how->slice_ns));
        acquire->now = boot_ms(); /* a clock is dear: read again only after a wait */
    }
    if (MQL_UNLIKELY(rc != MQL_OK)) return rc;
    /* The last tick, some ms ago, will do for a long lock while no other may be over. */
    int64_t lock_ms = acquire->how->lock_ms, next;
    next = atomic_load_explicit(&share->live.map->next[MQL_LIVE_DEADLINES], memory_order_relaxed);
    if (MQL_UNLIKELY(next < acquire->now + NEAR_MS || (lock_ms >= 0 && lock_ms < NEAR_MS)))
        acquire->now = boot_ms();
    acquire->deadline = deadline_in(lock_ms, acquire->now);
    mql_live_begin(&share->live);
    rc = acquire_locked(acquire, out, wanted);
    /* Left busy, it is derived anew by who enters next. */
    if (MQL_LIKELY(acquire->need != NEED_REBUILDING)) mql_live_end(&share->live);
    mql_share_leave(share);
    return rc;
}

/* Dead holders are looked for once in a while. MQL_TIMEOUT: that may block. */
static int reap_sometimes(acquiring *acquire) {
    mql_share *share = acquire->share;
    int64_t due = atomic_load_explicit(&share->reap_ms, memory_order_relaxed);
    if (MQL_LIKELY(acquire->now < due)) return MQL_OK;
    if (acquire->how->slice_ns <= 0) return MQL_TIMEOUT;
    atomic_store_explicit(&share->reap_ms, acquire->now + REAP_MS, memory_order_relaxed);
    int rc = mql_share_reap(share);
    acquire->now = boot_ms();
    return rc < 0 ? rc : MQL_OK;
}

int mql_share_take(mql_share *share, const mql_acquire *how, mql_acquired *out, size_t *count) {
    acquiring acquire = {.share = share, .how = how, .now = mql_os_tick_ns() / 1000000};
    size_t wanted = *count < AT_A_TIME ? *count : AT_A_TIME;
    *count = 0;
    atomic_store_explicit(&share->most, how->max_acquired, memory_order_relaxed);
    int rc = reap_sometimes(&acquire);
    if (rc != MQL_OK) return rc;
    while ((rc = take_some(&acquire, out, wanted)) == MQL_BUSY) {
        if (how->slice_ns <= 0) return MQL_TIMEOUT; /* what is needed may block */
        rc = meet_need(&acquire);
        if (rc < 0) break;
        acquire.now = boot_ms();
    }
    *count = acquire.count;
    if (acquire.released > (int64_t)acquire.count)
        mql_share_ring(share->live.log, acquire.released);
    if (acquire.count > 0 || rc == MQL_E_CORRUPT) ring_room(share->live.log);
    if (acquire.count > 0) mql_reserve_want(&share->live);
    return rc;
}

/* -- settling ---------------------------------------------------------------------------------- */
typedef struct settling {
    mql_share *share;
    const mql_settlement *how;
    int64_t when;     /* MQL_RENEW: the new deadline */
    int64_t released; /* records to be delivered again, now or later */
    int64_t ended;    /* records that became final */
    uint64_t changes; /* of the state, with all these */
    bool damaged;     /* one was not sound */
} settling;

static int lost(const mql_share *share, const mql_settle *item) {
    return mql_base_fail(MQL_E_LOST, share->live.slots.path,
                         "the lock on offset %lld is not held any more: its deadline passed, or "
                         "it was settled",
                         (long long)item->offset);
}

/* The event, of a slot whose holder asks for it. */
static int apply(settling *settle, const mql_live_place *place, mql_slots_slot *slot) {
    mql_share *share = settle->share;
    mql_arrays *arrays = &share->live.arrays;
    bool moving = slot->state == MQL_SHARE_ARCHIVING;
    switch (settle->how->event) {
    case MQL_ACCEPT:
    case MQL_ARCHIVE:
        if (moving && settle->how->event == MQL_ACCEPT) return MQL_E_LOST;
        finish(share, place, slot,
               settle->how->event == MQL_ACCEPT ? MQL_ACCEPTED : (int)settle->when);
        settle->ended++;
        return MQL_OK;
    case MQL_RELEASE:
        if (moving) return MQL_E_LOST;
        if ((settle->how->flags & MQL_UNCOUNTED) != 0 && slot->deliveries > 0) slot->deliveries--;
        let_go(share, place, slot, settle->when);
        settle->released++;
        return MQL_OK;
    case MQL_RENEW:
        if (moving) return MQL_E_LOST;
        slot->time = settle->when;
        slot->clock = MQL_CLOCK_BOOT;
        mql_slots_store_time(place->slot, place->offset, slot);
        mql_arrays_push(arrays, MQL_LIVE_DEADLINES, slot->time, place->offset);
        return MQL_OK;
    case MQL_MOVE:
        slot->state = MQL_SHARE_ARCHIVING;
        slot->time = settle->when;
        slot->clock = MQL_CLOCK_OFFSET;
        mql_slots_store(place->slot, place->offset, slot);
        return MQL_OK;
    default:
        if (!moving) return MQL_E_LOST;
        let_go(share, place, slot, settle->when);
        settle->released++;
        return MQL_OK;
    }
}

static int settle_one(settling *settle, const mql_settle *item) {
    mql_share *share = settle->share;
    mql_live *live = &share->live;
    mql_live_place place;
    mql_slots_slot slot;
    if (item->token >> 32 != mql_live_tokens(live) || !mql_live_find(live, item->offset, &place))
        return lost(share, item);
    mql_slots_load(place.slot, place.offset, &slot);
    settle->damaged = settle->damaged || !slot.sound;
    bool held = mql_share_is_held(&slot) && slot.token == (uint32_t)item->token &&
                slot.member == own_number(share);
    int rc = held ? apply(settle, &place, &slot) : MQL_E_LOST;
    return rc == MQL_E_LOST ? lost(share, item) : rc;
}

/* The heap that an event pushes to, or -1. */
static int heap_of(int event) {
    if (event == MQL_RENEW) return MQL_LIVE_DEADLINES;
    return event == MQL_RELEASE || event == MQL_PARK ? MQL_LIVE_DUE : -1;
}

/* Whether the heap has room for what a round may push. A hint: read without the lock. */
static bool has_room(const mql_share *share, int event, size_t count) {
    int which = heap_of(event);
    return which < 0 || mql_arrays_count(&share->live.arrays, which) + count <=
                            mql_arrays_capacity(&share->live.arrays, which);
}

/* Of a full disk, what does not fit is found by looking. */
static void make_room(mql_share *share, int event, size_t count) {
    if (!has_room(share, event, count))
        (void)mql_reserve_timers(&share->live, heap_of(event), (uint32_t)count);
}

/* Wakes those who may go on: where the number acquired is bounded, an end is room for another. */
static void ring_after(mql_share *share, int64_t released, int64_t ended) {
    mql_log *log = share->live.log;
    bool bounded = atomic_load_explicit(&share->most, memory_order_relaxed) > 0;
    int64_t records = released + (bounded ? ended : 0);
    if (records > 0) mql_share_ring(log, records);
    if (released + ended > 0) ring_room(log);
}

static int settle_round(settling *settle, mql_settle *items, size_t count) {
    mql_share *share = settle->share;
    int rc = mql_share_enter(share, mql_base_slice(settle->how->slice_ns));
    if (rc != MQL_OK) return rc;
    mql_live_begin(&share->live);
    if (settle->how->event == MQL_RENEW) forget_stale(&share->live, count);
    for (size_t i = 0; i < count; i++) items[i].result = settle_one(settle, &items[i]);
    mql_live_end(&share->live);
    settle->changes = atomic_load_explicit(&share->live.map->changes, memory_order_relaxed);
    atomic_store_explicit(&share->live.map->owed, settle->changes, memory_order_release);
    if (MQL_UNLIKELY(settle->damaged)) mql_live_begin(&share->live); /* it is derived anew */
    mql_share_leave(share);
    return MQL_OK;
}

static int64_t when_of(const mql_settlement *how) {
    return how->event == MQL_RENEW ? deadline_in(how->when, boot_ms()) : time_of(how->when);
}

/* Deadlines mean nothing after a power cut. */
static bool is_durable(mql_log *log, const mql_settlement *how) {
    return (how->flags & MQL_DURABLE) != 0 || (mql_log_is_sync(log) && how->event != MQL_RENEW);
}

int mql_share_end_all(mql_share *share, mql_settle *items, size_t count,
                      const mql_settlement *how) {
    settling settle = {.share = share, .how = how, .when = when_of(how)};
    mql_log *log = share->live.log;
    bool durable = is_durable(log, how);
    for (size_t i = 0; i < count; i++) items[i].result = MQL_TIMEOUT;
    if (durable && how->slice_ns <= 0) return MQL_TIMEOUT;
    int rc = mql_log_writable(log);
    if (rc == MQL_OK && how->slice_ns <= 0 && !has_room(share, how->event, count))
        return MQL_TIMEOUT;
    for (size_t at = 0; rc == MQL_OK && at < count; at += AT_A_TIME) {
        size_t some = count - at < AT_A_TIME ? count - at : AT_A_TIME;
        if (how->slice_ns > 0) make_room(share, how->event, some);
        rc = settle_round(&settle, items + at, some);
    }
    ring_after(share, settle.released, settle.ended);
    mql_log_want_sync(log);
    if (rc < 0 || !durable) return rc;
    int synced = mql_reserve_sync(&share->live, settle.changes); /* also before a timeout */
    if (synced == MQL_E_LATER) return rc == MQL_OK ? MQL_UNSYNCED : rc;
    return synced < 0 ? synced : rc;
}

/* -- no record there --------------------------------------------------------------------------- */
/* The slot's offset holds nothing: unless somebody is at it, it is final. */
static void skip_one(mql_live *live, const mql_live_place *place, bool released) {
    mql_slots_slot slot;
    mql_slots_load(place->slot, place->offset, &slot);
    bool available = !slot.fresh && (!slot.sound || slot.state == MQL_SHARE_AVAILABLE);
    if (!slot.fresh && !(available && released)) return;
    slot = (mql_slots_slot){.state = MQL_SHARE_ARCHIVED, .clock = MQL_CLOCK_KIND + MQL_GONE};
    mql_slots_store(place->slot, place->offset, &slot);
    if (available) mql_live_add(&live->map->available, -1);
    mql_live_add(&live->map->unavailable, 1);
    mql_live_finish(live, place, MQL_GONE);
}

/* Offsets [*reached, next) hold nothing: those that nobody has touched are final, whole chunks at
 * once, the rest slot by slot; `released`: those too that somebody has had. MQL_BUSY: there is no
 * clean page, or the lock was held for long enough; what is done is done. */
static int skip_over(mql_live *live, int64_t next, bool released, int64_t *reached) {
    int64_t at = *reached, last = next / MQL_SHARE_SLOTS;
    int rc = MQL_OK, runs = 0;
    while (rc == MQL_OK && at < next) {
        int64_t chunk = at / MQL_SHARE_SLOTS;
        mql_live_place place;
        bool found = mql_live_find(live, at, &place);
        if (!found && mql_live_is_past(live, at)) { /* all of it was delayed, and is final */
            chunk = mql_base_max(chunk + 1, mql_live_pass_done(live, chunk, last));
            at = chunk * MQL_SHARE_SLOTS;
            continue;
        }
        if (!found && at % MQL_SHARE_SLOTS == 0 && chunk < last) {
            int64_t behind = mql_live_untouched(live, chunk, last);
            rc = runs++ < RUNS_AT_A_TIME ? mql_live_finish_chunks(live, chunk, behind, MQL_GONE)
                                         : MQL_BUSY;
            if (rc != MQL_OK) break;
            mql_live_add(&live->map->unavailable, (behind - chunk) * MQL_SHARE_SLOTS);
            at = behind * MQL_SHARE_SLOTS;
            continue;
        }
        if (!found) rc = mql_live_make(live, at, &place);
        if (rc != MQL_OK) break;
        skip_one(live, &place, released);
        at++;
    }
    *reached = at;
    return rc;
}

int mql_share_pass_over(mql_share *share, int64_t from, int64_t to) {
    mql_live *live = &share->live;
    mql_format_share_window window;
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    rc = mql_slots_window(&live->slots, &window);
    if (rc == MQL_OK) {
        int64_t start = mql_base_max(from, window.start), at = start;
        int64_t end = atomic_load_explicit(&live->map->end, memory_order_relaxed);
        mql_live_begin(live);
        if (at < to) rc = skip_over(live, to, true, &at);
        if (end >= start && end < at)
            atomic_store_explicit(&live->map->end, at, memory_order_release);
        mql_live_end(live);
    }
    mql_share_leave(share);
    return rc;
}

int mql_share_skip_to(mql_share *share, int64_t offset, uint64_t token, int64_t next) {
    mql_settlement how = {.event = MQL_ARCHIVE, .when = MQL_GONE};
    settling settle = {.share = share, .how = &how, .when = MQL_GONE};
    mql_settle item = {.offset = offset, .token = token};
    mql_control_end log_end;
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    mql_log_end(share->live.log, &log_end); /* behind it there are none yet */
    next = mql_base_min(next, log_end.offset);
    mql_live_begin(&share->live);
    rc = settle_one(&settle, &item);
    /* The group need not have come to `next` in one go: others acquire meanwhile, and skip alike.
     */
    int64_t end = atomic_load_explicit(&share->live.map->end, memory_order_relaxed);
    if (rc == MQL_OK && end > offset) {
        rc = skip_over(&share->live, next, false, &end);
        atomic_store_explicit(&share->live.map->end, end, memory_order_release);
    }
    mql_live_end(&share->live);
    mql_share_leave(share);
    ring_after(share, 0, 1);
    return rc == MQL_BUSY ? MQL_OK : rc;
}

/* -- holders that are gone --------------------------------------------------------------------- */
static bool held_by(const mql_slots_slot *slot, uint32_t member) {
    return mql_share_is_held(slot) && slot->member == member;
}

/* Releases all that a member holds: by the deadlines first, by looking at every slot if that was
 * not all. Under the lock. */
static int64_t release_member(mql_share *share, uint32_t member) {
    mql_live *live = &share->live;
    mql_live_place place;
    mql_slots_slot slot;
    int64_t released = 0;
    for (uint32_t i = mql_arrays_count(&live->arrays, MQL_LIVE_DEADLINES); i-- > 0;) {
        if (i >= mql_arrays_count(&live->arrays, MQL_LIVE_DEADLINES)) continue;
        mql_format_timer timer = *mql_arrays_timer(&live->arrays, MQL_LIVE_DEADLINES, i);
        if (!mql_live_find(live, timer.offset, &place)) continue;
        mql_slots_load(place.slot, place.offset, &slot);
        if (!held_by(&slot, member)) continue;
        let_go(share, &place, &slot, ABANDONED);
        released++;
    }
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    for (uint32_t page = 0; page < pages; page++) {
        if (atomic_load_explicit(&live->map->held[member], memory_order_relaxed) == 0) break;
        int64_t number = mql_live_chunk(live, page);
        for (int64_t i = 0; number >= 0 && i < MQL_SHARE_SLOTS; i++) {
            if (!mql_live_find(live, number * MQL_SHARE_SLOTS + i, &place)) break;
            mql_slots_load(place.slot, place.offset, &slot);
            if (!held_by(&slot, member)) continue;
            let_go(share, &place, &slot, ABANDONED);
            released++;
        }
    }
    atomic_store_explicit(&live->map->held[member], 0, memory_order_relaxed);
    return released;
}

static void become_member(mql_share *share) {
    mql_format_live *map = share->live.map;
    uint32_t number = own_number(share);
    if (atomic_load_explicit(&map->held[number], memory_order_relaxed) != 0)
        release_member(share, number);
    atomic_store_explicit(&map->members[number], share->live.log->home->self, memory_order_release);
}

int mql_share_reap(mql_share *share) {
    mql_log *log = share->live.log;
    int rc = mql_log_writable(log);
    if (rc < 0) return rc;
    mql_format_live *map = share->live.map;
    int64_t released = 0;
    for (uint32_t n = 0; n < MQL_MEMBERS_MAX; n++) {
        if (atomic_load_explicit(&map->held[n], memory_order_relaxed) == 0) continue;
        uint64_t member = atomic_load_explicit(&map->members[n], memory_order_acquire);
        if (member == log->home->self || log->home->alive(log->home->context, member)) continue;
        make_room(share, MQL_RELEASE, atomic_load_explicit(&map->held[n], memory_order_relaxed));
        rc = mql_base_later(mql_share_enter(share, mql_base_slice(MQL_SLICE_NS)));
        if (rc == MQL_TIMEOUT || rc == MQL_E_LATER) break; /* the next one looks again */
        if (rc < 0) return rc;
        mql_live_begin(&share->live);
        if (atomic_load_explicit(&map->members[n], memory_order_relaxed) == member)
            released += release_member(share, n);
        mql_live_end(&share->live);
        mql_share_leave(share);
    }
    if (released > 0) mql_share_ring(log, released);
    return released > 0 ? MQL_OK : MQL_END;
}

void mql_share_let_go(mql_share *share) {
    mql_log *log = share->live.log;
    uint32_t number = own_number(share);
    mql_format_live *map = share->live.map;
    if (atomic_load_explicit(&map->members[number], memory_order_relaxed) != log->home->self ||
        atomic_load_explicit(&map->held[number], memory_order_relaxed) == 0)
        return;
    if (mql_base_later(mql_live_enter(&share->live, mql_base_slice(MQL_SLICE_NS))) != 0) return;
    mql_live_begin(&share->live);
    int64_t released = release_member(share, number);
    mql_live_end(&share->live);
    mql_share_leave(share);
    mql_share_ring(log, released);
}

/* -- delays ------------------------------------------------------------------------------------ */
/* SPEO goes over what was touched, so that sleepers do not take it for something new; no further
 * than a chunk at a time, as acquire does the rest. */
static void pass_touched(mql_live *live, int64_t offset) {
    int64_t end = atomic_load_explicit(&live->map->end, memory_order_relaxed);
    if (end != offset) return;
    for (int i = 0; i < MQL_SHARE_SLOTS; i++, end++) {
        mql_live_place place;
        mql_slots_slot slot;
        if (!mql_live_find(live, end, &place)) break;
        mql_slots_load(place.slot, end, &slot);
        if (slot.fresh || !slot.sound) break;
    }
    atomic_store_explicit(&live->map->end, end, memory_order_release);
}

int mql_share_delay_until(mql_share *share, int64_t offset, int64_t due_ms) {
    mql_live *live = &share->live;
    mql_live_place place;
    mql_slots_slot slot;
    int rc = mql_share_enter_surely(share);
    if (rc < 0) return rc;
    due_ms = time_of(due_ms);
    mql_live_begin(live);
    bool past = mql_live_is_past(live, offset); /* the group may begin behind it */
    rc = past ? MQL_END : mql_live_make(live, offset, &place);
    if (rc == MQL_OK) mql_slots_load(place.slot, offset, &slot);
    if (rc == MQL_OK &&
        slot.fresh) { /* else a consumer was faster, and has seen that it is early */
        slot.time = due_ms;
        slot.clock = MQL_CLOCK_WALL;
        mql_slots_store(place.slot, offset, &slot);
        mql_arrays_push(&live->arrays, MQL_LIVE_DUE, due_ms, offset);
        mql_live_add(&live->map->available, 1);
        pass_touched(live, offset);
    }
    mql_live_end(live);
    mql_share_leave(share);
    return rc == MQL_END ? MQL_OK : rc;
}
