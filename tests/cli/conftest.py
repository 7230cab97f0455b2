"""Runs command lines: in this process where that will do, as a process of their own where not."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mqlog
from mqlog.cli import main

HOME = Path(mqlog.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Result:
    """What a command line left: its exit code and both outputs."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def records(self) -> list[Any]:
        """A JSON document a line."""
        return [json.loads(line) for line in self.lines]


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run("cat", store, "orders", stdin=b"…")`, in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, stdin: bytes = b"") -> Result:
        out, err = io.BytesIO(), io.BytesIO()
        for name, raw in (("stdin", io.BytesIO(stdin)), ("stdout", out), ("stderr", err)):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", newline="\n"))
        code = main([str(word) for word in words])
        sys.stdout.flush()
        sys.stderr.flush()
        return Result(code, out.getvalue(), err.getvalue().decode())

    return run


@pytest.fixture
def ok(run: Run) -> Run:
    """As `run`, but an exit code other than 0 fails the test."""

    def ok(*words: object, stdin: bytes = b"") -> Result:
        result = run(*words, stdin=stdin)
        assert result.code == 0, f"mqlog {' '.join(map(str, words))}: {result.err}"
        return result

    return ok


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONPATH": str(HOME), "LC_ALL": "C.UTF-8", "COLUMNS": "110", **more}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "mqlog", *map(str, words)]


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `mqlog …` as a process with three pipes; none survives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: object, env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        env = environment() if env is None else env
        process = subprocess.Popen(command(*words), env=env, cwd=tmp_path, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store may be; nothing is there yet."""
    return tmp_path / "shop"


@pytest.fixture
def orders(store: Path) -> Path:
    """A store with ten records in the topic `orders`: keys, headers, a second apart."""
    with mqlog.open(store) as opened:
        fill(opened.stream("orders"), range(10))
    return store


def fill(stream: Any, numbers: Sequence[int]) -> None:
    for number in numbers:
        stream.append(
            b"order %d" % number,
            key=b"customer-%d" % (number % 3),
            headers={"n": b"%d" % number},
            timestamp=1_000_000_000.0 + number,
        )


def snapshot(store: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's modification time and bytes."""
    files = sorted(file for file in store.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
