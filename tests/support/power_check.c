/* power_check.c - the oracles.
 *
 * The log is read from its start to its end and compared, batch for batch, with the ledger, whose
 * batches stand in the order of their offsets. A batch that is absent must not have been durable,
 * and all of its generation behind it must be absent too.
 */
#include "power_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mql_log.h"

#define AT_A_TIME 32
#define LOCK_MS 3600000

static bool violated(power_check *check, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool violated(power_check *check, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (check->text[0] == 0) vsnprintf(check->text, sizeof check->text, format, arguments);
    va_end(arguments);
    return false;
}

static bool failed(power_check *check, const char *what, int rc) {
    const mql_error *error = mql_error_last();
    return violated(check, "%s: %d: %.80s: %.200s (errno %d)", what, rc, error->path, error->text,
                    error->os_errno);
}

/* -- the log ----------------------------------------------------------------------------------- */
/* The place in the ledger while the log is read. */
typedef struct reading {
    power_check *check;
    int32_t at;        /* the next batch that may come */
    int32_t cut;       /* the generation that has ended; -1: none */
    int64_t start;
} reading;

/* A recovery before the promise did not find it. */
static bool is_lost(const power_check *check, const power_batch *batch) {
    return batch->lost != 0 && batch->lost <= check->promise->generation;
}

static bool may_be_absent(const power_check *check, const power_batch *batch, int64_t start) {
    if (check->weak || batch->ghost || batch->lost != 0) return true;
    int64_t end = batch->offset + batch->count;
    return end <= start || end > check->promise->durable;
}

/* Batch `at` of the ledger is not in the log. */
static bool pass(reading *read) {
    power_check *check = read->check;
    const power_batch *batch = &check->ledger->batches[read->at++];
    if (!may_be_absent(check, batch, read->start))
        return violated(check, "O1: offset %lld was durable (%lld) and is gone",
                        (long long)batch->offset, (long long)check->promise->durable);
    bool trimmed = batch->offset + batch->count <= read->start;
    bool counts = !batch->ghost && batch->lost == 0 && !trimmed;
    if (counts) read->cut = batch->generation;
    if (counts) check->lost = true;
    return true;
}

/* The batch of the ledger at the place; NULL: there is none. One that a failed call gave, or that
 * had no offset yet when its power went, has none: others have got it. */
static const power_batch *current(reading *read) {
    const power_check *check = read->check;
    for (; read->at < check->promise->tried; read->at++) {
        const power_batch *batch = &check->ledger->batches[read->at];
        if (!batch->failed && !(batch->unborn && is_lost(check, batch))) return batch;
    }
    return NULL;
}

/* Everything in the ledger below `offset` is absent. */
static bool pass_below(reading *read, int64_t offset) {
    for (const power_batch *at; (at = current(read)) != NULL && at->offset < offset;)
        if (!pass(read)) return false;
    return true;
}

/* The log may start inside a batch. */
static bool pass_trimmed(reading *read) {
    for (const power_batch *at; (at = current(read)) != NULL;) {
        if (at->offset + at->count > read->start) break;
        if (!pass(read)) return false;
    }
    return true;
}

static bool same_value(power_check *check, int32_t number, mql_value value) {
    size_t length;
    const uint8_t *bytes = power_ledger_value(check->ledger->seed, number, &length);
    check->records++;
    return value.length == (int64_t)length && memcmp(value.data, bytes, length) == 0;
}

static bool same_records(power_check *check, const mql_batch *batch, int32_t first) {
    mql_walk walk;
    mql_record_view view;
    mql_walk_start(&walk, batch, batch->payload, (size_t)batch->payload_length);
    for (int32_t i = 0; i < batch->count; i++) {
        if (mql_walk_next(&walk, &view) != MQL_OK || view.offset != batch->base_offset + i)
            return false;
        if (!same_value(check, first + i, view.value)) return false;
    }
    return true;
}

static bool same_batch(power_check *check, const mql_batch *found, const power_batch *known) {
    bool whole = found->base_offset == known->offset && found->count == known->count &&
                 found->last_offset == known->offset + known->count - 1;
    if (!whole) return false;
    if (!known->opaque) return same_records(check, found, known->first);
    mql_value payload = {found->payload, found->payload_length};
    return MQL_BATCH_COMPRESSION(found->attributes) == MQL_LZ4 &&
           same_value(check, known->first, payload);
}

/* Whether the batch that was read may be there at all. */
static bool may_be_there(power_check *check, const power_batch *known, int32_t cut) {
    long long offset = (long long)known->offset;
    if (check->weak) return true;
    if (is_lost(check, known))
        return violated(check, "O3: offset %lld was gone and came back", offset);
    if (cut == known->generation)
        return violated(check, "O4: there is a hole before offset %lld", offset);
    return true;
}

/* The batch of the ledger that this is: some of them may have had its offset. */
static bool match(reading *read, const mql_batch *found) {
    power_check *check = read->check;
    const power_batch *known;
    if (!pass_below(read, found->base_offset)) return false;
    while ((known = current(read)) != NULL && known->offset == found->base_offset) {
        bool gone = known->ghost && read->at < check->promise->repaired;
        if (!gone && same_batch(check, found, known)) {
            if (!may_be_there(check, known, read->cut)) return false;
            check->present[read->at++] = true;
            return true;
        }
        if (!pass(read)) return false;
    }
    if (found->base_offset == check->extra)
        return same_records(check, found, check->extra_value) ||
               violated(check, "O1: what was appended after recovery has other bytes");
    return violated(check, "O2: nobody put the %d records at offset %lld (epoch %d)", found->count,
                    (long long)found->base_offset, found->epoch);
}

static bool read_batches(reading *read, mql_cursor *cursor) {
    power_check *check = read->check;
    mql_batch found;
    for (;;) {
        int rc = mql_cursor_next(cursor, &found);
        if (rc == MQL_E_CORRUPT && check->weak) continue;
        if (rc < 0) return failed(check, "O1: reading", rc);
        if (rc == MQL_END) return pass_below(read, INT64_MAX);
        if (found.count == 0 && !pass_below(read, found.last_offset + 1)) return false;
        if (found.count > 0 && !match(read, &found)) return false;
    }
}

bool power_check_log(power_check *check) {
    mql_log *log = check->work->log;
    mql_log_info info;
    mql_cursor *cursor;
    int rc = mql_log_ends(log, &info);
    if (rc < 0) return failed(check, "asking for the ends", rc);
    check->end = info.end_offset;
    if (!check->weak && info.start_offset > check->promise->start)
        return violated(check, "O12: the log starts at %lld, and was trimmed to %lld at most",
                        (long long)info.start_offset, (long long)check->promise->start);
    if (!check->weak && info.end_offset < check->promise->durable)
        return violated(check, "O1: the log ends at %lld, and %lld was durable",
                        (long long)info.end_offset, (long long)check->promise->durable);
    rc = mql_cursor_open(log, info.start_offset, MQL_TO_END, &cursor);
    if (rc < 0) return failed(check, "O1: opening a cursor", rc);
    memset(check->present, 0, sizeof check->present);
    reading read = {.check = check, .cut = -1, .start = info.start_offset};
    bool fine = pass_trimmed(&read) && read_batches(&read, cursor);
    mql_cursor_free(cursor);
    return fine;
}

/* -- committed offsets ------------------------------------------------------------------------- */
static bool was_committed(const power_check *check, int64_t offset) {
    for (int32_t i = 0; i < check->promise->events; i++) {
        const power_event *event = &check->ledger->events[i];
        if (event->what == POWER_COMMITTED && event->offset == offset) return true;
    }
    return offset == MQL_NO_OFFSET;
}

static int64_t durably_committed(const power_check *check) {
    int64_t least = MQL_NO_OFFSET;
    for (int32_t i = 0; i < check->promise->done && !check->weak; i++) {
        const power_event *event = &check->ledger->events[i];
        if (event->what == POWER_COMMITTED && event->durable && event->offset > least)
            least = event->offset;
    }
    return least;
}

bool power_check_group(power_check *check) {
    if (!check->promise->commits) return true;
    int64_t committed = MQL_NO_OFFSET, least = durably_committed(check);
    mql_group *group = NULL;
    int rc = mql_group_open(check->work->log, POWER_GROUP, 0, &group);
    if (rc == MQL_OK) rc = mql_group_committed(group, &committed);
    if (rc < 0 && rc != MQL_E_NOT_FOUND) return failed(check, "O6: the committed offset", rc);
    if (committed < least)
        return violated(check, "O6: %lld was committed durably, and is %lld", (long long)least,
                        (long long)committed);
    if (!check->weak && !was_committed(check, committed))
        return violated(check, "O6: nobody committed %lld", (long long)committed);
    if (committed > check->end)
        return violated(check, "O6: %lld is committed, and the log ends at %lld",
                        (long long)committed, (long long)check->end);
    return true;
}

/* -- the share group --------------------------------------------------------------------------- */
typedef enum fate { FATE_DUE, FATE_EITHER, FATE_FINAL } fate;

typedef struct draining {
    power_check *check;
    mql_share *share;
    int64_t last; /* offset of the last record that is there */
    /* by place among the records that are there */
    bool delivered[POWER_VALUES];
    fate fates[POWER_VALUES];
    uint64_t tokens[POWER_VALUES]; /* the greatest that anybody had */
} draining;

/* The place of an offset among the records that are there; -1: none is. */
static int place_of(const power_check *check, int64_t offset) {
    int place = 0;
    for (int32_t i = 0; i < check->promise->tried; i++) {
        const power_batch *batch = &check->ledger->batches[i];
        if (!check->present[i]) continue;
        if (offset >= batch->offset && offset < batch->offset + batch->count)
            return place + (int)(offset - batch->offset);
        place += batch->count;
    }
    return -1;
}

/* What has to become of each record. */
static void find_fates(draining *drain) {
    const power_check *check = drain->check;
    for (int32_t i = 0; i < check->promise->events; i++) {
        const power_event *event = &check->ledger->events[i];
        if (event->what != POWER_ACQUIRED && event->what != POWER_ENDED) continue;
        int place = place_of(check, event->offset);
        if (place < 0) continue;
        if (event->what == POWER_ACQUIRED) {
            if (event->token > drain->tokens[place]) drain->tokens[place] = event->token;
        } else if (power_ledger_is_final(check->ledger, check->promise, i)) {
            drain->fates[place] = FATE_FINAL;
        } else if (drain->fates[place] != FATE_FINAL) {
            drain->fates[place] = FATE_EITHER;
        }
    }
}

static bool has_final(const power_check *check) {
    for (int32_t i = 0; i < check->promise->done; i++)
        if (power_ledger_is_final(check->ledger, check->promise, i)) return true;
    return false;
}

static bool take_one(draining *drain, const mql_acquired *got) {
    power_check *check = drain->check;
    long long offset = (long long)got->offset;
    int place = place_of(check, got->offset);
    if (place < 0) return true; /* used up by recovery, or trimmed */
    if (drain->delivered[place])
        return violated(check, "O7: offset %lld was delivered twice", offset);
    drain->delivered[place] = true;
    if (check->weak) return true;
    if (drain->fates[place] == FATE_FINAL)
        return violated(check, "O7: offset %lld was accepted durably, and comes again", offset);
    if (got->token <= drain->tokens[place])
        return violated(check, "O7: offset %lld: token %llx after %llx", offset,
                        (unsigned long long)got->token,
                        (unsigned long long)drain->tokens[place]);
    return true;
}

static bool all_came(draining *drain) {
    power_check *check = drain->check;
    int64_t start = mql_log_start(check->work->log);
    int place = 0;
    for (int32_t i = 0; i < check->promise->tried; i++) {
        const power_batch *batch = &check->ledger->batches[i];
        for (int64_t n = 0; check->present[i] && n < batch->count; n++, place++) {
            int64_t offset = batch->offset + n;
            bool due = offset >= start && drain->fates[place] == FATE_DUE;
            if (due && !drain->delivered[place])
                return violated(check, "O7: offset %lld is not delivered", (long long)offset);
        }
    }
    return true;
}

/* Acquires until everything that is there has been behind us. */
static bool drain_all(draining *drain) {
    mql_acquire how = {.lock_ms = LOCK_MS, .slice_ns = 1000000, .any = 1};
    mql_acquired got[AT_A_TIME];
    for (int round = 0; round < POWER_VALUES; round++) {
        size_t count = AT_A_TIME;
        int rc = mql_share_acquire(drain->share, &how, got, &count);
        if (rc < 0 && drain->check->weak && rc == MQL_E_CORRUPT) continue;
        if (rc < 0) return failed(drain->check, "O7: acquiring", rc);
        if (rc == MQL_END) return true;
        for (size_t i = 0; i < count; i++)
            if (!take_one(drain, &got[i])) return false;
        if (got[count - 1].offset > drain->last) return true;
    }
    return violated(drain->check, "O8: acquiring does not end");
}

bool power_check_share(power_check *check) {
    if (!check->promise->shared) return true;
    draining drain = {.check = check, .last = -1};
    for (int32_t i = 0; i < check->promise->tried; i++) {
        const power_batch *batch = &check->ledger->batches[i];
        if (check->present[i]) drain.last = batch->offset + batch->count - 1;
    }
    int rc = mql_share_open(check->work->log, POWER_GROUP, 0, 0, &drain.share);
    if (rc == MQL_E_NOT_FOUND)
        return check->weak || !has_final(check) ||
               violated(check, "O7: the share group is gone, with what it accepted durably");
    if (rc < 0) return failed(check, "O7: opening the share group", rc);
    find_fates(&drain);
    return drain_all(&drain) && (check->weak || all_came(&drain));
}

/* -- going on ---------------------------------------------------------------------------------- */
bool power_check_append(power_check *check) {
    power_work *work = check->work;
    size_t length;
    check->extra_value = POWER_VALUES - 1;
    const uint8_t *bytes = power_ledger_value(check->ledger->seed, check->extra_value, &length);
    mql_value value = {bytes, (int64_t)length};
    int64_t offset = -1;
    int rc = mql_append_values(work->log, &value, 1, sim_now.wall_ms, 0, &offset);
    if (rc != MQL_OK) return failed(check, "O8: an append after recovery", rc);
    if (offset < check->promise->published && !check->weak)
        return violated(check, "O3: offset %lld is given again: all below %lld have been",
                        (long long)offset, (long long)check->promise->published);
    check->extra = offset;
    mql_cursor *cursor;
    mql_batch found;
    rc = mql_cursor_open(work->log, offset, MQL_TO_END, &cursor);
    if (rc < 0) return failed(check, "O1: opening a cursor", rc);
    rc = mql_cursor_next(cursor, &found);
    bool fine = rc == MQL_OK && found.base_offset == offset &&
                same_records(check, &found, check->extra_value);
    mql_cursor_free(cursor);
    if (rc < 0) return failed(check, "O1: reading what was appended after recovery", rc);
    return fine || violated(check, "O1: what was appended after recovery is not there");
}

bool power_check_strangers(power_check *check) {
    static const char bytes[] = "not yours";
    sim_disk *disk = sim_disk_get(check->work->disk);
    const char *paths[] = {POWER_OUTSIDE, check->promise->stranger ? POWER_STRANGER : NULL};
    for (size_t i = 0; i < 2 && paths[i] != NULL; i++) {
        int inode = sim_disk_find(disk, paths[i]);
        bool fine = inode != SIM_NONE && disk->inodes[inode].size == (int64_t)sizeof bytes &&
                    memcmp(disk->inodes[inode].bytes, bytes, sizeof bytes) == 0;
        if (!fine && !check->weak) return violated(check, "O12: %s is not as it was", paths[i]);
    }
    return true;
}
