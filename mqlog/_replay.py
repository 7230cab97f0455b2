"""Replay without a store to open: a directory, one partition of it, or one segment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mqlog import _catalog, _engine, _options
from mqlog._catalog import Catalog, Topic
from mqlog._store import Store
from mqlog._store import open as open_store
from mqlog._tail import OneThread, check_speed, paced
from mqlog._times import EARLIEST, Start, is_offset, reader, resolve_stop
from mqlog.errors import FormatError, NotFoundError

_SEGMENT = re.compile(r"([0-9]{20})\.log")


def replay(
    path: str | os.PathLike[str],
    start: Start = EARLIEST,
    stop: Start | None = None,
    *,
    topic: str | None = None,
    speed: float | None = None,
    on_corrupt: Literal["raise", "skip"] = "raise",
) -> Iterator[_engine.Record[bytes | None]]:
    """Replays what is on disk, without a store to open: nothing is written, locked or repaired.

    It reads a snapshot, as `mode="r"` does, also while others write.

    Args:
        path: A store, or a directory of Kafka partitions; one partition's directory, such as
            `orders-0`; or one segment in it, such as `orders-0/00000000000000000000.log`.
        start: An offset (where one partition is read), a moment, `EARLIEST` or `LATEST`.
        stop: Likewise, exclusive; None is the end.
        topic: Which one, where a store has several.
        speed: 1.0 takes as long as it took, 10.0 a tenth of it; None does not wait at all.
        on_corrupt: `"raise"` raises `CorruptError` once, and the next `next()` goes on behind the
            damage; `"skip"` goes on by itself.

    Raises:
        NotFoundError: There is nothing to read at that path, or no such topic.
        OffsetOutOfRangeError: `start` is an offset that is not there.

    The iterator serves one thread at a time and gives the files back at its end. It blocks in
    `next()` until a record is due.
    """
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(f'on_corrupt={on_corrupt!r}: "raise" or "skip"')
    pace = check_speed(speed)
    place = Path(_options.check_path(path))
    source = _find(place, topic)
    store = open_store(source.store, "r")
    store._quiet = True  # the iterator owns it
    try:
        readers = _readers(store, source, start, stop, on_corrupt == "skip")
        return Offline(store, paced(readers, pace, store._live))
    except BaseException:
        store.close()
        raise


class Offline(OneThread, Iterator[_engine.Record[Any]]):
    """An iterator that owns the store behind it."""

    def __init__(self, store: Store, records: Iterator[_engine.Record[Any]]) -> None:
        super().__init__("an iterator that replays")
        self._store = store
        self._records: Iterator[_engine.Record[Any]] = records

    def __next__(self) -> _engine.Record[Any]:
        self._enter()
        try:
            return next(self._records)
        except StopIteration:
            self._records = iter(())
            self._store.close()
            raise
        finally:
            self._leave()


class _Source:
    """What a path names: a store, perhaps one topic, one partition, one segment of it."""

    def __init__(
        self, store: Path, topic: str | None, partition: int | None, segment: int | None
    ) -> None:
        self.store = store
        self.topic = topic
        self.partition = partition
        self.segment = segment


def _find(path: Path, topic: str | None) -> _Source:
    segment = _SEGMENT.fullmatch(path.name)
    if path.is_file():
        if segment is None:
            raise NotFoundError(f"{path} is no segment: those are named by 20 digits and .log")
        source = _partition_source(path.parent, int(segment[1]))
        if source is None:
            raise NotFoundError(
                f"{path}: a segment is read inside its partition's directory, and "
                f"{path.parent.name!r} is not named <topic>-<partition>"
            )
    elif not path.is_dir():
        raise NotFoundError(f"there is nothing at {path}")
    elif (path / _catalog.FILE).exists() or not _catalog.has_segments(str(path)):
        return _Source(path, topic, None, None)
    else:
        source = _partition_source(path, None)
        if source is None:
            raise NotFoundError(
                f"{path} has segments, but is not named <topic>-<partition>: rename or link it"
            )
    if topic is not None and topic != source.topic:
        raise NotFoundError(f"{path} belongs to topic {source.topic!r}, not to {topic!r}")
    return source


def _partition_source(directory: Path, segment: int | None) -> _Source | None:
    place = _catalog.partition_of(directory.name)
    return None if place is None else _Source(directory.parent, *place, segment)


def _readers(
    store: Store, source: _Source, start: Start, stop: Start | None, skip: bool
) -> list[_engine.Reader[Any]]:
    if source.topic is not None and source.partition is not None:
        options = _options.log_options(_options.effective(_options.TOPIC, {}))
        logs = [store._live().partition(source.topic, source.partition, False, options)]
    else:
        logs = store._logs(_only_topic(store, source.topic))
    if len(logs) > 1 and any(place is not None and is_offset(place) for place in (start, stop)):
        raise ValueError(
            f"topic {logs[0].topic!r} has {len(logs)} partitions, each with offsets of its own: "
            f"give a moment, or the path of one partition's directory"
        )
    readers = []
    for log in logs:
        first, end = start, resolve_stop(log, stop)
        if source.segment is not None:
            first, end = _within(source, log, start, end)
        readers.append(reader(log, first, end, skip_corrupt=skip))
    return readers


def _within(source: _Source, log: _engine.Log, start: Start, end: int) -> tuple[Start, int]:
    """Start and end, kept inside one segment: it ends where the next one begins."""
    assert source.segment is not None
    directory = source.store / f"{source.topic}-{source.partition}"
    found = (_SEGMENT.fullmatch(file) for file in os.listdir(directory))
    later = [int(name[1]) for name in found if name and int(name[1]) > source.segment]
    end = min([end, *later])
    first = max(source.segment, log.start_offset)
    if start is not EARLIEST:
        first = max(first, reader(log, start, None).position)
    return min(first, log.readable_offset), end


def _only_topic(store: Store, name: str | None) -> Topic:
    if name is not None:
        return store._existing(name)
    catalog: Catalog = store._known()
    names = catalog.names()
    if len(names) == 1:
        return store._existing(names[0])
    if not names:
        raise FormatError(f"{store.path} has no topics")
    raise ValueError(f"{store.path} has {len(names)} topics: say topic=, one of {', '.join(names)}")
