"""What several verbs ask about a store, a topic or a name."""

from pathlib import Path
from typing import Any

import mqlog
from mqlog import _options
from mqlog.cli._errors import MissingError
from mqlog.cli._screen import plural


def check_topic(name: str) -> None:
    """`ValueError` if no topic may have that name: asked before a store is made for it."""
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


def set_aside(store: mqlog.Store) -> list[Path]:
    """Files that recovery once put aside: bytes that were never acknowledged, or poisoned."""
    patterns = ("*/*.cut-*", "*/*.poisoned*")
    return sorted(file for pattern in patterns for file in store.path.glob(pattern))
