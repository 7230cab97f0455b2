"""What a queue is, in plain Python: every record that was ever put, and how it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DEFAULT = 4
FINAL = ("accepted", "dead", "expired", "purged")


@dataclass
class Entry:
    """One record. `due`: None until it was touched; then when it may be delivered, 0: at once."""

    partition: int
    offset: int
    value: bytes
    expires: int | None = None
    delayed: int = 0  # as it was put
    due: int | None = None
    state: str = "waiting"
    holder: str = ""  # "us", "them", "late": the deadline has passed and nobody has noticed
    count: int = 0
    abandoned: bool = False  # its last holder went without a word
    token: int = 0


@dataclass
class Model:
    """A queue of one partition for each priority. Times are milliseconds of the wall clock."""

    now: Callable[[], int]
    max_deliveries: int
    maxsize: int
    partitions: list[list[Entry]] = field(default_factory=lambda: [[]])
    ranks: dict[int, int] = field(default_factory=lambda: {DEFAULT: 0})
    letters: list[Entry] = field(default_factory=list)

    def entries(self, *states: str) -> list[Entry]:
        return [one for log in self.partitions for one in log if one.state in states]

    def put(self, value: bytes, priority: int, due: int = 0, ttl: int | None = None) -> Entry:
        rank = self.rank(priority)
        one = Entry(rank, len(self.partitions[rank]), value)
        one.expires = None if ttl is None else self.now() + ttl
        one.delayed, one.due = due, due or None  # what is delayed is touched at once
        self.partitions[rank].append(one)
        return one

    def rank(self, priority: int) -> int:
        """The partition of a priority, there from its first use on."""
        if priority not in self.ranks:
            self.ranks[priority] = len(self.partitions)
            self.partitions.append([])
        return self.ranks[priority]

    def room(self) -> int:
        return self.maxsize - len(self.entries("waiting"))

    def take(self, most: int, holder: str) -> list[Entry]:
        """Whom `get` gives: by priority, then what was touched and is due, then what is new."""
        out: list[Entry] = []
        for priority in sorted(self.ranks, reverse=True):
            log = self.partitions[self.ranks[priority]]
            if len(out) < most:
                self.notice_late(log)
            while len(out) < most and (one := self.next(log)) is not None:
                one.count += 1
                unseen = one.count == 1 or one.abandoned  # for all that anybody knows
                if unseen and one.delayed > self.now():  # the clock was set back
                    self.release(one, one.delayed, counted=False)
                elif one.count == 1 and one.expires is not None and one.expires <= self.now():
                    one.state = "expired"
                elif one.count > self.max_deliveries:
                    self.bury(one)
                else:
                    one.state, one.holder = "held", holder
                    out.append(one)
        return out

    def next(self, log: list[Entry]) -> Entry | None:
        waiting = [one for one in log if one.state == "waiting"]
        due = [one for one in waiting if one.due is not None and one.due <= self.now()]
        new = [one for one in waiting if one.due is None]
        return min(due, key=lambda one: (one.due, one.offset)) if due else next(iter(new), None)

    def notice_late(self, log: list[Entry]) -> None:
        for one in log:
            if one.state == "held" and one.holder == "late":
                self.release(one, abandoned=True)

    def release(
        self, one: Entry, due: int = 0, *, counted: bool = True, abandoned: bool = False
    ) -> None:
        one.state, one.due, one.count = "waiting", due, one.count - (not counted)
        one.abandoned = abandoned

    def settle_release(self, one: Entry, due: int = 0) -> None:
        """As its holder says it: at the last delivery it is dead."""
        self.bury(one) if one.count >= self.max_deliveries else self.release(one, due)

    def bury(self, one: Entry) -> None:
        one.state = "dead"
        self.letters.append(one)

    def lose(self, holder: str, *, counted: bool) -> None:
        """All that somebody holds is to be delivered again."""
        for one in self.entries("held"):
            if one.holder == holder:
                self.release(one, counted=counted, abandoned=counted)

    def purge(self) -> int:
        for log in self.partitions:
            self.notice_late(log)
        gone = self.entries("waiting")
        for one in gone:
            one.state = "purged"
        return len(gone)

    def redrive(self, most: int) -> Iterator[Entry]:
        """The dead letters that go back, oldest first, each as a record of its own."""
        for one in self.letters[:most]:
            self.letters.remove(one)
            log = self.partitions[one.partition]
            log.append(Entry(one.partition, len(log), one.value))
            yield log[-1]
