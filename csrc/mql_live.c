/* mql_live.c - what is derived from the slots of a share group, and the lock over both.
 *
 * Why a death inside costs nothing. Only the slots, the directory words, the done words and the
 * window are true, and each of their changes is one store (the window: one CRC). Everything in this
 * file's struct can be made from them. `busy` is set around each change; who takes the lock from a
 * dead owner and finds it set derives everything anew, who finds it clear has nothing to do.
 *
 * Finished chunks are counted into the window first (`folding` names the last of them) and marked
 * as finished after, by one store. Whoever finds them counted and not marked goes back to the
 * window before; a power cut may have taken more marks than those, whose chunks are then counted
 * twice. A page goes to another chunk only when the mark is on stable storage and the page is
 * zeros there.
 */
#include "mql_live.h"

#include <errno.h>
#include <stdio.h>

#define PARKED_MS 1000 /* until a move is taken up again, if nothing says when */

enum page_mark { MARK_NONE = 0, MARK_RETIRED = 1, MARK_NOTED = 2 };

static mql_format_live_page *facts_of(mql_live *live, uint32_t page) {
    return mql_arrays_at(&live->arrays, MQL_LIVE_PAGES, page);
}
static uint32_t *bucket(const mql_live *live, uint32_t index) {
    return mql_arrays_at(&live->arrays, MQL_LIVE_HASH, index);
}

/* -- the hash of chunks and done pages --------------------------------------------------------- */
static uint64_t code_of(const mql_live *live, uint32_t page) {
    return atomic_load_explicit(mql_slots_name(&live->slots, page), memory_order_relaxed) &
           ((UINT64_C(1) << 48) - 1);
}

static uint32_t home_of(const mql_live *live, uint64_t code) {
    uint64_t mixed = code * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(mixed >> 32) & (live->map->hash_size - 1);
}

static bool find_code(mql_live *live, uint64_t code, uint32_t *page) {
    uint32_t mask = live->map->hash_size - 1;
    for (uint32_t at = home_of(live, code);; at = (at + 1) & mask) {
        uint32_t held = *bucket(live, at);
        if (held == 0) return false;
        if (code_of(live, held - 1) != code) continue;
        *page = held - 1;
        return true;
    }
}

static void insert_code(mql_live *live, uint64_t code, uint32_t page) {
    uint32_t mask = live->map->hash_size - 1, at = home_of(live, code);
    while (*bucket(live, at) != 0) at = (at + 1) & mask;
    *bucket(live, at) = page + 1;
    live->map->named++;
}

/* Takes the page out; those behind it that had been pushed on move up. */
static void remove_code(mql_live *live, uint64_t code) {
    uint32_t mask = live->map->hash_size - 1, at = home_of(live, code);
    while (*bucket(live, at) != 0 && code_of(live, *bucket(live, at) - 1) != code)
        at = (at + 1) & mask;
    if (*bucket(live, at) == 0) return;
    live->map->named--;
    for (uint32_t next = (at + 1) & mask; *bucket(live, next) != 0; next = (next + 1) & mask) {
        uint32_t home = home_of(live, code_of(live, *bucket(live, next) - 1));
        if (((next - home) & mask) < ((next - at) & mask)) continue;
        *bucket(live, at) = *bucket(live, next);
        at = next;
    }
    *bucket(live, at) = 0;
}

/* A larger table, once there is room for it. */
static void widen(mql_live *live) {
    uint32_t size = live->map->hash_size;
    if ((live->map->named + 1) * 2 <= size ||
        mql_arrays_capacity(&live->arrays, MQL_LIVE_HASH) < 2 * size)
        return;
    for (uint32_t i = 0; i < 2 * size; i++) *bucket(live, i) = 0;
    live->map->hash_size = 2 * size;
    live->map->named = 0;
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    for (uint32_t page = 0; page < pages; page++) {
        uint64_t code = code_of(live, page);
        if (code != 0 && facts_of(live, page)->mark == MARK_NONE) insert_code(live, code, page);
    }
}

/* -- pages ------------------------------------------------------------------------------------- */
/* Counts that others take for hints, without the lock. */
static void add_to(_Atomic uint32_t *count, int32_t much) {
    uint32_t now = atomic_load_explicit(count, memory_order_relaxed);
    atomic_store_explicit(count, now + (uint32_t)much, memory_order_relaxed);
}

bool mql_live_is_clean(const mql_live *live, uint32_t page) {
    const mql_format_live_page *facts = mql_arrays_at(&live->arrays, MQL_LIVE_PAGES, page);
    return facts->mark == MARK_NONE &&
           atomic_load_explicit(mql_slots_name(&live->slots, page), memory_order_relaxed) == 0;
}

void mql_live_add_clean(mql_live *live, uint32_t page) {
    *facts_of(live, page) = (mql_format_live_page){.next = live->map->clean_list};
    live->map->clean_list = page + 1;
    add_to(&live->map->clean, 1);
}

static void add_retired(mql_live *live, uint32_t page) {
    *facts_of(live, page) =
        (mql_format_live_page){.next = live->map->retired_list, .mark = MARK_RETIRED};
    live->map->retired_list = page + 1;
    add_to(&live->map->retired, 1);
}

uint32_t mql_live_note_retired(mql_live *live, uint32_t *pages, uint32_t room) {
    uint32_t count = 0;
    for (uint32_t next = live->map->retired_list; next != 0;) {
        mql_format_live_page *facts = facts_of(live, next - 1);
        facts->mark = count < room ? MARK_NOTED : MARK_RETIRED;
        if (count < room) pages[count++] = next - 1;
        next = facts->next;
    }
    return count;
}

void mql_live_clean_noted(mql_live *live) {
    uint32_t next = live->map->retired_list;
    live->map->retired_list = 0;
    atomic_store_explicit(&live->map->retired, 0, memory_order_relaxed);
    while (next != 0) {
        uint32_t page = next - 1;
        const mql_format_live_page *facts = facts_of(live, page);
        bool clean = facts->mark == MARK_NOTED;
        next = facts->next;
        if (clean)
            atomic_store_explicit(mql_slots_name(&live->slots, page), 0, memory_order_release);
        if (clean)
            mql_live_add_clean(live, page);
        else
            add_retired(live, page);
    }
}

/* Names a clean page. False: there is none, or no room in the hash. */
static bool name(mql_live *live, uint64_t code, uint32_t *page) {
    mql_format_live *map = live->map;
    widen(live);
    if (map->clean_list == 0 || map->named + 1 >= map->hash_size) return false;
    *page = map->clean_list - 1;
    mql_format_live_page *facts = facts_of(live, *page);
    map->clean_list = facts->next;
    add_to(&map->clean, -1);
    add_to(&live->taken, 1);
    *facts = (mql_format_live_page){.unfinished = MQL_SHARE_SLOTS};
    atomic_store_explicit(mql_slots_name(&live->slots, *page), mql_slots_word(code, *page),
                          memory_order_release);
    insert_code(live, code, *page);
    return true;
}

static bool find_chunk(mql_live *live, int64_t number, uint32_t *page) {
    if (MQL_LIKELY(live->last_number == number &&
                   live->last_page <
                       atomic_load_explicit(&live->map->pages, memory_order_relaxed))) {
        uint64_t word = atomic_load_explicit(mql_slots_name(&live->slots, live->last_page),
                                             memory_order_relaxed);
        if (MQL_LIKELY(word == live->last_word &&
                       facts_of(live, live->last_page)->mark == MARK_NONE)) {
            *page = live->last_page;
            return true;
        }
    }
    if (!find_code(live, (uint64_t)number + 1, page)) return false;
    live->last_number = number;
    live->last_page = *page;
    live->last_word =
        atomic_load_explicit(mql_slots_name(&live->slots, *page), memory_order_relaxed);
    return true;
}

bool mql_live_find(mql_live *live, int64_t offset, mql_live_place *out) {
    uint32_t page;
    if (!find_chunk(live, offset / MQL_SHARE_SLOTS, &page)) return false;
    *out = (mql_live_place){
        .slot = mql_slots_at(&live->slots, page, offset), .offset = offset, .page = page};
    return true;
}

/* Offsets of a chunk that lie below the window's start count as finished. */
static uint16_t unfinished_of(int64_t number, int64_t start) {
    int64_t below = mql_base_max(start - number * MQL_SHARE_SLOTS, 0);
    return (uint16_t)(MQL_SHARE_SLOTS - mql_base_min(below, MQL_SHARE_SLOTS));
}

int mql_live_make(mql_live *live, int64_t offset, mql_live_place *out) {
    if (mql_live_find(live, offset, out)) return MQL_OK;
    mql_format_share_window window;
    int rc = mql_slots_window(&live->slots, &window);
    if (rc < 0) return rc;
    uint32_t page;
    int64_t number = offset / MQL_SHARE_SLOTS;
    if (!name(live, (uint64_t)number + 1, &page)) return MQL_BUSY;
    facts_of(live, page)->unfinished = unfinished_of(number, window.start);
    mql_live_find(live, offset, out);
    return MQL_OK;
}

/* -- finished chunks --------------------------------------------------------------------------- */
static uint64_t done_bits(mql_live *live, int64_t number, _Atomic uint64_t **word,
                          uint64_t *place) {
    uint32_t page;
    uint64_t bits = 0;
    int64_t k = number / MQL_SHARE_DONE_CHUNKS;
    *word = NULL;
    if (!find_code(live, MQL_SHARE_DONE | (uint64_t)k, &page)) return 0;
    uint64_t index = (uint64_t)(number % MQL_SHARE_DONE_CHUNKS) / MQL_SHARE_WORD_BITS;
    *word = (_Atomic uint64_t *)mql_slots_page(&live->slots, page) + index;
    *place = (uint64_t)k << 16 | index;
    if (!mql_slots_unword(atomic_load_explicit(*word, memory_order_relaxed), *place, &bits))
        return 0; /* damaged: its chunks are delivered again */
    return bits;
}

static bool is_done(mql_live *live, int64_t number) {
    _Atomic uint64_t *word;
    uint64_t place, bits = done_bits(live, number, &word, &place);
    return (bits >> number % MQL_SHARE_DONE_CHUNKS % MQL_SHARE_WORD_BITS & 1) != 0;
}

int64_t mql_live_pass_done(mql_live *live, int64_t number, int64_t stop) {
    while (number < stop) {
        _Atomic uint64_t *word;
        uint64_t place, bits = done_bits(live, number, &word, &place);
        int in_word = (int)(number % MQL_SHARE_DONE_CHUNKS % MQL_SHARE_WORD_BITS);
        int run = __builtin_ctzll(~(bits >> in_word)); /* bits has 48: there is a zero */
        number += run;
        if (in_word + run < MQL_SHARE_WORD_BITS) break;
    }
    return mql_base_min(number, stop);
}

/* Of the chunks [number, stop), which one done page speaks of. */
static int64_t count_in_page(mql_live *live, int64_t number, int64_t stop) {
    int64_t count = 0;
    while (number < stop) {
        _Atomic uint64_t *word;
        uint64_t place, bits = done_bits(live, number, &word, &place);
        int in_word = (int)(number % MQL_SHARE_DONE_CHUNKS % MQL_SHARE_WORD_BITS);
        int64_t some = mql_base_min(stop - number, MQL_SHARE_WORD_BITS - in_word);
        count += __builtin_popcountll(bits >> in_word & ((UINT64_C(1) << some) - 1));
        number += some;
    }
    return count;
}

/* The chunks that the page speaks of: itself, or those that it marks. False: of none. */
static bool chunks_of(const mql_live *live, uint32_t page, int64_t *from, int64_t *to) {
    const mql_format_live_page *facts = mql_arrays_at(&live->arrays, MQL_LIVE_PAGES, page);
    uint64_t code = code_of(live, page);
    bool done = (code & MQL_SHARE_DONE) != 0;
    if (code == 0 || facts->mark != MARK_NONE) return false;
    *from = done ? (int64_t)(code & ~MQL_SHARE_DONE) * MQL_SHARE_DONE_CHUNKS : (int64_t)code - 1;
    *to = *from + (done ? MQL_SHARE_DONE_CHUNKS : 1);
    return true;
}

/* By the pages there are, not by the chunks: damage may claim any number of those. */
int64_t mql_live_count_done(mql_live *live, int64_t number, int64_t stop) {
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    int64_t count = 0, from, to;
    if (stop - number <= MQL_SHARE_DONE_CHUNKS) return count_in_page(live, number, stop);
    for (uint32_t page = 0; page < pages; page++)
        if (chunks_of(live, page, &from, &to) && to - from > 1)
            count += count_in_page(live, mql_base_max(from, number), mql_base_min(to, stop));
    return count;
}

int64_t mql_live_untouched(mql_live *live, int64_t number, int64_t stop) {
    mql_format_share_window window;
    int64_t next = number + 1, from, to;
    uint32_t page, pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    bool first = mql_slots_window(&live->slots, &window) == MQL_OK &&
                 number == window.start / MQL_SHARE_SLOTS;
    uint64_t done = MQL_SHARE_DONE | (uint64_t)(next / MQL_SHARE_DONE_CHUNKS);
    if (!first || find_code(live, done, &page)) { /* those of one word */
        stop = mql_base_min(stop, mql_base_round_up(next, MQL_SHARE_WORD_BITS));
        while (next < stop && !find_code(live, (uint64_t)next + 1, &page) && !is_done(live, next))
            next++;
        return next;
    }
    if (find_code(live, (uint64_t)next + 1, &page)) return next;
    for (page = 0; page < pages; page++)
        if (chunks_of(live, page, &from, &to) && to > next)
            stop = mql_base_min(stop, mql_base_max(from, next));
    return stop;
}

/* There is a page that can say that the chunk is done. */
static bool can_be_done(mql_live *live, int64_t number) {
    uint32_t page;
    uint64_t code = MQL_SHARE_DONE | (uint64_t)(number / MQL_SHARE_DONE_CHUNKS);
    return find_code(live, code, &page) || name(live, code, &page);
}

/* Of the chunks [from, to) one word speaks. */
static void set_done(mql_live *live, int64_t from, int64_t to) {
    _Atomic uint64_t *word;
    uint64_t place, bits = done_bits(live, from, &word, &place);
    bits |= ((UINT64_C(1) << (to - from)) - 1)
            << from % MQL_SHARE_DONE_CHUNKS % MQL_SHARE_WORD_BITS;
    atomic_store_explicit(word, mql_slots_word(bits, place), memory_order_release);
}

/* The start goes from chunk `from` over `to` and what is done; done pages it has passed go: none
 * is between the two. */
static void advance_start(mql_live *live, mql_format_share_window *next, int64_t from, int64_t to) {
    int64_t number = mql_live_pass_done(live, to + 1, INT64_MAX);
    next->start = number * MQL_SHARE_SLOTS;
    mql_slots_set_window(&live->slots, next);
    for (int64_t k = from / MQL_SHARE_DONE_CHUNKS; k < number / MQL_SHARE_DONE_CHUNKS;
         k = mql_base_max(k + 1, to / MQL_SHARE_DONE_CHUNKS)) {
        uint32_t page;
        if (!find_code(live, MQL_SHARE_DONE | (uint64_t)k, &page)) continue;
        remove_code(live, MQL_SHARE_DONE | (uint64_t)k);
        add_retired(live, page);
    }
}

/* Counts what the chunk's slots came to: nearly always all were accepted. */
static void sum_chunk(mql_live *live, uint32_t page, int64_t number, int64_t start,
                      int64_t counts[MQL_SHARE_KINDS]) {
    bool mixed = facts_of(live, page)->mixed != 0;
    int64_t first = mql_base_max(start, number * MQL_SHARE_SLOTS);
    int64_t stop = (number + 1) * MQL_SHARE_SLOTS;
    if (!mixed) counts[MQL_ACCEPTED] += stop - first;
    for (int64_t offset = first; mixed && offset < stop; offset++) {
        mql_slots_slot slot;
        mql_slots_load(mql_slots_at(&live->slots, page, offset), offset, &slot);
        if (slot.sound && mql_slots_is_final(&slot)) counts[mql_live_kind(&slot)]++;
    }
}

/* Every record of the chunk is final: counts it, marks it, retires its page. False: there is no
 * page to mark it in, and nothing has changed. */
static bool fold(mql_live *live, uint32_t page, int64_t number) {
    mql_format_share_window window;
    if (mql_slots_window(&live->slots, &window) < 0) return false;
    bool first = number == window.start / MQL_SHARE_SLOTS;
    if (!first && !can_be_done(live, number)) return false;
    if (window.folding != number) sum_chunk(live, page, number, window.start, window.counts);
    window.folding = number;
    remove_code(live, (uint64_t)number + 1);
    if (first) {
        advance_start(live, &window, number, number);
    } else {
        mql_slots_set_window(&live->slots, &window);
        set_done(live, number, number + 1);
    }
    add_retired(live, page);
    return true;
}

void mql_live_finish(mql_live *live, const mql_live_place *place, int kind) {
    mql_format_live_page *facts = facts_of(live, place->page);
    mql_live_add(&live->map->counts[kind], 1);
    if (kind != MQL_ACCEPTED) facts->mixed = 1;
    if (--facts->unfinished == 0)
        fold(live, place->page, place->offset / MQL_SHARE_SLOTS); /* or the next recycling does */
}

int mql_live_finish_chunks(mql_live *live, int64_t from, int64_t to, int kind) {
    mql_format_share_window window;
    int rc = mql_slots_window(&live->slots, &window);
    if (rc < 0) return rc;
    bool first = from == window.start / MQL_SHARE_SLOTS;
    if (!first && !can_be_done(live, from)) return MQL_BUSY;
    int64_t all = unfinished_of(from, window.start) + (to - from - 1) * MQL_SHARE_SLOTS;
    window.counts[kind] += all;
    window.folding = to - 1;
    mql_live_add(&live->map->counts[kind], all);
    if (first) { /* the start goes over all of them */
        advance_start(live, &window, from, to - 1);
    } else {
        mql_slots_set_window(&live->slots, &window);
        set_done(live, from, to);
    }
    return MQL_OK;
}

bool mql_live_is_past(mql_live *live, int64_t offset) {
    mql_format_share_window window;
    if (mql_slots_window(&live->slots, &window) < 0) return false;
    return offset < window.start || is_done(live, offset / MQL_SHARE_SLOTS);
}

int64_t mql_live_chunk(const mql_live *live, uint32_t page) {
    const mql_format_live_page *facts = mql_arrays_at(&live->arrays, MQL_LIVE_PAGES, page);
    uint64_t code = code_of(live, page);
    bool chunk = code != 0 && (code & MQL_SHARE_DONE) == 0 && facts->mark == MARK_NONE;
    return chunk ? (int64_t)code - 1 : -1;
}

void mql_live_fold_rest(mql_live *live) {
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    for (uint32_t page = 0; page < pages; page++) {
        int64_t number = mql_live_chunk(live, page);
        if (number >= 0 && facts_of(live, page)->unfinished == 0) fold(live, page, number);
    }
}

/* -- deriving everything anew ------------------------------------------------------------------ */
/* Which timers a pass puts into the heaps: when they do not all fit, those that are due go first.
 */
typedef enum pass_kind { PASS_ALL, PASS_DUE, PASS_REST } pass_kind;

typedef struct rebuilding {
    mql_live *live;
    mql_format_share_window window;
    pass_kind pass;
    bool fresh;
    bool full; /* on a full disk the horizons stay, and what lies behind them is found by looking */
    int64_t now[2];
} rebuilding;

/* Where nobody else is there yet, a heap grows with what is found for it. */
static void push_again(rebuilding *build, int which, int64_t time, int64_t offset) {
    bool due = time <= build->now[which];
    if (build->pass == PASS_DUE && !due) return;
    if (build->pass == PASS_REST && due) return;
    mql_arrays *arrays = &build->live->arrays;
    uint32_t count = mql_arrays_count(arrays, which);
    if (build->fresh && !build->full && count >= mql_arrays_capacity(arrays, which))
        build->full = mql_arrays_grow(arrays, which, count + 1) < 0;
    mql_arrays_push(arrays, which, time, offset);
}

/* When a record that nobody holds is to be taken. When a parked move is, its slot cannot say: if
 * that is at once, who takes it and cannot end it comes back to it for ever where the heap is full.
 */
static int64_t due_of(const rebuilding *build, const mql_slots_slot *slot) {
    if (slot->sound && slot->state == MQL_SHARE_ARCHIVING && !build->fresh)
        return build->now[MQL_LIVE_DUE] + PARKED_MS;
    return slot->sound && slot->clock == MQL_CLOCK_WALL ? slot->time : 0;
}

/* One slot of a chunk that has a page. Counted in the first pass only. */
static void rebuild_slot(rebuilding *build, mql_format_slot *at, int64_t offset,
                         mql_format_live_page *facts) {
    mql_format_live *map = build->live->map;
    bool counts = build->pass != PASS_REST;
    mql_slots_slot slot;
    mql_slots_load(at, offset, &slot);
    if (slot.fresh) return;
    bool held = slot.state == MQL_SHARE_ACQUIRED || slot.state == MQL_SHARE_ARCHIVING;
    if (slot.sound && held && build->fresh) { /* its holder is gone */
        bool moving = slot.state == MQL_SHARE_ARCHIVING;
        slot.member = MQL_MEMBERS_MAX;
        slot.state = moving ? MQL_SHARE_ARCHIVING : MQL_SHARE_AVAILABLE;
        if (!moving) slot.time = 0, slot.clock = MQL_CLOCK_NONE;
        mql_slots_store(at, offset, &slot);
    }
    if (slot.sound && mql_slots_is_final(&slot)) {
        int kind = mql_live_kind(&slot);
        if (!counts) return;
        facts->mixed |= kind != MQL_ACCEPTED;
        facts->unfinished--;
        mql_live_add(&map->counts[kind], 1);
        mql_live_add(&map->unavailable, 1);
        return;
    }
    bool free = !slot.sound || slot.state == MQL_SHARE_AVAILABLE || slot.member >= MQL_MEMBERS_MAX;
    if (free) {
        if (counts) mql_live_add(&map->available, 1);
        push_again(build, MQL_LIVE_DUE, due_of(build, &slot), offset);
        return;
    }
    if (counts) {
        mql_live_add(&map->acquired, 1);
        mql_live_add(&map->unavailable, 1);
        atomic_fetch_add_explicit(&map->held[slot.member], 1, memory_order_relaxed);
    }
    if (slot.state == MQL_SHARE_ACQUIRED)
        push_again(build, MQL_LIVE_DEADLINES, slot.clock == MQL_CLOCK_BOOT ? slot.time : 0, offset);
}

static void rebuild_chunk(rebuilding *build, uint32_t page, int64_t number) {
    mql_format_live_page *facts = facts_of(build->live, page);
    if (build->pass != PASS_REST)
        *facts = (mql_format_live_page){.unfinished = unfinished_of(number, build->window.start)};
    int64_t first = mql_base_max(build->window.start, number * MQL_SHARE_SLOTS);
    for (int64_t offset = first; offset < (number + 1) * MQL_SHARE_SLOTS; offset++)
        rebuild_slot(build, mql_slots_at(&build->live->slots, page, offset), offset, facts);
}

/* A power cut may have taken a page's name and kept what was in it, which is then to be wiped. */
static bool holds_leftovers(const rebuilding *build, uint32_t page) {
    const uint8_t *bytes = (const uint8_t *)mql_slots_page(&build->live->slots, page);
    return bytes[0] != 0 || memcmp(bytes, bytes + 1, MQL_PAGE - 1) != 0;
}

/* Puts each page where it belongs: clean, retired or in the hash. */
static void sort_pages(const rebuilding *build) {
    mql_live *live = build->live;
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    int64_t first_done = build->window.start / MQL_SHARE_SLOTS / MQL_SHARE_DONE_CHUNKS;
    for (uint32_t page = pages; page-- > 0;) {
        uint64_t word =
            atomic_load_explicit(mql_slots_name(&live->slots, page), memory_order_relaxed);
        uint64_t code;
        uint32_t other;
        *facts_of(live, page) = (mql_format_live_page){.mark = MARK_RETIRED};
        if (!mql_slots_unword(word, page, &code)) continue; /* damaged: never used again */
        if (code == 0 && !holds_leftovers(build, page)) {
            mql_live_add_clean(live, page);
            continue;
        }
        bool done = (code & MQL_SHARE_DONE) != 0;
        bool old = done && (int64_t)(code & ~MQL_SHARE_DONE) < first_done;
        if (code == 0 || old || find_code(live, code, &other)) {
            add_retired(live, page);
            continue;
        }
        *facts_of(live, page) = (mql_format_live_page){0};
        insert_code(live, code, page);
    }
}

/* Takes finished chunks out of the hash again, and goes through the others. */
static void sort_chunks(rebuilding *build) {
    mql_live *live = build->live;
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    for (uint32_t page = 0; page < pages; page++) {
        uint64_t code = code_of(live, page);
        bool chunk = code != 0 && (code & MQL_SHARE_DONE) == 0;
        if (!chunk || facts_of(live, page)->mark != MARK_NONE) continue;
        int64_t number = (int64_t)code - 1;
        if (number < build->window.start / MQL_SHARE_SLOTS || is_done(live, number)) {
            remove_code(live, code);
            add_retired(live, page);
            continue;
        }
        rebuild_chunk(build, page, number);
    }
}

/* Chunks that are finished and have no page any more, behind that of the start. */
static int64_t done_chunks(mql_live *live, int64_t start) {
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_relaxed);
    int64_t count = 0;
    for (uint32_t page = 0; page < pages; page++) {
        uint64_t code = code_of(live, page), bits;
        if ((code & MQL_SHARE_DONE) == 0 || facts_of(live, page)->mark != MARK_NONE) continue;
        const _Atomic uint64_t *words = mql_slots_page(&live->slots, page);
        for (uint64_t i = 0; i < MQL_PAGE / sizeof *words; i++) {
            uint64_t word = atomic_load_explicit(&words[i], memory_order_relaxed);
            if (word == 0 || !mql_slots_unword(word, (code & ~MQL_SHARE_DONE) << 16 | i, &bits))
                continue;
            int64_t first = (int64_t)(code & ~MQL_SHARE_DONE) * MQL_SHARE_DONE_CHUNKS +
                            (int64_t)i * MQL_SHARE_WORD_BITS;
            int64_t below = mql_base_min(start / MQL_SHARE_SLOTS - first, MQL_SHARE_WORD_BITS);
            if (below > 0) bits = bits >> below; /* the start has passed them */
            count += __builtin_popcountll(bits);
        }
    }
    return count;
}

/* SPEO: the first offset that was never touched. */
static int64_t first_untouched(mql_live *live, int64_t start) {
    for (int64_t number = start / MQL_SHARE_SLOTS;; number++) {
        if (is_done(live, number)) continue;
        uint32_t page;
        int64_t offset = mql_base_max(start, number * MQL_SHARE_SLOTS);
        if (!find_code(live, (uint64_t)number + 1, &page)) return offset;
        for (; offset < (number + 1) * MQL_SHARE_SLOTS; offset++) {
            mql_slots_slot slot;
            mql_slots_load(mql_slots_at(&live->slots, page, offset), offset, &slot);
            if (slot.fresh) return offset;
        }
    }
}

/* A chunk that was counted, and not marked, when its owner died or the power went, is not counted:
 * it is counted when it is folded again. */
static void undo_fold(rebuilding *build) {
    mql_live *live = build->live;
    mql_format_share_window before, *window = &build->window;
    int64_t number = window->folding;
    if (number < window->start / MQL_SHARE_SLOTS || is_done(live, number) ||
        !mql_slots_window_before(&live->slots, window, &before))
        return;
    for (int i = 0; i < MQL_SHARE_KINDS; i++) {
        mql_live_add(&live->map->counts[i], before.counts[i] - window->counts[i]);
        window->counts[i] = before.counts[i];
    }
    window->folding = -1;
    mql_slots_set_window(&live->slots, window);
}

static void clear(mql_live *live, const mql_format_share_window *window) {
    mql_format_live *map = live->map;
    map->rebuilds++;
    for (int which = 0; which < 2; which++) {
        atomic_store_explicit(&map->timers[which], 0, memory_order_relaxed);
        atomic_store_explicit(&map->horizon[which], INT64_MAX, memory_order_relaxed);
        atomic_store_explicit(&map->next[which], INT64_MAX, memory_order_relaxed);
    }
    for (int i = 0; i < MQL_MEMBERS_MAX; i++)
        atomic_store_explicit(&map->held[i], 0, memory_order_relaxed);
    for (int i = 0; i < MQL_SHARE_KINDS; i++)
        atomic_store_explicit(&map->counts[i], window->counts[i], memory_order_relaxed);
    atomic_store_explicit(&map->unavailable, window->start, memory_order_relaxed);
    atomic_store_explicit(&map->acquired, 0, memory_order_relaxed);
    atomic_store_explicit(&map->available, 0, memory_order_relaxed);
    map->clean_list = map->retired_list = map->named = 0;
    atomic_store_explicit(&map->clean, 0, memory_order_relaxed);
    atomic_store_explicit(&map->retired, 0, memory_order_relaxed);
    uint32_t pages = atomic_load_explicit(&map->pages, memory_order_relaxed), size = 64;
    while (size < 2 * pages && 2 * size <= mql_arrays_capacity(&live->arrays, MQL_LIVE_HASH))
        size *= 2;
    map->hash_size = size;
    for (uint32_t i = 0; i < size; i++) *bucket(live, i) = 0;
    live->last_number = -1;
}

static bool overflowed(const mql_live *live) {
    return atomic_load_explicit(&live->map->horizon[0], memory_order_relaxed) != INT64_MAX ||
           atomic_load_explicit(&live->map->horizon[1], memory_order_relaxed) != INT64_MAX;
}

int mql_live_rebuild(mql_live *live, bool fresh) {
    rebuilding build = {
        .live = live,
        .fresh = fresh,
        .now = {mql_log_wall_ms(live->log->home), mql_os_monotonic_ns() / 1000000}};
    int rc = mql_slots_window(&live->slots, &build.window);
    if (rc < 0) return rc;
    for (build.pass = PASS_ALL; build.pass <= PASS_DUE; build.pass++) {
        clear(live, &build.window);
        sort_pages(&build);
        sort_chunks(&build);
        if (!overflowed(live)) break;
    }
    if (build.pass > PASS_ALL) { /* what does not fit even so lowers the horizon */
        build.pass = PASS_REST;
        sort_chunks(&build);
    }
    mql_live_add(&live->map->unavailable, done_chunks(live, build.window.start) * MQL_SHARE_SLOTS);
    atomic_store_explicit(&live->map->end, first_untouched(live, build.window.start),
                          memory_order_relaxed);
    undo_fold(&build);
    mql_live_fold_rest(live);
    return MQL_OK;
}

/* -- the lock ---------------------------------------------------------------------------------- */
int mql_live_map(mql_live *live) {
    uint32_t growth = atomic_load_explicit(&live->map->growth, memory_order_acquire);
    uint32_t pages = atomic_load_explicit(&live->map->pages, memory_order_acquire);
    int rc = mql_slots_map(&live->slots, live->log->home->root, pages);
    if (rc == MQL_OK) rc = mql_arrays_map(&live->arrays);
    /* Last: other threads of this process believe it. */
    if (rc == MQL_OK) atomic_store_explicit(&live->seen, growth, memory_order_release);
    return rc;
}

/* Everything that others have added is mapped here. A page or a part is used only after `growth`
 * has moved, unless its maker died in between. */
static bool is_mapped(const mql_live *live) {
    return atomic_load_explicit(&live->map->growth, memory_order_acquire) ==
           atomic_load_explicit(&live->seen, memory_order_acquire);
}

int mql_live_enter(mql_live *live, int64_t timeout_ns) {
    for (bool mapped = false;;) {
        uint32_t died = 0; /* what is owed then, `busy` says */
        int rc = mql_log_take(live->log, &live->map->share, timeout_ns, &died);
        if (MQL_UNLIKELY(rc != MQL_OK)) return rc;
        bool busy = atomic_load_explicit(&live->map->busy, memory_order_relaxed) != 0;
        mapped = mapped && died == 0;
        if (MQL_UNLIKELY(!is_mapped(live) || (busy && !mapped))) {
            mql_os_mutex_drop(&live->map->share); /* mapping is done outside */
            rc = mql_live_map(live);
            if (rc < 0) return rc;
            mapped = true;
            continue;
        }
        rc = mql_log_writable(live->log); /* a closer waits for the lock after it has said so */
        if (MQL_LIKELY(rc == MQL_OK && !busy)) return MQL_OK;
        if (rc == MQL_OK) rc = mql_live_rebuild(live, false);
        if (rc < 0) {
            mql_os_mutex_drop(&live->map->share);
            return rc;
        }
        mql_live_end(live);
        return MQL_OK;
    }
}

void mql_live_leave(mql_live *live) { mql_os_mutex_drop(&live->map->share); }
