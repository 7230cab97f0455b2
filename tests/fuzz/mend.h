/* mend.h - makes hostile bytes right where a check would end the reading of them too early: magic,
 * versions, identities, CRCs. What stands between is left as it is. */
#ifndef MEND_H
#define MEND_H

#include <stddef.h>
#include <stdint.h>

/* `name` says what file it is; `original` what it was before: whose machine and file it is for. */
void mend_file(const char *name, uint8_t *bytes, size_t length, const uint8_t *original,
               size_t original_length);
/* Batch behind batch: each one's magic and CRC, and a length that fits. `dense`: offsets too. */
void mend_log(uint8_t *bytes, size_t length, int64_t base, int dense);

#endif
