/* scene.h - a store in which processes are killed, and what must hold for those who live.
 *
 * Several processes act in a scene; each is an `actor` with a number of its own, under which it
 * appends. What was acknowledged to whom is written down in the ledger, which is memory that all of
 * them share and that is no part of the store: nobody can lose it by dying. Everything that is read
 * is compared with it. The letters O1 .. O10 are the oracles of docs/reliability.md.
 */
#ifndef SCENE_H
#define SCENE_H

#include "mql_log.h"
#include "mqlog.h"

#define SCENE_HELD 16
#define SCENE_VALUE_MAX 1400
#define SCENE_SEGMENT 8192
#define SCENE_PATIENCE_NS INT64_C(1000000000) /* O8 */
#define SCENE_HANG_NS INT64_C(15000000000)    /* nobody comes back */

enum scene_accept { SCENE_OPEN = 0, SCENE_ACCEPTING = 1, SCENE_ACCEPTED = 2 };

typedef struct scene_ledger {
    int64_t offsets;    /* how many the arrays below hold */
    uint32_t producers; /* likewise */
    _Atomic uint32_t turns[64];
    _Atomic uint32_t owner;     /* the actor that has the consumer group's partition */
    _Atomic uint32_t proofs;    /* rounds of a survivor's that came to their end */
    _Atomic uint32_t next_name; /* of an actor */
    _Atomic uint32_t failed;
    char failure[1024];
    _Atomic int64_t slowest_ns; /* of what a bystander did after a death */
    _Atomic int64_t committed, committing; /* of the consumer group */
    _Atomic int64_t trimming;              /* where the log may begin */
    _Atomic int64_t trimmed;               /* where it does at least */
    _Atomic int64_t kept;                  /* accepts that returned */
    _Atomic uint32_t *call;         /* by producer: records in each of its calls */
    _Atomic uint64_t *acknowledged; /* by offset: producer << 32 | number + 1 */
    _Atomic uint64_t *token;        /* by offset: the last one that somebody was given */
    _Atomic uint32_t *holder;       /* by offset: the actor that has it, or 0 */
    _Atomic uint32_t *doomed;       /* by producer: it is killed, and what it has is nobody's */
    _Atomic uint8_t *accept;        /* by offset */
} scene_ledger;

/* Memory that children share: one for a program's life. scene_clear: as new. */
scene_ledger *scene_new(int64_t offsets, uint32_t producers);
void scene_clear(scene_ledger *ledger);

/* -- actors ------------------------------------------------------------------------------------ */
typedef struct actor {
    scene_ledger *ledger;
    const char *path; /* of the store */
    uint32_t name;    /* its producer number; 0 has set the scene */
    uint32_t next;    /* number of its next record */
    int threads;
    int64_t segment_bytes; /* 0: SCENE_SEGMENT */
    mql_store *store;
    mql_log *log;
    mql_share *share;
    mql_group *group;
    uint64_t member;
    mql_acquired held[SCENE_HELD];
    size_t holds;
} actor;

/* Notes the first failure and ends the process. */
_Noreturn void scene_fail(const actor *who, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* rc >= 0, or the scene has failed. */
int scene_check(const actor *who, const char *what, int rc);

void scene_open(actor *who);  /* store and partition, made if they are not there */
void scene_share(actor *who); /* the share group, from the log's start */
void scene_group(actor *who); /* the consumer group, not yet a member */
void scene_join(actor *who);
void scene_close(actor *who);
/* Writes its name into a word of the ledger that names who has something: 0, or who has it and is
 * not doomed. */
uint32_t scene_take(const actor *who, _Atomic uint32_t *word);

/* Appends `count` records of `length` bytes in one call, and notes that they were acknowledged. */
void scene_put(actor *who, size_t count, int64_t length);
/* The same, once: MQL_TIMEOUT, or MQL_BUSY with MQL_NOWAIT, if others are inside. */
int scene_try_put(actor *who, size_t count, int64_t length, int flags);
/* The bytes that such a call takes. */
int64_t scene_size(size_t count, int64_t length);
/* Acquires up to `count` records: how many. Nobody else may have them, nor may they have been
 * accepted. lock_ms: -1 until settled. */
size_t scene_acquire(actor *who, size_t count, int64_t lock_ms);
/* The same, once: MQL_OK, MQL_END, or MQL_TIMEOUT if others are inside. */
int scene_try_acquire(actor *who, size_t count, int64_t lock_ms, int64_t slice_ns);
/* Settles all that it holds. */
void scene_settle(actor *who, int event, int flags);
void scene_commit(actor *who, int64_t offset);

/* -- what must hold ---------------------------------------------------------------------------- */
/* O1 O2 O3 O4 O5: everything is read and compared; how many records. */
int64_t scene_read(actor *who);
/* What the prepare thread does when an append has asked it to. */
void scene_prepare(actor *who);
/* O8: a round of preparation, an append, a read of everything, a get and an accept; also that the
 * consumer group can be taken over if there is one. */
void scene_live_on(actor *who, bool group);
/* O7: acquires and accepts all that is left; then nothing is acquired or to be delivered. */
void scene_drain(actor *who);
/* O4: somebody has appended since the death, and nothing of the dead is behind the end: a power cut
 * that takes what came after would make it part of the log. */
void scene_blank(actor *who);
/* mql_verify has nothing to say. */
void scene_verify(actor *who);
/* O10: after the last close there is no file that a new store would not have. */
void scene_tidy(actor *who);
/* Descriptors of this process, and mappings of the store's files. */
int scene_descriptors(void);
int scene_mappings(const char *path);

/* -- turns ------------------------------------------------------------------------------------- */
/* Words of the ledger that only grow: tells `turn` on one, and waits until it has come to it. */
void scene_tell(scene_ledger *ledger, uint32_t word, uint32_t turn);
void scene_await(scene_ledger *ledger, uint32_t word, uint32_t turn);

#endif
