"""Counts of the crash tests: some seconds' worth in `make test`, all of it in `make crash`.

`Sums` adds up what the programs of this folder say in their last lines ("ok kills=12 violations=0")
and tells the total in one line that also a test run without -s prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

FULL = os.environ.get("MQLOG_CRASH") == "full"
MEMORY = Path("/dev/shm")


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory on a file system in memory, where a store is made anew in no time."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


class Sums(Counter[str]):
    """What all runs together have counted."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []

    def add(self, command: Sequence[object]) -> None:
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        last = lines[-1] if lines else ""
        self.update({name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", last)})
        if done.returncode != 0 or not last.startswith("ok "):
            said = "\n".join([*lines[-6:], *done.stderr.splitlines()[-6:]])
            self.complaints.append(f"{words[1:]} ended with {done.returncode}:\n{said}")

    def add_all(self, commands: Iterable[Sequence[object]]) -> None:
        """As many at once as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.add, commands))

    def tell(self, capsys: pytest.CaptureFixture[str], line: str) -> None:
        """Prints the line and fails if anything was violated."""
        with capsys.disabled():
            print(f"\n{line}, {self['violations']} violations", flush=True)
        assert not self.complaints, "\n\n".join(self.complaints[:5])
        assert self["violations"] == 0
