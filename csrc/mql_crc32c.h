/* mql_crc32c.h - CRC-32C (Castagnoli), the checksum of Kafka's batches and of mqlog's own slots. */
#ifndef MQL_CRC32C_H
#define MQL_CRC32C_H

#include "mql_base.h"

/* The CRC of `length` bytes, continuing from `crc` (0 to begin). The CPU's instruction where there
 * is one, found at the first call. */
uint32_t mql_crc32c(uint32_t crc, const void *data, size_t length);
/* Of two words as they lie in memory, from 0. */
uint32_t mql_crc32c_pair(uint64_t first, uint64_t second);
/* The portable one, for tests to compare with. */
uint32_t mql_crc32c_portable(uint32_t crc, const void *data, size_t length);

#endif
