/* flips.c - every bit of a small store flipped: what was written is read, or the one batch that was
 * hit is told with its place; nothing else ever.
 *
 *   flips <a directory that is not there> closed|killed <stride> [<end of the name of a file>]
 *
 * In each state the store is opened read-only and read (if a reader looks at the file at all),
 * then opened, read and written. A stride takes every so many-th bit. What the first opener makes
 * anew whatever it holds is left out where the store was killed. Fails if anything was as it may
 * not be, which it prints by file.
 */
#define _GNU_SOURCE
#include "judge.h"
#include "place.h"
#include "scene.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mql_batch.h"
#include "mql_format.h"

static scene store;
static const char *how_left; /* closed, killed */
static long states, stride = 1, turn;

/* The batch of a log that byte `at` belongs to; false: none does. */
static bool batch_at(const scene_file *file, size_t at, scene_damage *out) {
    size_t place = 0;
    while (place + MQL_BATCH_HEADER <= file->length) {
        mql_batch_header header;
        mql_batch_read_header(file->bytes + place, &header);
        if (header.size <= MQL_BATCH_HEADER || header.magic != MQL_BATCH_MAGIC_V2) break;
        *out = (scene_damage){.position = (int64_t)place,
                              .start = header.base_offset,
                              .stop = header.last_offset + 1};
        place += (size_t)header.size;
        if (at < place) return true;
    }
    return false;
}

static void expect_whole(const scene_seen *seen) {
    if (seen->opened < 0) judge_wrong("is not opened: %d", seen->opened);
    if (seen->opened < 0) return;
    if (seen->read != SCENE_RECORDS) judge_wrong("records are missing");
    if (seen->damages != 0) judge_wrong("damage is told of a sound log");
}

static void expect_damage(const scene_seen *seen, const char *name, const scene_damage *at) {
    if (seen->opened < 0) judge_wrong("is not opened: %d", seen->opened);
    if (seen->opened < 0) return;
    if (seen->damages != 1) judge_wrong("%d damages are told", seen->damages);
    if (seen->read != SCENE_RECORDS - (int)(at->stop - at->start))
        judge_wrong("more than the damaged batch is lost, or less");
    const scene_damage *one = &seen->damage[0];
    if (strcmp(one->path, name) != 0 || one->position != at->position ||
        one->start != at->start || one->stop != at->stop)
        judge_wrong("the damage is told of another place");
}

static void expect_groups(const scene_seen *seen, const char *name) {
    if (seen->opened < 0) return;
    if (!judge_ends_in(name, ".offset")) {
        if (seen->committed != SCENE_COMMITTED)
            judge_wrong("committed: %lld", (long long)seen->committed);
        return;
    }
    bool was_made = seen->committed == SCENE_COMMITTED || seen->committed == 3;
    if (!was_made && seen->committed != -2 && seen->committed != MQL_NO_OFFSET)
        judge_wrong("committed: %lld", (long long)seen->committed);
}

/* What a flip may cost beside what it hit. A page of slots whose name is damaged is nobody's: its
 * records are delivered again. The table of keys has no checks: one more put of a key. */
static bool is_page_name(const char *name, size_t at) {
    return judge_ends_in(name, ".state") && at >= MQL_PAGE && at < 2 * MQL_PAGE;
}

static void expect_going_on(const scene_seen *seen, const char *name, size_t at) {
    if (seen->opened < 0) return;
    if (seen->append != MQL_OK) judge_wrong("appends end: %d", seen->append);
    if (seen->append == MQL_OK && seen->appended < SCENE_RECORDS)
        judge_wrong("an offset is given twice");
    if (seen->delivered != SCENE_RECORDS - SCENE_ACCEPTED)
        judge_wrong("records of the queue are not delivered");
    if (seen->archived > 1 || (seen->archived > 0 && !judge_ends_in(name, ".state")))
        judge_wrong("%d slots are told to be damaged", seen->archived);
    if (seen->again > 0 && !is_page_name(name, at))
        judge_wrong("%d accepted records are delivered again", seen->again);
    if (!seen->found && !judge_ends_in(name, "dedupe")) judge_wrong("a key is put twice");
}

static bool is_made_anew(const char *name) {
    return judge_ends_in(name, ".live") || judge_ends_in(name, "doorbell") ||
           judge_ends_in(name, "dedupe");
}

/* A read-only store opens none of these. */
static bool is_writers(const char *name) {
    return is_made_anew(name) || judge_ends_in(name, ".state");
}

/* -- each bit ---------------------------------------------------------------------------------- */
static bool is_next(void) { return turn++ % stride == 0; }

static void flip(const scene_file *file, size_t at, int bit) {
    place_poke(store.path, file->name, at, (uint8_t)(file->bytes[at] ^ 1u << bit));
}

static void judge_flip(const scene_file *file, size_t at, const scene_seen *seen) {
    scene_damage where;
    bool hit = judge_ends_in(file->name, ".log") && batch_at(file, at, &where);
    if (hit)
        expect_damage(seen, file->name, &where);
    else
        expect_whole(seen);
    expect_groups(seen, file->name);
}

static void flip_one(const scene_file *file, size_t at, int bit) {
    scene_seen seen;
    judge_state(file->name, "%s, bit %d of byte 0x%zx of %s", how_left, bit, at, file->name);
    flip(file, at, bit);
    if (!is_writers(file->name)) {
        scene_look(&store, &seen);
        judge_flip(file, at, &seen);
        states++;
    }
    scene_use(&store, bit == (int)(at % 8), &seen);
    judge_flip(file, at, &seen);
    expect_going_on(&seen, file->name, at);
    place_restore(&store);
    states++;
}

static void flip_all(bool killed, const char *only) {
    for (size_t i = 0; i < store.count; i++) {
        const scene_file *file = &store.files[i];
        if (!judge_ends_in(file->name, only)) continue;
        if (killed && is_made_anew(file->name)) continue;
        for (size_t at = 0; at < file->length; at++)
            for (int bit = 0; bit < 8; bit++)
                if (is_next()) flip_one(file, at, bit);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    how_left = argv[2];
    stride = atol(argv[3]);
    bool killed = strcmp(how_left, "killed") == 0;
    scene_make(&store, argv[1], killed ? SCENE_KILLED : SCENE_CLOSED);
    scene_watch(60);
    flip_all(killed, argc > 4 ? argv[4] : "");
    scene_remove(&store);
    size_t violations = judge_told();
    printf("%ld states, %zu violations\n", states, violations);
    return violations > 0;
}
