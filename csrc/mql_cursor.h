/* mql_cursor.h - a reader's place in a partition; leases on the bytes it lends. */
#ifndef MQL_CURSOR_H
#define MQL_CURSOR_H

#include "mql_log.h"

/* As mqlog.h says of the functions named alike. */
int mql_cursor_make(mql_log *log, int64_t offset, int flags, mql_cursor **out);
void mql_cursor_end(mql_cursor *cursor);
int mql_cursor_move(mql_cursor *cursor, int64_t offset);
int64_t mql_cursor_place(const mql_cursor *cursor);
int mql_cursor_read(mql_cursor *cursor, mql_batch *out);
int mql_cursor_lend(mql_cursor *cursor, mql_lease **out);
void mql_cursor_give_back(mql_lease *lease);
int mql_cursor_move_to_time(mql_cursor *cursor, int64_t timestamp, int64_t *offset);
int mql_cursor_measure(mql_log *log, int64_t offset, mql_log_info *out);
/* Takes from the cursors of a log what they stand in. Their calls have ended; they may be freed
 * meanwhile. */
void mql_cursor_unmap_all(mql_log *log);

#endif
