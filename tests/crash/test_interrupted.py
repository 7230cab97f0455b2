"""Signals at any moment, system calls that are interrupted, an end in the midst, other namespaces.

Root and strace are asked for where they are needed; in CI a test that needs root fails without it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import partition
from support.tiers import FULL

import mqlog

pytestmark = [pytest.mark.crash, pytest.mark.slow]

PROGRAM = Path(__file__).parents[1] / "support" / "interrupted.py"

# Those that a signal may end, and that the interpreter does not make at its start. Waits are ended
# by real signals below: the C library takes an interrupted wake-up for a broken kernel.
CALLS = "fallocate ftruncate fdatasync fsync pwrite64 fstatfs".split()


def run(*words: object, before: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*map(str, before), sys.executable, str(PROGRAM), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("call", CALLS if FULL else CALLS[:4])
def test_a_system_call_that_is_interrupted_is_made_again(tmp_path: Path, call: str) -> None:
    """The first, third, fifth … of each kind, then the others: so each site comes by."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    for first in (1, 2):
        log = tmp_path / f"calls-{first}"
        inject = f"inject={call}:error=EINTR:when={first}+2"
        strace = ("strace", "-f", "-qq", "-o", log, "-e", f"trace={call}", "-e", inject)
        done = run("everything", tmp_path / f"store-{first}", before=strace)
        calls = log.read_text() if log.exists() else ""
        if not calls and "ptrace" in done.stderr:
            pytest.skip("ptrace is not permitted here")
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        assert "INJECTED" in calls or not re.search(rf"\b{call}\(", calls)


def test_an_exception_that_a_signal_raises_anywhere_leaves_all_in_order(tmp_path: Path) -> None:
    count = 1_000 if FULL else 100
    done = run("alarms", tmp_path / "store", count)
    assert done.returncode == 0, done.stderr
    word, raised, longest = done.stdout.split()
    assert (word, int(raised)) == ("done", count)
    assert float(longest) < 60.0, "a wait of 90 s did not end with the signal"
    with mqlog.open(tmp_path / "store") as store:
        assert store.recovered == []


class Alarm(Exception):
    """Raised by a signal's handler, as KeyboardInterrupt is."""


def take(path: Path, lock: str) -> None:
    """A lock of the partition that is shared."""
    log = partition.Store(path).log("orders")
    partition.take(partition.ffi.addressof(log.control, lock))


@pytest.mark.parametrize("lock", ["writer", "prepare"])
def test_a_signal_ends_an_append_that_waits_for_a_stopped_process(
    tmp_path: Path, lock: str
) -> None:
    def ring(signum: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with mqlog.open(tmp_path / "store") as store:
            stream = store.stream("orders")
            stream.append(b"a")
            stopped = partition.standing_still(lambda: take(tmp_path / "store", lock))
            with stopped, pytest.raises(Alarm):
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                stream.append(b"b" * 500_000)  # more than there is room for
            assert list(stream.values()) == [b"a"]
            stream.append(b"b" * 500_000)
            assert stream.end_offset == 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("how", ["return", "exception", "_exit", "terminate"])
def test_a_program_ends_though_its_threads_wait_and_append(tmp_path: Path, how: str) -> None:
    began = time.monotonic()
    done = run("leave", tmp_path / "store", how)
    assert done.returncode == (-signal.SIGTERM if how == "terminate" else 0), done.stderr
    assert done.stdout == "leaving\n"
    assert time.monotonic() - began < 60.0
    with mqlog.open(tmp_path / "store") as store:
        values = list(store.stream("orders").values())
    assert values[0] == b"kept"
    assert len(values) % 50 == 1, "a call's records were torn apart"


def test_another_pid_namespace_is_refused_while_the_store_is_open(tmp_path: Path) -> None:
    """Two processes that are 1 each in their own would take each other's locks for their own."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "CI runs this as root"
        pytest.skip("a new PID namespace needs root")
    code = f"import mqlog; mqlog.open({str(tmp_path / 'store')!r}).stream('orders').append(b'x')"
    apart = ["unshare", "--pid", "--fork", sys.executable, "-c", code]
    with mqlog.open(tmp_path / "store") as store:
        stream = store.stream("orders")
        stream.append(b"a")
        there = subprocess.run(apart, capture_output=True, text=True, timeout=60, check=False)
        assert there.returncode == 1
        assert "another PID namespace" in there.stderr
        assert list(stream.values()) == [b"a"]
    # Once it is closed it may be opened there, and then it is refused here.
    there = subprocess.run(apart, capture_output=True, text=True, timeout=60, check=False)
    assert there.returncode == 0, there.stderr
    with mqlog.open(tmp_path / "store") as store:
        assert list(store.stream("orders").values()) == [b"a", b"x"]
