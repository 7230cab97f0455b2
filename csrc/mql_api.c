/* mql_api.c - the public functions: arguments are checked here, the work is done below.
 *
 * Everything below this file may assume that pointers are there, names are names and numbers are in
 * range.
 */
#include "mql_api.h"

#include "mql_append.h"
#include "mql_batch.h"
#include "mql_census.h"
#include "mql_commit.h"
#include "mql_cursor.h"
#include "mql_dedupe.h"
#include "mql_group.h"
#include "mql_room.h"
#include "mql_shares.h"
#include "mql_sleep.h"
#include "mql_store.h"
#include "mql_turn.h"
#include "mql_verify.h"

/* Of a call that knows a time: it has passed. */
static int in_time(int rc) { return rc == MQL_E_LATER ? MQL_TIMEOUT : rc; }

static int bad(const char *what) { return mql_base_fail(MQL_E_ARGUMENT, NULL, "%s", what); }

/* Kafka's characters, so that a name is a file name too and cannot leave the store. */
static bool is_name(const char *name, size_t most) {
    size_t length = strlen(name);
    if (length == 0 || length > most || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == '-';
        if (!fine) return false;
    }
    return true;
}

/* -- stores ------------------------------------------------------------------------------------ */
int mql_open(const char *path, const mql_open_options *options, mql_store **out) {
    if (path == NULL || options == NULL || out == NULL || path[0] == 0)
        return bad("a store needs a path");
    if (strlen(path) > 4000) return bad("the store's path is longer than 4,000 bytes");
    return mql_store_open(path, options, out);
}

int mql_close(mql_store *store) { return store == NULL ? MQL_OK : mql_store_close(store, false); }
void mql_abandon(mql_store *store) { (void)mql_store_close(store, true); }
void mql_free(mql_store *store) { mql_store_free(store); }
void mql_pin(mql_store *store) { mql_store_pin(store); }
void mql_unpin(mql_store *store) { mql_store_unpin(store); }
void mql_enter(mql_store *store) {
    if (store != NULL) mql_store_pin(store);
    mql_base_hurry(true);
}
void mql_leave(mql_store *store) {
    mql_base_hurry(false);
    if (store != NULL) mql_store_unpin(store);
}

int mql_gate_take(mql_store *store, int64_t timeout_ns) {
    return mql_store_gate(store, mql_base_slice(timeout_ns));
}
void mql_gate_drop(mql_store *store) { mql_store_ungate(store); }

int mql_options_read(mql_store *store, uint8_t **data, size_t *length) {
    return mql_store_read_options(store, data, length);
}
int mql_options_write(mql_store *store, const uint8_t *data, size_t length) {
    return mql_store_write_options(store, data, length);
}
void mql_bytes_free(uint8_t *data) { mql_os_free_memory(data); }
uint32_t mql_options_generation(const mql_store *store) { return mql_store_generation(store); }
int mql_store_limits(mql_store *store, uint64_t min_free_bytes, uint64_t max_bytes) {
    return mql_store_set_limits(store, min_free_bytes, max_bytes);
}
int mql_sync(mql_store *store) { return mql_store_sync(store); }

uint32_t mql_doorbell(mql_store *store) { return mql_store_bell(store); }
int mql_doorbell_wait(mql_store *store, uint32_t seen, int64_t timeout_ns) {
    return mql_store_wait(store, seen, timeout_ns);
}
void mql_wake(mql_store *store) { mql_store_wake(store); }
int64_t mql_wall(const mql_store *store) { return mql_store_wall(store); }
void mql_set_wall(mql_store *store, int64_t now_ms) { mql_store_set_wall(store, now_ms); }

int mql_recovered_at(mql_store *store, size_t index, mql_recovered *out) {
    return mql_store_recovered_at(store, index, out);
}
int mql_keeper_prepare(mql_store *store) { return mql_store_prepare(store); }
int mql_keeper_sync(mql_store *store) { return mql_store_sync_round(store); }

/* -- partitions -------------------------------------------------------------------------------- */
static int check_options(const mql_log_options *options) {
    if (options->segment_bytes < MQL_SEGMENT_BYTES_MIN ||
        options->segment_bytes > MQL_SEGMENT_BYTES_MAX)
        return bad("segment_bytes must be 4,096 .. 2^31 - 1");
    if (options->batch_bytes < 1 || options->batch_bytes > MQL_BATCH_BYTES_MAX)
        return bad("batch_bytes must be 1 .. 2^30");
    if (options->max_message_bytes < MQL_BATCH_HEADER ||
        options->max_message_bytes > MQL_BATCH_BYTES_MAX)
        return bad("max_message_bytes must be 61 .. 2^30");
    if (options->sync_interval_ns < 0) return bad("sync_interval must not be negative");
    if (options->durability != MQL_DURABILITY_OS && options->durability != MQL_DURABILITY_SYNC)
        return bad("durability is os or sync");
    if (options->cleanup < MQL_CLEANUP_KEEP || options->cleanup > MQL_CLEANUP_COMPACT)
        return bad("no such cleanup policy");
    return MQL_OK;
}

int mql_partition(mql_store *store, const char *topic, int partition, int create,
                  const mql_log_options *options, mql_log **out) {
    if (!is_name(topic, MQL_TOPIC_MAX))
        return bad("a topic's name has 1 .. 245 characters of a-z A-Z 0-9 . _ -");
    if (partition < 0 || partition >= MQL_PARTITIONS_MAX) return bad("a partition is 0 .. 9,999");
    int rc = check_options(options);
    return rc < 0 ? rc : mql_store_log(store, topic, partition, create != 0, options, out);
}

int mql_log_alter(mql_log *log, const mql_log_options *options) {
    int rc = check_options(options);
    if (rc == MQL_OK) rc = mql_log_writable(log);
    if (rc == MQL_OK) mql_log_set(log, options);
    return rc;
}

int mql_partition_delete(mql_log *log) { return mql_log_delete(log); }

int mql_log_ends(mql_log *log, mql_log_info *out) {
    int rc = mql_log_usable(log);
    if (rc < 0) return rc;
    mql_control_end end, durable;
    mql_log_durable(log, &durable); /* before the end: durable <= end holds in what is given */
    mql_log_end(log, &end);
    out->start_offset = mql_log_start(log);
    out->end_offset = end.offset;
    out->durable_offset = durable.offset;
    return MQL_OK;
}

int mql_log_describe(mql_log *log, mql_log_info *out) {
    int rc = mql_log_usable(log);
    return rc < 0 ? rc : mql_log_describe_all(log, out);
}

int mql_log_measure(mql_log *log, int64_t offset, mql_log_info *out) {
    int rc = mql_log_usable(log);
    return rc < 0 ? rc : mql_cursor_measure(log, offset, out);
}

int64_t mql_log_readable(mql_log *log) {
    mql_control_end end;
    mql_log_readable_end(log, &end);
    return end.offset;
}

/* -- append ------------------------------------------------------------------------------------ */
int mql_append(mql_log *log, const mql_record *record, int flags, int64_t *offset) {
    return mql_append_one(log, record, flags, offset);
}

static int nothing(mql_log *log, int64_t *offset) {
    int rc = mql_log_writable(log);
    mql_control_end end;
    if (rc == MQL_OK) mql_log_end(log, &end);
    if (rc == MQL_OK) *offset = end.offset;
    return rc;
}

int mql_append_values(mql_log *log, const mql_value *values, size_t count, int64_t timestamp,
                      int flags, int64_t *offset) {
    if (count == 0) return nothing(log, offset);
    mql_append_source source = {.values = values, .count = count, .timestamp = timestamp};
    return mql_append_source_to(log, &source, flags, offset);
}

int mql_append_records(mql_log *log, const mql_record *records, size_t count, int flags,
                       int64_t *offset) {
    if (count == 0) return nothing(log, offset);
    mql_append_source source = {.records = records, .count = count, .timestamp = MQL_NOW};
    return mql_append_source_to(log, &source, flags, offset);
}

int mql_append_batches(mql_log *log, const uint8_t *batches, size_t length, int flags,
                       int64_t *offset) {
    if (length == 0) return nothing(log, offset);
    mql_append_source source = {.batches = batches, .length = length, .timestamp = MQL_NOW};
    return mql_append_source_to(log, &source, flags, offset);
}

int mql_append_once(mql_log *log, const mql_record *record, const mql_once *once, int flags,
                    int64_t *offset) {
    if (once->key.length < 0 || once->window_ms < 0) return bad("a key and a window are needed");
    return mql_dedupe_append(log, record, once, flags, offset);
}

/* -- batches in memory ------------------------------------------------------------------------- */
int64_t mql_records_size(const mql_record *records, size_t count, int64_t now) {
    return mql_batch_records_size(records, count, now);
}
int64_t mql_records_encode(const mql_record *records, size_t count, int64_t now, uint8_t *out,
                           size_t capacity) {
    return mql_batch_records_encode(records, count, now, out, capacity);
}
int mql_batch_build(const mql_record *records, size_t count, int64_t now, int compression,
                    const uint8_t *payload, size_t length, uint8_t header[MQL_BATCH_HEADER]) {
    if (count == 0 || count > INT32_MAX) return bad("a batch has 1 .. 2^31 - 1 records");
    if (compression < MQL_NONE || compression > MQL_ZSTD) return bad("no such compression");
    if (length > (size_t)MQL_BATCH_BYTES_MAX - MQL_BATCH_HEADER)
        return bad("a batch has at most 2^30 bytes");
    return mql_batch_header_build(records, count, now, compression, payload, length, header);
}
int32_t mql_partition_for(const uint8_t *key, size_t length, int32_t partitions) {
    return partitions <= 1 ? 0 : mql_batch_partition_for(key, length, partitions);
}
size_t mql_header_size(size_t name_length, int64_t value_length) {
    return mql_batch_one_header_size(name_length, value_length);
}
size_t mql_header_encode(const uint8_t *name, size_t name_length, const uint8_t *value,
                         int64_t value_length, uint8_t *out) {
    return mql_batch_one_header_encode(name, name_length, value, value_length, out);
}
int mql_header_next(mql_value *headers, mql_value *name, mql_value *value) {
    return mql_batch_one_header_next(headers, name, value);
}
void mql_walk_start(mql_walk *walk, const mql_batch *batch, const uint8_t *payload, size_t length) {
    mql_batch_walk_start(walk, batch, payload, length);
}
int mql_walk_next(mql_walk *walk, mql_record_view *out) { return mql_batch_walk_next(walk, out); }

/* -- waiting, syncing, trimming ---------------------------------------------------------------- */
int mql_wait(mql_log *log, int64_t offset, int64_t timeout_ns) {
    return mql_log_wait(log, offset, timeout_ns);
}

int mql_wait_durable(mql_log *log, int64_t offset, int64_t timeout_ns) {
    int rc = mql_log_writable(log);
    if (rc < 0) return rc;
    mql_control_end end;
    mql_log_end(log, &end);
    if (offset > end.offset) return mql_base_fail_range(offset, mql_log_start(log), end.offset);
    return in_time(mql_commit_wait(log, offset, timeout_ns));
}

int mql_log_sync(mql_log *log) {
    int rc = mql_log_writable(log);
    return rc < 0 ? rc : mql_commit_all(log);
}

int mql_log_sync_until(mql_log *log, int64_t offset) {
    int rc = mql_log_writable(log);
    return rc < 0 ? rc : mql_append_sync(log, offset);
}

void mql_take_turn(void) { mql_turn_take(); }
void mql_give_turn(void) { mql_turn_give(); }

int mql_trim(mql_log *log, int64_t before) {
    int rc = mql_log_writable(log);
    return rc < 0 ? rc : mql_commit_trim(log, before);
}

int64_t mql_unfinished(mql_log *log, int64_t start, int64_t stop) {
    int rc = mql_log_writable(log);
    return rc < 0 ? rc : mql_shares_unfinished(log, start, stop);
}

/* -- reading ----------------------------------------------------------------------------------- */
int mql_cursor_open(mql_log *log, int64_t offset, int flags, mql_cursor **out) {
    return mql_cursor_make(log, offset, flags, out);
}
void mql_cursor_free(mql_cursor *cursor) { mql_cursor_end(cursor); }
int mql_cursor_seek(mql_cursor *cursor, int64_t offset) { return mql_cursor_move(cursor, offset); }
int64_t mql_cursor_offset(const mql_cursor *cursor) { return mql_cursor_place(cursor); }
int mql_cursor_next(mql_cursor *cursor, mql_batch *out) { return mql_cursor_read(cursor, out); }
int mql_cursor_lease(mql_cursor *cursor, mql_lease **out) { return mql_cursor_lend(cursor, out); }
void mql_lease_free(mql_lease *lease) { mql_cursor_give_back(lease); }
int mql_cursor_seek_time(mql_cursor *cursor, int64_t timestamp, int64_t *offset) {
    return mql_cursor_move_to_time(cursor, timestamp, offset);
}

/* -- consumer groups --------------------------------------------------------------------------- */
int mql_group_open(mql_log *log, const char *name, int create, mql_group **out) {
    if (!is_name(name, MQL_TOPIC_MAX))
        return bad("a group's name has 1 .. 245 characters of a-z A-Z 0-9 . _ -");
    return mql_group_find(log, name, create != 0, out);
}
int mql_group_committed(mql_group *group, int64_t *offset) { return mql_group_read(group, offset); }
int mql_group_commit(mql_group *group, uint64_t member, int64_t offset, int durable) {
    return mql_group_store(group, member, offset, durable != 0);
}
int mql_group_delete(mql_group *group) { return mql_group_remove(group); }
int mql_group_join(mql_group *group, uint64_t *member) { return mql_group_enter(group, member); }
void mql_group_leave(mql_group *group, uint64_t member) { mql_group_exit(group, member); }
int mql_group_members(mql_group *group, uint64_t *members, int capacity) {
    return mql_group_live(group, members, capacity);
}
int mql_group_claim(mql_group *group, uint64_t member) {
    return member == 0 ? bad("a claim needs a member id") : mql_group_take(group, member);
}
void mql_group_drop(mql_group *group, uint64_t member) { mql_group_release(group, member); }
uint64_t mql_group_owner(mql_group *group) { return mql_group_living_holder(group); }

/* -- share groups ------------------------------------------------------------------------------ */
int mql_share_open(mql_log *log, const char *name, int create, int64_t start, mql_share **out) {
    if (!is_name(name, MQL_TOPIC_MAX))
        return bad("a group's name has 1 .. 245 characters of a-z A-Z 0-9 . _ -");
    return mql_shares_find(log, name, create != 0, start, out);
}
int mql_share_delete(mql_share *share) { return mql_shares_remove(share); }
int mql_share_acquire(mql_share *share, const mql_acquire *how, mql_acquired *out, size_t *count) {
    return in_time(mql_share_take(share, how, out, count));
}
int mql_share_wait(mql_share *share, int64_t timeout_ns) {
    return mql_sleep_for(share, timeout_ns);
}
int64_t mql_share_due_in(mql_share *share) { return mql_sleep_due(share); }
int mql_share_settle(mql_share *share, mql_settle *items, size_t count, const mql_settlement *how) {
    if (how->event < MQL_ACCEPT || how->event > MQL_PARK) return bad("no such event");
    if (how->event == MQL_ARCHIVE && (how->when <= MQL_ACCEPTED || how->when >= MQL_ENDS))
        return bad("no such end of a record");
    return mql_share_end_all(share, items, count, how);
}
int mql_share_sync(mql_share *share) {
    int rc = mql_log_writable(share->live.log);
    return rc < 0 ? rc : mql_shares_sync_one(share);
}
int mql_share_skip(mql_share *share, int64_t offset, uint64_t token, int64_t next) {
    return mql_share_skip_to(share, offset, token, next);
}
int mql_share_make_room(mql_log *log) {
    int rc = mql_log_writable(log);
    return rc < 0 ? rc : mql_shares_make_room(log);
}
int mql_share_delay(mql_log *log, int64_t offset, int64_t due_ms) {
    int rc = mql_log_writable(log);
    return rc < 0 ? rc : mql_shares_delay(log, offset, due_ms);
}
int mql_share_bound(mql_share *share, int64_t maxsize, int64_t max_bytes) {
    if (maxsize < 0 || max_bytes < 0) return bad("a bound must not be negative");
    return mql_shares_bound(share, maxsize, max_bytes);
}
int mql_share_wait_room(mql_log *log, int64_t records, int64_t bytes, int64_t timeout_ns) {
    return in_time(mql_sleep_for_room(log, records, bytes, timeout_ns));
}
int mql_share_backlog(mql_share *share, int64_t *bytes) {
    return mql_census_backlog(share, bytes);
}
int mql_share_wait_final(mql_share *share, int64_t offset, int64_t timeout_ns) {
    return in_time(mql_census_wait_final(share, offset, timeout_ns));
}
int mql_share_describe(mql_share *share, mql_share_info *out) {
    return mql_census_describe(share, out);
}
int64_t mql_share_waiting(mql_share *share) { return mql_census_waiting(share); }
int64_t mql_share_peek(mql_share *share, int64_t *offsets, int64_t capacity) {
    return mql_census_peek(share, offsets, capacity);
}
int64_t mql_share_holders(mql_share *share, mql_acquired *out, int64_t capacity) {
    return mql_census_holders(share, out, capacity);
}
int64_t mql_share_unfinished(mql_share *share, int64_t start, int64_t stop) {
    return mql_census_unfinished(share, start, stop);
}
int64_t mql_share_now(void) { return mql_os_monotonic_ns() / 1000000; }

/* -- checking ---------------------------------------------------------------------------------- */
int mql_verify(mql_log *log, mql_verify_found found, mql_verify_progress progress, void *context,
               mql_verify_report *out) {
    return mql_verify_log(log, found, progress, context, out);
}
