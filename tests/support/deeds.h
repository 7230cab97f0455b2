/* deeds.h - what an actor may be killed in: one operation, from a state that it starts in. */
#ifndef DEEDS_H
#define DEEDS_H

#include "scene.h"

enum deed_traits {
    DEED_SHARE = 1, /* there is a share group, and the actor has it open */
    DEED_GROUP = 2, /* the actor is a consumer */
    DEED_APART = 4, /* it opens the store itself: that is the deed */
    DEED_FIRST = 8  /* there is no store yet */
};

typedef struct deed {
    const char *name;
    int traits;
    const char *states; /* that it may start in, by their names */
    size_t count;       /* records it appends, or acquires */
    int64_t length;     /* of each value */
    void (*before)(actor *who, const struct deed *deed); /* done by the actor, not killed in */
    void (*act)(actor *who, const struct deed *deed);
} deed;

/* The deed of that name, or NULL. deed_at: from 0; NULL behind the last. */
const deed *deed_named(const char *name);
const deed *deed_at(size_t index);

/* Brings the store into the state `state`, as actor 0 who has it open. */
void deed_set_scene(actor *zero, const deed *deed, const char *state);
/* All that comes before the deed, as the actor. */
void deed_prepare(actor *who, const deed *deed, const char *state);

#endif
