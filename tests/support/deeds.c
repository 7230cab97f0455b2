#include "deeds.h"

#include <string.h>

#include "mql_batch.h"
#include "mql_share.h"

#define CHUNK 256 /* offsets of one page of a share group's state */

static bool is(const char *one, const char *other) { return strcmp(one, other) == 0; }

/* -- start states ------------------------------------------------------------------------------ */
static int64_t position(actor *who) {
    mql_control_end end;
    mql_log_end(who->log, &end);
    return end.position;
}

/* Appends records until the active segment has `to` bytes, or a byte or two less where no value
 * has the length that it would take. */
static void fill(actor *who, int64_t to) {
    for (int64_t left; (left = to - position(who)) > 90;) {
        int64_t length = left > 1500 ? 1000 : left > 1000 ? left / 2 - 70 : left;
        while (length == left || scene_size(1, length) > left) length--;
        if (left <= 1000)
            while (length > 30 && scene_size(1, length) > left) length--;
        scene_put(who, 1, length);
    }
}

static void fill_log(actor *zero, const deed *deed, const char *state) {
    int64_t size = scene_size(deed->count, deed->length);
    if (is(state, "empty")) return;
    for (int i = 0; i < 5; i++) scene_put(zero, 1, 60);
    if (is(state, "crossing")) fill(zero, 4096 - 30);
    if (is(state, "last")) fill(zero, SCENE_SEGMENT - size);
    if (is(state, "full") || is(state, "prepared")) fill(zero, SCENE_SEGMENT - size / 2);
    if (is(state, "rolled")) {
        fill(zero, SCENE_SEGMENT - 10);
        scene_put(zero, 1, 500);
        fill(zero, SCENE_SEGMENT - 10);
        scene_put(zero, 1, 500);
    }
}

/* So many records of which the first `finished` are accepted. */
static void fill_share(actor *zero, size_t records, size_t finished) {
    for (size_t put = 0; put < records; put += 64)
        scene_put(zero, records - put < 64 ? records - put : 64, 24);
    while (finished > 0) {
        finished -= scene_acquire(zero, finished, -1);
        scene_settle(zero, MQL_ACCEPT, 0);
    }
    /* Dead holders are looked for when somebody dies in this scene, not when it was set. */
    atomic_store(&zero->share->reap_ms, 0);
}

void deed_set_scene(actor *zero, const deed *deed, const char *state) {
    atomic_store(&zero->ledger->call[0], 1);
    scene_open(zero);
    if ((deed->traits & DEED_SHARE) == 0) {
        fill_log(zero, deed, state);
        return;
    }
    scene_share(zero);
    if (is(state, "empty")) fill_share(zero, deed->count, 0);
    if (is(state, "middle")) fill_share(zero, 12, 6);
    /* What is put or acquired next begins a page of the state; or ends one. */
    if (is(state, "crossing")) fill_share(zero, CHUNK + 2, CHUNK - 2);
    if (is(state, "edge")) fill_share(zero, CHUNK, CHUNK - 8);
    if (is(state, "last")) fill_share(zero, CHUNK, CHUNK - deed->count);
}

void deed_prepare(actor *who, const deed *deed, const char *state) {
    atomic_store(&who->ledger->call[who->name], (uint32_t)deed->count);
    if ((deed->traits & (DEED_APART | DEED_FIRST)) == 0) {
        scene_open(who);
        if ((deed->traits & DEED_SHARE) != 0) scene_share(who);
        if ((deed->traits & DEED_GROUP) != 0) scene_group(who);
    }
    if (is(state, "prepared") && who->store != NULL) scene_prepare(who);
    if (deed->before != NULL) deed->before(who, deed);
}

/* -- the log ----------------------------------------------------------------------------------- */
static void prepare_room(actor *who, const deed *deed) {
    (void)deed;
    scene_prepare(who);
}

static void append(actor *who, const deed *deed) { scene_put(who, deed->count, deed->length); }

static void trim(actor *who, const deed *deed) {
    (void)deed;
    mql_log_info info;
    scene_check(who, "mql_log_ends", mql_log_ends(who->log, &info));
    atomic_store(&who->ledger->trimming, info.end_offset - 1);
    scene_check(who, "mql_trim", mql_trim(who->log, info.end_offset - 1));
    atomic_store(&who->ledger->trimmed, info.end_offset - 1);
}

static void sync_log(actor *who, const deed *deed) {
    (void)deed;
    scene_check(who, "mql_log_sync", mql_log_sync(who->log));
}

/* -- opening and closing ----------------------------------------------------------------------- */
static void open_store(actor *who, const deed *deed) {
    (void)deed;
    scene_open(who);
}

static void open_share(actor *who, const deed *deed) {
    (void)deed;
    scene_share(who);
}

static void close_store(actor *who, const deed *deed) {
    (void)deed;
    for (size_t i = 0; i < who->holds; i++) /* a close releases them */
        atomic_store(&who->ledger->holder[who->held[i].offset], 0);
    scene_close(who);
}

/* Whatever a death has left half-done is mended by who comes by. */
static void mend(actor *who, const deed *deed) {
    (void)deed;
    scene_put(who, 1, 50);
    if (who->share == NULL) scene_share(who);
    scene_acquire(who, 1, -1);
}

static void reopen(actor *who, const deed *deed) {
    scene_open(who);
    mend(who, deed);
}

/* -- consumer groups --------------------------------------------------------------------------- */
static void begin_commits(actor *who, const deed *deed) {
    (void)deed;
    scene_join(who);
    scene_commit(who, 2);
}

static void commit(actor *who, const deed *deed) {
    (void)deed;
    scene_commit(who, 3);
}

static void join(actor *who, const deed *deed) {
    (void)deed;
    scene_group(who);
    scene_join(who);
    scene_commit(who, 0);
    mql_group_drop(who->group, who->member);
    mql_group_leave(who->group, who->member);
}

/* -- share groups ------------------------------------------------------------------------------ */
static void acquire(actor *who, const deed *deed) { scene_acquire(who, deed->count, -1); }

static void accept(actor *who, const deed *deed) {
    (void)deed;
    scene_settle(who, MQL_ACCEPT, 0);
}

static void release(actor *who, const deed *deed) {
    (void)deed;
    scene_settle(who, MQL_RELEASE, 0);
}

static void renew(actor *who, const deed *deed) {
    (void)deed;
    scene_settle(who, MQL_RENEW, 0);
}

static void work(actor *who, const deed *deed) {
    scene_acquire(who, deed->count, -1);
    scene_settle(who, MQL_ACCEPT, 0);
}

/* Its lock may have passed to somebody else, before or while it accepts. */
static void acquire_briefly(actor *who, const deed *deed) { scene_acquire(who, deed->count, 1); }

static void accept_late(actor *who, const deed *deed) {
    (void)deed;
    mql_settle items[SCENE_HELD];
    for (size_t i = 0; i < who->holds; i++) {
        uint8_t open = SCENE_OPEN;
        items[i] = (mql_settle){.offset = who->held[i].offset, .token = who->held[i].token};
        atomic_compare_exchange_strong(&who->ledger->accept[items[i].offset], &open,
                                       SCENE_ACCEPTING);
    }
    mql_settlement how = {.event = MQL_ACCEPT, .slice_ns = INT64_C(50000000)};
    int rc;
    do rc = mql_share_settle(who->share, items, who->holds, &how);
    while (rc == MQL_TIMEOUT);
    scene_check(who, "mql_share_settle", rc);
    for (size_t i = 0; i < who->holds; i++) {
        if (items[i].result == MQL_E_LOST) continue;
        if (atomic_exchange(&who->ledger->accept[items[i].offset], SCENE_ACCEPTED) ==
            SCENE_ACCEPTED)
            scene_fail(who, "O7: two have accepted offset %lld", (long long)items[i].offset);
    }
}

static void accept_durably(actor *who, const deed *deed) {
    (void)deed;
    scene_settle(who, MQL_ACCEPT, MQL_DURABLE);
}

#define LOG_STATES "empty middle crossing last"
#define SHARE_STATES "empty middle crossing last"

static const deed deeds[] = {
    {"append", 0, LOG_STATES, 1, 100, NULL, append},
    {"append many", 0, LOG_STATES, 24, 100, NULL, append},
    {"roll", 0, "full prepared", 1, 300, NULL, append},
    {"roll many", 0, "full prepared", 12, 100, NULL, append},
    {"prepare", 0, "empty full", 1, 300, NULL, prepare_room},
    {"sync", 0, "middle rolled", 1, 300, NULL, sync_log},
    {"trim", 0, "rolled", 1, 300, NULL, trim},
    {"open", DEED_APART, "empty middle rolled", 1, 100, NULL, open_store},
    {"create", DEED_APART | DEED_FIRST, "empty", 1, 100, NULL, open_store},
    {"close", 0, "empty middle rolled", 1, 100, NULL, close_store},
    {"join", 0, "middle", 1, 100, NULL, join},
    {"commit", DEED_GROUP, "middle", 1, 100, begin_commits, commit},
    {"put", DEED_SHARE, "empty middle edge last", 1, 24, NULL, append},
    {"put many", DEED_SHARE, "edge", 12, 24, NULL, append},
    {"open share", 0, "middle", 1, 100, NULL, open_share},
    {"acquire", DEED_SHARE, SHARE_STATES, 4, 24, NULL, acquire},
    {"accept", DEED_SHARE, SHARE_STATES, 4, 24, acquire, accept},
    {"release", DEED_SHARE, SHARE_STATES, 4, 24, acquire, release},
    {"renew", DEED_SHARE, "middle", 4, 24, acquire, renew},
    {"accept durably", DEED_SHARE, "middle last", 4, 24, acquire, accept_durably},
    {"close share", DEED_SHARE, "middle last", 4, 24, acquire, close_store},
    /* Stopped in, since what it holds is taken from it then. */
    {"accept late", DEED_SHARE, "", 4, 24, acquire_briefly, accept_late},
    /* Not killed in, but after a kill, or beside others. */
    {"work", DEED_SHARE, "", 2, 24, NULL, work},
    {"mend", 0, "", 1, 50, NULL, mend},
    {"reopen", DEED_APART, "", 1, 50, NULL, reopen},
};

const deed *deed_at(size_t index) {
    return index < sizeof deeds / sizeof *deeds ? &deeds[index] : NULL;
}

const deed *deed_named(const char *name) {
    for (size_t i = 0; deed_at(i) != NULL; i++)
        if (is(deeds[i].name, name)) return &deeds[i];
    return NULL;
}
