"""What the verbs ask of a store beyond `Stream`: its own options, one topic's facts, a check."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mqlog
from mqlog import _engine, _options
from mqlog.cli._errors import MissingError
from mqlog.cli._screen import plural


def store_options(store: mqlog.Store) -> Mapping[str, Any]:
    """Every option of the store itself: as stored, else its default."""
    return store._known().limits()


def check_topic(name: str) -> None:
    """`ValueError` if no topic may have that name."""
    _options.check_topic(name)


def check_partition(stream: mqlog.Stream[Any, Any], partition: int | None) -> None:
    """`MissingError` if there is no such partition; None is any."""
    count = len(stream.partitions)
    if partition is not None and partition >= count:
        are = "is" if count == 1 else "are"
        raise MissingError(
            f"{stream.name} has no partition {partition}: there {are} "
            f"{plural(count, 'partition')}, counted from 0"
        )


def topic_info(store: mqlog.Store, name: str) -> mqlog.TopicInfo:
    """The facts of one topic.

    Raises:
        NotFoundError: There is no such topic.
    """
    return store._describe(store._existing(name))


def verify_partition(
    store: mqlog.Store,
    topic: str,
    partition: int,
    found: Callable[[str, int, str], object],
    progress: Callable[[int, int], object],
) -> _engine.VerifyReport:
    """Reads every batch and every index entry; `found` hears file, position and what is wrong."""
    return store._logs(store._existing(topic))[partition].verify(found, progress)


def set_aside(store: mqlog.Store) -> list[Path]:
    """Files that recovery once put aside: bytes that were never acknowledged, or poisoned."""
    patterns = ("*/*.cut-*", "*/*.poisoned*")
    return sorted(file for pattern in patterns for file in Path(store.path).glob(pattern))
