"""The power goes while space is freed: what was not durably finished is there, once or again.

The disk after the cut is one copy of the store that its files make up: those as they were when the
last sync of each was over, those that were not synced since in any version. Here: the share state
of any moment with the files of a later one, as far as syncs allow it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.fault import Share, Store, hooked, lib
from support.partition import reboot

OPTIONS = {
    "segment_bytes": 1 << 16,
    "max_message_bytes": 4096,
    "batch_bytes": 4096,
    "cleanup": lib.MQL_CLEANUP_CONSUMED,
}
STATE = "t-0/shares/default.state"
CHANGING = (lib.MQL_FAULT_RENAME, lib.MQL_FAULT_LINK, lib.MQL_FAULT_UNLINK)


def value(offset: int) -> bytes:
    return b"%d " % offset + bytes([offset % 251]) * 900


@pytest.mark.slow
@pytest.mark.parametrize("stay", [(), (3, 400)], ids=["front", "stragglers"])
def test_no_file_goes_before_the_accepts_that_say_so_are_durable(
    tmp_path: Path, stay: tuple[int, ...]
) -> None:
    path, cuts = tmp_path / "s", []
    synced = b""

    def hook(call: int, name: str) -> int:
        nonlocal synced
        if call == lib.MQL_FAULT_SYNC and name.endswith(".state"):
            synced = (path / STATE).read_bytes()  # no less than this is on the disk from now on
        elif call in CHANGING and synced:
            cut = tmp_path / f"cut{len(cuts)}"
            shutil.copytree(path, cut)
            (cut / STATE).write_bytes(synced)
            cuts.append(cut)
        return 0

    with Store(path) as store:
        log = store.log(**OPTIONS)
        share = Share(log.c)
        for offset in range(500):
            log.append(value(offset))
        items = share.acquire(500)
        log.sync()
        with hooked(hook):
            lib.mql_shares_sync(log.c)  # nothing is accepted: so it is on the disk
            share.settle("accept", *[item for item in items if item.offset not in stay])
            lib.mql_reclaim_round(log.c, 0, True)
    assert len(cuts) > 20
    for cut in cuts:
        reboot(cut)
        with Store(cut) as store:
            log = store.log(**OPTIONS)
            there = dict(log.read())
            assert there == {offset: value(offset) for offset in there}
            share = Share(log.c)
            waiting = [item.offset for item in share.acquire(500)]
            wanted = [offset for offset in waiting if offset < 500]
            assert set(wanted) <= there.keys(), "a record comes back that is gone"
            assert set(stay) <= set(wanted)
        shutil.rmtree(cut)
