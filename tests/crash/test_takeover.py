"""Two consumers of one group in two processes: one reader a partition, whoever is killed when."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

import pytest
from support.processes import Worker, Zygote

import mqlog

pytestmark = pytest.mark.crash

KILLS = 15
PATIENCE = 30.0  # seconds; only a test that fails waits so long


@dataclass
class Read:
    """A record in a consumer's hands: from when it got it until it came back for the next."""

    begin: float
    end: float
    partition: int
    offset: int
    reader: Member


class Member:
    """A consumer in a process of its own, and what its ledger says so far, in order."""

    def __init__(self, name: int, worker: Worker, ledger: Path) -> None:
        self.name = name
        self.worker = worker
        self.ledger = ledger
        self.killed = float("inf")
        self.reads: list[Read] = []
        self._seen = 0

    def __repr__(self) -> str:
        return f"<Member {self.name}>"

    def kill(self, after: float) -> None:
        self.killed = time.monotonic() + after
        self.worker.kill(after)

    def look(self) -> None:
        with self.ledger.open("rb") as file:
            file.seek(self._seen)
            lines = file.read().split(b"\n")[:-1]
        self._seen += sum(len(line) + 1 for line in lines)
        for line in lines:
            match line.split():
                case [partition, offset, begin]:
                    read = Read(float(begin), float("inf"), int(partition), int(offset), self)
                    self.reads.append(read)
                case [end]:
                    self.reads[-1].end = float(end)


class Consumers:
    """The members of a group, dead and alive, and somebody who keeps them busy."""

    def __init__(self, stream: mqlog.Stream[bytes], folder: Path) -> None:
        self.stream = stream
        self.folder = folder
        self.members: list[Member] = []

    def join(self, zygote: Zygote) -> Member:
        name = len(self.members)
        ledger, path = self.folder / f"ledger-{name}", self.folder / "store"
        worker = zygote.start("consume", path, self.stream.name, "group", ledger)
        self.members.append(Member(name, worker, ledger))
        return self.members[-1]

    def readers_since(self, moment: float) -> dict[int, Member]:
        """By partition that was read since then, who read last."""
        for member in self.members:
            member.look()
        reads = [read for one in self.members for read in one.reads if read.begin > moment]
        return {read.partition: read.reader for read in sorted(reads, key=attrgetter("begin"))}

    def until(self, condition: Callable[[], bool]) -> None:
        """Appends to every partition, a little at a time, until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "they do not share the partitions out"
            for partition in self.stream.partitions:
                self.stream.append(b"", partition=partition.partition)
            time.sleep(0.002)

    def share_out(self) -> dict[int, Member]:
        """Waits until every partition is read, by two if there are two; says by whom."""
        count, began = len(self.stream.partitions), time.monotonic()

        def done() -> bool:
            readers = self.readers_since(began)
            return len(readers) == count and len(set(readers.values())) == min(2, count)

        self.until(done)
        return self.readers_since(began)

    def take_over(self) -> None:
        """Waits until every partition is read again."""
        count, began = len(self.stream.partitions), time.monotonic()
        self.until(lambda: len(self.readers_since(began)) == count)

    def reads(self, partition: int) -> list[Read]:
        reads = [read for one in self.members for read in one.reads if read.partition == partition]
        return sorted(reads, key=attrgetter("begin"))


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 4])
def test_a_partition_has_one_reader_at_a_time_and_another_within_a_second_of_its_death(
    tmp_path: Path, zygote: Zygote, partitions: int
) -> None:
    """With one partition the second consumer is a standby; with four each has its share."""
    rng = random.Random(partitions)
    with mqlog.open(tmp_path / "store") as store, ExitStack() as stack:
        group = Consumers(store.stream("orders", partitions=partitions), tmp_path)
        for _ in range(2):
            stack.enter_context(group.join(zygote).worker)
        for _ in range(KILLS):
            victim = rng.choice(list(group.share_out().values()))
            victim.kill(rng.uniform(0, 0.02))
            group.take_over()
            stack.enter_context(group.join(zygote).worker)
        group.share_out()
    takeovers = 0
    for partition in range(partitions):
        reads = group.reads(partition)
        assert reads[0].offset == 0
        for one, following in pairwise(reads):
            check(one, following)
            takeovers += one.reader is not following.reader and one.reader.killed < following.begin
    assert takeovers >= KILLS


def check(one: Read, following: Read) -> None:
    """Two reads of a partition, one after the other.

    What its reader came back from is committed, unless it died in that moment: of its very last
    record nobody can say. A record that it did not come back from is read again.
    """
    same, in_hand = one.reader is following.reader, one.end == float("inf")
    assert in_hand or one.end <= following.begin, "two had the partition at one time"
    assert same or not in_hand or one.reader.killed < float("inf"), "it was taken from the living"
    again, next_ = following.offset == one.offset, following.offset == one.offset + 1
    if in_hand:
        assert again
    else:
        assert next_ or (again and not same and one is one.reader.reads[-1])
    if not same and one.reader.killed < following.begin:
        assert following.begin - one.reader.killed < 1.0
