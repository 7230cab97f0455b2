/* scene.h - a small store that hostile bytes are put into, and what must hold of it afterwards.
 *
 * The store has one topic of three segments, a consumer group, a share group and a table of keys.
 * It is kept as bytes in memory, put down anew for each state, damaged, opened and used; what is
 * read is compared with what was written. Whatever must not be is told by scene_violation, which
 * does not return.
 */
#ifndef SCENE_H
#define SCENE_H

#include "mqlog.h"

#define SCENE_RECORDS 40
#define SCENE_COMMITTED 10 /* what the consumer group has read */
#define SCENE_ACCEPTED 4   /* what the share group has accepted: offsets below it */
#define SCENE_FILES 32
#define SCENE_NAME 96
#define SCENE_PATH 256
#define SCENE_DAMAGES 64
#define SCENE_BYTES_MAX (24 << 20) /* no file may grow above it: 16 bytes for each offset used up */

typedef struct scene_file {
    char name[SCENE_NAME]; /* within the store */
    uint8_t *bytes;
    size_t length;
} scene_file;

typedef struct scene_damage {
    char path[SCENE_NAME];
    int64_t position;
    int64_t start;
    int64_t stop;
} scene_damage;

/* What opening and using the store gave. */
typedef struct scene_seen {
    int opened;      /* MQL_OK, or why it could not be */
    int64_t start;   /* log start */
    int read;        /* records of the original ones */
    int lost;        /* of those, how many a damage was told for */
    int damages;     /* told; the first of them: */
    scene_damage damage[SCENE_DAMAGES];
    int recovered;   /* lines of what opening cut or set aside */
    int64_t committed; /* MQL_NO_OFFSET: none; -2: an error */
    int64_t appended;  /* the offset of the first record appended, or -1 */
    int append;        /* the result of it */
    int delivered;     /* records that the share group gave, or told damaged; -1: it is not there */
    int archived;      /* of those, whose slot was told to be damaged */
    int again;         /* of the accepted ones, how many came again */
    int found;         /* the idempotent put found the earlier one */
} scene_seen;

/* How it was left. */
enum scene_end { SCENE_CLOSED = 0, SCENE_KILLED = 1 };

typedef struct scene {
    char path[SCENE_PATH];
    scene_file files[SCENE_FILES];
    size_t count;
} scene;

/* Makes the store in the new directory `path`, or in memory: place.h. */
void scene_make(scene *made, const char *path, enum scene_end end);
void scene_remove(scene *made);
const scene_file *scene_find(const scene *the, const char *suffix);

/* Bytes whose CRC is right may still lie: about where the log ends, or what its records are. What
 * reading must not do with them is then less: crash, hang, grow, go backwards. */
enum scene_forgery { SCENE_DAMAGED = 0, SCENE_REST_FORGED = 1, SCENE_LOG_FORGED = 2 };
extern enum scene_forgery scene_forged;

/* Opens it read-only and reads everything; looks places up by offset and time. */
void scene_look(const scene *the, scene_seen *out);
/* Opens it, reads, gets, commits, puts, closes; when `whole` it also puts until a segment rolls,
 * verifies, and looks again after the close. */
void scene_use(const scene *the, int whole, scene_seen *out);

/* What is under way, for whoever reads of a crash. */
__attribute__((format(printf, 1, 2))) void scene_about(const char *format, ...);
/* Says what is wrong, and of what, and ends the process. */
__attribute__((format(printf, 1, 2))) _Noreturn void scene_violation(const char *format, ...);
/* From now on each state has so many seconds. */
void scene_watch(int seconds);

#endif
