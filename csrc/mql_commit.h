/* mql_commit.h - stable storage: the durable end, the offset ceiling, sealing, the checkpoint,
 * trimming. */
#ifndef MQL_COMMIT_H
#define MQL_COMMIT_H

#include "mql_log.h"

/* Every record below `offset` is on stable storage. One committer syncs for all who wait behind it.
 * Blocks. Fails: MQL_E_DURABILITY (and the log is poisoned for every process); MQL_E_OS: it could
 * not be tried, or not be told whether anything was lost, and the next call writes it again. */
int mql_commit_until(mql_log *log, int64_t offset);
/* Asks this process's sync thread for it and waits, at most `timeout_ns` and at most a slice:
 * MQL_TIMEOUT, perhaps spuriously; the thread goes on. Not above 0: asks nobody. Without a thread
 * it is mql_commit_until. */
int mql_commit_wait(mql_log *log, int64_t offset, int64_t timeout_ns);
/* Until all is durable that was published before the call. */
int mql_commit_all(mql_log *log);
/* After a failed sync each of the above begins by writing again what it may have lost, and so does
 * mql_commit_revive. MQL_OK unless the log is poisoned still. Blocks. */
int mql_commit_revive(mql_log *log);
/* What the sync thread does now and then: as mql_commit_all, and in a "sync" topic a checkpoint, so
 * that what is acknowledged soon lies below a watermark. A poisoned log is left to whoever needs it
 * and is to be told. */
int mql_commit_tick(mql_log *log);

/* Offsets below `offset` may be given out: a ceiling above it is on stable storage. Blocks. */
int mql_commit_raise(mql_log *log, int64_t offset);

/* The log start moves to `before`, durably; whole segments below it are unlinked. Blocks. */
int mql_commit_trim(mql_log *log, int64_t before);
/* The segments bases[0 .. count) end at `until`, where the next one begins. */
typedef struct mql_commit_sources {
    const int64_t *bases; /* borrows; ascending */
    size_t count;
    int64_t until;
} mql_commit_sources;
/* <bases[0]>.log.cleaned, which is on stable storage, takes their place. Blocks. MQL_BUSY: they are
 * not what they were, nothing was done. */
int mql_commit_replace(mql_log *log, const mql_commit_sources *from);
/* Finishes or undoes what a process has left that died while it rewrote segments. Blocks. */
int mql_commit_settle(mql_log *log);
/* Whether somebody is replacing segments, or has left it undone: a hint without the lock. */
static inline bool mql_commit_is_replacing(mql_log *log) {
    return atomic_load_explicit(&log->control->replacing, memory_order_acquire) != 0;
}
/* Whether the youngest record of a sealed segment is older than `oldest` (milliseconds since 1970).
 * The time index is derived, so it is not believed alone; without it the segment is read once its
 * file is that old too. */
bool mql_commit_is_older(mql_log *log, int64_t base, int64_t next_base, int64_t oldest);
/* What retention by bytes and age takes away now (cleanup "delete"). Blocks. */
int mql_commit_retain(mql_log *log);

/* The last close of the machine: exact lengths, synced, a checkpoint that says "clean". Blocks. */
int mql_commit_finish(mql_log *log);

#endif
