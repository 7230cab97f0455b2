"""What the engine tells of groups, and of damage, made into the facts that `_info.py` declares."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from mqlog import _engine, _options
from mqlog._catalog import Topic
from mqlog._info import AcquiredInfo, GroupInfo, ProblemInfo, QueueStats, VerifiedInfo
from mqlog.errors import (
    ClosedError,
    CorruptError,
    Error,
    FormatError,
    NotFoundError,
    OffsetOutOfRangeError,
)

#: Hears the partition's name, the bytes done and those to be done.
Progress = Callable[[str, int, int], object]


#: What is wrong with one file, and not with this process or the whole disk.
_OF_THE_FILE: Final = {errno.EACCES, errno.EINVAL, errno.EIO, errno.ELOOP, errno.EPERM}


def group_names(store: Path, logs: list[_engine.Log]) -> list[str]:
    """Every group that has a file in one of the partitions, sorted; other files are nobody's."""
    files: set[str] = set()
    for log in logs:
        with suppress(FileNotFoundError):
            files.update(os.listdir(store / f"{log.topic}-{log.partition}" / "groups"))
    names = set()
    for file in files:
        with suppress(ValueError):
            if file.endswith(".offset"):
                names.add(_options.check_group(file.removesuffix(".offset")))
    return sorted(names)


def group(logs: list[_engine.Log], name: str) -> GroupInfo:
    """One group: of the logs of all its topic's partitions."""
    committed: dict[int, int] = {}
    owners: dict[int, int] = {}
    members: tuple[int, ...] = ()
    damage: list[str] = []
    lag = 0
    for log in logs:
        offset = None
        with suppress(NotFoundError), _noted(damage):
            place = log.group(name, False)
            offset = place.committed()
            if not log.store.read_only:
                owners[log.partition] = place.owner()
                members = tuple(place.members()) if log.partition == 0 else members
        if offset is not None:
            committed[log.partition] = offset
        lag += max(0, log.readable_offset - max(offset or 0, log.start_offset))
    held = {partition: owner for partition, owner in owners.items() if owner in members}
    pinned = _pinned(logs, committed)
    facts = (committed, lag, members, held, *pinned, None)
    return GroupInfo(logs[0].topic, name, "consumer", *facts, _joined(damage))


@contextmanager
def _noted(damage: list[str]) -> Iterator[None]:
    """Notes what a damaged file of a group raises, or what is no file to read."""
    try:
        yield
    except (CorruptError, FormatError) as error:
        damage.append(str(error))
    except OSError as error:
        if isinstance(error, Error) or error.errno not in _OF_THE_FILE:
            raise
        damage.append(str(error))


def _joined(damage: list[str]) -> str | None:
    return "; ".join(damage) or None


def _pinned(logs: list[_engine.Log], places: Mapping[int, int]) -> tuple[int, int]:
    """Bytes and segments from a group's places on; where it has none, from the log start."""
    found = [log.measure(places.get(log.partition, 0)) for log in logs]
    return sum(size for size, _ in found), sum(count for _, count in found)


def holders(logs: list[_engine.Log], name: str) -> dict[int, list[int]]:
    """The live members of a group, each with the partitions that it owns."""
    held: dict[int, list[int]] = {}
    for log in logs:
        with suppress(NotFoundError):
            place = log.group(name, False)
            for member in place.members():
                held.setdefault(member, [])
            if owner := place.owner():
                held.setdefault(owner, []).append(log.partition)
    return held


_COUNTS: Final = "ready delayed acquired accepted dead expired damaged purged".split()
#: More than one process can hold; the engine gives out member numbers of 13 bits.
_HOLDERS: Final = 1 << 20


def stats(places: list[_engine.Share], now: float) -> QueueStats:
    """One share group: of its places in all its topic's partitions."""
    infos = [place.describe() for place in places]
    sums = {name: sum(getattr(info, name) for info in infos) for name in _COUNTS}
    found = [_age(place.log, info.oldest, now) for place, info in zip(places, infos, strict=True)]
    ages = [age for age in found if age is not None]
    size = sum(place.log.describe().bytes for place in places)
    return QueueStats(**sums, bytes=size, oldest_age=max(ages, default=None))


def _age(log: _engine.Log, offset: int | None, now: float) -> float | None:
    """Seconds since the record there, or the next that there is, was put."""
    if offset is None:
        return None
    with suppress(CorruptError, OffsetOutOfRangeError):
        for record in log.reader(max(offset, log.start_offset)).take(1):
            if record.timestamp is not None:
                return max(0.0, now - record.timestamp)
    return None


def acquired(places: list[_engine.Share]) -> list[AcquiredInfo]:
    """What is held of one share group, by partition and offset."""
    out = []
    for place in sorted(places, key=lambda place: place.log.partition):
        topic, partition, now = place.log.topic, place.log.partition, place.now_ms()
        for one in sorted(place.holders(_HOLDERS)):
            left = None if one.deadline_ms is None else (one.deadline_ms - now) / 1000
            name = f"{topic}-{partition}:{one.offset}"
            numbers = (one.deliveries, one.token, one.member)
            out.append(AcquiredInfo(partition, one.offset, name, *numbers, left))
    return out


def share_names(store: Path, logs: list[_engine.Log]) -> set[str]:
    """Every share group that has a file in one of the partitions."""
    names: set[str] = set()
    for log in logs:
        with suppress(FileNotFoundError):
            files = os.listdir(store / f"{log.topic}-{log.partition}" / "shares")
            names.update(name for name in files if name.endswith(".state"))
    return {name.removesuffix(".state") for name in names}


def share(logs: list[_engine.Log], name: str, now: float) -> GroupInfo:
    """One share group at a moment: of the logs of all its topic's partitions."""
    places: list[_engine.Share] = []
    first: dict[int, int] = {}
    members: set[int] = set()
    damage: list[str] = []
    pinning: list[_engine.Log] = []
    lag = 0
    for log in logs:
        before = len(damage)
        with _noted(damage):
            for place in share_places([log], name):
                start, held = place.describe().first, place.holders(_HOLDERS)
                first[log.partition] = start
                members.update(one.member for one in held)
                places.append(place)
                pinning.append(log)
        if len(damage) > before:
            pinning.append(log)
            lag += log.readable_offset - log.start_offset
    told = stats(places, now)
    lag += told.ready + told.delayed + told.acquired
    facts = (*_pinned(pinning, first), told, _joined(damage))
    return GroupInfo(logs[0].topic, name, "share", first, lag, tuple(sorted(members)), {}, *facts)


def share_places(logs: list[_engine.Log], name: str) -> Iterator[_engine.Share]:
    """A share group's places where it has one; to those who only look, it has one everywhere."""
    for log in logs:
        with suppress(NotFoundError):
            looks = log.store.read_only
            yield _engine.open_share(log, name, looks, log.start_offset if looks else 0, None)


def verified(
    store: Path,
    topics: list[Topic],
    log: Callable[[Topic, int], _engine.Log],
    progress: Progress | None,
) -> Iterator[VerifiedInfo]:
    """Reads the partitions of the topics, one after the other; `log` opens one."""
    for topic in topics:
        for number in range(topic.partitions):
            name = f"{topic.name}-{number}"
            told = None if progress is None else partial(progress, name)
            found: list[ProblemInfo] = []
            report = _engine.VerifyReport(0, 0, 0, 0, 0, 0)
            try:
                report = log(topic, number).verify(_into(found), told)
            except ClosedError:
                raise
            except (Error, OSError) as error:
                found.append(_unreadable(store / name, error))
            yield VerifiedInfo(topic.name, number, *report[:5], tuple(found))


def _into(found: list[ProblemInfo]) -> Callable[[str, int, str], None]:
    return lambda path, position, what: found.append(ProblemInfo(path, position, what))


def _unreadable(directory: Path, error: Error | OSError) -> ProblemInfo:
    path = getattr(error, "filename", None) or str(directory)
    return ProblemInfo(path, -1, getattr(error, "strerror", None) or str(error))
