# mqlog.h, line for line: what each thing means is said there.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "mqlog.h" nogil:
    # -- results ---------------------------------------------------------------------------------
    enum mql_result:
        MQL_OK
        MQL_END
        MQL_FULL
        MQL_TIMEOUT
        MQL_BUSY
        MQL_FOUND
        MQL_UNSYNCED
        MQL_E_OS
        MQL_E_MEMORY
        MQL_E_CLOSED
        MQL_E_DELETED
        MQL_E_CORRUPT
        MQL_E_DURABILITY
        MQL_E_RANGE
        MQL_E_NOT_FOUND
        MQL_E_TOO_LARGE
        MQL_E_FORMAT
        MQL_E_FORKED
        MQL_E_READ_ONLY
        MQL_E_ARGUMENT
        MQL_E_REFUSED
        MQL_E_LOST
        MQL_E_LATER

    ctypedef struct mql_error:
        int code
        int os_errno
        int64_t position
        int64_t start
        int64_t stop
        char path[4096]
        char text[256]

    const mql_error *mql_error_last()

    # -- stores ----------------------------------------------------------------------------------
    ctypedef struct mql_store
    ctypedef struct mql_log
    ctypedef struct mql_cursor
    ctypedef struct mql_lease
    ctypedef struct mql_group
    ctypedef struct mql_share

    const uint64_t MQL_DEFAULT_FREE

    ctypedef struct mql_open_options:
        int read_only
        int create
        int threads
        uint32_t file_mode
        uint64_t min_free_bytes
        uint64_t max_bytes

    int mql_open(const char *path, const mql_open_options *options, mql_store **out)

    int mql_close(mql_store *store)
    void mql_abandon(mql_store *store)
    void mql_free(mql_store *store)
    void mql_pin(mql_store *store)
    void mql_unpin(mql_store *store)
    void mql_enter(mql_store *store)
    void mql_leave(mql_store *store)

    int mql_gate_take(mql_store *store, int64_t timeout_ns)
    void mql_gate_drop(mql_store *store)

    int mql_options_read(mql_store *store, uint8_t **data, size_t *length)
    int mql_options_write(mql_store *store, const uint8_t *data, size_t length)
    void mql_bytes_free(uint8_t *data)

    uint32_t mql_options_generation(const mql_store *store)
    int mql_store_limits(mql_store *store, uint64_t min_free_bytes, uint64_t max_bytes)

    int mql_sync(mql_store *store)

    uint32_t mql_doorbell(mql_store *store)
    int mql_doorbell_wait(mql_store *store, uint32_t seen, int64_t timeout_ns)
    void mql_wake(mql_store *store)
    int64_t mql_wall(const mql_store *store)
    void mql_set_wall(mql_store *store, int64_t now_ms)

    ctypedef struct mql_recovered:
        char topic[256]
        int partition
        int row
        int64_t segment
        int64_t position
        int64_t bytes
        char file[64]
    int mql_recovered_at(mql_store *store, size_t index, mql_recovered *out)

    int mql_keeper_prepare(mql_store *store)
    int mql_keeper_sync(mql_store *store)

    # -- partitions ------------------------------------------------------------------------------
    enum mql_durability:
        MQL_DURABILITY_OS
        MQL_DURABILITY_SYNC
    enum mql_cleanup:
        MQL_CLEANUP_KEEP
        MQL_CLEANUP_DELETE
        MQL_CLEANUP_CONSUMED
        MQL_CLEANUP_COMPACT

    ctypedef struct mql_log_options:
        int64_t segment_bytes
        int64_t batch_bytes
        int64_t max_message_bytes
        int64_t sync_interval_ns
        int64_t retention_bytes
        int64_t retention_age_ms
        int64_t dedupe_ms
        int durability
        int cleanup

    int mql_partition(mql_store *store, const char *topic, int partition, int create,
                      const mql_log_options *options, mql_log **out)
    int mql_log_alter(mql_log *log, const mql_log_options *options)

    int mql_partition_delete(mql_log *log)

    ctypedef struct mql_log_info:
        int64_t start_offset
        int64_t end_offset
        int64_t durable_offset
        int64_t bytes
        int32_t segments
        int32_t epoch
        int poisoned

    int mql_log_ends(mql_log *log, mql_log_info *out)
    int mql_log_describe(mql_log *log, mql_log_info *out)
    int mql_log_measure(mql_log *log, int64_t offset, mql_log_info *out)
    int64_t mql_log_readable(mql_log *log)

    # -- append ----------------------------------------------------------------------------------
    ctypedef struct mql_value:
        const uint8_t *data
        int64_t length

    ctypedef struct mql_record:
        mql_value key
        mql_value value
        mql_value headers
        int32_t header_count
        int64_t timestamp

    const int64_t MQL_NOW

    enum mql_append_flags:
        MQL_NOWAIT
        MQL_DURABLE

    int mql_append(mql_log *log, const mql_record *record, int flags, int64_t *offset)
    int mql_append_values(mql_log *log, const mql_value *values, size_t count, int64_t timestamp,
                          int flags, int64_t *offset)
    int mql_append_records(mql_log *log, const mql_record *records, size_t count, int flags,
                           int64_t *offset)
    int mql_append_batches(mql_log *log, const uint8_t *batches, size_t length, int flags,
                           int64_t *offset)

    ctypedef struct mql_once:
        mql_value key
        int64_t window_ms
        int64_t ignore
        int look

    int mql_append_once(mql_log *log, const mql_record *record, const mql_once *once, int flags,
                        int64_t *offset)

    # -- batches in memory -----------------------------------------------------------------------
    enum mql_compression:
        MQL_NONE
        MQL_GZIP
        MQL_SNAPPY
        MQL_LZ4
        MQL_ZSTD

    int64_t mql_records_size(const mql_record *records, size_t count, int64_t now)
    int64_t mql_records_encode(const mql_record *records, size_t count, int64_t now, uint8_t *out,
                               size_t capacity)
    enum:
        MQL_BATCH_HEADER
    int mql_batch_build(const mql_record *records, size_t count, int64_t now, int compression,
                        const uint8_t *payload, size_t length, uint8_t *header)

    int32_t mql_partition_for(const uint8_t *key, size_t length, int32_t partitions)

    size_t mql_header_size(size_t name_length, int64_t value_length)
    size_t mql_header_encode(const uint8_t *name, size_t name_length, const uint8_t *value,
                             int64_t value_length, uint8_t *out)

    # -- waiting, syncing, trimming --------------------------------------------------------------
    int mql_wait(mql_log *log, int64_t offset, int64_t timeout_ns)
    int mql_wait_durable(mql_log *log, int64_t offset, int64_t timeout_ns)
    int mql_log_sync(mql_log *log)
    int mql_log_sync_until(mql_log *log, int64_t offset)
    void mql_take_turn()
    void mql_give_turn()
    int mql_trim(mql_log *log, int64_t before)
    int64_t mql_unfinished(mql_log *log, int64_t start, int64_t stop)

    # -- reading ---------------------------------------------------------------------------------
    ctypedef struct mql_batch:
        const uint8_t *payload
        int64_t payload_length
        int64_t position
        int64_t segment
        int64_t base_offset
        int64_t last_offset
        int64_t base_timestamp
        int64_t max_timestamp
        int32_t count
        int32_t epoch
        int16_t attributes

    int MQL_BATCH_COMPRESSION(int attributes)
    enum:
        MQL_BATCH_LOG_APPEND_TIME
        MQL_BATCH_CONTROL

    enum mql_cursor_flags:
        MQL_UNVERIFIED
        MQL_TO_END

    int mql_cursor_open(mql_log *log, int64_t offset, int flags, mql_cursor **out)
    void mql_cursor_free(mql_cursor *cursor)
    int mql_cursor_seek(mql_cursor *cursor, int64_t offset)
    int64_t mql_cursor_offset(const mql_cursor *cursor)

    int mql_cursor_next(mql_cursor *cursor, mql_batch *out)

    int mql_cursor_lease(mql_cursor *cursor, mql_lease **out)
    void mql_lease_free(mql_lease *lease)

    int mql_cursor_seek_time(mql_cursor *cursor, int64_t timestamp, int64_t *offset)

    ctypedef struct mql_walk:
        const uint8_t *at
        const uint8_t *end
        int64_t base_offset
        int64_t base_timestamp
        int64_t fixed_timestamp
        int64_t last_offset
        int64_t previous
        int32_t left
        int32_t log_append_time

    ctypedef struct mql_record_view:
        int64_t offset
        int64_t timestamp
        mql_value key
        mql_value value
        mql_value headers
        int32_t header_count

    void mql_walk_start(mql_walk *walk, const mql_batch *batch, const uint8_t *payload,
                        size_t length)
    int mql_walk_next(mql_walk *walk, mql_record_view *out)
    int mql_header_next(mql_value *headers, mql_value *name, mql_value *value)

    # -- consumer groups -------------------------------------------------------------------------
    enum:
        MQL_NO_OFFSET

    int mql_group_open(mql_log *log, const char *name, int create, mql_group **out)
    int mql_group_committed(mql_group *group, int64_t *offset)
    int mql_group_commit(mql_group *group, uint64_t member, int64_t offset, int durable)
    int mql_group_delete(mql_group *group)

    int mql_group_join(mql_group *group, uint64_t *member)
    void mql_group_leave(mql_group *group, uint64_t member)
    int mql_group_members(mql_group *group, uint64_t *members, int capacity)

    int mql_group_claim(mql_group *group, uint64_t member)
    void mql_group_drop(mql_group *group, uint64_t member)
    uint64_t mql_group_owner(mql_group *group)

    # -- share groups ----------------------------------------------------------------------------
    enum mql_share_end:
        MQL_ACCEPTED
        MQL_DEAD
        MQL_EXPIRED
        MQL_DAMAGED
        MQL_GONE
        MQL_PASSED
        MQL_PURGED
        MQL_ENDS

    int mql_share_open(mql_log *log, const char *name, int create, int64_t start, mql_share **out)
    int mql_share_delete(mql_share *share)

    ctypedef struct mql_acquired:
        int64_t offset
        uint64_t token
        int64_t moving
        int64_t deadline_ms
        uint64_t holder
        uint32_t deliveries
        uint32_t abandoned

    ctypedef struct mql_acquire:
        int64_t lock_ms
        int64_t max_acquired
        int64_t slice_ns
        int any

    int mql_share_acquire(mql_share *share, const mql_acquire *how, mql_acquired *out,
                          size_t *count)
    int mql_share_wait(mql_share *share, int64_t timeout_ns)
    int64_t mql_share_due_in(mql_share *share)

    enum mql_settle_event:
        MQL_ACCEPT
        MQL_RELEASE
        MQL_RENEW
        MQL_MOVE
        MQL_ARCHIVE
        MQL_PARK

    enum mql_settle_flags:
        MQL_UNCOUNTED

    ctypedef struct mql_settle:
        int64_t offset
        uint64_t token
        int result

    ctypedef struct mql_settlement:
        int event
        int flags
        int64_t when
        int64_t slice_ns

    int mql_share_settle(mql_share *share, mql_settle *items, size_t count,
                         const mql_settlement *how)
    int mql_share_sync(mql_share *share)
    int mql_share_skip(mql_share *share, int64_t offset, uint64_t token, int64_t next)
    int mql_share_make_room(mql_log *log)
    int mql_share_delay(mql_log *log, int64_t offset, int64_t due_ms)
    int mql_share_bound(mql_share *share, int64_t maxsize, int64_t max_bytes)
    int mql_share_wait_room(mql_log *log, int64_t records, int64_t bytes, int64_t timeout_ns)
    int mql_share_backlog(mql_share *share, int64_t *bytes)
    int mql_share_wait_final(mql_share *share, int64_t offset, int64_t timeout_ns)

    ctypedef struct mql_share_info:
        int64_t ready
        int64_t delayed
        int64_t acquired
        int64_t first
        int64_t end
        int64_t oldest
        int64_t next_ms
        int64_t bytes
        int64_t ends[MQL_ENDS]

    int mql_share_describe(mql_share *share, mql_share_info *out)
    int64_t mql_share_waiting(mql_share *share)
    int64_t mql_share_peek(mql_share *share, int64_t *offsets, int64_t capacity)
    int64_t mql_share_holders(mql_share *share, mql_acquired *out, int64_t capacity)
    int64_t mql_share_unfinished(mql_share *share, int64_t start, int64_t stop)
    int64_t mql_share_now()

    # -- checking --------------------------------------------------------------------------------
    ctypedef struct mql_verify_report:
        int64_t segments
        int64_t batches
        int64_t records
        int64_t bytes
        int64_t index_entries
        int64_t problems

    ctypedef void (*mql_verify_found)(void *context, const char *file, int64_t position,
                                      const char *what) noexcept
    ctypedef int (*mql_verify_progress)(void *context, int64_t done, int64_t total) noexcept

    int mql_verify(mql_log *log, mql_verify_found found, mql_verify_progress progress,
                   void *context, mql_verify_report *out)
