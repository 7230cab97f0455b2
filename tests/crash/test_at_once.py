"""Two threads at the same bytes at the same moment: orders that whole calls hardly ever show."""

from __future__ import annotations

import os

import pytest
from support import programs
from support.tiers import FULL, Sums, in_memory

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(600)]

TIMES = 5_000_000 if FULL else 500_000


between_two = pytest.mark.skipif(os.cpu_count() == 1, reason="takes two processors")


@between_two
@pytest.mark.parametrize("call", ["wake", "ring", "sleep"])
def test_whoever_changes_something_sees_who_sleeps_or_is_seen(
    call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    litmus = programs.make("litmus")
    sums = Sums()
    sums.add([litmus, call, TIMES])
    sums.tell(capsys, f"litmus {call}: {sums['times']:,} times, {sums['slept']:,} slept")
    assert sums["times"] == TIMES
    assert TIMES // 20 < sums["slept"] < TIMES * 19 // 20, "they have not met"


@between_two
@pytest.mark.parametrize("call", ["own", "early"])
def test_a_fence_that_is_missing_is_seen(call: str) -> None:
    """What the test above is worth on this machine."""
    sums = Sums()
    sums.add([programs.make("litmus"), call, TIMES])
    assert sums["lost"] > 0


@between_two
def test_nothing_is_lost_of_what_two_count_at_once() -> None:
    sums = Sums()
    sums.add([programs.make("litmus"), "count", TIMES])
    assert not sums.complaints, sums.complaints
    assert sums["times"] == TIMES


def test_records_that_change_while_they_are_read_let_no_read_outside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sums = Sums()
    sums.add([programs.make("flicker"), "records", TIMES // 100])
    sums.tell(capsys, f"flicker: {sums['met']:,} reads of records whose bytes change")
    assert sums["met"] >= 2 * TIMES


def test_a_log_that_changes_while_it_is_read_gives_sound_batches_or_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sums = Sums()
    with in_memory() as place:
        sums.add([programs.make("flicker"), "log", TIMES // 1000, place / "s"])
    sums.tell(capsys, f"flicker: {sums['met']:,} reads of a log whose bytes change")
    assert sums["met"] >= TIMES // 8
