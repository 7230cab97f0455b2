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
    faults   each call of the system fails in its turn (E1, E2)
    mixed    files of two moments beside each other (P5)
    hostile  flipped bits, cut files, what fuzzers have kept (C1, C2, C5)
    random   kills at random moments, children that live on (K2, K8)
    group    group commit: leaders die, syncs fail (K9)
    full     a disk, or a quota, that is really full (E4)
    strace   system calls of the package itself fail, or are interrupted (E2, K6)
    cuts     power cuts under real file systems (P6, P8)

Those in BUILT run the package: a bug in csrc/ is built into its extension for them.

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

    def places(self, tree: Path) -> int:
        """How often its place is in the sources: once."""
        return (tree / self.file).read_text().count(self.old)

    def plant(self, tree: Path) -> None:
        file = tree / self.file
        assert self.places(tree) == 1, "the sources were changed meanwhile"
        file.write_text(file.read_text().replace(self.old, self.new))


def engine(module: str, *tests: str) -> dict[str, tuple[str, ...]]:
    file = f"engine/test_mql_{module}.py"
    return {"engine": tuple(f"{file}::test_{test}" for test in tests) or (file,)}


def rounds(test: str) -> dict[str, tuple[str, ...]]:
    return {"engine": (f"engine/test_rounds.py::test_{test}",)}


def api(module: str, *tests: str) -> dict[str, tuple[str, ...]]:
    return {"api": tuple(f"api/test_{module}.py::test_{test}" for test in tests)}


def budget(what: str) -> dict[str, tuple[str, ...]]:
    return {"budget": (f"crash/test_sync_budget.py::{OPERATION}[{what}]",)}


def power(*workloads: str) -> dict[str, tuple[str, ...]]:
    return {"power": tuple(f"crash/test_power.py::{CUT}[{workload}]" for workload in workloads)}


def litmus(*tests: str) -> dict[str, tuple[str, ...]]:
    return {"litmus": tuple(f"crash/test_at_once.py::test_{test}" for test in tests)}


def faults(test: str, *which: str) -> dict[str, tuple[str, ...]]:
    return {"faults": tuple(f"crash/test_faults.py::test_{test}[{one}]" for one in which)}


def hostile(test: str) -> dict[str, tuple[str, ...]]:
    return {"hostile": (f"crash/test_hostile.py::test_{test}",)}


def tests_of(tier: str, file: str, *tests: str) -> dict[str, tuple[str, ...]]:
    return {tier: tuple(f"{file}.py::test_{test}" for test in tests)}


OPERATION = "test_an_operation_syncs_as_often_as_the_design_says"
CUT = "test_whatever_a_power_cut_leaves_is_what_was_promised"
DEATH = "test_a_death_at_any_instruction_of_anything_holds_nobody_up_and_loses_nothing"
KILL: dict[str, tuple[str, ...]] = {"kill": (f"crash/test_steps.py::{DEATH}",)}
RACES: dict[str, tuple[str, ...]] = {"races": ("make tsan",)}
ANY_CALL = "whatever_call_fails_nothing_is_lost_and_the_store_goes_on"
FLIPS = "each_flipped_bit_of_a_store_costs_the_batch_that_it_hits_and_no_more[in memory]"
BUILT = {"api", "full", "strace", "cuts"}

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
        engine("control")
        | tests_of(
            "cuts",
            "api/test_remount",
            "a_page_from_before_the_mount_is_not_believed_whatever_it_says",
        ),
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
        "csrc/mql_live_open.c",
        "    uint64_t owed = !same || before.unsynced;",
        "    uint64_t owed = 0;",
        engine("reserve", "what_the_dead_had_not_synced_is_synced_by_who_opens_next")
        | power("deaths-os", "chunks-os", "pages-os"),
    ),
    Bug(
        "a chunk derived anew counts as accepted whatever it came to",
        "csrc/mql_live.c",
        "        facts->mixed |= kind != MQL_ACCEPTED;\n",
        "",
        engine("live", "a_finished_chunk_is_counted_as_its_records_ended"),
    ),
    Bug(
        "consumers take new pages without end",
        "csrc/mql_reserve.c",
        "mql_live_retired(live) >= RETIRED_MOST || ",
        "",
        engine("reserve", "a_consumer_has_new_pages_rather_than_wait_for_the_disk"),
    ),
    Bug(
        "a group has delayed records from before its start",
        "csrc/mql_share.c",
        "    bool past = mql_live_is_past(live, offset);",
        "    bool past = false;",
        engine("shares", "a_group_that_was_made_between_a_put_and_its_delay_begins_behind_it"),
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
    # -- errors ----------------------------------------------------------------------------------
    Bug(
        "a checkpoint whose sync failed counts as written",
        "csrc/mql_checkpoint.c",
        "    if (rc == 0) rc = mql_os_sync(file);\n",
        "    if (rc == 0) (void)mql_os_sync(file);\n",
        faults("what_a_failed_sync_took_is_not_believed_to_be_on_the_disk", "SYNC"),
    ),
    Bug(
        "a descriptor stays open where its file cannot be mapped",
        "csrc/mql_group.c",
        "    mql_os_close(file);\n"
        '    if (rc < 0) return mql_base_fail_os(rc, group->path, "cannot map the consumer',
        "    if (rc == 0) mql_os_close(file);\n"
        '    if (rc < 0) return mql_base_fail_os(rc, group->path, "cannot map the consumer',
        faults(ANY_CALL, "MAP-once"),
    ),
    Bug(
        "what the device said is told as EIO",
        "csrc/mql_commit.c",
        "        rc = poisoned(log);\n        mql_base_error()->os_errno = code;\n",
        "        rc = poisoned(log);\n",
        faults(ANY_CALL, "SYNC_MAP-once"),
    ),
    Bug(
        "whatever kept an append from its room is told as a full disk",
        "csrc/mql_room.c",
        'if (rc < 0) return mql_base_fail_os(rc, path, "cannot allocate space for records");',
        'if (rc < 0) return mql_base_fail_os(-ENOSPC, path, "cannot allocate space for records");',
        faults(ANY_CALL, "ALLOCATE-once"),
    ),
    Bug(
        "a name that could not be synced counts as synced",
        "csrc/mql_group.c",
        """    rc = mql_os_sync_directory(opened);
    mql_os_close(opened);
""",
        """    (void)mql_os_sync_directory(opened);
    mql_os_close(opened);
""",
        faults("what_a_failed_sync_took_is_not_believed_to_be_on_the_disk", "SYNC_DIRECTORY"),
    ),
    Bug(
        "a committed offset beyond an older log's end is kept",
        "csrc/mql_group.c",
        "    if (rc >= 0) clamp(group);\n",
        "    if (rc >= 0 && group->map == NULL) clamp(group);\n",
        tests_of("mixed", "crash/test_mixed", "files_of_two_moments_invent_nothing[aaOxbbOx]"),
    ),
    # -- hostile bytes ---------------------------------------------------------------------------
    Bug(
        "the CRC of a batch is not compared",
        "csrc/mql_batch.c",
        """    return mql_crc32c(0, bytes + MQL_BATCH_ATTRIBUTES, covered) ==
           mql_base_get32(bytes + MQL_BATCH_CRC);
""",
        "    return covered > 0 && bytes != NULL;\n",
        hostile(FLIPS),
    ),
    Bug(
        "the CRC of a committed offset is not compared",
        "csrc/mql_group.c",
        "if (!turn || crc != crc_of(&what) || what.offset < 0) continue;",
        "if (!turn || crc == ~crc_of(&what) || what.offset < 0) continue;",
        hostile(FLIPS),
    ),
    Bug(
        "the CRC of a share group's window is not compared",
        "csrc/mql_slots.c",
        "window->crc == window_crc(window) && window->start >= 0",
        "window->crc != ~window_crc(window) && window->start >= 0",
        hostile(FLIPS),
    ),
    Bug(
        "the check of a share group's slot is not compared",
        "csrc/mql_slots.c",
        "    sound = sound && (time & 0xff) == check8(time & ~UINT64_C(0xff), offset);\n",
        "    sound = true;\n",
        hostile(FLIPS),
    ),
    Bug(
        "a batch may be longer than its file",
        "csrc/mql_batch.c",
        "    if (header->size > room) return",
        "    if (room < 0) return",
        hostile("what_a_fuzzer_has_kept_breaks_nothing[log]"),
    ),
    Bug(
        "a record may be longer than its batch",
        "csrc/mql_batch.c",
        "    if (!p || length < RECORD_MIN - 1 || length > walk->end - p)\n",
        "    if (!p || length < RECORD_MIN - 1)\n",
        hostile("what_a_fuzzer_has_kept_breaks_nothing[batch]"),
    ),
    # -- processes that die ----------------------------------------------------------------------
    Bug(
        "a lock whose owner died is never consistent again",
        "csrc/mql_log.c",
        "    mql_os_mutex_consistent(mutex);\n",
        "",
        tests_of(
            "random",
            "crash/test_random_kills",
            "workers_killed_at_random_lose_nothing_and_hold_nobody_up",
        ),
    ),
    Bug(
        "what a dead worker held stays its own",
        "csrc/mql_share.c",
        "        if (member == log->home->self || log->home->alive(log->home->context, member)) "
        "continue;\n",
        "        if (member != 0) continue;\n",
        tests_of(
            "random",
            "crash/test_random_kills",
            "what_a_dead_worker_held_is_released_though_its_forked_child_lives",
        ),
    ),
    Bug(
        "a child keeps its dead parent's place",
        "csrc/mql_store.c",
        "        close_locks(store);\n        atomic_store_explicit(&store->home.gone, MQL_E_FORK",
        "        (void)close_locks;\n        atomic_store_explicit(&store->home.gone, MQL_E_FORK",
        tests_of(
            "random",
            "crash/test_random_kills",
            "what_a_dead_worker_held_is_released_though_its_forked_child_lives",
        ),
    ),
    Bug(
        "nobody is woken for what was put",
        "csrc/mql_append.c",
        "    mql_log_ring(log, append->offsets);\n",
        "",
        tests_of("random", "crash/test_random_kills", "no_wake_up_is_lost"),
    ),
    # -- group commit ----------------------------------------------------------------------------
    Bug(
        "nobody is asked to lead the next round",
        "csrc/mql_commit.c",
        "        ask_to_lead(waiters_of(log->control, round + 1));\n",
        "        (void)round;\n",
        rounds("whoever_is_asked_to_lead_just_before_it_sleeps_does_not_sleep"),
    ),
    Bug(
        "a round begins without those whom the last one has served",
        "csrc/mql_commit.c",
        "    if (until == 0) return false;\n",
        "    return false;\n",
        rounds("the_next_round_takes_along_whom_the_last_one_has_served"),
    ),
    Bug(
        "nobody watches for how long others are awaited",
        "csrc/mql_commit.c",
        "watches ? left : mql_base_slice(MQL_SLICE_NS)",
        "mql_base_slice(MQL_SLICE_NS)",
        rounds("whoever_comes_back_alone_waits_for_the_others_and_not_for_long"),
    ),
    Bug(
        "those whom a round has served sleep on",
        "csrc/mql_commit.c",
        "        int woken = mql_os_wake(&served->word, INT32_MAX);\n",
        "        int woken = 0;\n",
        tests_of(
            "group",
            "crash/test_group_commit",
            "nothing_acknowledged_is_lost_or_early_and_nobody_hangs[leaders die]",
        ),
    ),
    Bug(
        "the durable end is published before the sync has returned",
        "csrc/mql_commit.c",
        "    if (rc == MQL_OK) rc = sync_active(log, &durable, &end);\n",
        "    if (rc == MQL_OK) mql_control_publish(&log->control->durable, &end);\n"
        "    if (rc == MQL_OK) rc = sync_active(log, &durable, &end);\n",
        tests_of(
            "group",
            "crash/test_group_commit",
            "nothing_acknowledged_is_lost_or_early_and_nobody_hangs[leaders die]",
        ),
    ),
    Bug(
        "who waited for a round that failed is told that it is done",
        "csrc/mql_commit.c",
        "        if (failed) return poisoned(log);\n",
        "        if (failed) return MQL_OK;\n",
        tests_of(
            "group",
            "crash/test_group_commit",
            "nothing_acknowledged_is_lost_or_early_and_nobody_hangs[and syncs fail]",
        ),
    ),
    # -- full disks ------------------------------------------------------------------------------
    Bug(
        "blocks count as there though none were found",
        "csrc/mql_room.c",
        """    if (rc == MQL_OK)
        atomic_store_explicit(&log->control->allocated, reached, memory_order_release);
    return rc;
}

int mql_room_allocate""",
        """    if (rc < 0) reached = least;
    atomic_store_explicit(&log->control->allocated, reached, memory_order_release);
    return rc;
}

int mql_room_allocate""",
        tests_of("full", "api/test_full_disk", "to_the_last_block_there_is_no_sigbus[os]"),
    ),
    Bug(
        "a disk that was full is full for ever",
        "csrc/mql_room.c",
        "    if (spare < bytes)\n",
        "    static _Atomic bool full;\n    if (spare < bytes) full = true;\n    if (full)\n",
        tests_of(
            "full", "api/test_full_disk", "appends_resume_without_reopening_when_space_is_back"
        ),
    ),
    Bug(
        "an append wants the space of a generous step",
        "csrc/mql_room.c",
        "        if ((rc == -ENOSPC || rc == -EDQUOT) && to > least) {\n",
        "        if (false) {\n",
        tests_of(
            "full",
            "crash/test_no_space",
            "room_for_what_is_appended_is_taken_where_there_is_none_for_more",
        ),
    ),
    # -- the package, under the kernel's own calls -------------------------------------------------
    Bug(
        "a sync that failed is acknowledged",
        "csrc/mql_commit.c",
        'return rc < 0 ? mql_base_fail_os(rc, log->directory, "cannot sync the log") : MQL_OK;',
        "return MQL_OK;",
        tests_of(
            "strace",
            "api/test_durability",
            "a_sync_that_fails_once_is_told_once_and_nothing_is_lost",
        ),
    ),
    Bug(
        "a call that a signal has interrupted is not made again",
        "csrc/mql_os_posix.c",
        "    } while ((rc) < 0 && errno == EINTR)\n",
        "    } while (false)\n",
        tests_of(
            "strace", "crash/test_interrupted", "a_system_call_that_is_interrupted_is_made_again"
        ),
    ),
    Bug(
        "a sync only asks for one, and does not wait",
        "csrc/mql_os_posix.c",
        "msync(address, length, MS_SYNC)",
        "msync(address, length, MS_ASYNC)",
        tests_of(
            "cuts",
            "crash/test_power_cuts",
            "nothing_acknowledged_as_durable_is_lost_when_the_power_goes[ext4]",
        ),
    ),
)
