/* power_ledger.h - what was done and what was promised, outside of any disk.
 *
 * Values say who they are: their bytes follow from the run's seed and their number, so a value that
 * nobody put is never taken for one that somebody did. A promise is what held at one moment; the
 * ledger has one for each moment at which something changed.
 */
#ifndef POWER_LEDGER_H
#define POWER_LEDGER_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POWER_BATCHES 512
#define POWER_EVENTS 4096
#define POWER_VALUES 2048
#define POWER_VALUE_MOST 5000

/* One batch that was given to the log, in the order of their offsets. */
typedef struct power_batch {
    int64_t offset;
    int32_t count; /* records */
    int32_t first; /* number of the first one's value */
    int16_t generation;
    bool opaque; /* compressed: its payload is one value's bytes */
    bool ghost;  /* its writer died before it was published */
    bool failed; /* the call said so */
    bool unborn; /* lost, and nobody had seen its offsets */
    int16_t lost; /* from this generation on: a recovery did not find it; 0: never */
} power_batch;

enum power_what { POWER_COMMITTED = 1, POWER_ACQUIRED, POWER_ENDED, POWER_RELEASED };

typedef struct power_event {
    uint8_t what;
    bool durable;
    bool took; /* POWER_ENDED: it was done, durable or not */
    int64_t offset;
    uint64_t token;
} power_event;

typedef struct power_promise {
    int64_t published; /* offsets below have been given out */
    int64_t durable;   /* those below are on stable storage, as the log itself said */
    int64_t start;     /* the log start may be anywhere up to it */
    int32_t tried;     /* batches that may be found */
    int32_t repaired;  /* ghosts among the first so many are gone */
    int32_t events;    /* that may have left something */
    int32_t done;      /* that were answered */
    int32_t since;     /* the first that no power cut came after */
    int32_t synced;    /* what took place from `since` to here is durable, whatever it was then */
    int32_t generation;
    uint8_t zero;  /* no holes: promises are compared as bytes */
    bool stranger; /* a file of somebody else's is there */
    bool commits;  /* there may be a consumer group */
    bool shared;   /* the share group has been opened */
} power_promise;

static_assert(sizeof(power_promise) == 56, "compared and hashed as bytes");

typedef struct power_ledger {
    uint64_t seed;
    power_batch batches[POWER_BATCHES];
    power_event events[POWER_EVENTS];
    int32_t count, event_count, values;
    power_promise *promises; /* owns */
    size_t promise_count, promise_room;
} power_ledger;

/* The bytes of value `number`: lent for ever. */
const uint8_t *power_ledger_value(uint64_t seed, int32_t number, size_t *length);
int32_t power_ledger_add(power_ledger *ledger, power_batch batch);
int32_t power_ledger_note(power_ledger *ledger, power_event event);
/* The number of a promise that says this. */
int64_t power_ledger_promise(power_ledger *ledger, const power_promise *promise);
/* Whether event `at` was the end of a record, which no power cut takes back. */
bool power_ledger_is_final(const power_ledger *ledger, const power_promise *promise, int32_t at);
/* A ledger of its own for what comes after `promise`, which is given the place of its events. */
void power_ledger_fork(const power_ledger *from, power_promise *promise, power_ledger *to);
uint64_t power_ledger_hash(const power_promise *promise);

#endif
