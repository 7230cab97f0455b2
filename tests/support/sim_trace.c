/* sim_trace.c - recording what happens to a disk, and making what it may hold after a power cut. */
#include "sim_trace.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512
#define PENDING_MAX ((int)(sizeof(((sim_model *)0)->pending) / sizeof(int32_t)))

uint64_t sim_mix(uint64_t value) {
    value ^= value >> 30;
    value *= UINT64_C(0xbf58476d1ce4e5b9);
    value ^= value >> 27;
    value *= UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

uint64_t sim_chance(uint64_t *state) { return sim_mix(*state += UINT64_C(0x9e3779b97f4a7c15)); }

static int64_t pages_of(int64_t size) { return (size + SIM_PAGE - 1) / SIM_PAGE; }

/* -- recording --------------------------------------------------------------------------------- */
static void *grown(void *items, size_t size, size_t count, size_t *room) {
    if (count < *room) return items;
    *room = *room == 0 ? 256 : *room * 2;
    items = realloc(items, size * *room);
    assert(items != NULL);
    return items;
}

static void add_event(sim_trace *trace, sim_event event) {
    trace->events =
        grown(trace->events, sizeof event, trace->event_count, &trace->event_room);
    trace->events[trace->event_count++] = event;
    trace->moved = true;
}

static uint64_t hash_page(const uint8_t *bytes) {
    uint64_t hash = 1, word;
    for (size_t i = 0; i < SIM_PAGE; i += sizeof word) {
        memcpy(&word, bytes + i, sizeof word);
        hash = (hash ^ word) * UINT64_C(0x9fb21c651e98df25);
        hash ^= hash >> 32;
    }
    return hash;
}

static bool same(const sim_trace *trace, int inode, int page, const uint8_t *bytes) {
    int32_t last = trace->last[inode][page];
    if (last > 0) return memcmp(trace->versions[last - 1].bytes, bytes, SIM_PAGE) == 0;
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, SIM_PAGE - 1) == 0;
}

static void note_page(sim_trace *trace, int inode, int page) {
    const uint8_t *bytes = trace->disk->inodes[inode].bytes + (int64_t)page * SIM_PAGE;
    if (same(trace, inode, page, bytes)) return;
    trace->versions =
        grown(trace->versions, sizeof(sim_version), trace->version_count, &trace->version_room);
    sim_version *version = &trace->versions[trace->version_count++];
    version->event = (int32_t)trace->event_count;
    version->hash = hash_page(bytes);
    memcpy(version->bytes, bytes, SIM_PAGE);
    trace->last[inode][page] = (int32_t)trace->version_count;
    add_event(trace, (sim_event){.what = SIM_DID_VERSION,
                                 .inode = (int16_t)inode,
                                 .from = page,
                                 .value = (int64_t)trace->version_count});
}

static void note_pages(sim_trace *trace) {
    for (int i = 0; i < trace->disk->inode_count; i++) {
        const sim_inode *inode = &trace->disk->inodes[i];
        if (!inode->used || inode->directory) continue;
        assert(pages_of(inode->size) <= SIM_FILE_PAGES);
        for (int page = 0; page < pages_of(inode->size); page++) note_page(trace, i, page);
    }
}

void sim_trace_begin(sim_trace *trace, sim_disk *disk) {
    trace->disk = disk;
    trace->event_count = trace->change_count = trace->version_count = 0;
    trace->order = 0;
    memset(trace->last, 0, sizeof trace->last);
    memset(trace->start, 0, sizeof trace->start);
    memcpy(trace->start, disk->inodes, sizeof *trace->start * (size_t)disk->inode_count);
    memcpy(trace->start_names, disk->names, sizeof *disk->names * (size_t)disk->name_count);
    trace->start_name_count = disk->name_count;
    note_pages(trace);
    for (int i = 0; i < disk->inode_count; i++)
        if (disk->inodes[i].used && !disk->inodes[i].directory)
            sim_trace_sync(trace, i, 0, (int)pages_of(disk->inodes[i].size));
    trace->moved = true;
    disk->trace = trace;
}

void sim_trace_end(sim_trace *trace) {
    sim_trace_point(trace);
    trace->disk->trace = NULL;
}

void sim_trace_free(sim_trace *trace) {
    free(trace->events);
    free(trace->changes);
    free(trace->versions);
    *trace = (sim_trace){0};
}

void sim_trace_point(sim_trace *trace) {
    note_pages(trace);
    int64_t value = trace->note == NULL ? 0 : trace->note(trace->context);
    if (!trace->moved && value == trace->value) return; /* a promise alone is one more thing owed */
    add_event(trace, (sim_event){.what = SIM_DID_POINT, .value = value});
    trace->moved = false;
    trace->value = value;
}

void sim_trace_sync(sim_trace *trace, int inode, int from, int to) {
    add_event(trace, (sim_event){
                         .what = SIM_DID_SYNC, .inode = (int16_t)inode, .from = from, .to = to});
}

void sim_trace_sync_names(sim_trace *trace, int inode) {
    add_event(trace, (sim_event){.what = SIM_DID_SYNC_NAMES, .inode = (int16_t)inode});
}

void sim_trace_size(sim_trace *trace, int inode, int64_t size, bool shorter) {
    add_event(trace, (sim_event){.what = SIM_DID_SIZE,
                                 .shorter = shorter,
                                 .inode = (int16_t)inode,
                                 .from = trace->order++,
                                 .value = size});
}

static void add_change(sim_trace *trace, sim_change change) {
    trace->changes =
        grown(trace->changes, sizeof change, trace->change_count, &trace->change_room);
    change.order = trace->order++;
    trace->changes[trace->change_count++] = change;
    add_event(trace, (sim_event){.what = SIM_DID_NAME,
                                 .inode = change.directory,
                                 .from = change.order,
                                 .value = (int64_t)trace->change_count - 1});
}

void sim_trace_name(sim_trace *trace, int directory, const char *name, int inode) {
    sim_change change = {.directory = (int16_t)directory,
                         .inode = (int16_t)inode,
                         .was_directory = SIM_NONE};
    memcpy(change.name, name, strlen(name) + 1);
    add_change(trace, change);
}

void sim_trace_rename(sim_trace *trace, const sim_name *was, int directory, const char *name) {
    sim_change change = {.directory = (int16_t)directory,
                         .inode = was->inode,
                         .was_directory = was->directory};
    memcpy(change.name, name, strlen(name) + 1);
    memcpy(change.was, was->name, sizeof change.was);
    add_change(trace, change);
}

/* -- names in a list --------------------------------------------------------------------------- */
static int find(const sim_name *names, int count, int directory, const char *name) {
    for (int i = 0; i < count; i++)
        if (names[i].used && names[i].directory == directory && strcmp(names[i].name, name) == 0)
            return i;
    return -1;
}

static void set_name(sim_name *names, int *count, const sim_change *change, bool second) {
    int directory = second ? change->was_directory : change->directory;
    int inode = second ? SIM_NONE : change->inode;
    const char *name = second ? change->was : change->name;
    int at = find(names, *count, directory, name);
    if (inode == SIM_NONE) {
        if (at >= 0) names[at].used = false;
        return;
    }
    for (int i = 0; at < 0 && i < *count; i++)
        if (!names[i].used) at = i;
    if (at < 0) at = (*count)++;
    assert(at < SIM_NAMES);
    names[at] = (sim_name){
        .used = true, .directory = (int16_t)directory, .inode = (int16_t)inode};
    memcpy(names[at].name, name, sizeof names[at].name);
}

static void apply(sim_name *names, int *count, const sim_change *change) {
    if (change->was_directory != SIM_NONE) set_name(names, count, change, true);
    set_name(names, count, change, false);
}

/* -- going along the trace --------------------------------------------------------------------- */
void sim_model_begin(sim_model *model, const sim_trace *trace) {
    model->trace = trace;
    model->at = 0;
    model->journal = 0;
    model->pending_count = 0;
    memset(model->pages, 0, sizeof model->pages);
    memset(model->last_order, 0, sizeof model->last_order);
    for (int i = 0; i < SIM_INODES; i++) {
        model->is_directory[i] = trace->start[i].used && trace->start[i].directory;
        model->size[i] = trace->start[i].used ? trace->start[i].size : 0;
    }
    memcpy(model->names, trace->start_names, sizeof model->names);
    model->name_count = trace->start_name_count;
}

static void add_version(sim_page *page, int32_t version) {
    if (page->count == SIM_VERSIONS) { /* the oldest that is not durable is forgotten */
        int first = page->durable ? 1 : 0;
        memmove(page->versions + first, page->versions + first + 1,
                sizeof *page->versions * (size_t)(SIM_VERSIONS - 1 - first));
        page->count--;
    }
    page->versions[page->count++] = version;
}

static void keep_newest(sim_page *page) {
    if (page->count > 0) page->versions[0] = page->versions[page->count - 1];
    page->durable = page->count > 0;
    page->count = page->count > 0;
}

/* Versions of pages that a cut, now durable, took away: they cannot come back. */
static void forget_cut(sim_model *model, const sim_event *event, int32_t number) {
    for (int64_t p = pages_of(event->value); p < SIM_FILE_PAGES; p++) {
        sim_page *page = &model->pages[event->inode][p];
        int kept = 0;
        bool durable = false;
        for (int i = 0; i < page->count; i++) {
            if (model->trace->versions[page->versions[i] - 1].event < number) continue;
            durable = durable || (i == 0 && page->durable);
            page->versions[kept++] = page->versions[i];
        }
        page->count = (int8_t)kept;
        page->durable = durable;
    }
}

/* Changes that a sync of `inode` covers are durable: lengths of a file, names in a directory. */
static void settle(sim_model *model, int inode, bool names) {
    int kept = 0;
    for (int i = 0; i < model->pending_count; i++) {
        int32_t number = model->pending[i];
        const sim_event *event = &model->trace->events[number];
        bool covered = event->inode == inode && (event->what == SIM_DID_NAME) == names;
        if (!covered) {
            model->pending[kept++] = number;
            continue;
        }
        if (names) {
            apply(model->names, &model->name_count, &model->trace->changes[event->value]);
        } else {
            model->size[inode] = event->value;
            if (event->shorter) forget_cut(model, event, number);
        }
    }
    model->pending_count = kept;
    /* A journal writes all that came before the last change that it has to. */
    if (model->last_order[inode] > model->journal) model->journal = model->last_order[inode];
}

static void note_change(sim_model *model, int32_t number) {
    const sim_event *event = &model->trace->events[number];
    assert(model->pending_count < PENDING_MAX);
    model->pending[model->pending_count++] = number;
    model->last_order[event->inode] = event->from + 1;
    if (event->what != SIM_DID_NAME) return;
    const sim_change *change = &model->trace->changes[event->value];
    if (change->inode == SIM_NONE) return;
    /* A file's sync writes, in a journal, the name that it was given last. */
    model->last_order[change->inode] = event->from + 1;
    model->is_directory[change->inode] = model->trace->disk->inodes[change->inode].directory;
}

bool sim_model_next(sim_model *model, int64_t *value) {
    while (model->at < model->trace->event_count) {
        int32_t number = (int32_t)model->at++;
        const sim_event *event = &model->trace->events[number];
        switch (event->what) {
        case SIM_DID_VERSION:
            add_version(&model->pages[event->inode][event->from], (int32_t)event->value);
            break;
        case SIM_DID_SYNC:
            settle(model, event->inode, false);
            for (int page = event->from; page < event->to; page++)
                keep_newest(&model->pages[event->inode][page]);
            break;
        case SIM_DID_SYNC_NAMES:
            settle(model, event->inode, true);
            break;
        case SIM_DID_SIZE:
        case SIM_DID_NAME:
            note_change(model, number);
            break;
        default:
            *value = event->value;
            return true;
        }
    }
    return false;
}

/* -- choosing ---------------------------------------------------------------------------------- */
typedef enum how_pages {
    PAGES_DURABLE,
    PAGES_NEWEST,
    PAGES_EITHER,     /* each page the one or the other */
    PAGES_ANY,        /* each page any version */
    PAGES_ALL_BUT_ONE,
    PAGES_ONLY_ONE,
    PAGES_TORN,       /* each page by sectors */
    PAGES_ONE_TORN,
    PAGES_HOWS
} how_pages;

typedef struct choosing {
    const sim_model *model;
    sim_image *out;
    uint64_t chance;
    how_pages how;
    int special;   /* the page that is the exception, counting those with versions */
    int seen;      /* so many had versions */
    bool taken[PENDING_MAX]; /* changes that are on the disk */
} choosing;

static uint64_t below(choosing *choose, uint64_t bound) {
    return sim_chance(&choose->chance) % bound;
}

/* Which changes of names and lengths are there. Those of one file are there in order. */
static void choose_changes(choosing *choose, int number) {
    const sim_model *model = choose->model;
    bool journal = number >= 2 && below(choose, 2) == 0;
    int32_t until = model->journal;
    if (journal)
        until += (int32_t)below(choose, (uint64_t)(model->trace->order - model->journal) + 1);
    uint64_t odds = below(choose, 3); /* few, half, most */
    int16_t stopped[SIM_INODES] = {0};
    for (int i = 0; i < model->pending_count; i++) {
        const sim_event *event = &model->trace->events[model->pending[i]];
        bool taken = number == 1 || (number > 1 && below(choose, 4) <= odds);
        if (journal) taken = event->from < until;
        if (event->what == SIM_DID_SIZE && !journal) {
            taken = taken && stopped[event->inode] == 0;
            stopped[event->inode] |= (int16_t)!taken;
        }
        choose->taken[i] = taken;
    }
}

static void reach(const sim_model *model, sim_image *out, int directory) {
    for (int i = 0; i < out->name_count; i++) {
        int inode = out->names[i].inode;
        if (!out->names[i].used || out->names[i].directory != directory || out->size[inode] >= 0)
            continue;
        out->size[inode] = model->size[inode];
        if (model->is_directory[inode]) reach(model, out, inode);
    }
}

static void choose_names(choosing *choose) {
    const sim_model *model = choose->model;
    sim_image *out = choose->out;
    memcpy(out->names, model->names, sizeof *out->names * (size_t)model->name_count);
    out->name_count = model->name_count;
    for (int i = 0; i < model->pending_count; i++) {
        const sim_event *event = &model->trace->events[model->pending[i]];
        if (choose->taken[i] && event->what == SIM_DID_NAME)
            apply(out->names, &out->name_count, &model->trace->changes[event->value]);
    }
    for (int i = 0; i < SIM_INODES; i++) out->size[i] = -1;
    out->size[SIM_ROOT] = 0;
    reach(model, out, SIM_ROOT);
    for (int i = 0; i < model->pending_count; i++) {
        const sim_event *event = &model->trace->events[model->pending[i]];
        if (choose->taken[i] && event->what == SIM_DID_SIZE && out->size[event->inode] >= 0)
            out->size[event->inode] = event->value;
    }
}

/* Whether the version fits the cuts that are, or are not, on the disk. *cut: where zeros begin. */
static bool fits(const choosing *choose, int inode, int page, int32_t version, int16_t *cut) {
    const sim_model *model = choose->model;
    int32_t when = version == 0 ? -1 : model->trace->versions[version - 1].event;
    for (int i = 0; i < model->pending_count; i++) {
        const sim_event *event = &model->trace->events[model->pending[i]];
        if (event->what != SIM_DID_SIZE || !event->shorter || event->inode != inode) continue;
        int64_t from = event->value - (int64_t)page * SIM_PAGE;
        if (from >= SIM_PAGE) continue;
        bool after = when > model->pending[i];
        if (from <= 0 && version != 0 && after != choose->taken[i]) return false;
        if (from > 0 && choose->taken[i] && !after && (*cut < 0 || from < *cut))
            *cut = (int16_t)from;
    }
    return true;
}

/* The versions that may be there, the durable one (or zeros) first. */
static int candidates(const choosing *choose, int inode, int page, int32_t out[SIM_VERSIONS + 1]) {
    const sim_page *at = &choose->model->pages[inode][page];
    int count = 0;
    int16_t cut = -1;
    if (!at->durable) out[count++] = 0;
    for (int i = 0; i < at->count; i++)
        if (fits(choose, inode, page, at->versions[i], &cut)) out[count++] = at->versions[i];
    if (count == 0) out[count++] = 0;
    return count;
}

static bool is_special(choosing *choose, int count) {
    if (count < 2) return false;
    return choose->seen++ == choose->special;
}

static void choose_page(choosing *choose, int inode, int page) {
    int32_t found[SIM_VERSIONS + 1];
    int count = candidates(choose, inode, page, found);
    bool special = is_special(choose, count);
    how_pages how = choose->how;
    if (how == PAGES_ALL_BUT_ONE) how = special ? PAGES_DURABLE : PAGES_NEWEST;
    if (how == PAGES_ONLY_ONE) how = special ? PAGES_NEWEST : PAGES_DURABLE;
    if (how == PAGES_ONE_TORN) how = special ? PAGES_TORN : PAGES_EITHER;
    sim_choice choice = {.one = found[0], .cut = -1};
    if (how == PAGES_NEWEST) choice.one = found[count - 1];
    if (how == PAGES_EITHER && count > 1 && below(choose, 2) == 0) choice.one = found[count - 1];
    if (how == PAGES_ANY && count > 1) choice.one = found[below(choose, (uint64_t)count)];
    if (how == PAGES_TORN && count > 1) {
        choice.one = found[below(choose, (uint64_t)count)];
        choice.other = found[below(choose, (uint64_t)count)];
        choice.mask = (uint8_t)below(choose, 256);
    }
    int16_t cut = -1;
    fits(choose, inode, page, choice.one, &cut);
    if (choice.mask != 0) fits(choose, inode, page, choice.other, &cut);
    choice.cut = cut;
    choose->out->pages[inode][page] = choice;
}

static uint64_t hash_of(const sim_model *model, int32_t version) {
    return version == 0 ? 0 : model->trace->versions[version - 1].hash;
}

static void hash_image(const sim_model *model, sim_image *out) {
    uint64_t hash = 0;
    for (int i = 0; i < out->name_count; i++) {
        const sim_name *name = &out->names[i];
        uint64_t one = ((uint64_t)name->directory << 16) + (uint64_t)name->inode;
        if (!name->used || out->size[name->inode] < 0 || out->size[name->directory] < 0) continue;
        for (const char *c = name->name; *c != 0; c++) one = one * 31 + (uint8_t)*c;
        hash += sim_mix(one ^ sim_mix((uint64_t)out->size[name->inode]));
    }
    for (int i = 0; i < SIM_INODES; i++) {
        for (int page = 0; page < pages_of(out->size[i]); page++) {
            const sim_choice *c = &out->pages[i][page];
            uint64_t one = hash_of(model, c->one), other = hash_of(model, c->other);
            if (c->mask != 0 && one != other) one = sim_mix(one + other * 3 + c->mask);
            hash += sim_mix(one ^ sim_mix((uint64_t)i * 64 + (uint64_t)page + 1) ^
                            (uint64_t)(c->cut + 1));
        }
    }
    out->hash = sim_mix(hash);
}

void sim_model_choose(const sim_model *model, uint64_t seed, int number, sim_image *out) {
    choosing choose = {.model = model, .out = out, .chance = sim_mix(seed + (uint64_t)number)};
    choose_changes(&choose, number);
    choose_names(&choose);
    choose.how = number < 2 ? (how_pages)number : (how_pages)below(&choose, PAGES_HOWS);
    int changed = 0;
    for (int i = 0; i < SIM_INODES; i++)
        for (int page = 0; page < pages_of(out->size[i]) && page < SIM_FILE_PAGES; page++)
            changed += model->pages[i][page].count > (model->pages[i][page].durable ? 1 : 0);
    choose.special = changed > 0 ? (int)below(&choose, (uint64_t)changed) : -1;
    for (int i = 0; i < SIM_INODES; i++)
        for (int page = 0; page < pages_of(out->size[i]); page++) choose_page(&choose, i, page);
    hash_image(model, out);
}

/* -- building ---------------------------------------------------------------------------------- */
static const uint8_t *bytes_of(const sim_model *model, int32_t version) {
    static const uint8_t zeros[SIM_PAGE];
    return version == 0 ? zeros : model->trace->versions[version - 1].bytes;
}

static void build_page(const sim_model *model, const sim_choice *choice, uint8_t *out) {
    if (choice->one != 0) memcpy(out, bytes_of(model, choice->one), SIM_PAGE);
    for (int i = 0; choice->mask != 0 && i < SIM_PAGE / SECTOR; i++)
        if ((choice->mask >> i & 1) != 0)
            memcpy(out + i * SECTOR, bytes_of(model, choice->other) + i * SECTOR, SECTOR);
    if (choice->cut >= 0) memset(out + choice->cut, 0, (size_t)(SIM_PAGE - choice->cut));
}

void sim_model_build(const sim_model *model, const sim_image *image, sim_disk *out) {
    sim_disk_format(out);
    for (int i = 1; i < SIM_INODES; i++) {
        if (image->size[i] < 0) continue;
        sim_inode *inode = sim_disk_inode(out, i);
        inode->directory = model->is_directory[i];
        sim_disk_resize(inode, image->size[i]);
        for (int page = 0; page < pages_of(image->size[i]); page++)
            build_page(model, &image->pages[i][page], inode->bytes + (int64_t)page * SIM_PAGE);
        int64_t end = pages_of(image->size[i]) * SIM_PAGE;
        memset(inode->bytes + image->size[i], 0, (size_t)(end - image->size[i]));
    }
    for (int i = 0; i < image->name_count; i++) {
        const sim_name *name = &image->names[i];
        if (name->used && image->size[name->inode] >= 0 && image->size[name->directory] >= 0)
            sim_disk_name(out, name->directory, name->name, name->inode);
    }
}
