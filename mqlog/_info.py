"""Facts about a store, as frozen dataclasses: snapshots, true at the moment of the call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One partition.

    Attributes:
        partition: Its number, from 0.
        start_offset: The first offset that is still there.
        end_offset: The next offset to be given.
        durable_offset: Everything below it is on stable storage.
        bytes: Of its segments, as used.
        segments: How many `.log` files.
        epoch: The leader epoch: how often recovery cut something.
        poisoned: A sync failed, and the log has not recovered from it yet.
    """

    partition: int
    start_offset: int
    end_offset: int
    durable_offset: int
    bytes: int
    segments: int
    epoch: int
    poisoned: bool

    @property
    def records(self) -> int:
        """Offsets from the log start to the log end; those that are holes count too."""
        return self.end_offset - self.start_offset


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic.

    Attributes:
        name: Its name.
        partitions: Its partitions, by number.
        options: Every option of a topic: as stored, else its default.
        codec: The name of the codec that was first used on it, or None.
        id: 22 characters, new whenever a topic of this name is made; None for a Kafka directory.
    """

    name: str
    partitions: tuple[PartitionInfo, ...]
    options: Mapping[str, Any]
    codec: str | None
    id: str | None

    @property
    def records(self) -> int:
        """Offsets from log start to log end, of all partitions."""
        return sum(partition.records for partition in self.partitions)

    @property
    def bytes(self) -> int:
        """Of all segments, as used."""
        return sum(partition.bytes for partition in self.partitions)

    @property
    def segments(self) -> int:
        """How many `.log` files."""
        return sum(partition.segments for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One group of one topic.

    Attributes:
        topic: The topic.
        name: The group's name.
        kind: `"consumer"`, or `"share"`: the consumers of a queue.
        committed: By partition, the next offset to be read, only where something was committed; of
            a share group, the first that is not finished.
        lag: Records that are there and not committed; of a share group, not finished.
        members: Ids of its live consumers, empty in a store opened with `mode="r"`; of a share
            group, of the processes that hold records.
        owners: By partition, the member that reads it now; likewise, and of a consumer group alone.
        pinned_bytes: Of the log, from the group's place to its end: what it keeps on the disk where
            what it has not finished is kept.
        pinned_segments: In how many segments these are.
        stats: Of a share group: what it has to deliver, holds and has finished.
        damage: What is wrong with its file in a partition, and where; None: nothing. Nothing else
            is told of that partition: there it counts as a group that has finished nothing.
    """

    topic: str
    name: str
    kind: Literal["consumer", "share"]
    committed: Mapping[int, int]
    lag: int
    members: tuple[int, ...]
    owners: Mapping[int, int]
    pinned_bytes: int = 0
    pinned_segments: int = 0
    stats: QueueStats | None = None
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class AcquiredInfo:
    """A record of a queue that a consumer holds.

    Attributes:
        partition: Its partition.
        offset: Its offset there.
        id: Its id, such as `"orders-0:17"`.
        delivery_count: Of this delivery, 1 at the first.
        token: The fencing token of this delivery.
        member: The id of the process that holds it.
        expires_in: Seconds until its lock passes, negative when that is over; None: never.
    """

    partition: int
    offset: int
    id: str
    delivery_count: int
    token: int
    member: int
    expires_in: float | None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What a share group has to deliver, holds and has finished.

    `ready + delayed + acquired + accepted + dead + expired + damaged + purged` is what was put for
    this group since it began.

    Attributes:
        ready: To be delivered now.
        delayed: Not due yet.
        acquired: Held by consumers.
        accepted: Done.
        dead: Sent to the dead letters.
        expired: Dropped, as their time to live was over before their first delivery.
        damaged: Dropped, as their bytes could not be read.
        purged: Dropped by `purge`.
        bytes: Of the topic's segments, as used.
        oldest_age: Seconds since the oldest record that is to be delivered was put; None: none is.
    """

    ready: int
    delayed: int
    acquired: int
    accepted: int
    dead: int
    expired: int
    damaged: int
    purged: int
    bytes: int
    oldest_age: float | None


@dataclass(frozen=True, slots=True)
class RecoveredInfo:
    """Something that opening a partition found and cut, or set aside.

    Attributes:
        topic: The topic.
        partition: The partition.
        rule: The row of the recovery table that decided, such as `"R5"` (docs/FORMAT.md).
        segment: Base offset of the segment.
        position: Where in it the log was ended.
        bytes: How many bytes were cut or set aside there.
        file: The file that they were set aside in; "" if there was nothing whole among them.
    """

    topic: str
    partition: int
    rule: str
    segment: int
    position: int
    bytes: int
    file: str

    def __str__(self) -> str:
        where = f"{self.topic}-{self.partition}/{self.segment:020d}.log"
        kept = f", set aside in {self.file}" if self.file else ""
        return f"{where}: ended at byte {self.position} by {self.rule}, {self.bytes} bytes{kept}"


@dataclass(frozen=True, slots=True)
class ProblemInfo:
    """Something that `Store.verify` found wrong.

    Attributes:
        path: The file, or the directory that cannot be read.
        position: A byte in the file; -1 where it has no place.
        what: What is wrong there.
    """

    path: str
    position: int
    what: str

    def __str__(self) -> str:
        where = f" at byte {self.position}" if self.position >= 0 else ""
        return f"{self.path}{where}: {self.what}"


@dataclass(frozen=True, slots=True)
class VerifiedInfo:
    """What `Store.verify` has read of one partition, and what it found.

    Attributes:
        topic: The topic.
        partition: The partition.
        segments: How many `.log` files were read.
        batches: How many batches are whole.
        records: How many records are in them.
        bytes: Of the segments.
        index_entries: How many entries of both indexes were checked.
        problems: Everything that is wrong; empty is good.
    """

    topic: str
    partition: int
    segments: int
    batches: int
    records: int
    bytes: int
    index_entries: int
    problems: tuple[ProblemInfo, ...]
