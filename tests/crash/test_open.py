"""What it costs to open a log whose appender was killed: nothing that grows with the log."""

from __future__ import annotations

import random
import resource
import shutil
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from support.processes import Zygote

import mqlog

pytestmark = pytest.mark.crash

GIB = 1 << 30
KILLS = 5
SECONDS_MORE = 0.02


class Opening(NamedTuple):
    seconds: float
    page_faults: int
    records: int


def opening(path: Path) -> Opening:
    """Opens the store and finds the end of the log, as every program does before it appends."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began = time.perf_counter()
    store = mqlog.open(path)
    records = store.stream("orders").end_offset
    seconds = time.perf_counter() - began
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    assert store.recovered == []
    store.close()
    return Opening(seconds, faults, records)


def after_kills(zygote: Zygote, path: Path, verb: str, *words: object) -> list[Opening]:
    """Openings of the store, each after the only process that had it open was killed."""
    rng, openings = random.Random(1), []
    for _ in range(KILLS):
        with zygote.start(verb, path, "orders", *words) as worker:
            if verb == "fill":
                worker.expect("filled")
            worker.kill(rng.uniform(0, 0.01))
        openings.append(opening(path))
    return openings


@pytest.mark.slow
def test_opening_a_gibibyte_takes_no_longer_than_opening_an_empty_log(
    tmp_path: Path, zygote: Zygote
) -> None:
    """All of it in one segment that was not sealed, so that nothing but `control` says its end."""
    if shutil.disk_usage(tmp_path).free < 3 * GIB:
        pytest.skip("the disk has less than 3 GiB free")
    empty = after_kills(zygote, tmp_path / "empty", "hold")
    full = after_kills(zygote, tmp_path / "full", "fill", GIB)
    [log] = (tmp_path / "full" / "orders-0").glob("*.log")
    assert log.stat().st_size >= GIB
    assert all(one.records == 0 for one in empty)
    assert all(one.records >= GIB // 100 for one in full)
    assert len({one.records for one in full}) > 1, "none was killed while it appended"

    seconds = [statistics.median(one.seconds for one in which) for which in (empty, full)]
    faults = [statistics.median(one.page_faults for one in which) for which in (empty, full)]
    assert seconds[1] <= seconds[0] + SECONDS_MORE, (empty, full)
    assert faults[1] <= faults[0] + 100, (empty, full)

    # What makes this a test: whoever looked at the bytes would be far over both bounds.
    with mqlog.open(tmp_path / "full", "r") as store:
        began = time.perf_counter()
        report = store.stream("orders")._logs[0].verify(print)
        assert (report.problems, report.bytes >= GIB) == (0, True)
        assert time.perf_counter() - began > seconds[0] + 5 * SECONDS_MORE
