"""mql_snapshot: what a store sees that only looks, while others write."""

import errno
from pathlib import Path

import pytest
from support.fault import Store, hooked, lib


@pytest.mark.parametrize("times", [0, 1, 7])
def test_a_page_that_cannot_be_used_at_once_is_read_again(tmp_path: Path, times: int):
    """It may be torn, or the log may have rolled twice since."""
    with Store(tmp_path / "s") as store, Store(tmp_path / "s", read_only=1) as other:
        log = store.log()
        log.append(b"a", b"b")
        failed = []

        def hook(call: int, name: str) -> int:
            if call != lib.MQL_FAULT_READ or not name.endswith("/control"):
                return 0
            failed.append(name)
            return -errno.EIO if len(failed) <= times else 0

        with hooked(hook):
            snapshot = other.log()
        assert snapshot.ends[1] == 2
        assert [value for _, value in snapshot.read(0)] == [b"a", b"b"]


def test_where_the_page_says_nothing_the_watermark_counts(tmp_path: Path):
    with Store(tmp_path / "s") as store, Store(tmp_path / "s", read_only=1) as other:
        log = store.log()
        log.append(b"a")
        log.sync()
        lib.mql_commit_tick(log.c)
        durable = log.control.checkpointed
        log.append(b"b")

        def hook(call: int, name: str) -> int:
            return -errno.EIO if call == lib.MQL_FAULT_READ and name.endswith("/control") else 0

        with hooked(hook):
            snapshot = other.log()
        assert snapshot.ends[1] == durable < 2
