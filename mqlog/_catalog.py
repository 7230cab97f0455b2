"""mqlog.json: what the store knows of itself, its topics and its groups; and topics found as files.

    {
      "format": 1,           readers older than this refuse the store
      "oldest_writer": 1,    writers older than this refuse to write to it
      "store": {"max_bytes": 0},
      "topics": {"orders": {"id": "…", "partitions": 1, "cleanup_policy": "keep", …}},
      "groups": {"orders": {"default": {"max_deliveries": 5}}}      share groups, by topic
    }

A topic has here what its maker said, and what identifies it (`_options.ALWAYS_STORED`, an id, the
name of its codec); all else follows the defaults of the code. Keys that are not known here belong
to a newer mqlog and are kept as they are. The file is read and written through the engine, which
replaces it whole and only under the store's gate.

A directory `<topic>-<n>` with `.log` files that no topic here claims is a topic too: somebody put
Kafka's own partition directories into the store.
"""

from __future__ import annotations

import base64
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mqlog import _options
from mqlog.errors import FormatError, OptionError

FILE: Final = "mqlog.json"
FORMAT: Final = 1

_SEGMENT = re.compile(r"[0-9]{20}\.log")
_PARTITION = re.compile(r"(?P<topic>[a-zA-Z0-9._-]+)-(?P<partition>0|[1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it stands: every option, given or by default."""

    name: str
    id: str | None
    options: Mapping[str, Any]
    codec: str | None
    stored: bool  # False: it is there as directories alone, and none is ever added
    priorities: tuple[int, ...] = ()  # that were used, but for the default; in order of first use

    @property
    def spread(self) -> int:
        """How many partitions the keys of one priority are spread over."""
        return int(self.options["partitions"])

    @property
    def partitions(self) -> int:
        """How many there are: for each priority that was used as many as were asked for."""
        return self.spread * (1 + len(self.priorities))


class Catalog:
    """The parsed file. Not shared: who changes one, parses one."""

    def __init__(self, path: str, document: dict[str, Any]) -> None:
        self.path = path
        self._document = document
        self.store: dict[str, Any] = self._part("store", document)
        self.topics: dict[str, Any] = self._part("topics", document)
        self.groups: dict[str, Any] = self._part("groups", document)
        self._directories: dict[str, set[int]] | None = None

    @classmethod
    def new(cls, path: str) -> Catalog:
        """What a store that was never written to has."""
        return cls(path, {"format": FORMAT, "oldest_writer": FORMAT})

    @classmethod
    def parse(cls, path: str, data: bytes | None, *, writes: bool) -> Catalog:
        """Reads the file's bytes; None is no file.

        Raises:
            FormatError: Not JSON, or not of this shape, or of a newer format.
        """
        if data is None:
            return cls.new(path)
        file = os.path.join(path, FILE)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{file} is not the JSON of a store: {error}; nothing was changed, put it right or "
                "restore it from a backup"
            ) from None
        if not isinstance(document, dict):
            raise FormatError(f"{file} is not the JSON of a store: no object; nothing was changed")
        _check_format(file, document, writes)
        return cls(path, document)

    def _part(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        part = document.setdefault(name, {})
        if not isinstance(part, dict):
            raise self._wrong(f"{name!r} is no object")
        return part

    def _wrong(self, what: str) -> FormatError:
        return FormatError(f"{os.path.join(self.path, FILE)}: {what}; nothing was changed")

    def dump(self) -> bytes:
        """The file's bytes."""
        return json.dumps(self._document, indent=2, ensure_ascii=False).encode() + b"\n"

    def keep_directories(self) -> None:
        """For a snapshot: directories that come later are no part of it."""
        self._directories = partition_directories(self.path)

    def _partitions(self) -> dict[str, set[int]]:
        kept = self._directories
        return partition_directories(self.path) if kept is None else kept

    def limits(self) -> dict[str, Any]:
        """Every option of the store: as stored, else its default."""
        known = {name: self.store[name] for name in _options.STORE if name in self.store}
        return _options.effective(_options.STORE, self._checked("store", _options.STORE, known))

    def topic(self, name: str) -> Topic | None:
        """The topic of that name, if the file or a directory has it."""
        stored = self.topics.get(name)
        if stored is None:
            return self._found(name)
        if not isinstance(stored, dict):
            raise self._wrong(f"topic {name!r} is no object")
        known = {option: stored[option] for option in _options.TOPIC if option in stored}
        options = self._checked(f"topic {name!r}", _options.TOPIC, known)
        topic_id, codec = stored.get("id"), stored.get("codec")
        for what, value in (("id", topic_id), ("codec", codec)):
            if value is not None and not isinstance(value, str):
                raise self._wrong(f"topic {name!r}: its {what} is no string")
        every = _options.effective(_options.TOPIC, options)
        priorities = stored.get("priorities", [])
        if not isinstance(priorities, list) or any(p not in range(10) for p in priorities):
            raise self._wrong(f"topic {name!r}: its priorities are no list of 0 to 9")
        return Topic(name, topic_id, every, codec, True, tuple(priorities))

    def group(self, topic: str, name: str) -> dict[str, Any]:
        """Every option of a share group: as stored, else its default."""
        stored = self.groups.get(topic, {}).get(name, {})
        if not isinstance(stored, dict):
            raise self._wrong(f"group {name!r} of topic {topic!r} is no object")
        known = {option: stored[option] for option in _options.GROUP if option in stored}
        checked = self._checked(f"group {name!r} of topic {topic!r}", _options.GROUP, known)
        return _options.effective(_options.GROUP, checked)

    def has_group(self, topic: str, name: str) -> bool:
        """Whether the share group was ever made."""
        return name in self.groups.get(topic, {})

    def change_group(self, topic: str, name: str, changes: Mapping[str, Any]) -> None:
        """New values for a share group, which is made if need be."""
        self.groups.setdefault(topic, {}).setdefault(name, {}).update(changes)

    def drop_group(self, topic: str, name: str) -> None:
        """Forgets a share group."""
        self.groups.get(topic, {}).pop(name, None)

    def add_priority(self, topic: Topic, priority: int) -> None:
        """From now on the topic has partitions for it."""
        if priority not in topic.priorities:
            self.change(topic, {"priorities": [*topic.priorities, priority]})

    def _checked(
        self, where: str, table: Mapping[str, _options.Option], stored: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            return _options.check_options(table, stored)
        except (OptionError, TypeError) as error:
            raise self._wrong(f"{where}: {error}") from None

    def _found(self, name: str) -> Topic | None:
        partitions = self._partitions().get(name)
        if not partitions:
            return None
        if not _complete(partitions):
            first = os.path.join(self.path, f"{name}-{min(partitions)}")
            raise FormatError(
                f"{self.path} has partitions {_listed(partitions)} of topic {name!r}, and a topic "
                f"has all from 0 on; mqlog.replay({first!r}) reads one of them"
            )
        options = _options.effective(_options.TOPIC, {"partitions": len(partitions)})
        return Topic(name, None, options, None, stored=False)

    def names(self) -> list[str]:
        """Every topic that can be opened, sorted."""
        for name in self.topics:
            try:
                _options.check_name("topic", name)
            except ValueError as error:
                raise self._wrong(str(error)) from None
        found = self._partitions().items()
        return sorted({*self.topics, *(name for name, parts in found if _complete(parts))})

    def add(self, name: str, options: Mapping[str, Any], codec: str | None) -> None:
        """A new topic with an id of its own."""
        every = _options.effective(_options.TOPIC, options)
        always = {option: every[option] for option in _options.ALWAYS_STORED}
        self.topics[name] = {"id": _new_id(), **always, **options}
        if codec is not None:
            self.topics[name]["codec"] = codec

    def change(self, topic: Topic, changes: Mapping[str, Any]) -> None:
        """New values for a topic; one that came as directories gets its entry now."""
        entry = self.topics.setdefault(topic.name, {"partitions": topic.partitions})
        entry.update(changes)


def _complete(partitions: set[int]) -> bool:
    return len(partitions) == max(partitions) + 1


def _listed(partitions: set[int]) -> str:
    some = [str(partition) for partition in sorted(partitions)[:5]]
    return ", ".join(some if len(partitions) <= 5 else [*some, "…"])


def _new_id() -> str:
    # As Kafka writes a topic id: a UUID in 22 characters of URL-safe base64.
    return base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()


def _check_format(file: str, document: dict[str, Any], writes: bool) -> None:
    store_format: Any = document.get("format")
    writer: Any = document.get("oldest_writer", store_format)
    for value in (store_format, writer):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise FormatError(f"{file} names no store format; nothing was changed")
    if store_format > FORMAT:
        raise FormatError(
            f"{file} has store format {store_format}, this mqlog reads up to {FORMAT}: install a "
            "newer mqlog; nothing was changed"
        )
    if writes and writer > FORMAT:
        raise FormatError(
            f"{file} may be written by store format {writer} and newer, this mqlog writes {FORMAT}:"
            ' install a newer mqlog, or read it with mode="r"; nothing was changed'
        )


def read_file(path: str) -> bytes | None:
    """The file's bytes, read before the engine touches a store that may be a newer one's."""
    try:
        with open(os.path.join(path, FILE), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def partition_of(directory: str) -> tuple[str, int] | None:
    """Topic and partition that the name of a directory tells, or None."""
    parts = _PARTITION.fullmatch(directory)
    if parts is None:
        return None
    try:
        return _options.check_name("topic", parts["topic"]), int(parts["partition"])
    except ValueError:
        return None


def partition_directories(path: str) -> dict[str, set[int]]:
    """Topics, each with its partitions, that are there as directories with segments."""
    found: dict[str, set[int]] = {}
    with os.scandir(path) as entries:
        for entry in entries:
            place = partition_of(entry.name)
            if place and entry.is_dir(follow_symlinks=False) and has_segments(entry.path):
                found.setdefault(place[0], set()).add(place[1])
    return found


def has_segments(directory: str) -> bool:
    """Whether there is a segment in it."""
    try:
        with os.scandir(directory) as entries:
            return any(_SEGMENT.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False
