"""A process is killed at every instruction of everything that it may be doing.

What it leaves behind is the same for all instructions between two that store something that is
shared, or call the system: so it is killed once for each of these, and all others are stepped and
seen to change nothing (support/stepping.h). In the full tier a sample of the others is killed, too.

To see one again: build/programs/<key>/stepper /dev/shm kill "roll many" full with 0 1 0 17832
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import programs
from support.tiers import FULL, Sums, in_memory

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(1200)]

SHARDS = os.cpu_count() or 1


class Case(NamedTuple):
    deed: str
    state: str


@pytest.fixture(scope="module")
def stepper() -> Path:
    if platform.machine() != "x86_64":
        pytest.skip("the single-stepper knows the breakpoints of x86-64 only")
    made = programs.make("stepper", "scene", "deeds", "stepping")
    if subprocess.run([made, "/dev/null", "try"], check=False).returncode != 0:
        pytest.skip("ptrace and its breakpoints are not permitted here")
    return made


@pytest.fixture
def place() -> Iterator[Path]:
    with in_memory() as directory:
        yield directory


def cases(stepper: Path, place: Path) -> list[Case]:
    said = subprocess.run([stepper, place, "list"], capture_output=True, text=True, check=True)
    pairs = [line.split(":") for line in said.stdout.splitlines()]
    return [Case(deed, state) for deed, states in pairs for state in states.split()]


FEW = {
    Case("append", "middle"),
    Case("append", "crossing"),
    Case("roll", "prepared"),
    Case("commit", "middle"),
    Case("acquire", "middle"),
    Case("accept", "middle"),
    Case("release", "middle"),
    Case("close", "empty"),
    # These have found bugs.
    Case("roll", "full"),
    Case("open", "middle"),
    Case("open share", "middle"),
}


def test_a_death_at_any_instruction_of_anything_holds_nobody_up_and_loses_nothing(
    stepper: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = 40 if FULL else 0
    sums = Sums()
    chosen = [case for case in cases(stepper, place) if FULL or case in FEW]
    sums.add_all(
        [stepper, place, "kill", case.deed, case.state, company, 0, 1, samples]
        for case in chosen
        for company in ("with", "alone")
    )
    sums.tell(
        capsys,
        f"kill at every instruction: {sums['kills']:,} kills, at all {sums['news']:,} of "
        f"{sums['steps']:,} instructions that leave anything behind, and some others",
    )
    assert sums["news"] >= (11_000 if FULL else 1_800)
    assert sums["kills"] >= (14_000 if FULL else sums["news"])


MENDED = [
    Case("append", "middle"),
    Case("append", "crossing"),
    Case("roll", "prepared"),
    Case("put", "middle"),
    Case("acquire", "middle"),
    Case("accept", "middle"),
    Case("release", "middle"),
    Case("open", "middle"),
    Case("close", "middle"),
]


def test_who_mends_what_a_death_has_left_may_die_at_any_instruction_too(
    stepper: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After first deaths, some of them, he dies where he leaves anything behind."""
    sums = Sums()
    sums.add_all(
        [stepper, place, "twice", case.deed, case.state, company, 0, 1, 60]
        for case in (MENDED if FULL else MENDED[:1])
        for company in ("with", "alone")
    )
    sums.tell(capsys, f"kill while it is mended: {sums['kills']:,} kills, two each time")
    assert sums["kills"] >= (4_000 if FULL else 200)


STOPPED = [
    Case("append many", "middle"),
    Case("roll", "prepared"),
    Case("acquire", "middle"),
    Case("accept", "last"),
    Case("accept late", "middle"),
    Case("close share", "middle"),
]


def test_who_stands_still_anywhere_goes_on_later_and_does_no_harm(
    stepper: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """He stands for longer than anybody waits for a lock at once, 60 ms, if others need it."""
    sums = Sums()
    every = 97 if FULL else 197
    sums.add_all(
        [stepper, place, "stop", case.deed, case.state, "with", 0, 1, every]
        for case in (STOPPED if FULL else STOPPED[2:5])
    )
    sums.tell(capsys, f"stop and continue: {sums['kills']:,} stops")
    assert sums["kills"] >= (500 if FULL else 30)


def test_two_who_take_turns_at_any_instruction_do_each_other_no_harm(
    stepper: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where they are preempted follows from the schedule's number; in half of them one is killed
    then, and the other goes on."""
    sums = Sums()
    count = (5_000 if FULL else 60) // 2
    each = -(-count // (SHARDS if FULL else 1))
    sums.add_all(
        [stepper, place, "pair", 1000 + shard * each, each, *kill]
        for shard in range(SHARDS if FULL else 1)
        for kill in ([], ["kill"])
    )
    sums.tell(capsys, f"two take turns: {sums['news']:,} schedules, {sums['kills']:,} kills")
    assert sums["news"] >= 2 * count
