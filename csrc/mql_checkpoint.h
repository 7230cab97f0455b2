/* mql_checkpoint.h - the file that says what of a partition is on stable storage. */
#ifndef MQL_CHECKPOINT_H
#define MQL_CHECKPOINT_H

#include "mql_base.h"
#include "mql_crc32c.h"
#include "mql_format.h"

/* The later sound slot. MQL_END: there is none. */
int mql_checkpoint_read(mql_os_file root, const char *directory, mql_format_checkpoint *out);
/* Writes it over the older slot, durably; sets sequence and crc. */
int mql_checkpoint_write(mql_os_file root, const char *directory,
                         mql_format_checkpoint *checkpoint, uint32_t mode);

#endif
