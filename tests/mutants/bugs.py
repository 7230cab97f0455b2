"""The planted bugs: what each makes of the sources, and the tests that have to notice.

A bug is a piece of a source file and what stands in its place; the piece must be there exactly
once, so a bug that no longer applies is noticed. The sources themselves know nothing of bugs.

The tiers that must kill it are named as in docs/reliability.md, each with as few tests as do it:

    engine   the tests of one module
    api      the tests of the package
    budget   how often each operation syncs (O16)
    power    power cuts on simulated disks (P1 to P4)
    kill     kills at every instruction (K1)
    litmus   two threads at the same bytes at the same moment (M8)
    races    ThreadSanitizer (M3)

No bugs, though they look like some: the size of a new segment is not synced (the sync of its bytes
covers it, as msync is an fsync of the range: this is "data is not synced"); a fence is missing
between a sleeper's flag and its futex, where it sleeps on the very word that moves (the kernel
looks at that word behind a full barrier); who waits for the durable end is woken before the commit
lock is free (it does not take it); any name that begins with "next." is listed (only numbers are
made into names again).
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
    killers: dict[str, tuple[str, ...]]  # by tier: files or tests, from tests/, or "make ..."

    def plant(self, tree: Path) -> None:
        file = tree / self.file
        text = file.read_text()
        if text.count(self.old) != 1:
            found = text.count(self.old)
            raise SystemExit(
                f"{self.name}: its place is {found} times in {self.file}: mend bugs.py"
            )
        file.write_text(text.replace(self.old, self.new))


def engine(module: str, *tests: str) -> dict[str, tuple[str, ...]]:
    file = f"engine/test_mql_{module}.py"
    return {"engine": tuple(f"{file}::test_{test}" for test in tests) or (file,)}


def api(module: str, *tests: str) -> dict[str, tuple[str, ...]]:
    return {"api": tuple(f"api/test_{module}.py::test_{test}" for test in tests)}


def budget(what: str) -> dict[str, tuple[str, ...]]:
    return {"budget": (f"crash/test_sync_budget.py::{OPERATION}[{what}]",)}


def power(*workloads: str) -> dict[str, tuple[str, ...]]:
    return {"power": tuple(f"crash/test_power.py::{CUT}[{workload}]" for workload in workloads)}


def litmus(*tests: str) -> dict[str, tuple[str, ...]]:
    return {"litmus": tuple(f"crash/test_at_once.py::test_{test}" for test in tests)}


OPERATION = "test_an_operation_syncs_as_often_as_the_design_says"
CUT = "test_whatever_a_power_cut_leaves_is_what_was_promised"
DEATH = "test_a_death_at_any_instruction_of_anything_holds_nobody_up_and_loses_nothing"
KILL = {"kill": (f"crash/test_steps.py::{DEATH}",)}
RACES = {"races": ("make tsan",)}

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
        KILL,
    ),
    Bug(
        "what a writer may have left is not noted before its bytes",
        "csrc/mql_append.c",
        "    atomic_store_explicit(&control->dirty, append->end, memory_order_relaxed);\n",
        "",
        KILL,
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
        engine("batch"),
    ),
    Bug(
        "a length check is off by one",
        "csrc/mql_batch.c",
        "    if (header->size > room) return",
        "    if (header->size > room + 1) return",
        engine("batch"),
    ),
    Bug(
        "a length is read twice, and checked once",
        "csrc/mql_cursor.c",
        "                       .payload_length = header->size - MQL_BATCH_HEADER,\n",
        "                       .payload_length = (int64_t)mql_base_get32(walk->bytes + "
        "MQL_BATCH_LENGTH) +\n"
        "                                         MQL_BATCH_LOG_OVERHEAD - MQL_BATCH_HEADER,\n",
        litmus("a_log_that_changes_while_it_is_read_gives_sound_batches_or_none"),
    ),
    Bug(
        "a dead writer's bytes are not zeroed",
        "csrc/mql_append.c",
        "        memset(segment->map + end.position, 0, (size_t)(dirty - end.position));\n",
        "",
        engine("append") | KILL,
    ),
    Bug(
        "a repair wipes what lies before one of the two ends",
        "csrc/mql_append.c",
        "        mql_control_set(&control->published, &end);\n",
        "",
        engine("append", "what_is_wiped_in_a_repair_is_behind_both_slots_of_the_end"),
    ),
    Bug(
        "an owner's death is ignored",
        "csrc/mql_log.c",
        "    if (owed != NULL) *owed = 1;\n",
        "    (void)owed;\n",
        engine("append") | KILL,
    ),
    Bug(
        "a peer lengthens a segment that was rolled",
        "csrc/mql_room.c",
        "    if (end.segment != segment || from >= least) return MQL_OK;\n",
        "    if (from >= least) return MQL_OK;\n",
        engine("room"),
    ),
    Bug(
        "zeros are written ahead from where a dead roller says that blocks end",
        "csrc/mql_room.c",
        "background ? mql_base_max(from, end.position) : INT64_MAX",
        "background ? from : INT64_MAX",
        engine("room") | KILL,
    ),
    Bug(
        "space is made by lengthening the file",
        "csrc/mql_os_posix.c",
        "    RETRY(rc, fallocate(file, 0, position, length));\n",
        "    RETRY(rc, ftruncate(file, position + length));\n",
        engine("os"),
    ),
    Bug(
        "the end is published by a store that releases nothing",
        "csrc/mql_control.h",
        "    atomic_store_explicit(&latch->generation, generation, memory_order_release);\n",
        "    atomic_store_explicit(&latch->generation, generation, memory_order_relaxed);\n",
        RACES,
    ),
    Bug(
        "one more is counted by a load and a store",
        "csrc/mql_segment.c",
        "    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);\n",
        """    int now = atomic_load_explicit(&segment->references, memory_order_relaxed);
    atomic_store_explicit(&segment->references, now + 1, memory_order_relaxed);
""",
        litmus("nothing_is_lost_of_what_two_count_at_once"),
    ),
    Bug(
        "a sleeper looks before its flag is seen",
        "csrc/mql_sleep.c",
        "    atomic_thread_fence(memory_order_seq_cst); /* pairs with the drop before a ring */\n",
        "",
        litmus("whoever_changes_something_sees_who_sleeps_or_is_seen[sleep]"),
    ),
    # -- stable storage --------------------------------------------------------------------------
    Bug(
        "a failed sync is tried again, and called done",
        "csrc/mql_commit.c",
        "    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n",
        "    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n"
        "    if (rc < 0)\n"
        "        rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n",
        engine("commit"),
    ),
    Bug(
        "only the process whose sync failed knows of it",
        "csrc/mql_commit.c",
        "    atomic_fetch_or_explicit(&log->control->state, MQL_STATE_POISONED,",
        "    static _Atomic uint32_t mine;\n"
        "    atomic_fetch_or_explicit(&mine, MQL_STATE_POISONED,",
        engine("commit"),
    ),
    Bug(
        "pages that a failed sync left clean are not made dirty again",
        "csrc/mql_segment.c",
        "        *byte = *byte;\n",
        "        (void)byte;\n",
        engine("commit"),
    ),
    Bug(
        "a committer's death is nobody's business",
        "csrc/mql_commit.c",
        "    int rc = mql_log_lock(log, &log->control->commit, &log->control->needs_resync);\n",
        "    int rc = mql_log_lock(log, &log->control->commit, NULL);\n",
        engine("commit"),
    ),
    Bug(
        "consumers read above the durable end",
        "csrc/mql_log.c",
        "    if (log->control != NULL && mql_log_is_sync(log))\n",
        "    if (false)\n",
        engine("cursor", "a_cursor_of_a_sync_topic_stops_at_the_durable_end_unless_told"),
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
        engine("cursor"),
    ),
    Bug(
        "data is not synced",
        "csrc/mql_commit.c",
        "    rc = mql_os_sync_map(segment->map + start, (size_t)(to->position - start));\n",
        "    rc = 0;\n",
        budget("a sync") | power("appends-os", "appends-sync"),
    ),
    Bug(
        "the length of a sealed segment is not synced",
        "csrc/mql_segment.c",
        "    if (rc == 0) rc = mql_os_sync(file);\n"
        "    mql_os_close(file);\n"
        "    if (rc == -ENOENT) return MQL_OK; /* ret",
        "    mql_os_close(file);\n    if (rc == -ENOENT) return MQL_OK; /* ret",
        budget("a roll: the old segment, its name, the new one, the watermark")
        | power("rolls-os", "rolls-sync"),
    ),
    Bug(
        "a directory is not synced after something was made in it",
        "csrc/mql_commit.c",
        "    int rc = mql_log_sync_directory(log, true);\n",
        "    int rc = MQL_OK;\n",
        budget("the store's first append: its directories, and the ceiling")
        | power("appends-os", "appends-sync"),
    ),
    Bug(
        "a directory is not synced after a roll has renamed",
        "csrc/mql_commit.c",
        "    if (rc == MQL_OK) rc = mql_log_sync_directory(log, false);\n"
        "    if (rc == MQL_OK) atomic_store_explicit(&log->control->sealed",
        "    if (rc == MQL_OK) atomic_store_explicit(&log->control->sealed",
        budget("a roll: the old segment, its name, the new one, the watermark")
        | power("rolls-os", "rolls-sync"),
    ),
    Bug(
        "segments go before the log start that says so is on the disk",
        "csrc/mql_commit.c",
        "    if (before != start) rc = write_checkpoint_locked(log, &durable, ceiling, false);\n",
        "    (void)ceiling;\n",
        budget("a trim: what came before, and the new start")
        | power("trims of segments-os", "trims of segments-sync"),
    ),
    Bug(
        "what another has sealed is sealed again",
        "csrc/mql_commit.c",
        "        if (bases[i] < sealed) continue;\n",
        "",
        budget("another roll, which leaves alone what is sealed"),
    ),
    Bug(
        "the exact length of a closed log is not synced",
        "csrc/mql_commit.c",
        "        if (rc == 0 && longer) rc = mql_os_sync(file);\n",
        "",
        budget("a close: the exact length, and that it was clean"),
    ),
    # -- recovery --------------------------------------------------------------------------------
    Bug(
        "the page of locks is not made anew by the first opener",
        "csrc/mql_log.c",
        "    rc = mql_control_reset(control, identity);\n    if (rc < 0) return rc;\n",
        "    mql_control_name(control, identity);\n",
        engine("store", "a_lock_that_came_along_in_a_copy_is_made_anew"),
    ),
    Bug(
        "memory is believed after the file system was mounted anew",
        "csrc/mql_control.c",
        "           control->device == identity->device && control->inode == identity->inode &&\n"
        "           control->mount == identity->mount;\n",
        "           control->device == identity->device && control->inode == identity->inode;\n",
        engine("control"),
    ),
    Bug(
        "recovery cuts below the watermark",
        "csrc/mql_recover.c",
        "        run->checkpoint.segment, run->checkpoint.position, run->checkpoint.offset};\n"
        "    *usable",
        "        run->checkpoint.segment, 0, run->checkpoint.segment};\n    *usable",
        engine("recover", "r6_damage_below_the_watermark_is_never_cut"),
    ),
    Bug(
        "recovery removes segments that it should set aside",
        "csrc/mql_recover.c",
        "        if (rc == 0) rc = mql_os_rename(run->task->root, path, aside);\n",
        "        if (rc == 0) rc = mql_os_unlink(run->task->root, path);\n",
        engine("recover", "r5_the_segments_behind_a_cut_are_set_aside_whole"),
    ),
    Bug(
        "recovery removes a prepared segment that is not empty",
        "csrc/mql_recover.c",
        "        bool empty = mql_segment_walk_next(&walk) == MQL_END;\n",
        "        bool empty = mql_segment_walk_next(&walk) != 7;\n",
        engine("recover", "r10_a_next_that_holds_another_batch_is_set_aside"),
    ),
    Bug(
        "offsets that may have been seen are given out again",
        "csrc/mql_recover.c",
        "    while (end->offset < ceiling) {\n",
        "    while (false) {\n",
        engine("recover", "offsets_up_to_the_ceiling_are_used_up_after_a_scan")
        | power("appends-os"),
    ),
    Bug(
        "a stale epoch is taken for the log's",
        "csrc/mql_recover.c",
        "        if (rc == MQL_OK && epoch_fits(run, &walk->header)) {\n",
        "        if (rc == MQL_OK) {\n",
        engine("recover", "r5_a_stale_epoch_is_cut"),
    ),
    Bug(
        "offsets that a share group has accepted are given out again",
        "csrc/mql_recover.c",
        "    while (end->offset < ceiling) {\n",
        "    while (false) {\n",
        power("shares-os", "all-os"),
    ),
    Bug(
        "what the dead had not synced of a share group counts as synced",
        "csrc/mql_live.c",
        "    atomic_store_explicit(&live->map->changes, !same || before.unsynced, "
        "memory_order_release);\n",
        "",
        engine("reserve", "what_the_dead_had_not_synced_is_synced_by_who_opens_next")
        | power("deaths-os", "chunks-os", "pages-os"),
    ),
    Bug(
        "a page of slots is wiped before what finished it is on the disk",
        "csrc/mql_reserve.c",
        "    int rc = sync_state(live, false);\n    for",
        "    int rc = MQL_OK;\n    for",
        engine("reserve", "a_page_serves_again_only_after_two_syncs") | power("pages-os"),
    ),
    Bug(
        "a page of slots serves again before its zeros are on the disk",
        "csrc/mql_reserve.c",
        "    return rc == MQL_OK ? sync_state(live, false) : rc;\n",
        "    return rc;\n",
        engine("reserve", "a_page_serves_again_only_after_two_syncs") | power("pages-os"),
    ),
    # -- consumers -------------------------------------------------------------------------------
    Bug(
        "what is given out is committed before it is done with",
        "mqlog/_consumer.py",
        "            record = self._loop = self._ahead.popleft()\n",
        """            record = self._loop = self._ahead.popleft()
            self._groups[record.partition].commit(self._member, record.offset + 1)
""",
        api("consumer", "break_leaves_the_last_record_for_the_next_consumer"),
    ),
    Bug(
        "a record is final before its dead letter is on the disk",
        "mqlog/_dead.py",
        """    try:
        letters._send_raw(""",
        """    settle(messages, ARCHIVE, DEAD, 0)
    try:
        letters._send_raw(""",
        api("dead", "a_mover_that_is_killed_loses_nothing_and_doubles_nothing"),
    ),
)
