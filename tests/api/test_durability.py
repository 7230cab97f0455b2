"""What "durable" means on the build that is shipped: syncs that fail, and threads that share one.

strace makes the system calls fail, so nothing here was compiled for the test.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mqlog

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
import mqlog

store = mqlog.open(sys.argv[1])
stream = store.stream("orders", durability=sys.argv[2])
told = []
for number in range(6):
    try:
        stream.append(b"%d" % number, durable=True)
        told.append(0)
    except mqlog.DurabilityError as error:
        told.append(error.errno)
end, durable = stream.partitions[0].end_offset, stream.partitions[0].durable_offset
store.close()
print(json.dumps([told, end, durable]))
"""


def run_with_failing_syncs(path: Path, when: str, durability: str = "sync") -> list[object]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    inject = f"inject=msync:error=EIO:when={when}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=msync", "-e", inject]
    command += [sys.executable, "-c", PROGRAM, str(path), durability]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip(f"strace cannot run a process: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("durability", ["os", "sync"])
def test_a_sync_that_fails_once_is_told_once_and_nothing_is_lost(
    tmp_path: Path, durability: str
) -> None:
    told, end, durable = run_with_failing_syncs(tmp_path / "s", "3", durability)
    assert told == [0, 0, errno.EIO, 0, 0, 0]
    assert end == durable == 6, "the record of the failed call is in the log, and durable now"
    with mqlog.open(tmp_path / "s") as store:
        assert list(store.stream("orders").values()) == [b"%d" % n for n in range(6)]
        assert [info.problems for info in store.verify()] == [()]


def test_while_syncs_go_on_failing_nothing_is_acknowledged(tmp_path: Path) -> None:
    told, end, durable = run_with_failing_syncs(tmp_path / "s", "3..5")
    assert told == [0, 0, errno.EIO, errno.EIO, errno.EIO, 0]
    assert end == durable == 4, "what was refused while the log was poisoned is not in it"
    with mqlog.open(tmp_path / "s") as store:
        assert list(store.stream("orders").values()) == [b"0", b"1", b"2", b"5"]


def test_threads_that_wait_for_the_disk_share_its_syncs(tmp_path: Path) -> None:
    """Kept honest by the control page: it counts the rounds of syncs."""
    with mqlog.open(tmp_path / "s") as store:
        stream = store.stream("orders", durability="sync")
        stream.append(b"first")

        def rounds() -> int:
            page = (tmp_path / "s" / "orders-0" / "control").read_bytes()
            return int.from_bytes(page[0x888:0x88C], "little")

        def work(thread: int) -> None:
            for number in range(50):
                offset = stream.append(b"%d %d" % (thread, number))
                assert stream.partitions[0].durable_offset > offset

        before = rounds()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stream.partitions[0].durable_offset == 801
        assert rounds() - before < 800 / 2
