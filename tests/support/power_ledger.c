/* power_ledger.c - values, and what was promised when. */
#include "power_ledger.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sim_trace.h"

#define VALUE_LEAST 24

typedef struct value {
    size_t length;
    uint8_t bytes[POWER_VALUE_MOST];
} value;

/* Mostly small, some as long as a page. */
static size_t length_of(uint64_t chance) {
    static const size_t most[8] = {40, 40, 100, 100, 100, 600, 1500, POWER_VALUE_MOST};
    return VALUE_LEAST + (size_t)(sim_mix(chance) % (most[chance % 8] - VALUE_LEAST));
}

static void fill(value *out, uint64_t seed, int32_t number) {
    uint64_t chance = sim_mix(seed * 31 + (uint64_t)number + 1), words[3];
    out->length = length_of(chance);
    for (size_t i = 0; i < out->length; i++)
        out->bytes[i] = (uint8_t)(i % 8 == 0 ? sim_chance(&chance) : chance >> (i % 8 * 8));
    words[0] = (uint64_t)number;
    words[1] = out->length;
    words[2] = sim_mix(seed ^ chance);
    memcpy(out->bytes, words, sizeof words);
}

const uint8_t *power_ledger_value(uint64_t seed, int32_t number, size_t *length) {
    static value *values;
    static uint64_t seed_of[POWER_VALUES];
    if (values == NULL) values = calloc(POWER_VALUES, sizeof *values);
    assert(values != NULL && number < POWER_VALUES);
    if (seed_of[number] != seed + 1 || values[number].length == 0) {
        fill(&values[number], seed, number);
        seed_of[number] = seed + 1;
    }
    *length = values[number].length;
    return values[number].bytes;
}

int32_t power_ledger_add(power_ledger *ledger, power_batch batch) {
    assert(ledger->count < POWER_BATCHES);
    ledger->batches[ledger->count] = batch;
    return ledger->count++;
}

int32_t power_ledger_note(power_ledger *ledger, power_event event) {
    assert(ledger->event_count < POWER_EVENTS);
    ledger->events[ledger->event_count] = event;
    return ledger->event_count++;
}

int64_t power_ledger_promise(power_ledger *ledger, const power_promise *promise) {
    size_t last = ledger->promise_count;
    if (last > 0 && memcmp(&ledger->promises[last - 1], promise, sizeof *promise) == 0)
        return (int64_t)last - 1;
    if (last == ledger->promise_room) {
        ledger->promise_room = last == 0 ? 64 : 2 * last;
        ledger->promises =
            realloc(ledger->promises, ledger->promise_room * sizeof *ledger->promises);
        assert(ledger->promises != NULL);
    }
    ledger->promises[ledger->promise_count++] = *promise;
    return (int64_t)last;
}

bool power_ledger_is_final(const power_ledger *ledger, const power_promise *promise, int32_t at) {
    const power_event *event = &ledger->events[at];
    if (event->what != POWER_ENDED) return false;
    if (event->durable && at < promise->done) return true;
    return event->took && at >= promise->since && at < promise->synced;
}

void power_ledger_fork(const power_ledger *from, power_promise *promise, power_ledger *to) {
    to->seed = from->seed;
    to->count = promise->tried;
    to->event_count = promise->events;
    to->values = from->values;
    to->promise_count = 0;
    memcpy(to->batches, from->batches, sizeof *to->batches * (size_t)to->count);
    memcpy(to->events, from->events, sizeof *to->events * (size_t)to->event_count);
    for (int32_t i = 0; i < to->count; i++) {
        power_batch *batch = &to->batches[i];
        if (batch->lost <= promise->generation) continue;
        batch->lost = 0; /* by a recovery that was not over then */
        batch->unborn = false;
    }
    for (int32_t i = 0; i < to->event_count; i++) {
        power_event *event = &to->events[i]; /* ends: what nobody was told of, nobody will be */
        if (event->what == POWER_ENDED) event->durable = power_ledger_is_final(from, promise, i);
        if (i >= promise->done) event->durable = false;
    }
    promise->since = promise->synced = to->event_count;
}

uint64_t power_ledger_hash(const power_promise *promise) {
    uint64_t words[sizeof *promise / 8], hash = 0;
    memcpy(words, promise, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) hash = sim_mix(hash ^ words[i]);
    return hash;
}
