/* cuts.c - every file of a small store cut at each length, lengthened, missing, exchanged with each
 * other, put under another name, of another kind, or not to be read: nothing that is read was not
 * written, and what is not read is told.
 *
 *   cuts <a directory that is not there> closed|killed <stride>
 *
 * A stride takes every so many-th length; all else is always done whole.
 */
#define _GNU_SOURCE
#include "judge.h"
#include "place.h"
#include "scene.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NOBODY 65534

static scene store;
static const char *how_left;
static long states, stride = 1, turn;

static void path_of(char out[512], const char *name) {
    snprintf(out, 512, "%s/%s", store.path, name);
}

/* -- what must hold ---------------------------------------------------------------------------- */
static bool is_log(const char *name) { return judge_ends_in(name, ".log"); }

static void expect(const scene_seen *seen, const char *name, bool may_fail) {
    if (seen->opened < 0 && !may_fail) judge_wrong("is not opened: %d", seen->opened);
    if (seen->opened < 0) return;
    int64_t below = seen->start < SCENE_RECORDS ? seen->start : SCENE_RECORDS;
    bool told = seen->damages > 0 || seen->recovered > 0 || below > 0;
    if (seen->read != SCENE_RECORDS && !told) judge_wrong("records are missing, nobody says so");
    if (seen->read != SCENE_RECORDS && !is_log(name)) judge_wrong("records are missing");
    if (seen->damages > 0 && !is_log(name)) judge_wrong("damage is told of a sound log");
}

static void expect_going_on(const scene_seen *seen, const char *name, bool may_fail) {
    if (seen->opened < 0) return;
    if (seen->append != MQL_OK && !may_fail) judge_wrong("appends end: %d", seen->append);
    /* Where the log ends is said by its last segment and by the checkpoint: not both of them. */
    bool both = strcmp(name, "both.log") == 0;
    if (seen->append == MQL_OK && seen->appended < SCENE_RECORDS && !both)
        judge_wrong("an offset is given twice");
    bool state = judge_ends_in(name, ".state");
    if (seen->again > 0 && !state) judge_wrong("accepted records are delivered again");
    /* Offsets that recovery used up, since a log had lost its end, are delivered to nobody. */
    int most = SCENE_RECORDS - SCENE_ACCEPTED;
    int least = is_log(name) ? seen->read - SCENE_ACCEPTED : most;
    if ((seen->delivered < least || seen->delivered > most) && !state && !may_fail)
        judge_wrong("%d records of the queue are delivered", seen->delivered);
}

/* The damage is there: looks, and uses; then all is as it was. */
static void try_it(const char *name, bool may_fail) {
    scene_seen seen;
    scene_look(&store, &seen);
    expect(&seen, name, may_fail);
    scene_use(&store, states % 16 == 0, &seen);
    expect(&seen, name, may_fail);
    expect_going_on(&seen, name, may_fail);
    place_restore(&store);
    states += 2;
}

/* -- lengths ----------------------------------------------------------------------------------- */
static void cut_all(const scene_file *file) {
    for (size_t length = 0; length < file->length; length++) {
        if (turn++ % stride != 0) continue;
        judge_state(file->name, "%s, %s cut to %zu bytes", how_left, file->name, length);
        place_write(store.path, file->name, file->bytes, length);
        try_it(file->name, false);
    }
}

static void lengthen(const scene_file *file) {
    static const size_t more[] = {1, 61, 4096, 100000};
    for (int what = 0; what < 3; what++) {
        for (size_t i = 0; i < 4; i++) {
            size_t length = file->length + more[i];
            uint8_t *bytes = calloc(1, length + 1);
            if (bytes == NULL) scene_violation("no memory");
            memcpy(bytes, file->bytes, file->length);
            for (size_t at = file->length; at < length && what > 0; at++)
                bytes[at] = what == 1 ? (uint8_t)(at * 2654435761u >> 24)
                                      : file->length == 0 ? 0 : file->bytes[at % file->length];
            judge_state(file->name, "%s, %s longer by %zu of %s", how_left, file->name, more[i],
                        what == 0 ? "zeros" : what == 1 ? "rubbish" : "its own bytes");
            place_write(store.path, file->name, bytes, length);
            free(bytes);
            try_it(file->name, false);
        }
    }
    char path[512];
    path_of(path, file->name);
    judge_state(file->name, "%s, %s with a hole of 32 MiB", how_left, file->name);
    if (truncate(path, 32 << 20) < 0) scene_violation("cannot lengthen %s", path);
    try_it(file->name, false);
}

/* -- whole files ------------------------------------------------------------------------------- */
static void lose(const scene_file *file) {
    char path[512];
    path_of(path, file->name);
    judge_state(file->name, "%s, %s missing", how_left, file->name);
    if (unlink(path) < 0) scene_violation("cannot remove %s", path);
    try_it(file->name, false);
}

static const scene_file *last_log(void) {
    const scene_file *last = NULL;
    for (size_t i = 0; i < store.count; i++)
        if (is_log(store.files[i].name)) last = &store.files[i];
    return last;
}

static void exchange(const scene_file *one, const scene_file *other) {
    const char *name = is_log(other->name) ? other->name : one->name;
    judge_state(name, "%s, %s over %s", how_left, one->name, other->name);
    place_write(store.path, other->name, one->bytes, one->length);
    try_it(other->name, true);
    if (one > other) return;
    judge_state(name, "%s, %s and %s exchanged", how_left, one->name, other->name);
    place_write(store.path, other->name, one->bytes, one->length);
    place_write(store.path, one->name, other->bytes, other->length);
    bool last = one == last_log() || other == last_log();
    bool end =
        judge_ends_in(one->name, "/checkpoint") || judge_ends_in(other->name, "/checkpoint");
    try_it(last && end ? "both.log" : name, true);
}

static void put_under_other_names(const scene_file *file) {
    static const int64_t bases[] = {1,       5,          14,         16,         29,
                                    36,      39,         40,         41,         1000000,
                                    1 << 30, 2147483648, 4294967296, INT64_MAX / 4, INT64_MAX};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        char name[SCENE_NAME];
        snprintf(name, sizeof name, "t-0/%020" PRId64 ".log", bases[i]);
        judge_state(file->name, "%s, %s also as %s", how_left, file->name, name);
        place_write(store.path, name, file->bytes, file->length);
        try_it(file->name, true);
    }
}

enum kind { DIRECTORY, FIFO, DEVICE, LINK_AWAY, LINK_TO_ITSELF, LINK_WITHIN, KINDS };
static const char *const kinds[] = {"a directory",     "a FIFO",           "/dev/zero",
                                    "a link to a file", "a link to itself", "a link to its copy"};

static bool plant(enum kind kind, const char *path) {
    char copy[600];
    snprintf(copy, sizeof copy, "%s.copy", path);
    switch (kind) {
    case DIRECTORY: return mkdir(path, 0700) == 0;
    case FIFO: return mkfifo(path, 0600) == 0;
    case DEVICE: return mknod(path, 0600 | S_IFCHR, makedev(1, 5)) == 0;
    case LINK_AWAY: return symlink("/etc/passwd", path) == 0;
    case LINK_TO_ITSELF: return symlink(strrchr(path, '/') + 1, path) == 0;
    default: return rename(path, copy) == 0 && symlink(strrchr(copy, '/') + 1, path) == 0;
    }
}

static void replace(const scene_file *file, enum kind kind) {
    char path[512];
    struct stat before, after;
    path_of(path, file->name);
    judge_state(file->name, "%s, %s is %s", how_left, file->name, kinds[kind]);
    if (kind != LINK_WITHIN) unlink(path);
    if (!plant(kind, path) || lstat(path, &before) < 0) {
        if (kind == DEVICE) place_restore(&store); /* only root makes them */
        if (kind == DEVICE) return;
        scene_violation("cannot plant %s", path);
    }
    scene_seen seen;
    scene_look(&store, &seen);
    scene_use(&store, 1, &seen);
    bool same = lstat(path, &after) == 0 && (before.st_mode & S_IFMT) == (after.st_mode & S_IFMT);
    bool derived = judge_ends_in(file->name, "index") ||
                   judge_ends_in(file->name, "leader-epoch-checkpoint");
    if (!same && !derived)
        judge_wrong("what was planted was replaced");
    place_restore(&store);
    states += 2;
}

/* As somebody who may read all else. */
static void hide(const scene_file *file) {
    char path[512];
    if (geteuid() != 0) return;
    for (size_t i = 0; i < store.count; i++) {
        path_of(path, store.files[i].name);
        chmod(path, strcmp(store.files[i].name, file->name) == 0 ? 0 : 0644);
    }
    static const char *const directories[] = {"", "t-0", "t-0/groups", "t-0/shares"};
    for (size_t i = 0; i < 4; i++) {
        path_of(path, directories[i]);
        chmod(path, 0755);
    }
    judge_state(file->name, "%s, %s may not be read", how_left, file->name);
    if (seteuid(NOBODY) < 0) scene_violation("cannot be nobody");
    scene_seen seen;
    scene_look(&store, &seen);
    expect(&seen, file->name, true);
    scene_use(&store, 0, &seen);
    if (seen.opened == MQL_OK) judge_wrong("nobody may write, and does");
    if (seteuid(0) < 0) scene_violation("cannot be root again");
    for (size_t i = 0; i < store.count; i++) {
        path_of(path, store.files[i].name);
        chmod(path, 0600);
    }
    place_restore(&store);
    states += 2;
}

static void all(void) {
    for (size_t i = 0; i < store.count; i++) {
        const scene_file *file = &store.files[i];
        cut_all(file);
        lengthen(file);
        lose(file);
        for (size_t j = 0; j < store.count; j++)
            if (i != j) exchange(file, &store.files[j]);
        if (is_log(file->name)) put_under_other_names(file);
        for (int kind = 0; kind < KINDS; kind++) replace(file, (enum kind)kind);
        hide(file);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    how_left = argv[2];
    stride = atol(argv[3]);
    scene_watch(60);
    scene_make(&store, argv[1], strcmp(how_left, "killed") == 0 ? SCENE_KILLED : SCENE_CLOSED);
    all();
    scene_remove(&store);
    size_t violations = judge_told();
    printf("%ld states, %zu violations\n", states, violations);
    return violations > 0;
}
