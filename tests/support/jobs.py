"""Handlers that worker processes import, and a program that runs a pool of them.

    python jobs.py HOME PROCESSES [timeout SECONDS | until_empty]

A handler does what the message's value says and notes in a diary, one line an event, written with
one system call, what it does. `HOME` is a directory: the store `s`, the diary, and the file `go`
that those who hold wait for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mqlog

PATIENCE = 60.0


class Event(tuple[str, str, int, int, int]):
    """What happened, to which value, in which delivery, in which process, at which token."""

    what = property(lambda self: self[0])
    value = property(lambda self: self[1])
    delivery = property(lambda self: self[2])
    pid = property(lambda self: self[3])
    token = property(lambda self: self[4])


class Diary:
    """What the handlers of a home have done."""

    def __init__(self, home: Path) -> None:
        self.home = Path(home)
        self.path = self.home / "diary"

    def note(self, what: str, message: mqlog.Message[Any]) -> None:
        value = (message.raw or b"").decode()
        line = f"{what}\t{value}\t{message.delivery_count}\t{os.getpid()}\t{message.token}\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, line.encode())
        os.close(file)

    def events(self, what: str = "", value: str = "") -> list[Event]:
        """All of them, or those of one kind, or of one value."""
        if not self.path.exists():
            return []
        lines = [line.split("\t") for line in self.path.read_text().splitlines()]
        every = [Event((a, b, int(c), int(d), int(e))) for a, b, c, d, e in lines]
        return [one for one in every if what in ("", one.what) and value in ("", one.value)]

    def wait(self, what: str, value: str = "", count: int = 1) -> list[Event]:
        """Until there are so many of them."""
        wait_until(lambda: len(self.events(what, value)) >= count, f"{count} x {what} {value}")
        return self.events(what, value)

    def go(self) -> None:
        """Those who hold go on."""
        (self.home / "go").touch()


def wait_until(true: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"{what} has not come about"
        time.sleep(0.005)


def handle(home: str, message: mqlog.Message[Any]) -> None:
    """What the value says: its first word."""
    diary = Diary(Path(home))
    diary.note("begin", message)
    word = (message.raw or b"").decode().split()[0]
    if word == "hold":
        wait_until((diary.home / "go").exists)
    elif word == "hang":
        threading.Event().wait()
    elif word == "freeze":
        ctypes.PyDLL(None).sleep(10_000)  # holds the GIL
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "fail":
        raise RuntimeError("no luck")
    diary.note("end", message)


def decoded(home: str, message: mqlog.Message[Any]) -> None:
    """For queues with a codec."""
    Diary(Path(home)).note(f"got {message.value!r}", message)


def main(home: str, processes: str, *words: str) -> None:
    how: dict[str, Any] = {"until_empty": "until_empty" in words}
    if "timeout" in words:
        how["timeout"] = float(words[words.index("timeout") + 1])
    if "threads" in words:
        how["threads"] = int(words[words.index("threads") + 1])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with mqlog.open(Path(home) / "s", create=False) as store:
        queue = store.queue("jobs", create=False)
        print("running", flush=True)
        queue.run(partial(handle, home), processes=int(processes), **how)
        print("returned", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
