"""Kills at random moments, from a zygote in C; wake-ups that might be lost; orphaned children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import programs
from support.tiers import FULL, Sums, in_memory

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(1200)]

SHARDS = os.cpu_count() or 1


@pytest.fixture
def place() -> Iterator[Path]:
    with in_memory() as directory:
        yield directory


def test_workers_killed_at_random_lose_nothing_and_hold_nobody_up(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One to eight append, roll, acquire, settle and commit beside a survivor."""
    killer = programs.make("killer", "scene")
    rounds = 210 if FULL else 6
    each = -(-rounds // SHARDS)
    sums = Sums()
    sums.add_all([killer, place, "random", shard * each, each, 100] for shard in range(SHARDS))
    sums.tell(
        capsys,
        f"random kills: {sums['kills']:,} kills, {sums['records']:,} records and "
        f"{sums['accepts']:,} accepts acknowledged meanwhile",
    )
    assert sums["kills"] >= (20_000 if FULL else 500)
    assert sums["records"] > sums["kills"]
    assert sums["slow"] <= sums["kills"] // 100


def test_what_a_dead_worker_held_is_released_though_its_forked_child_lives(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killer = programs.make("killer", "scene")
    rounds = 220 if FULL else 12
    sums = Sums()
    sums.add([killer, place, "orphans", 0, rounds])
    sums.tell(
        capsys, f"dead parents: {sums['kills']:,} kills, {sums['accepts']:,} children lived on"
    )
    assert sums["kills"] >= (200 if FULL else 10)
    assert sums["accepts"] >= sums["kills"] // 4


def test_no_wake_up_is_lost(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waker = programs.make("waker")
    each = 500_000 if FULL else 10_000
    sums = Sums()
    for kind in ("stream", "share"):  # one after the other: each keeps two processors busy
        sums.add([waker, place, kind, each, 20261122])
    sums.tell(
        capsys, f"wake-ups: {sums['handoffs']:,} hand-offs, {sums['waits']:,} of them waited for"
    )
    assert sums["handoffs"] >= (1_000_000 if FULL else 20_000)
    assert sums["waits"] > sums["handoffs"] // 20, "nobody has slept"
