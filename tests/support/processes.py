"""Worker processes, started in a millisecond: see `support.workers` for what they can do."""

import fcntl
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

WORKERS = Path(__file__).with_name("workers.py")
PATIENCE = 60.0  # seconds; only a test that fails waits so long
IDLE = 0.1
CPUCLOCK_SCHED = 2
PIPE_BYTES = 1 << 20  # no worker is to wait until somebody reads what it tells


def processor_seconds(pid: int) -> float:
    """What the process has used so far; infinite when it is gone. As clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    except OSError:
        return math.inf


class Worker:
    """A running worker that has said "ready"; leaving kills it, unless it has ended."""

    def __init__(self, pid: int, tell: int, told: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)
        self._tell = os.fdopen(tell, "w")
        self.told = os.fdopen(told, "r")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def expect(self, line: str) -> None:
        said = self.told.readline()
        assert said == line + "\n", f"worker {self.pid} said {said!r}, not {line!r}"

    def proceed(self) -> None:
        self._tell.write("\n")
        self._tell.flush()

    def kill(self, after: float = 0.0) -> list[str]:
        """Kills it `after` so many seconds, waits until the kernel has buried it.

        They are seconds of its own processor time, so that it comes as far on a busy machine; of
        one that sleeps, at most `IDLE` more by the clock. Gives the whole lines not yet read; of
        one that was joined or killed before, none.
        """
        if self.told.closed:
            return []
        deadline = time.monotonic() + after + IDLE
        enough = processor_seconds(self.pid) + after
        while processor_seconds(self.pid) < enough and time.monotonic() < deadline:
            pass  # a sleep would not end at any moment, but at a tick
        try:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._buried()
        with self.told, self._tell:
            return [line for line in self.told if line.endswith("\n")]

    def join(self) -> None:
        """Waits until it has ended by itself."""
        self._buried()
        with self.told, self._tell:
            rest = self.told.read()
        assert rest == "", f"worker {self.pid} still had to say {rest!r}"

    def _buried(self) -> None:
        ready = select.select([self._handle], [], [], PATIENCE)[0]
        os.close(self._handle)
        assert ready, f"worker {self.pid} does not end"


class Zygote:
    """The process that workers are forked from, so that none has to start an interpreter."""

    def __init__(self) -> None:
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, str(WORKERS), "zygote", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._door.close()
        self._process.wait(PATIENCE)

    def start(self, verb: str, *arguments: object) -> Worker:
        """A worker that is ready."""
        (their_in, tell), (told, their_out) = os.pipe(), os.pipe()
        fcntl.fcntl(told, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        message = "\0".join([verb, *map(str, arguments)]).encode()
        try:
            socket.send_fds(self._door, [message], [their_in, their_out])
        finally:
            os.close(their_in)
            os.close(their_out)
        worker = Worker(int(self._door.recv(64)), tell, told)
        worker.expect("ready")
        return worker
