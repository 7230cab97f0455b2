"""The power goes under real file systems, at random moments, again and again on the same image.

FS_IOC_SHUTDOWN ends a file system as a power cut does: what is in memory and not on the disk is
gone. Thirteen writers, workers and readers are at it, and after each cut the store is held against
all that was ever acknowledged to any of them (O1 to O7 of docs/reliability.md). One cut in three
falls on those who recover from the one before.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from support import disk
from support.power_cuts import History, work_on
from support.processes import Zygote

pytestmark = [pytest.mark.crash, pytest.mark.slow]

FULL = os.environ.get("MQLOG_CRASH") == "full"
CUTS = 150 if FULL else 3


def flush(rng: random.Random) -> int:
    kinds = [disk.NOTHING_FLUSHED, disk.LOG_FLUSHED, disk.FLUSHED]
    return rng.choices(kinds, [8, 1, 1])[0]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_nothing_acknowledged_as_durable_is_lost_when_the_power_goes(
    kind: str, tmp_path: Path, zygote: Zygote, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, history = random.Random(f"{kind} 20261129"), History()
    with disk.Image(tmp_path, 2 << 30, kind) as image:  # sparse; 450 MiB are written
        store = image.path / "store"
        for cycle in range(1, CUTS + 1):
            workers = work_on(zygote.start, store, tmp_path, cycle)
            time.sleep(rng.choice([rng.uniform(0, 0.03), rng.uniform(0.05, 0.3)]))
            cut_at = time.monotonic_ns()
            image.cut(flush(rng))
            for worker in workers.values():
                worker.kill()
            image.after_the_cut()
            for ledger in workers:
                history.take_over(ledger, ledger.name.split("-")[0], cut_at)
                ledger.unlink()
            if cycle % 3 != 1:
                history.check(store, everything=cycle % 25 == 0)
        history.check(store, everything=True)
        history.drain(store)
    with capsys.disabled():
        print(
            f"\npower cuts on {kind}: {CUTS}, {history.acknowledged} acknowledgements, 0 violations"
        )
    assert history.acknowledged >= 20 * CUTS, "hardly anything was at work when the power went"
