/* mql_survey.c - a share group as its file tells it.
 *
 * Nothing is mapped, locked or written: pages are copied, and what they say is judged by the rules
 * of docs/FORMAT.md alone, so bytes that lie cost a wrong number at most.
 *
 * Why no record is found that is done, though others write: a chunk's page is wiped, or given to
 * another chunk, only after a new window has counted the chunk, and the start or a done page has
 * told of it. So after a page was copied the window is looked at, and if it has moved, whether the
 * chunk is still unfinished; the copy of one that is not says nothing. A slot needs no such care,
 * since one store changes it. If the window has moved, all is read again, for a while: what has
 * ended how is right only of a group that rests so long.
 */
#include "mql_survey.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define TRIES 20
#define PATIENCE_NS ((int64_t)250 * 1000 * 1000) /* of somebody who asks of a busy group */
#define WORDS (MQL_PAGE / 8)

/* A page that has a name: of chunk `number`, or done page `number`. */
typedef struct named_page {
    int64_t number;
    uint32_t page;
} named_page;

typedef struct named_pages {
    named_page *items; /* owns; by number */
    size_t count;
    size_t room;
} named_pages;

typedef struct done_page {
    int64_t first; /* the chunk of its first bit */
    uint64_t words[WORDS];
} done_page;

/* What a file said at one moment, but for its chunks. */
typedef struct survey_outline {
    mql_format_share_window window;
    int64_t counts[MQL_SHARE_KINDS];
    named_pages chunks; /* unfinished ones */
    done_page *done;    /* owns; by `first` */
    size_t done_count;
} survey_outline;

/* Who holds records: told by the locks of processes, and only while the store is open. */
typedef struct survey_witness {
    mql_os_file locks;
    bool live;
    uint8_t seen[MQL_MEMBERS_MAX]; /* asked already: 1 dead, 2 alive */
    uint64_t members[MQL_MEMBERS_MAX];
    uint64_t joined[MQL_MEMBERS_MAX];
} survey_witness;

typedef struct mql_survey {
    mql_share *share;
    mql_os_file file;
    int64_t end; /* of the log, as the snapshot has it */
    survey_outline outline; /* that is walked */
    survey_outline latest;  /* the newest read since, if `moved` */
    bool moved;
    survey_witness witness;
} mql_survey;

typedef enum slot_standing { FRESH, FREE, HELD, FINAL } slot_standing;

/* Who walks. Each gives false to end the walk. */
typedef struct visitor {
    void *context;
    void (*begin)(void *context, const mql_survey *survey);
    bool (*untouched)(void *context, int64_t from, int64_t to);
    bool (*slot)(void *context, int64_t offset, const mql_slots_slot *slot, slot_standing standing);
} visitor;

/* -- pages ------------------------------------------------------------------------------------- */
/* What the file does not have is zeros. */
static int read_at(const mql_survey *survey, int64_t position, void *out, size_t length) {
    memset(out, 0, length);
    int64_t got = mql_os_read(survey->file, out, length, position);
    return got < 0 ? mql_base_fail_os((int)got, survey->share->live.slots.path,
                                      "cannot read the share group")
                   : MQL_OK;
}

static int no_memory(const mql_survey *survey) {
    return mql_base_fail(MQL_E_MEMORY, survey->share->live.slots.path,
                         "no memory to look at a share group");
}

static int note(const mql_survey *survey, named_pages *pages, int64_t number, uint32_t page) {
    if (pages->count == pages->room) {
        size_t room = pages->room == 0 ? 64 : 2 * pages->room;
        named_page *items = mql_os_allocate_memory(room * sizeof *items);
        if (items == NULL) return no_memory(survey);
        if (pages->count > 0) memcpy(items, pages->items, pages->count * sizeof *items);
        mql_os_free_memory(pages->items);
        pages->items = items;
        pages->room = room;
    }
    pages->items[pages->count++] = (named_page){.number = number, .page = page};
    return MQL_OK;
}

static int ascending(const void *a, const void *b) {
    const named_page *x = a, *y = b;
    if (x->number != y->number) return (x->number > y->number) - (x->number < y->number);
    return (x->page > y->page) - (x->page < y->page);
}

/* By number; of two pages of one name the greater counts. */
static void sort(named_pages *pages) {
    if (pages->count == 0) return;
    qsort(pages->items, pages->count, sizeof *pages->items, ascending);
    size_t kept = 0;
    for (size_t i = 1; i < pages->count; i++) {
        if (pages->items[i].number != pages->items[kept].number) kept++;
        pages->items[kept] = pages->items[i];
    }
    pages->count = kept + 1;
}

/* -- the outline ------------------------------------------------------------------------------- */
/* The first done page that speaks of this chunk or of one behind it. */
static const done_page *done_from(const survey_outline *outline, int64_t chunk) {
    size_t low = 0, high = outline->done_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (outline->done[middle].first + MQL_SHARE_DONE_CHUNKS <= chunk)
            low = middle + 1;
        else
            high = middle;
    }
    return low < outline->done_count ? &outline->done[low] : NULL;
}

static bool has_bit(const done_page *done, int64_t chunk) {
    int64_t at = chunk - done->first;
    return (done->words[at / MQL_SHARE_WORD_BITS] >> at % MQL_SHARE_WORD_BITS & 1) != 0;
}

static bool is_done(const survey_outline *outline, int64_t chunk) {
    const done_page *done = done_from(outline, chunk);
    return done != NULL && done->first <= chunk && has_bit(done, chunk);
}

static int read_window(const mql_survey *survey, mql_format_share_window *window) {
    const char *path = survey->share->live.slots.path;
    mql_format_share header;
    mql_slots slots = {.header = &header};
    snprintf(slots.path, sizeof slots.path, "%s", path);
    int rc = read_at(survey, 0, &header, sizeof header);
    if (rc == MQL_OK) rc = mql_slots_judge(&slots, false);
    if (rc == MQL_OK) rc = mql_slots_window(&slots, window);
    if (rc == MQL_OK && window->sequence == 0)
        rc = mql_base_fail(MQL_E_NOT_FOUND, path, "there is no such share group");
    return rc;
}

/* Names of pages from the directories: chunks and done pages of offsets that there are. */
static int read_names(const mql_survey *survey, survey_outline *outline, named_pages *done) {
    mql_os_stat stat;
    int rc = mql_os_stat_file(survey->file, &stat);
    if (rc < 0)
        return mql_base_fail_os(rc, survey->share->live.slots.path,
                                "cannot look at the share group");
    uint32_t pages = mql_slots_count(stat.size);
    uint64_t words[WORDS], code;
    int64_t first = outline->window.start / MQL_SHARE_SLOTS;
    int64_t last = (survey->end - 1) / MQL_SHARE_SLOTS;
    for (uint32_t page = 0; rc == MQL_OK && page < pages; page++) {
        uint32_t index = page % MQL_SHARE_REGION_PAGES;
        if (index == 0) rc = read_at(survey, mql_slots_position(page) - MQL_PAGE, words, MQL_PAGE);
        if (rc != MQL_OK || !mql_slots_unword(words[index], page, &code) || code == 0) continue;
        bool marks = (code & MQL_SHARE_DONE) != 0;
        int64_t number = (int64_t)(code & ~MQL_SHARE_DONE) - (marks ? 0 : 1);
        int64_t span = marks ? MQL_SHARE_DONE_CHUNKS : 1;
        if (number < first / span || number > last / span) continue;
        rc = note(survey, marks ? done : &outline->chunks, number, page);
    }
    sort(done);
    sort(&outline->chunks);
    return rc;
}

static int read_done(const mql_survey *survey, survey_outline *outline, const named_pages *named) {
    if (named->count == 0) return MQL_OK;
    outline->done = mql_os_allocate_memory(named->count * sizeof *outline->done);
    if (outline->done == NULL) return no_memory(survey);
    for (size_t i = 0; i < named->count; i++) {
        done_page *done = &outline->done[i];
        const named_page *from = &named->items[i];
        int rc = read_at(survey, mql_slots_position(from->page), done->words, MQL_PAGE);
        if (rc < 0) return rc;
        done->first = from->number * MQL_SHARE_DONE_CHUNKS;
        for (uint64_t word = 0; word < WORDS; word++) {
            uint64_t place = (uint64_t)from->number << 16 | word;
            if (!mql_slots_unword(done->words[word], place, &done->words[word]))
                done->words[word] = 0; /* damaged: its chunks are delivered again */
        }
    }
    outline->done_count = named->count;
    return MQL_OK;
}

/* Leaves out chunks that are finished; one that was counted and not marked is counted with its
 * slots. */
static int settle_outline(const mql_survey *survey, survey_outline *outline) {
    mql_format_share header;
    mql_format_share_window before;
    mql_slots slots = {.header = &header};
    size_t kept = 0;
    for (size_t i = 0; i < outline->chunks.count; i++)
        if (!is_done(outline, outline->chunks.items[i].number))
            outline->chunks.items[kept++] = outline->chunks.items[i];
    outline->chunks.count = kept;
    int64_t folding = outline->window.folding;
    if (folding < outline->window.start / MQL_SHARE_SLOTS || is_done(outline, folding))
        return MQL_OK;
    int rc = read_at(survey, 0, &header, sizeof header);
    if (rc == MQL_OK && mql_slots_window_before(&slots, &outline->window, &before))
        memcpy(outline->counts, before.counts, sizeof before.counts);
    return rc;
}

static void drop_outline(survey_outline *outline) {
    mql_os_free_memory(outline->chunks.items);
    mql_os_free_memory(outline->done);
    memset(outline, 0, sizeof *outline);
}

static int read_outline_once(const mql_survey *survey, survey_outline *outline) {
    named_pages done = {0};
    drop_outline(outline);
    int rc = read_window(survey, &outline->window);
    if (rc == MQL_OK) memcpy(outline->counts, outline->window.counts, sizeof outline->counts);
    if (rc == MQL_OK) rc = read_names(survey, outline, &done);
    if (rc == MQL_OK) rc = read_done(survey, outline, &done);
    if (rc == MQL_OK) rc = settle_outline(survey, outline);
    mql_os_free_memory(done.items);
    return rc;
}

static bool same_window(const mql_format_share_window *a, const mql_format_share_window *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* Of one moment: the window is the same before and after. */
static int read_outline(const mql_survey *survey, survey_outline *outline) {
    mql_format_share_window after;
    int rc = read_outline_once(survey, outline);
    for (int i = 1; rc == MQL_OK && survey->witness.live && i < TRIES; i++) {
        rc = read_window(survey, &after);
        if (rc != MQL_OK || same_window(&after, &outline->window)) break;
        rc = read_outline_once(survey, outline);
    }
    return rc;
}

static bool has_chunk(const survey_outline *outline, const named_page *chunk) {
    size_t low = 0, high = outline->chunks.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = ascending(&outline->chunks.items[middle], chunk);
        if (order == 0) return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* Whether the chunk was unfinished still after its page was copied. MQL_END: it was not. */
static int check_unfinished(mql_survey *survey, const named_page *chunk) {
    mql_format_share_window now;
    if (!survey->witness.live) return MQL_OK;
    const survey_outline *known = survey->moved ? &survey->latest : &survey->outline;
    int rc = read_window(survey, &now);
    if (rc < 0) return rc;
    bool moved = !same_window(&now, &known->window);
    if (moved || known->window.folding == chunk->number) { /* which is marked a little later */
        rc = read_outline(survey, &survey->latest);
        survey->moved = true;
    }
    if (rc != MQL_OK || !survey->moved) return rc;
    return has_chunk(&survey->latest, chunk) ? MQL_OK : MQL_END;
}

/* -- who is alive ------------------------------------------------------------------------------ */
static bool read_whole(const mql_survey *survey, const char *path, void *out, size_t length) {
    mql_os_file file;
    if (mql_os_open(survey->share->live.log->home->root, path, MQL_OS_READ, 0, &file) < 0)
        return false;
    bool whole = mql_os_read(file, out, length, 0) == (int64_t)length;
    mql_os_close(file);
    return whole;
}

/* Nobody holds anything unless the group was opened since the store was. */
static void call_witness(mql_survey *survey) {
    survey_witness *witness = &survey->witness;
    mql_os_file root = survey->share->live.log->home->root;
    mql_format_live live;
    mql_format_doorbell bell;
    if (mql_os_open(root, "store.lock", MQL_OS_READ, 0, &witness->locks) < 0) {
        witness->locks = MQL_OS_NO_FILE;
        return;
    }
    if (mql_os_lock_test(witness->locks, MQL_LOCK_ALIVE) != MQL_OS_HELD ||
        !read_whole(survey, survey->share->live.arrays.path, &live, sizeof live) ||
        !read_whole(survey, "doorbell", &bell, sizeof bell))
        return;
    uint64_t instance = atomic_load_explicit(&live.instance, memory_order_relaxed);
    witness->live =
        memcmp(live.magic, MQL_LIVE_MAGIC, sizeof live.magic) == 0 && instance != 0 &&
        instance == atomic_load_explicit(&bell.instance, memory_order_relaxed);
    for (size_t n = 0; n < MQL_MEMBERS_MAX; n++) {
        witness->members[n] = atomic_load_explicit(&live.members[n], memory_order_relaxed);
        witness->joined[n] = atomic_load_explicit(&bell.members[n], memory_order_relaxed);
    }
}

static bool is_alive(survey_witness *witness, uint32_t number) {
    if (!witness->live) return false;
    if (witness->seen[number] == 0) {
        bool held = mql_os_lock_test(witness->locks, MQL_LOCK_MEMBER + (int64_t)number) != 0;
        bool same = (witness->members[number] & MQL_MEMBER_COUNTER) >= witness->joined[number];
        witness->seen[number] = held && same ? 2 : 1;
    }
    return witness->seen[number] == 2;
}

/* -- walking ----------------------------------------------------------------------------------- */
static slot_standing standing_of(mql_survey *survey, const mql_slots_slot *slot) {
    if (slot->fresh) return FRESH;
    if (slot->sound && mql_slots_is_final(slot)) return FINAL;
    return mql_share_is_held(slot) && is_alive(&survey->witness, slot->member) ? HELD : FREE;
}

/* Offsets [from, to) of one done page, chunk by chunk. */
static bool walk_done(const done_page *done, int64_t from, int64_t to, const visitor *who) {
    int64_t open = -1; /* where the run of untouched ones began */
    while (from < to) {
        int64_t stop = mql_base_min((from / MQL_SHARE_SLOTS + 1) * MQL_SHARE_SLOTS, to);
        bool marked = has_bit(done, from / MQL_SHARE_SLOTS);
        if (!marked && open < 0) open = from;
        if (marked && open >= 0 && !who->untouched(who->context, open, from)) return false;
        if (marked) open = -1;
        from = stop;
    }
    return open < 0 || who->untouched(who->context, open, to);
}

/* Offsets [from, to), of chunks that have no page. */
static bool walk_gap(const survey_outline *outline, int64_t from, int64_t to, const visitor *who) {
    while (from < to) {
        const done_page *done = done_from(outline, from / MQL_SHARE_SLOTS);
        int64_t first = done == NULL ? to : mql_base_min(done->first * MQL_SHARE_SLOTS, to);
        if (from < first && !who->untouched(who->context, from, first)) return false;
        from = mql_base_max(from, first);
        if (from >= to) break;
        int64_t stop = (done->first + MQL_SHARE_DONE_CHUNKS) * MQL_SHARE_SLOTS;
        if (!walk_done(done, from, mql_base_min(stop, to), who)) return false;
        from = mql_base_min(stop, to);
    }
    return true;
}

/* A word that was copied while it was stored may be torn: then once more. */
static int read_chunk(const mql_survey *survey, const named_page *chunk, mql_format_slot *slots) {
    int rc = MQL_OK;
    bool sound = false;
    for (int i = 0; rc == MQL_OK && !sound && i < (survey->witness.live ? 3 : 1); i++) {
        rc = read_at(survey, mql_slots_position(chunk->page), slots, MQL_PAGE);
        sound = true;
        for (int64_t at = 0; sound && at < MQL_SHARE_SLOTS; at++) {
            mql_slots_slot slot;
            mql_slots_load(&slots[at], chunk->number * MQL_SHARE_SLOTS + at, &slot);
            sound = slot.sound;
        }
    }
    return rc;
}

/* *enough: the visitor has seen it. */
static int walk_chunk(mql_survey *survey, const named_page *chunk, const visitor *who,
                      bool *enough) {
    mql_format_slot slots[MQL_SHARE_SLOTS];
    int64_t base = chunk->number * MQL_SHARE_SLOTS;
    int64_t from = mql_base_max(base, survey->outline.window.start);
    int64_t to = mql_base_min(base + MQL_SHARE_SLOTS, survey->end);
    int rc = read_chunk(survey, chunk, slots);
    if (rc == MQL_OK) rc = check_unfinished(survey, chunk);
    if (rc != MQL_OK) return rc == MQL_END ? MQL_OK : rc;
    for (int64_t offset = from; !*enough && offset < to; offset++) {
        mql_slots_slot slot;
        mql_slots_load(&slots[offset - base], offset, &slot);
        slot_standing standing = standing_of(survey, &slot);
        *enough = !who->slot(who->context, offset, &slot, standing);
    }
    return MQL_OK;
}

static int walk(mql_survey *survey, const visitor *who) {
    const survey_outline *outline = &survey->outline;
    int64_t at = outline->window.start;
    bool enough = false;
    survey->moved = false;
    who->begin(who->context, survey);
    for (size_t i = 0; !enough && i < outline->chunks.count; i++) {
        const named_page *chunk = &outline->chunks.items[i];
        if (!walk_gap(outline, at, chunk->number * MQL_SHARE_SLOTS, who)) return MQL_OK;
        int rc = walk_chunk(survey, chunk, who, &enough);
        if (rc < 0) return rc;
        at = (chunk->number + 1) * MQL_SHARE_SLOTS;
    }
    if (!enough) walk_gap(outline, at, survey->end, who);
    return MQL_OK;
}

/* -- one survey -------------------------------------------------------------------------------- */
static int not_found(const mql_share *share) {
    return mql_base_fail(MQL_E_NOT_FOUND, share->live.slots.path, "there is no such share group");
}

/* A group that has no file yet, or none that anybody has filled: its partition came after it. */
static int without_file(mql_survey *survey, const visitor *who) {
    const mql_share *share = survey->share;
    survey->outline.window = (mql_format_share_window){.start = share->begins, .folding = -1};
    return walk(survey, who);
}

static int try_often(mql_survey *survey, const visitor *who) {
    int64_t until = mql_os_monotonic_ns() + PATIENCE_NS;
    int rc = MQL_OK;
    survey->moved = true;
    for (int i = 0; rc == MQL_OK && survey->moved && i < TRIES; i++) {
        if (i > 0 && mql_os_monotonic_ns() > until) break;
        rc = read_outline(survey, &survey->outline);
        if (rc == MQL_OK) rc = walk(survey, who);
    }
    return rc;
}

static int make(mql_share *share, const visitor *who) {
    mql_log *log = share->live.log;
    mql_control_end end;
    int rc = mql_log_usable(log);
    if (rc < 0) return rc;
    mql_survey *survey = mql_os_allocate_memory(sizeof *survey);
    if (survey == NULL)
        return mql_base_fail(MQL_E_MEMORY, share->live.slots.path,
                             "no memory to look at a share group");
    survey->share = share;
    survey->witness.locks = MQL_OS_NO_FILE;
    mql_log_readable_end(log, &end);
    survey->end = end.offset;
    rc = mql_os_open(log->home->root, share->live.slots.path, MQL_OS_READ, 0, &survey->file);
    if (rc == 0) {
        call_witness(survey);
        rc = try_often(survey, who);
        mql_os_close(survey->file);
        mql_os_close(survey->witness.locks);
    } else if (rc == -ENOENT) {
        rc = not_found(share);
    } else {
        rc = mql_base_fail_os(rc, share->live.slots.path, "cannot open the share group");
    }
    if (rc == MQL_E_NOT_FOUND && share->begins >= 0) rc = without_file(survey, who);
    drop_outline(&survey->outline);
    drop_outline(&survey->latest);
    mql_os_free_memory(survey);
    return rc;
}

/* -- what is asked ----------------------------------------------------------------------------- */
/* When it may be delivered; what cannot be read, at once. */
static int64_t due_of(const mql_slots_slot *slot) {
    return slot->sound && slot->clock == MQL_CLOCK_WALL ? slot->time : 0;
}

typedef struct counting {
    mql_share_info *out;
    int64_t now;
} counting;

static void begin_count(void *context, const mql_survey *survey) {
    mql_share_info *out = ((counting *)context)->out;
    int64_t nothing = mql_base_max(survey->end, survey->outline.window.start);
    *out = (mql_share_info){.oldest = -1, .first = nothing, .end = nothing, .next_ms = INT64_MAX};
    memcpy(out->ends, survey->outline.counts, sizeof out->ends);
}

/* To be delivered, or held: not final. */
static void count_unfinished(mql_share_info *out, int64_t offset, bool held) {
    out->first = mql_base_min(out->first, offset);
    if (!held && out->oldest < 0) out->oldest = offset;
}

static bool count_untouched(void *context, int64_t from, int64_t to) {
    mql_share_info *out = ((counting *)context)->out;
    count_unfinished(out, from, false);
    out->end = mql_base_min(out->end, from);
    out->ready += to - from;
    return true;
}

static bool count_slot(void *context, int64_t offset, const mql_slots_slot *slot,
                       slot_standing standing) {
    const counting *count = context;
    mql_share_info *out = count->out;
    if (standing == FRESH) return count_untouched(context, offset, offset + 1);
    if (standing == FINAL) {
        out->ends[mql_live_kind(slot)]++;
        return true;
    }
    bool later = standing == FREE && due_of(slot) > count->now;
    count_unfinished(out, offset, standing == HELD);
    if (standing == HELD)
        out->acquired++;
    else if (later)
        out->delayed++;
    else
        out->ready++;
    if (later) out->next_ms = mql_base_min(out->next_ms, slot->time);
    return true;
}

int mql_survey_describe(mql_share *share, mql_share_info *out) {
    counting count = {.out = out, .now = mql_os_wall_ms()};
    visitor who = {&count, begin_count, count_untouched, count_slot};
    return make(share, &who);
}

/* Those that are due come first, then those never touched: two walks. */
typedef struct peeking {
    int64_t *offsets;
    int64_t capacity;
    int64_t now;
    int64_t kept; /* of the walk before */
    int64_t count;
    bool fresh; /* this walk looks for those never touched */
} peeking;

static void begin_peek(void *context, const mql_survey *survey) {
    peeking *peek = context;
    (void)survey;
    peek->count = peek->kept;
}

static bool peek_untouched(void *context, int64_t from, int64_t to) {
    peeking *peek = context;
    for (; peek->fresh && from < to && peek->count < peek->capacity; from++)
        peek->offsets[peek->count++] = from;
    return peek->count < peek->capacity;
}

static bool peek_slot(void *context, int64_t offset, const mql_slots_slot *slot,
                      slot_standing standing) {
    peeking *peek = context;
    if (standing == FRESH) return peek_untouched(context, offset, offset + 1);
    if (!peek->fresh && standing == FREE && due_of(slot) <= peek->now)
        peek->offsets[peek->count++] = offset;
    return peek->count < peek->capacity;
}

int64_t mql_survey_peek(mql_share *share, int64_t *offsets, int64_t capacity) {
    peeking peek = {.offsets = offsets, .capacity = capacity, .now = mql_os_wall_ms()};
    visitor who = {&peek, begin_peek, peek_untouched, peek_slot};
    if (capacity <= 0) return 0;
    int rc = make(share, &who);
    peek.kept = peek.count;
    peek.fresh = true;
    if (rc == MQL_OK && peek.count < capacity) rc = make(share, &who);
    return rc < 0 ? rc : peek.count;
}

typedef struct holding {
    mql_acquired *out;
    const mql_survey *survey;
    int64_t capacity;
    int64_t count;
} holding;

static void begin_holders(void *context, const mql_survey *survey) {
    holding *hold = context;
    hold->survey = survey;
    hold->count = 0;
}

static bool pass_untouched(void *context, int64_t from, int64_t to) {
    (void)context, (void)from, (void)to;
    return true;
}

static bool hold_slot(void *context, int64_t offset, const mql_slots_slot *slot,
                      slot_standing standing) {
    holding *hold = context;
    if (standing != HELD) return true;
    bool moving = slot->state == MQL_SHARE_ARCHIVING;
    bool bounded =
        !moving && slot->clock == MQL_CLOCK_BOOT && slot->time != MQL_SLOTS_TIME_MAX;
    hold->out[hold->count++] = (mql_acquired){
        .offset = offset,
        .token = (uint64_t)(uint32_t)hold->survey->outline.window.boots << 32 | slot->token,
        .moving = moving ? slot->time : -1,
        .deadline_ms = bounded ? slot->time : INT64_MAX,
        .holder = hold->survey->witness.members[slot->member],
        .deliveries = slot->deliveries};
    return hold->count < hold->capacity;
}

int64_t mql_survey_holders(mql_share *share, mql_acquired *out, int64_t capacity) {
    holding hold = {.out = out, .capacity = capacity};
    visitor who = {&hold, begin_holders, pass_untouched, hold_slot};
    if (capacity <= 0) return 0;
    int rc = make(share, &who);
    return rc < 0 ? rc : hold.count;
}
