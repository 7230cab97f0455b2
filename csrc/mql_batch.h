/* mql_batch.h - RecordBatch v2 in memory: build, verify, walk. No I/O, no allocation. */
#ifndef MQL_BATCH_H
#define MQL_BATCH_H

#include "mql_base.h"

/* The header's fields, decoded. `size` counts the whole batch. */
typedef struct mql_batch_header {
    int64_t base_offset;
    int64_t size;
    int64_t last_offset;
    int64_t base_timestamp;
    int64_t max_timestamp;
    int64_t producer_id;
    int32_t epoch;
    int32_t count;
    uint32_t crc;
    int16_t attributes;
    uint8_t magic;
} mql_batch_header;

/* Decodes MQL_BATCH_HEADER bytes, whatever they are. */
void mql_batch_read_header(const uint8_t *bytes, mql_batch_header *out);

/* Whether a decoded header can be a batch at all: magic 2, size between the header and `room`,
 * offsets that do not overflow, count and last delta not negative. NULL: it can; else what is
 * wrong. */
const char *mql_batch_implausible(const mql_batch_header *header, int64_t room);

/* Whether the CRC over `size` bytes (of the whole batch) is right. */
bool mql_batch_crc_right(const uint8_t *bytes, int64_t size);

/* How many of the records fit into one batch of at most `limit` bytes, at least one whatever its
 * size; *size is that batch's. `now` stands for MQL_NOW. */
size_t mql_batch_fit_records(const mql_record *records, size_t count, int64_t now, int64_t limit,
                             int64_t *size);
/* The same for values without keys, headers and times of their own. */
size_t mql_batch_fit_values(const mql_value *values, size_t count, int64_t limit, int64_t *size);

/* Writes a whole batch of exactly the size that mql_batch_fit_* gave, CRC included. The bytes at
 * `out` may be mapped and shared; nothing outside [out, out + size) is written. Returns the maximum
 * timestamp. */
int64_t mql_batch_write_records(uint8_t *out, int64_t size, const mql_record *records, size_t count,
                                int64_t now, int64_t base_offset, int32_t epoch);
int64_t mql_batch_write_values(uint8_t *out, int64_t size, const mql_value *values, size_t count,
                               int64_t now, int64_t base_offset, int32_t epoch);

/* The records alone, and a header in front of a payload: what mql_records_* and mql_batch_build
 * are. */
int64_t mql_batch_records_size(const mql_record *records, size_t count, int64_t now);
int64_t mql_batch_records_encode(const mql_record *records, size_t count, int64_t now, uint8_t *out,
                                 size_t capacity);
int mql_batch_header_build(const mql_record *records, size_t count, int64_t now, int compression,
                           const uint8_t *payload, size_t length, uint8_t *header);

/* Writes a batch without records that uses up the offsets first .. last, as compaction leaves it in
 * Kafka: MQL_BATCH_HEADER bytes, no timestamps. */
void mql_batch_write_empty(uint8_t *out, int64_t first_offset, int64_t last_offset, int32_t epoch);

/* The batch has lost some of its records: sets its size, their number, the maximum timestamp of
 * those left, and the CRC. */
void mql_batch_thin(uint8_t *bytes, int64_t size, int32_t count, int64_t max_timestamp);

/* Stamps offset and epoch into a batch in place: both lie outside the CRC. */
void mql_batch_stamp(uint8_t *bytes, int64_t base_offset, int32_t epoch);

/* One record off a walk (mqlog.h). */
void mql_batch_walk_start(mql_walk *walk, const mql_batch *batch, const uint8_t *payload,
                          size_t length);
int mql_batch_walk_next(mql_walk *walk, mql_record_view *out);

size_t mql_batch_one_header_size(size_t name_length, int64_t value_length);
size_t mql_batch_one_header_encode(const uint8_t *name, size_t name_length, const uint8_t *value,
                                   int64_t value_length, uint8_t *out);
int mql_batch_one_header_next(mql_value *headers, mql_value *name, mql_value *value);

/* Kafka's murmur2 (seed 0x9747b28c), made positive, modulo `partitions`. */
int32_t mql_batch_partition_for(const uint8_t *key, size_t length, int32_t partitions);

#endif
