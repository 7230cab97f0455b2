"""The planted bugs: what each makes of the sources, and the tests that have to notice.

A bug is a piece of a source file and what stands in its place; the piece must be there exactly
once, so a bug that no longer applies is noticed. The sources themselves know nothing of bugs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bug:
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # folders, files or tests, from tests/

    def plant(self, tree: Path) -> None:
        file = tree / self.file
        text = file.read_text()
        if text.count(self.old) != 1:
            found = text.count(self.old)
            raise SystemExit(
                f"{self.name}: its place is {found} times in {self.file}: mend bugs.py"
            )
        file.write_text(text.replace(self.old, self.new))


BATCH = "engine/test_mql_batch.py"
APPEND = "engine/test_mql_append.py"
COMMIT = "engine/test_mql_commit.py"
CURSOR = "engine/test_mql_cursor.py"
R = "engine/test_mql_recover.py::test_"
STEPS = "crash/test_steps.py"
POWER = "crash/test_power.py::test_whatever_a_power_cut_leaves_is_what_was_promised"
BUDGET = "crash/test_sync_budget.py"

BUGS = (
    # -- what is published, and when -----------------------------------------------------------
    Bug(
        "the end is published before the bytes are there",
        "csrc/mql_append.c",
        """    encode_locked(append, append->log->active->map + end.position, end.offset);
    int64_t position = end.position;
    end.position = append->end;
    end.offset += append->offsets;
    mql_control_publish(&control->published, &end);
""",
        """    int64_t position = end.position, first = end.offset;
    end.position = append->end;
    end.offset += append->offsets;
    mql_control_publish(&control->published, &end);
    encode_locked(append, append->log->active->map + position, first);
""",
        (STEPS,),
    ),
    Bug(
        "what a writer may have left is not noted before its bytes",
        "csrc/mql_append.c",
        "    atomic_store_explicit(&control->dirty, append->end, memory_order_relaxed);\n",
        "",
        (STEPS,),
    ),
    Bug(
        "zeros are taken for a batch",
        "csrc/mql_batch.c",
        """    if (header->magic != MQL_BATCH_MAGIC_V2) return "the magic byte of a batch is not 2";
    int codec = MQL_BATCH_COMPRESSION(header->attributes);
    if (codec > CODEC_MAX) return "a batch has an unknown codec";
    if (header->size < MQL_BATCH_HEADER) return "a batch is shorter than its own header";
""",
        """    int codec = MQL_BATCH_COMPRESSION(header->attributes);
    if (codec > CODEC_MAX) return "a batch has an unknown codec";
""",
        (BATCH,),
    ),
    Bug(
        "a length check is off by one",
        "csrc/mql_batch.c",
        "    if (header->size > room) return",
        "    if (header->size > room + 1) return",
        (BATCH,),
    ),
    Bug(
        "a dead writer's bytes are not zeroed",
        "csrc/mql_append.c",
        "        memset(segment->map + end.position, 0, (size_t)(dirty - end.position));\n",
        "",
        (APPEND,),
    ),
    Bug(
        "an owner's death is ignored",
        "csrc/mql_log.c",
        "    if (owed != NULL) *owed = 1;\n",
        "",
        (APPEND, COMMIT),
    ),
    Bug(
        "a peer lengthens a segment that was rolled",
        "csrc/mql_room.c",
        "    if (end.segment != segment || from >= least) return MQL_OK;\n",
        "    if (from >= least) return MQL_OK;\n",
        ("engine/test_mql_room.py", COMMIT),
    ),
    Bug(
        "space is made by lengthening the file",
        "csrc/mql_os_posix.c",
        "    RETRY(rc, fallocate(file, 0, position, length));\n",
        "    RETRY(rc, ftruncate(file, position + length));\n",
        ("engine/test_mql_os.py", "engine/test_mql_room.py"),
    ),
    # -- stable storage --------------------------------------------------------------------------
    Bug(
        "a failed sync is tried again, and called done",
        "csrc/mql_commit.c",
        "    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n",
        "    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n"
        "    if (rc < 0)\n"
        "        rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n",
        (COMMIT,),
    ),
    Bug(
        "only the process whose sync failed knows of it",
        "csrc/mql_commit.c",
        "    atomic_fetch_or_explicit(&log->control->state, MQL_STATE_POISONED,",
        "    static _Atomic uint32_t mine;\n"
        "    atomic_fetch_or_explicit(&mine, MQL_STATE_POISONED,",
        (COMMIT,),
    ),
    Bug(
        "pages that a failed sync left clean are not made dirty again",
        "csrc/mql_segment.c",
        "        *byte = *byte;\n",
        "        (void)byte;\n",
        (COMMIT,),
    ),
    Bug(
        "a committer's death is nobody's business",
        "csrc/mql_commit.c",
        "    int rc = mql_log_lock(log, &log->control->commit, &log->control->needs_resync);\n",
        "    int rc = mql_log_lock(log, &log->control->commit, NULL);\n",
        (COMMIT,),
    ),
    Bug(
        "consumers read above the durable end",
        "csrc/mql_log.c",
        "    if (log->control != NULL && mql_log_is_sync(log))\n",
        "    if (false)\n",
        (CURSOR, "engine/test_mql_log.py"),
    ),
    Bug(
        "retention makes files shorter before it takes them away",
        "csrc/mql_commit.c",
        "        int rc = mql_os_unlink(log->home->root, path);\n"
        '        if (rc < 0 && rc != -ENOENT) return mql_base_fail_os(rc, path, "cannot remove the',
        "        mql_os_file cut;\n"
        "        if (mql_os_open(log->home->root, path, MQL_OS_WRITE, 0, &cut) == 0) {\n"
        "            mql_os_truncate(cut, 0);\n"
        "            mql_os_close(cut);\n"
        "        }\n"
        "        int rc = mql_os_unlink(log->home->root, path);\n"
        '        if (rc < 0 && rc != -ENOENT) return mql_base_fail_os(rc, path, "cannot remove the',
        (CURSOR,),
    ),
    Bug(
        "a sleeper is woken before the lock is free",
        "csrc/mql_commit.c",
        "    mql_os_mutex_drop(&log->control->commit);\n"
        "    mql_log_wake(log, &log->control->waiters_durable, &log->control->durable);\n",
        "    mql_log_wake(log, &log->control->waiters_durable, &log->control->durable);\n"
        "    mql_os_mutex_drop(&log->control->commit);\n",
        (COMMIT,),
    ),
    Bug(
        "data is not synced",
        "csrc/mql_commit.c",
        "    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n",
        "    rc = 0;\n",
        (BUDGET, POWER),
    ),
    Bug(
        "the length of a sealed segment is not synced",
        "csrc/mql_segment.c",
        "    if (rc == 0) rc = mql_os_sync(file);\n"
        "    mql_os_close(file);\n"
        "    if (rc == -ENOENT) return MQL_OK; /* ret",
        "    mql_os_close(file);\n    if (rc == -ENOENT) return MQL_OK; /* ret",
        (BUDGET, POWER),
    ),
    Bug(
        "a directory is not synced after something was made in it",
        "csrc/mql_commit.c",
        "    int rc = mql_log_sync_directory(log, true);\n",
        "    int rc = MQL_OK;\n",
        (BUDGET, POWER),
    ),
    Bug(
        "a directory is not synced after a roll has renamed",
        "csrc/mql_commit.c",
        "    if (rc == MQL_OK) rc = mql_log_sync_directory(log, false);\n"
        "    if (rc == MQL_OK) atomic_store_explicit(&log->control->sealed",
        "    if (rc == MQL_OK) atomic_store_explicit(&log->control->sealed",
        (BUDGET, POWER),
    ),
    Bug(
        "segments go before the log start that says so is on the disk",
        "csrc/mql_commit.c",
        "    if (before != start) rc = write_checkpoint_locked(log, &durable, ceiling, false);\n",
        "",
        (BUDGET, POWER),
    ),
    # -- recovery --------------------------------------------------------------------------------
    Bug(
        "the page of locks is not made anew by the first opener",
        "csrc/mql_log.c",
        "    rc = mql_control_reset(control, identity);\n    if (rc < 0) return rc;\n",
        "    mql_control_name(control, identity);\n",
        ("engine/test_mql_log.py", "engine/test_mql_store.py"),
    ),
    Bug(
        "memory is believed after the file system was mounted anew",
        "csrc/mql_control.c",
        "           control->device == identity->device && control->inode == identity->inode &&\n"
        "           control->mount == identity->mount;\n",
        "           control->device == identity->device && control->inode == identity->inode;\n",
        ("engine/test_mql_control.py",),
    ),
    Bug(
        "recovery cuts below the watermark",
        "csrc/mql_recover.c",
        "        run->checkpoint.segment, run->checkpoint.position, run->checkpoint.offset};\n"
        "    *usable",
        "        run->checkpoint.segment, 0, run->checkpoint.segment};\n    *usable",
        (R + "r6_damage_below_the_watermark_is_never_cut",),
    ),
    Bug(
        "recovery removes what it does not know",
        "csrc/mql_recover.c",
        '    } else if (length > 5 && length < 25 && memcmp(name, "next.", 5) == 0 &&\n'
        "               digits(name + 5, length - 5)) {\n",
        '    } else if (length > 5 && length < 25 && memcmp(name, "next.", 5) == 0) {\n',
        ("engine/test_mql_recover.py",),
    ),
    Bug(
        "offsets that may have been seen are given out again",
        "csrc/mql_recover.c",
        "    while (end->offset < ceiling) {\n",
        "    while (false) {\n",
        (R + "offsets_up_to_the_ceiling_are_used_up_after_a_scan",),
    ),
    Bug(
        "a stale epoch is taken for the log's",
        "csrc/mql_recover.c",
        "        if (rc == MQL_OK && epoch_fits(run, &walk->header)) {\n",
        "        if (rc == MQL_OK) {\n",
        (R + "r5_a_stale_epoch_is_cut",),
    ),
)
