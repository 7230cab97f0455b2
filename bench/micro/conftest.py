"""What the micro-benchmarks share: a store, the references, and the table at the end.

Every measurement is taken beside its reference: one sample of the reference before each round and
one after it. The ratio of a round is to the mean of its two; what is reported is the median of the
rounds. So a machine that others use too slows both.
"""

from __future__ import annotations

import gc
import mmap
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from queue import SimpleQueue
from typing import Any

import pytest

import mqlog

VALUE_BYTES = 100
VALUE = b"v" * VALUE_BYTES


@dataclass
class Row:
    what: str
    ns: float
    reference: str
    reference_ns: float
    ratio: float
    spread: tuple[float, float]  # quartiles of the ratio
    least: float  # the quickest round to the quickest sample: without what disturbs
    target: str
    facts: str


ROWS: pytest.StashKey[list[Row]] = pytest.StashKey()


# -- references ------------------------------------------------------------------------------------
def put_seconds(count: int) -> float:
    """SimpleQueue.put of a value, `count` times, in the loop that every benchmark here uses."""
    put = SimpleQueue[bytes]().put
    begin = time.perf_counter()
    for _ in repeat(None, count):
        put(VALUE)
    return time.perf_counter() - begin


class Memcpy:
    """A copy of so many bytes, in pieces of 64 KiB, into a mapping whose pages are there."""

    PIECE = 65536

    def __init__(self, size: int) -> None:
        self.pieces = max(1, size // self.PIECE)
        self.source = bytes(range(256)) * (self.PIECE // 256)
        self.target = memoryview(mmap.mmap(-1, self.pieces * self.PIECE))
        self.seconds()

    def seconds(self) -> float:
        target, source, piece = self.target, self.source, self.PIECE
        begin = time.perf_counter()
        for at in range(0, self.pieces * piece, piece):
            target[at : at + piece] = source
        return time.perf_counter() - begin


# -- one measurement -------------------------------------------------------------------------------
@dataclass
class Work:
    """What is timed, how much it is, and what it is held against."""

    what: str
    round: Callable[[], object]
    count: int  # operations in one round
    reference: str
    sample: Callable[[], float]  # seconds of as many operations of the reference
    target: str
    rounds: int = 60
    before: Callable[[], object] = lambda: None  # not timed
    facts: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Work], Row]:
    def run(work: Work) -> Row:
        samples: list[float] = []
        faults: list[int] = []
        seen = 0

        def before() -> None:
            work.before()
            samples.append(work.sample())

        def timed() -> None:
            nonlocal seen
            seen = minor_faults()
            work.round()
            faults.append(minor_faults() - seen)

        gc.collect()
        benchmark.pedantic(timed, setup=before, rounds=work.rounds, iterations=1, warmup_rounds=5)
        samples.append(work.sample())
        rounds = benchmark.stats.stats.data
        around = samples[-len(rounds) - 1 :]
        pairs = zip(rounds, around, around[1:], strict=False)
        ratios = [one / ((a + b) / 2) for one, a, b in pairs]
        row = Row(
            what=work.what,
            ns=statistics.median(rounds) / work.count * 1e9,
            reference=work.reference,
            reference_ns=statistics.median(around) / work.count * 1e9,
            ratio=statistics.median(ratios),
            spread=(statistics.quantiles(ratios)[0], statistics.quantiles(ratios)[2]),
            least=min(rounds) / min(around),
            target=work.target,
            facts=", ".join(f"{name} {fact}" for name, fact in work.facts.items()),
        )
        per_1000 = statistics.median(faults[-len(rounds) :]) / work.count * 1000
        row.facts += f", {per_1000:.1f} page faults per 1000"
        note(benchmark, request.config, row)
        return row

    return run


def minor_faults() -> int:
    """Of this thread: what is stored over prepared pages faults no page."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def note(benchmark: Any, config: pytest.Config, row: Row) -> None:
    benchmark.extra_info.update(
        reference=row.reference,
        reference_ns=row.reference_ns,
        ratio=row.ratio,
        least_ratio=row.least,
        facts=row.facts,
    )
    config.stash.setdefault(ROWS, []).append(row)


# -- stores ----------------------------------------------------------------------------------------
@pytest.fixture
def directory() -> Iterator[str]:
    """On the file system that MQLOG_BENCH_DIR names; else where temporary files are."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("MQLOG_BENCH_DIR")) as path:
        yield path


@pytest.fixture
def store(directory: str) -> Iterator[mqlog.Store]:
    with mqlog.open(directory) as store:
        yield store


def settle() -> None:
    """Gives the store's two threads time to prepare pages ahead, and to sync what is behind."""
    time.sleep(0.004)


# -- the table -------------------------------------------------------------------------------------
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("ratios")
    write(
        f"{'what':<41}{'ns':>9}  {'reference':<18}{'ns':>8}{'ratio':>8}  {'quartiles':<14}"
        f"{'least':>7}  target"
    )
    for row in rows:
        low, high = row.spread
        quartiles = f"{low:.2f} - {high:.2f}"
        write(
            f"{row.what:<41}{row.ns:>9.1f}  {row.reference:<18}{row.reference_ns:>8.1f}"
            f"{row.ratio:>8.2f}  {quartiles:<14}{row.least:>7.2f}  {row.target}"
        )
    write("")
    for row in rows:
        write(f"{row.what}: {row.facts}")
    cores, load = os.cpu_count(), os.getloadavg()[0]
    write(
        f"{platform.platform()}, Python {platform.python_version()}, {cores} CPUs, load {load:.1f}"
    )
