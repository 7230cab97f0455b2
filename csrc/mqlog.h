/* mqlog.h - the public C API of mqlog, and its manual.
 *
 * mqlog is a persistent log that lives inside its callers: a directory (the store) of topics, each
 * a number of partitions, each a total order of records in Kafka's own segment format. Any number
 * of threads and processes of one machine use one store at once.
 *
 * HANDLES
 *
 *   handle      made by              ended by          its memory goes with    threads
 *   mql_store   mql_open             mql_close         mql_free                any thread, any call
 *   mql_log     mql_partition        (its store)       its store's mql_free    any thread, any call
 *   mql_cursor  mql_cursor_open      mql_cursor_free   mql_cursor_free         one thread at a time
 *   mql_lease   mql_cursor_lease     mql_lease_free    mql_lease_free          any thread
 *   mql_group   mql_group_open       (its store)       its store's mql_free    any thread, any call
 *
 *   Closing ends the files, freeing ends the memory. mql_close gives every descriptor and mapping
 *   back, also those that cursors stand in, but not what a lease lends; every call after it returns
 *   MQL_E_CLOSED. A call that another thread may close the store under is put between mql_pin and
 *   mql_unpin: the last mql_unpin then gives back what mql_close could not. mql_free of a store
 *   comes after the last mql_cursor_free; a lease may outlive everything and keeps just the segment
 *   that it lends. Opening one directory twice in a process gives one shared mql_store, counted:
 *   each mql_open is matched by one mql_close and one mql_free.
 *
 * WHAT HOLDS UNLESS A FUNCTION SAYS OTHERWISE
 *
 *   Pointers passed in are borrowed until the call returns. Out-parameters are written only on
 *   success. Strings end in NUL and are UTF-8. A function does not block, but may make a system
 *   call. Any thread may call. After a fork, every handle of the parent gives MQL_E_FORKED in
 *   the child, where only mql_free, mql_cursor_free and mql_lease_free may still be used on it;
 *   open the store again there. Times are milliseconds since 1970, durations nanoseconds.
 *
 * RESULTS
 *
 *   0 is done. A positive result is an expected condition. A negative one is a failure whose detail
 *   mql_error_last() holds for the calling thread. `rc < 0` is the only test for failure.
 */
#ifndef MQLOG_H
#define MQLOG_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MQL_PUBLIC __attribute__((visibility("default")))
#else
#define MQL_PUBLIC
#endif

/* -- results ----------------------------------------------------------------------------------- */
enum mql_result {
    MQL_OK = 0,
    MQL_END = 1,     /* nothing more to read now */
    MQL_FULL = 2,    /* a bound is reached; wanted were mql_error.start records of .stop bytes */
    MQL_TIMEOUT = 3, /* the time given has passed */
    MQL_BUSY = 4,    /* it would have blocked, and MQL_NOWAIT was given; nothing was done */
    MQL_FOUND = 5,   /* it is there already; nothing was done */
    MQL_UNSYNCED = 6, /* done, and visible; whether it is durable is to be asked: between mql_enter
                         and mql_leave, as MQL_E_LATER */

    MQL_E_OS = -1,          /* the system refused: mql_error.os_errno */
    MQL_E_MEMORY = -2,      /* no memory */
    MQL_E_CLOSED = -3,      /* the handle was closed */
    MQL_E_DELETED = -4,     /* the topic was deleted */
    MQL_E_CORRUPT = -5,     /* damaged bytes: path, position, the offsets start .. stop are lost */
    MQL_E_DURABILITY = -6,  /* a sync failed: in the log, not known to be on disk */
    MQL_E_RANGE = -7,       /* offset outside start .. stop */
    MQL_E_NOT_FOUND = -8,   /* no such store, partition or group */
    MQL_E_TOO_LARGE = -9,   /* over the limit in `stop`; `start` is the size */
    MQL_E_FORMAT = -10,     /* a newer or foreign format */
    MQL_E_FORKED = -11,     /* the handle belongs to the parent process */
    MQL_E_READ_ONLY = -12,  /* the store was opened read-only */
    MQL_E_ARGUMENT = -13,   /* the caller's mistake */
    MQL_E_REFUSED = -14,    /* a file system, namespace or C library that cannot work */
    MQL_E_LOST = -15,       /* the ownership that the call needs is not held */
    MQL_E_LATER = -16       /* a lock was not to be had; nothing has changed: see mql_enter */
};

typedef struct mql_error {
    int code;         /* one of the negative results */
    int os_errno;     /* for MQL_E_OS and MQL_E_DURABILITY, else 0 */
    int64_t position; /* byte position in the file `path`, or -1 */
    int64_t start;    /* MQL_E_RANGE: log start; MQL_E_CORRUPT: first lost offset; else -1 */
    int64_t stop;     /* MQL_E_RANGE: log end; MQL_E_CORRUPT: behind the last lost; else -1 */
    char path[4096];  /* the file, as named within the store; the store's own path; or "" */
    char text[256];   /* what happened, without the path */
} mql_error;

/* The last failure of the calling thread. Lent until its next failing call. */
MQL_PUBLIC const mql_error *mql_error_last(void);

/* -- stores ------------------------------------------------------------------------------------ */
typedef struct mql_store mql_store;
typedef struct mql_log mql_log;
typedef struct mql_cursor mql_cursor;
typedef struct mql_lease mql_lease;
typedef struct mql_group mql_group;
typedef struct mql_share mql_share;

#define MQL_DEFAULT_FREE UINT64_MAX

typedef struct mql_open_options {
    int read_only;           /* a snapshot of the log ends; writes nothing, takes no lock */
    int create;              /* make the directory if it is not there */
    int threads;             /* 1: keep the two background threads; 0: steps by mql_keeper_* only */
    uint32_t file_mode;      /* permission bits of new files, 0600 if 0 */
    uint64_t min_free_bytes; /* appends stop there; MQL_DEFAULT_FREE: lesser of 64 MiB and 5 % */
    uint64_t max_bytes;      /* appends stop when the store has grown to this; 0: no bound */
} mql_open_options;

/* Opens the store in the directory `path`. The first opener of a machine resets what is shared in
 * memory; what its predecessors left half-done is finished when each partition is first opened.
 * Blocks: up to 10 s for another opener's gate. Fails: MQL_E_NOT_FOUND without `create`,
 * MQL_E_REFUSED, MQL_E_FORMAT, MQL_E_OS. */
MQL_PUBLIC int mql_open(const char *path, const mql_open_options *options, mql_store **out);

/* Ends this opening. The last one of the machine leaves every file at its exact length, synced.
 * Blocks: for syncs. A failure leaves the store closed all the same, but MQL_E_LATER as it was.
 * Idempotent per opening. */
MQL_PUBLIC int mql_close(mql_store *store);
/* Ends it as a death would, but for the memory: what nobody can wait for is left to those who have
 * the store open still, or to the next to open it. */
MQL_PUBLIC void mql_abandon(mql_store *store);
MQL_PUBLIC void mql_free(mql_store *store);

/* Keeps descriptors and mappings while calls are in flight. A pin is taken before the mql_close of
 * the caller's opening begins, and ended before its mql_free. mql_unpin: Blocks after a close. */
MQL_PUBLIC void mql_pin(mql_store *store);
MQL_PUBLIC void mql_unpin(mql_store *store);

/* The same around one call of a thread that wants to hear signals meanwhile. Who holds a lock may
 * be stopped, and nobody knows for how long: in between, no call waits longer than 50 ms for locks.
 * It gives MQL_E_LATER then (MQL_TIMEOUT, if it is one that knows a time), with nothing changed: to
 * be made again, once signals were looked at. Without a store, for mql_open: NULL. One thread
 * enters and leaves; what it does in between may be several calls. */
MQL_PUBLIC void mql_enter(mql_store *store);
MQL_PUBLIC void mql_leave(mql_store *store);

/* The gate: one holder among all threads and processes of the machine. mql_gate_take: Blocks in
 * slices; MQL_TIMEOUT after `timeout_ns`. Options files change only under it. */
MQL_PUBLIC int mql_gate_take(mql_store *store, int64_t timeout_ns);
MQL_PUBLIC void mql_gate_drop(mql_store *store);

/* The bytes of mqlog.json: *data is owned by the caller, ended with mql_bytes_free. MQL_END: there
 * is none. Writing replaces the file as a whole (it is old or new after a power cut), bumps the
 * options generation and needs the gate. */
MQL_PUBLIC int mql_options_read(mql_store *store, uint8_t **data, size_t *length);
MQL_PUBLIC int mql_options_write(mql_store *store, const uint8_t *data, size_t length);
MQL_PUBLIC void mql_bytes_free(uint8_t *data);

/* Grows with every mql_options_write by any process; 0 in a read-only store. */
MQL_PUBLIC uint32_t mql_options_generation(const mql_store *store);
/* New bounds for all processes of the machine take effect at once. */
MQL_PUBLIC int mql_store_limits(mql_store *store, uint64_t min_free_bytes, uint64_t max_bytes);

/* Everything appended before the call is on stable storage. Blocks. */
MQL_PUBLIC int mql_sync(mql_store *store);

/* The store's doorbell: a word that moves when a record is published anywhere after mql_doorbell
 * was called. So: seen = mql_doorbell(), look at the ends, then mql_doorbell_wait(seen), which
 * returns MQL_OK once the word differs and MQL_TIMEOUT after `timeout_ns`, at most 250 ms. Blocks.
 * mql_wake ends every wait of every process of the machine, spuriously. */
MQL_PUBLIC uint32_t mql_doorbell(mql_store *store);
MQL_PUBLIC int mql_doorbell_wait(mql_store *store, uint32_t seen, int64_t timeout_ns);
MQL_PUBLIC void mql_wake(mql_store *store);

/* The wall clock that delays, windows of idempotent puts and retention go by, in milliseconds since
 * 1970: the kernel's, unless mql_set_wall has told this process's store another time, at which it
 * stands until it is told again; 0: the kernel's again. For tests. Locks do not go by it. */
MQL_PUBLIC int64_t mql_wall(const mql_store *store);
MQL_PUBLIC void mql_set_wall(mql_store *store, int64_t now_ms);

/* What opening found and cut or set aside, one line each; in a read-only store, what it does not
 * read of what is there. Index from 0; MQL_END behind the last. */
typedef struct mql_recovered {
    char topic[256];
    int partition;
    int row;          /* n of the rule R<n> that decided (docs/FORMAT.md) */
    int64_t segment;  /* base offset */
    int64_t position; /* where in the segment the log was ended */
    int64_t bytes;    /* set aside or cut there */
    char file[64];    /* where they were set aside, or "" */
} mql_recovered;
MQL_PUBLIC int mql_recovered_at(mql_store *store, size_t index, mql_recovered *out);

/* Steps of the two background threads, for stores opened with threads = 0. */
MQL_PUBLIC int mql_keeper_prepare(mql_store *store);
MQL_PUBLIC int mql_keeper_sync(mql_store *store);

/* -- partitions -------------------------------------------------------------------------------- */
enum mql_durability { MQL_DURABILITY_OS = 0, MQL_DURABILITY_SYNC = 1 };
enum mql_cleanup {
    MQL_CLEANUP_KEEP = 0,
    MQL_CLEANUP_DELETE = 1,
    MQL_CLEANUP_CONSUMED = 2,
    MQL_CLEANUP_COMPACT = 3
};

typedef struct mql_log_options {
    int64_t segment_bytes;     /* 4 KiB .. 2^31 - 1 */
    int64_t batch_bytes;       /* mql_append_many fills batches up to this */
    int64_t max_message_bytes; /* bounds a whole batch */
    int64_t sync_interval_ns;
    int64_t retention_bytes;  /* -1: no bound */
    int64_t retention_age_ms; /* -1: no bound */
    int64_t dedupe_ms;        /* how long the keys of mql_append_once count */
    int durability;
    int cleanup;
} mql_log_options;

/* Opens partition `partition` of `topic`, creating its directory when `create`. The same mql_log
 * for every call of this process. Blocks: recovery after a crash is done here, in O(tail).
 * Fails: MQL_E_NOT_FOUND, MQL_E_FORMAT (R7: a misplaced file is named), MQL_E_OS. */
MQL_PUBLIC int mql_partition(mql_store *store, const char *topic, int partition, int create,
                             const mql_log_options *options, mql_log **out);
MQL_PUBLIC int mql_log_alter(mql_log *log, const mql_log_options *options);

/* Marks the partition deleted for every process, wakes all its waiters, takes its directory away.
 * Takes the gate. Afterwards all calls on it give MQL_E_DELETED. */
MQL_PUBLIC int mql_partition_delete(mql_log *log);

typedef struct mql_log_info {
    int64_t start_offset;   /* log start: the first offset still readable */
    int64_t end_offset;     /* log end: the next offset to be given */
    int64_t durable_offset; /* everything below is on stable storage */
    int64_t bytes;          /* of the segments, as used */
    int32_t segments;
    int32_t epoch;
    int poisoned;
} mql_log_info;

/* mql_log_ends fills only the three offsets and is wait-free; mql_log_describe fills all. */
MQL_PUBLIC int mql_log_ends(mql_log *log, mql_log_info *out);
MQL_PUBLIC int mql_log_describe(mql_log *log, mql_log_info *out);
/* The same of what lies behind `offset`: its bytes from the batch that holds it on, and in how many
 * segments they are; nothing where nothing is there. Blocks. */
MQL_PUBLIC int mql_log_measure(mql_log *log, int64_t offset, mql_log_info *out);
/* What consumers may read up to: the log end, or the durable end where durability is "sync". */
MQL_PUBLIC int64_t mql_log_readable(mql_log *log);

/* -- append ------------------------------------------------------------------------------------ */
typedef struct mql_value {
    const uint8_t *data;
    int64_t length; /* -1: null */
} mql_value;

typedef struct mql_record {
    mql_value key;
    mql_value value;
    mql_value headers;    /* encoded: per header varint length, name, varint length or -1, value */
    int32_t header_count;
    int64_t timestamp;    /* milliseconds; MQL_NOW: the moment of the call */
} mql_record;

#define MQL_NOW INT64_MIN

enum mql_append_flags {
    MQL_NOWAIT = 1, /* MQL_BUSY instead of waiting for the writer lock or making room */
    MQL_DURABLE = 2 /* return when it is on stable storage. Blocks. */
};

/* Appends; *offset is the first record's offset, the others follow it. On return MQL_OK all records
 * of the call are visible to every process and survive any process's death; of a call that fails
 * nothing is visible, MQL_E_DURABILITY excepted (visible, not known to be on disk).
 * Without MQL_NOWAIT: Blocks while other writers are inside, in slices of at most `slice_ns`, and
 * then gives MQL_TIMEOUT, nothing done (call again). slice_ns <= 0: 50 ms.
 * Or MQL_UNSYNCED: appended, *offset is set; mql_log_sync_until makes it durable.
 * Fails: MQL_E_TOO_LARGE, MQL_E_OS (ENOSPC), MQL_E_DURABILITY, MQL_E_CLOSED, MQL_E_DELETED. */
MQL_PUBLIC int mql_append(mql_log *log, const mql_record *record, int flags, int64_t *offset);
MQL_PUBLIC int mql_append_values(mql_log *log, const mql_value *values, size_t count,
                                 int64_t timestamp, int flags, int64_t *offset);
MQL_PUBLIC int mql_append_records(mql_log *log, const mql_record *records, size_t count, int flags,
                                  int64_t *offset);
/* Whole batches, back to back, as mql_batch_build makes them: offsets and epoch are stamped in. */
MQL_PUBLIC int mql_append_batches(mql_log *log, const uint8_t *batches, size_t length, int flags,
                                  int64_t *offset);

/* Appends the record unless its key was put within the window: MQL_FOUND, and *offset is that of
 * the one before; only the hash of its key was compared: if it is another key after all, call again
 * with `ignore`. The record carries the key in its header "__mqlog.dedupe". Blocks as mql_append
 * does, and to read what has come to the log. */
typedef struct mql_once {
    mql_value key;
    int64_t window_ms;
    int64_t ignore; /* records at this offset and later are not looked at; -1: none */
    int look;       /* appends nothing: MQL_FULL in place of it */
} mql_once;
MQL_PUBLIC int mql_append_once(mql_log *log, const mql_record *record, const mql_once *once,
                               int flags, int64_t *offset);

/* -- batches in memory ------------------------------------------------------------------------- */
enum mql_compression { MQL_NONE = 0, MQL_GZIP = 1, MQL_SNAPPY = 2, MQL_LZ4 = 3, MQL_ZSTD = 4 };

/* Encodes records [0, count) without a header; MQL_NOW is read as `now`. Returns the bytes written,
 * or MQL_E_TOO_LARGE. mql_records_size tells how many there will be. */
MQL_PUBLIC int64_t mql_records_size(const mql_record *records, size_t count, int64_t now);
MQL_PUBLIC int64_t mql_records_encode(const mql_record *records, size_t count, int64_t now,
                                      uint8_t *out, size_t capacity);
/* Writes the 61 header bytes before a payload of `length` bytes (compressed, or as encoded). */
#define MQL_BATCH_HEADER 61
MQL_PUBLIC int mql_batch_build(const mql_record *records, size_t count, int64_t now,
                               int compression, const uint8_t *payload, size_t length,
                               uint8_t header[MQL_BATCH_HEADER]);

/* Kafka's partitioner: murmur2 of the key, made positive, modulo `partitions`. */
MQL_PUBLIC int32_t mql_partition_for(const uint8_t *key, size_t length, int32_t partitions);

/* One header of a record, appended at out: bytes written. value_length -1: null. */
MQL_PUBLIC size_t mql_header_size(size_t name_length, int64_t value_length);
MQL_PUBLIC size_t mql_header_encode(const uint8_t *name, size_t name_length, const uint8_t *value,
                                    int64_t value_length, uint8_t *out);

/* -- waiting, syncing, trimming ---------------------------------------------------------------- */
/* Until a record at `offset` may be read. Spins briefly, then sleeps. Blocks at most `timeout_ns`,
 * and at most 250 ms: MQL_TIMEOUT. */
MQL_PUBLIC int mql_wait(mql_log *log, int64_t offset, int64_t timeout_ns);
/* Until every record below `offset` is on stable storage: has it synced at once, by the store's
 * sync thread. Blocks at most `timeout_ns`, and at most 250 ms: MQL_TIMEOUT, and the sync goes on.
 * Not above 0: asks for no sync. In a store without threads the call itself syncs, and takes as
 * long as the device does. Fails: MQL_E_RANGE above the log end, MQL_E_DURABILITY. */
MQL_PUBLIC int mql_wait_durable(mql_log *log, int64_t offset, int64_t timeout_ns);
MQL_PUBLIC int mql_log_sync(mql_log *log);
/* After MQL_UNSYNCED: the records below `offset` are durable. Blocks: for a sync. Fails:
 * MQL_E_DURABILITY. Or MQL_UNSYNCED again. */
MQL_PUBLIC int mql_log_sync_until(mql_log *log, int64_t offset);
/* For an interpreter whose threads share one lock, and of whom a sync wakes many at once. Before it
 * takes that lock again, whoever has appended durably takes the turn, and so comes when the one
 * before it has let the lock go; where it has let it go itself, it gives the turn. Of the whole
 * process. Keeps nobody out: it spins, and then yields the processor, for some ten microseconds. */
MQL_PUBLIC void mql_take_turn(void);
MQL_PUBLIC void mql_give_turn(void);
/* Takes away what lies below `before`: the log start moves there, whole segments below it are
 * unlinked. Readers of mapped bytes keep them. Fails: MQL_E_RANGE. */
MQL_PUBLIC int mql_trim(mql_log *log, int64_t before);
/* The first offset in [start, stop) that some share group has not finished; `stop` if there is
 * none. Takes the gate when there are groups that this process does not know. */
MQL_PUBLIC int64_t mql_unfinished(mql_log *log, int64_t start, int64_t stop);

/* -- reading ----------------------------------------------------------------------------------- */
typedef struct mql_batch {
    const uint8_t *payload;  /* lent until the cursor's next call, or close: behind the header */
    int64_t payload_length;
    int64_t position;        /* file position of the batch in its segment */
    int64_t segment;         /* base offset of the segment */
    int64_t base_offset;
    int64_t last_offset;
    int64_t base_timestamp;
    int64_t max_timestamp;
    int32_t count;
    int32_t epoch;
    int16_t attributes;
} mql_batch;

#define MQL_BATCH_COMPRESSION(attributes) ((attributes) & 7)
#define MQL_BATCH_LOG_APPEND_TIME 8
#define MQL_BATCH_CONTROL 32

enum mql_cursor_flags {
    MQL_UNVERIFIED = 1, /* do not check CRCs */
    MQL_TO_END = 2      /* read up to the log end, also where durability is "sync" */
};

/* A place in the log. It stands at `offset`, which need not exist yet (log end).
 * Fails: MQL_E_RANGE below the log start or above the log end. */
MQL_PUBLIC int mql_cursor_open(mql_log *log, int64_t offset, int flags, mql_cursor **out);
MQL_PUBLIC void mql_cursor_free(mql_cursor *cursor);
MQL_PUBLIC int mql_cursor_seek(mql_cursor *cursor, int64_t offset);
MQL_PUBLIC int64_t mql_cursor_offset(const mql_cursor *cursor);

/* The batch that holds the cursor's offset (records before that offset are for the caller to skip),
 * its CRC and framing checked; the cursor then stands behind it. MQL_END: nothing to read now.
 * Fails: MQL_E_CORRUPT: the cursor stands at mql_error.stop; MQL_E_RANGE: retention was faster. */
MQL_PUBLIC int mql_cursor_next(mql_cursor *cursor, mql_batch *out);

/* Keeps the bytes of the last batch alive until mql_lease_free. MQL_END: they are private to the
 * cursor (read-only stores): copy. */
MQL_PUBLIC int mql_cursor_lease(mql_cursor *cursor, mql_lease **out);
MQL_PUBLIC void mql_lease_free(mql_lease *lease);

/* *offset: the cursor's next call gives the first batch whose maximum timestamp is >= `timestamp`,
 * inside which the first such record is to be looked for; log end if there is none. */
MQL_PUBLIC int mql_cursor_seek_time(mql_cursor *cursor, int64_t timestamp, int64_t *offset);

/* Walks the records of one batch whose payload is not (or no longer) compressed. Bounds are checked
 * at every step, so hostile payloads are safe. mql_walk_next: MQL_OK, MQL_END behind the last
 * record, MQL_E_CORRUPT. The views are lent as long as the payload is. */
typedef struct mql_walk {
    const uint8_t *at;
    const uint8_t *end;
    int64_t base_offset;
    int64_t base_timestamp;
    int64_t fixed_timestamp; /* used if `log_append_time` */
    int64_t last_offset;
    int64_t previous;        /* offset of the record before */
    int32_t left;
    int32_t log_append_time;
} mql_walk;

typedef struct mql_record_view {
    int64_t offset;
    int64_t timestamp;
    mql_value key;
    mql_value value;
    mql_value headers; /* encoded; mql_header_next takes them apart */
    int32_t header_count;
} mql_record_view;

MQL_PUBLIC void mql_walk_start(mql_walk *walk, const mql_batch *batch, const uint8_t *payload,
                               size_t length);
MQL_PUBLIC int mql_walk_next(mql_walk *walk, mql_record_view *out);
/* Takes one header off the front of *headers. */
MQL_PUBLIC int mql_header_next(mql_value *headers, mql_value *name, mql_value *value);

/* -- consumer groups --------------------------------------------------------------------------- */
#define MQL_NO_OFFSET (-1)

/* The committed offset of group `name` in this partition; with `create` its file is made, under the
 * gate. Same mql_group for every call of this process. Blocks for the gate. */
MQL_PUBLIC int mql_group_open(mql_log *log, const char *name, int create, mql_group **out);
MQL_PUBLIC int mql_group_committed(mql_group *group, int64_t *offset); /* MQL_NO_OFFSET: none yet */
/* One store into a mapped file: survives any process's death; `durable`: power loss too. */
MQL_PUBLIC int mql_group_commit(mql_group *group, uint64_t member, int64_t offset, int durable);
/* Forgets the group in this partition. MQL_BUSY, and nothing was done, while a live consumer owns
 * the partition or is a member. Blocks for the gate. A topic's groups are deleted from partition 0
 * on while the gate is held: nobody can join before all are gone. */
MQL_PUBLIC int mql_group_delete(mql_group *group);

/* Live consumers of a group, registered in the group file of the topic's partition 0. A member id
 * is unique in the store, grows with every join and is dropped when its process dies.
 * mql_group_join: MQL_E_NOT_FOUND if the group was deleted since it was opened: open it again.
 * mql_group_members writes up to `capacity` live ids in ascending order and returns how many. */
MQL_PUBLIC int mql_group_join(mql_group *group, uint64_t *member);
MQL_PUBLIC void mql_group_leave(mql_group *group, uint64_t member);
MQL_PUBLIC int mql_group_members(mql_group *group, uint64_t *members, int capacity);

/* Ownership of this partition within the group. mql_group_claim: MQL_BUSY while another live member
 * has it. mql_group_owner gives 0 when nobody alive has it. */
MQL_PUBLIC int mql_group_claim(mql_group *group, uint64_t member);
MQL_PUBLIC void mql_group_drop(mql_group *group, uint64_t member);
MQL_PUBLIC uint64_t mql_group_owner(mql_group *group);

/* -- share groups: consumers that compete for the records of a queue (Kafka's KIP-932) ------------
 *
 * A share group's place in one partition. A record is AVAILABLE, ACQUIRED by one process under a
 * lock with a deadline, or final. What a call of these changes survives any process's death at
 * once; `durable` ones a power cut too. The same mql_share for every call of this process. None of
 * them waits for more than the share lock, `slice_ns` at most (MQL_TIMEOUT: nothing done, call
 * again); those that say so block. */
enum mql_share_end { /* how a record came to its end */
    MQL_ACCEPTED = 0,
    MQL_DEAD = 1,    /* it is in the dead letters */
    MQL_EXPIRED = 2, /* its time to live was over before its first delivery */
    MQL_DAMAGED = 3, /* its bytes, or what was noted of it, cannot be read */
    MQL_GONE = 4,    /* there never was a record at the offset, or it was trimmed away */
    MQL_PASSED = 5,  /* it is for another share group */
    MQL_PURGED = 6,
    MQL_ENDS = 8
};

/* Opens group `name` in this partition; with `create` it is made, and begins at `start`. Blocks.
 * In a read-only store it only can be described, peeked at and asked for holders; that reads its
 * file each time, and one that has none is taken for new with `create`.
 * Fails: MQL_E_NOT_FOUND, MQL_E_RANGE, MQL_E_CORRUPT (both windows are damaged), MQL_E_OS. */
MQL_PUBLIC int mql_share_open(mql_log *log, const char *name, int create, int64_t start,
                              mql_share **out);
/* Forgets the group: its files go, and all later calls give MQL_E_NOT_FOUND. MQL_BUSY while live
 * processes hold records of it. Takes the gate. */
MQL_PUBLIC int mql_share_delete(mql_share *share);

typedef struct mql_acquired {
    int64_t offset;
    uint64_t token;      /* grows with every acquisition of the record, across power cuts too */
    int64_t moving;      /* >= 0: its move to the dead letters is to be finished; where they ended
                            when it began. -1: an ordinary delivery */
    int64_t deadline_ms; /* on the clock of mql_share_now; INT64_MAX: none */
    uint64_t holder;     /* mql_share_holders: the member's id */
    uint32_t deliveries; /* this one included, up to 255 */
    uint32_t abandoned;  /* not 0: whoever had it before is gone and has not settled it, nor
                            perhaps looked at it */
} mql_acquired;

typedef struct mql_acquire {
    int64_t lock_ms;      /* how long the lock holds; -1: until settled or its holder dies */
    int64_t max_acquired; /* no more than so many of the group at once; 0: no bound */
    int64_t slice_ns;     /* 0: MQL_TIMEOUT at once when others are inside */
    int any;              /* also what is not due yet */
} mql_acquire;

/* Acquires up to *count records: those to be delivered again and those delayed that are due, by the
 * time they were due, then the oldest never acquired. *count: how many it were. MQL_END: none now.
 * An offset acquired need not hold a record: see mql_share_skip.
 * Fails: MQL_E_CORRUPT: what was noted of the record at mql_error.start was damaged; it is archived
 * and counted as such. */
MQL_PUBLIC int mql_share_acquire(mql_share *share, const mql_acquire *how, mql_acquired *out,
                                 size_t *count);
/* Until mql_share_acquire may find something. Spins briefly, then sleeps. Blocks at most
 * `timeout_ns`, and at most 250 ms: MQL_TIMEOUT. */
MQL_PUBLIC int mql_share_wait(mql_share *share, int64_t timeout_ns);
/* Nanoseconds until mql_share_acquire may find something if nobody puts or releases: 0: now;
 * INT64_MAX: never. Wait-free. */
MQL_PUBLIC int64_t mql_share_due_in(mql_share *share);

enum mql_settle_event {
    MQL_ACCEPT = 0,
    MQL_RELEASE = 1, /* `when`: not before, milliseconds since 1970; 0: at once */
    MQL_RENEW = 2,   /* `when`: milliseconds from now; -1: until settled */
    MQL_MOVE = 3,    /* a move to the dead letters begins; `when`: their end offset */
    MQL_ARCHIVE = 4, /* final; `when`: one of mql_share_end */
    MQL_PARK = 5     /* the move cannot go on now; `when`: not before, milliseconds since 1970 */
};
enum mql_settle_flags { MQL_UNCOUNTED = 4 }; /* MQL_RELEASE: this delivery does not count */

typedef struct mql_settle {
    int64_t offset;
    uint64_t token;
    int result; /* MQL_OK; MQL_E_LOST: the lock is not held any more, nothing changed */
} mql_settle;

typedef struct mql_settlement {
    int event;
    int flags;        /* MQL_DURABLE: Blocks for a sync; MQL_UNCOUNTED */
    int64_t when;
    int64_t slice_ns;
} mql_settlement;

/* Settles each of `items`, those that it can. MQL_OK: look at the results. MQL_TIMEOUT: none of
 * those whose result is MQL_TIMEOUT has been looked at. Or MQL_UNSYNCED: all done; mql_share_sync
 * makes it durable. Fails: MQL_E_DURABILITY (all done). */
MQL_PUBLIC int mql_share_settle(mql_share *share, mql_settle *items, size_t count,
                                const mql_settlement *how);
/* After MQL_UNSYNCED: what was settled is durable. Blocks: for a sync. Fails: MQL_E_DURABILITY. */
MQL_PUBLIC int mql_share_sync(mql_share *share);
/* The offset acquired holds no record, nor does any up to `next`. */
MQL_PUBLIC int mql_share_skip(mql_share *share, int64_t offset, uint64_t token, int64_t next);
/* Before a delayed record is put: room for it in every share group of the partition. Blocks.
 * Afterwards: it is not acquired before `due_ms`, and then at once, whatever stands before it. */
MQL_PUBLIC int mql_share_make_room(mql_log *log);
MQL_PUBLIC int mql_share_delay(mql_log *log, int64_t offset, int64_t due_ms);
/* Appends of this process give MQL_FULL if group `share` then had more than `maxsize` records to
 * deliver, or a backlog of more than `max_bytes`; 0: no bound. Its backlog is the log from the
 * batch on that holds its first record that is not final. A call over `max_bytes`: MQL_E_TOO_LARGE.
 * mql_share_wait_room: until there may be room for so much. Blocks as mql_share_wait does. */
MQL_PUBLIC int mql_share_bound(mql_share *share, int64_t maxsize, int64_t max_bytes);
MQL_PUBLIC int mql_share_wait_room(mql_log *log, int64_t records, int64_t bytes,
                                   int64_t timeout_ns);
/* The bytes of the backlog. Blocks: for a sync where a segment was just ended. */
MQL_PUBLIC int mql_share_backlog(mql_share *share, int64_t *bytes);
/* Until every record below `offset` is final. Blocks as mql_share_wait does. */
MQL_PUBLIC int mql_share_wait_final(mql_share *share, int64_t offset, int64_t timeout_ns);

typedef struct mql_share_info {
    int64_t ready;    /* to be delivered now */
    int64_t delayed;  /* not due yet */
    int64_t acquired;
    int64_t first;    /* SPSO: the first offset that is not final */
    int64_t end;      /* SPEO: the next offset never acquired */
    int64_t oldest;   /* the first offset to be delivered, delayed ones included; -1: none */
    int64_t next_ms;  /* when the next delayed record is due, since 1970; INT64_MAX: none */
    int64_t bytes;    /* of the group's files */
    int64_t ends[MQL_ENDS];
} mql_share_info;
MQL_PUBLIC int mql_share_describe(mql_share *share, mql_share_info *out);
/* Records to be delivered, delayed ones included: wait-free, exact at some moment of the call. */
MQL_PUBLIC int64_t mql_share_waiting(mql_share *share);
/* The offsets that would be acquired next, at most `capacity`; how many. */
MQL_PUBLIC int64_t mql_share_peek(mql_share *share, int64_t *offsets, int64_t capacity);
/* What is acquired, in no order, at most `capacity`; how many. What dead processes held is released
 * first. */
MQL_PUBLIC int64_t mql_share_holders(mql_share *share, mql_acquired *out, int64_t capacity);
/* The first offset in [start, stop) that is not final; `stop` if there is none. */
MQL_PUBLIC int64_t mql_share_unfinished(mql_share *share, int64_t start, int64_t stop);
/* Milliseconds since boot, suspend included: the clock of deadlines. */
MQL_PUBLIC int64_t mql_share_now(void);

/* -- checking ---------------------------------------------------------------------------------- */
typedef struct mql_verify_report {
    int64_t segments;
    int64_t batches;
    int64_t records;
    int64_t bytes;
    int64_t index_entries;
    int64_t problems;
} mql_verify_report;

/* Called for each problem found: file, position in it, what is wrong. */
typedef void (*mql_verify_found)(void *context, const char *file, int64_t position,
                                 const char *what);
/* Called now and then with the bytes done and to do; a result other than 0 stops (MQL_BUSY). */
typedef int (*mql_verify_progress)(void *context, int64_t done, int64_t total);

/* Reads every batch and every index entry of the partition. Blocks: as long as that takes. */
MQL_PUBLIC int mql_verify(mql_log *log, mql_verify_found found, mql_verify_progress progress,
                          void *context, mql_verify_report *out);

#endif
