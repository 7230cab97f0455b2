"""Names and options: what may be said, and how it is refused.

Every option has one home (the table in the guide): it is stored with the store or the topic, and
only `Store.alter` changes what is stored. An option that is left out means what is stored; one that
is given must be equal to it. Defaults stand here and nowhere else, and are not stored: a topic
keeps what its maker said, and follows mqlog in what he did not say.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mqlog import _compression, _engine
from mqlog.errors import OptionError

MIB: Final = 1 << 20
GIB: Final = 1 << 30

# names -------------------------------------------------------------------------------------------

#: Kafka allows 249; four bytes are left for what mqlog itself appends.
NAME_LIMIT: Final = 245
DEAD_LETTERS: Final = ".dlq"

_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def check_topic(name: object) -> str:
    """`name`, if a topic may have it.

    Raises:
        TypeError: Not a str.
        ValueError: Empty, too long, "." or "..", a reserved suffix, or outside Kafka's charset.
    """
    text = check_name("topic", name)
    if text.endswith(DEAD_LETTERS):
        raise ValueError(f"topic {text!r}: the suffix .dlq is reserved for dead letters")
    return text


def check_group(name: object) -> str:
    """`name`, if a group may have it; same rules as for topics, but no reserved suffix."""
    return check_name("group", name)


def check_name(kind: str, name: object) -> str:
    """What topics and groups have in common; for names that stand in a store already."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} is a str, not {type(name).__name__}")
    if name in ("", ".", "..") or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a {kind}: use a-z, A-Z, 0-9, '.', '_' and '-'; "
            "mqlog.topic_name() turns any str into such a name"
        )
    own = name.removesuffix(DEAD_LETTERS) if kind == "topic" else name
    if len(own) > NAME_LIMIT:
        raise ValueError(
            f"the name of a {kind} has at most {NAME_LIMIT} characters, this one has {len(name)}: "
            f"{name[:40]!r}…; mqlog.topic_name() cannot shorten it either"
        )
    return name


_ESCAPED = re.compile(rb"_x([0-9a-f]{2})")
_UNSAFE = re.compile(rb"[^a-zA-Z0-9._-]|_(?=x)")


def topic_name(text: str, *, undo: bool = False) -> str:
    """Turns any str into a name that a topic may have, reversibly.

    Names that are allowed already stay as they are, unless they contain `_x`. Everything else
    becomes `_x` and two hexadecimal digits for each byte of its UTF-8.

        >>> topic_name("orders/münchen")
        'orders_x2fm_xc3_xbcnchen'
        >>> topic_name("orders_x2fm_xc3_xbcnchen", undo=True)
        'orders/münchen'

    Args:
        text: Any str.
        undo: Give back the text that this name was made from.

    Raises:
        ValueError: The name would be over 245 characters; or, with `undo`, it was not made here.
        TypeError: Not a str.

    Any thread may call it; it does not block.
    """
    if not isinstance(text, str):
        raise TypeError(f"topic_name() takes a str, not {type(text).__name__}")
    return _unescape(text) if undo else _escape(text)


def _escape(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    name = _UNSAFE.sub(lambda found: b"_x%02x" % found[0][0], data).decode("ascii")
    if name == "":
        return "_x"
    if name in (".", ".."):
        return name.replace(".", "_x2e")
    if name.endswith(DEAD_LETTERS):
        name = name[: -len(DEAD_LETTERS)] + "_x2edlq"
    if len(name) > NAME_LIMIT:
        raise ValueError(
            f"the name for {text[:40]!r}… would have {len(name)} characters, over the "
            f"{NAME_LIMIT} that a topic's name may have"
        )
    return name


def _unescape(name: str) -> str:
    if name == "_x":
        return ""
    try:
        data = _ESCAPED.sub(lambda hit: bytes([int(hit[1], 16)]), name.encode("ascii"))
        text = data.decode("utf-8", "surrogatepass")
        if _escape(text) == name:
            return text
    except ValueError:
        pass
    raise ValueError(f"{name!r} was not made by topic_name()")


def check_codec(name: str) -> str:
    """`name`, if a codec may have it: it is stored with the topic."""
    if 0 < len(name) <= NAME_LIMIT and name.isprintable():
        return name
    raise OptionError(
        f"codec={name[:40]!r}: the name of a codec has 1 to {NAME_LIMIT} printable characters"
    )


# other arguments ---------------------------------------------------------------------------------


def check_path(path: str | os.PathLike[str]) -> str:
    """`path`, absolute.

    Raises:
        TypeError: Not a path.
        ValueError: Empty, or with a NUL character.
    """
    text = os.fsdecode(os.fspath(path))
    if not text:
        raise ValueError("the path of a store is empty; '.' is the current directory")
    if "\0" in text:
        raise ValueError(f"{text!r} is no path: it holds a NUL character")
    return os.path.abspath(text)


def check_callable(what: str, value: object) -> None:
    """`TypeError` if it is neither None nor to be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{what} is a callable or None, not {type(value).__name__}")


def check_index(what: str, value: Any) -> int:
    """`value`, if it is a whole number and no bool."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{what} is an int, not {type(value).__name__}")


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a message about `name`: the nearest of `known`, or all of a few, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if known and len(known) <= 8:
        return "; there are " + ", ".join(repr(one) for one in sorted(known))
    return ""


# options -----------------------------------------------------------------------------------------

Check = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its default, and what gives the value to store or raises."""

    default: Any
    check: Check


def _bad(name: str, value: object, says: str) -> OptionError:
    return OptionError(f"{name}={value!r}: {says}")


def _count(low: int, high: int, unit: str, *, none: str = "") -> Check:
    """`none`: what None means, where it may be given."""
    or_none = f", or None for {none}" if none else ""

    def check(name: str, value: Any) -> int | None:
        if value is None and none:
            return None
        count = check_index(name, value)
        if low <= count <= high:
            return count
        raise _bad(name, value, f"{unit}, from {low} to {high}{or_none}")

    return check


def _seconds(low: float, high: float, bound: str, *, none: bool = False) -> Check:
    def check(name: str, value: Any) -> float | None:
        if value is None and none:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} is float seconds, not {type(value).__name__}")
        if math.isnan(value) or value < low:
            raise _bad(name, value, f"seconds, from {low:g} on")
        if value > high:
            raise _bad(name, value, f"seconds, up to {bound}; are these milliseconds?")
        return float(value)

    return check


def _choice(*choices: str) -> Check:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} is a str, not {type(value).__name__}")
        if value in choices:
            return value
        raise _bad(name, value, f"there is no such choice{nearest(value, choices)}")

    return check


def _compression_name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {type(value).__name__}")
    try:
        return _compression.check(value)
    except ValueError as error:
        raise _bad(name, value, str(error)) from None


def _delays(name: str, value: Any) -> tuple[float, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} is a sequence of seconds, not {type(value).__name__}")
    one = _seconds(0.0, 30 * _DAY, "30 days")
    return tuple(one(name, delay) for delay in value)


_DAY: Final = 86_400.0
#: Over it a retention is taken for milliseconds: a week in them is nineteen years.
_RETENTION_LIMIT: Final = 15 * 366 * _DAY

#: Options of a topic. Those behind `intake` matter to queues only, and are stored for them.
TOPIC: Final[Mapping[str, Option]] = {
    "partitions": Option(1, _count(1, 4096, "partitions")),
    "segment_bytes": Option(256 * MIB, _count(4096, 2**31 - 1, "bytes")),
    "batch_bytes": Option(128 * 1024, _count(512, GIB, "bytes")),
    "max_message_bytes": Option(MIB + 12, _count(128, GIB, "bytes")),
    "cleanup_policy": Option("keep", _choice("keep", "delete", "consumed", "compact")),
    "retention_bytes": Option(None, _count(0, 2**62, "bytes", none="no bound")),
    "retention_age": Option(None, _seconds(0.001, _RETENTION_LIMIT, "15 years", none=True)),
    "compression": Option("none", _compression_name),
    "durability": Option("os", _choice("os", "sync")),
    "sync_interval": Option(0.1, _seconds(0.001, 60.0, "60")),
    "intake": Option("open", _choice("open", "closed")),
    "maxsize": Option(0, _count(0, 2**62, "records")),
    "max_bytes": Option(0, _count(0, 2**62, "bytes")),
    "dedupe_window": Option(3600.0, _seconds(0.0, 30 * _DAY, "30 days")),
}

#: Options of a share group.
GROUP: Final[Mapping[str, Option]] = {
    "lock_duration": Option(30.0, _seconds(0.001, 30 * _DAY, "30 days", none=True)),
    "max_deliveries": Option(5, _count(1, 250, "deliveries", none="no limit")),
    "retry_delays": Option((1.0, 10.0, 60.0, 300.0), _delays),
    "max_acquired": Option(None, _count(1, 2**31, "records", none="no bound")),
}

#: Options of the store itself.
STORE: Final[Mapping[str, Option]] = {
    "max_bytes": Option(0, _count(0, 2**62, "bytes")),
    "min_free_bytes": Option(None, _count(0, 2**62, "bytes", none="the default")),
}

#: Stored whatever its maker said: `partitions` and `cleanup_policy` say what a topic is, and
#: `durability` is a promise that must not move with a default.
ALWAYS_STORED: Final = ("partitions", "cleanup_policy", "durability")


def check_options(table: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, each value as it is stored; a compression of None is as if left out.

    Raises:
        OptionError: There is no such option, or its value is out of range.
        TypeError: A value of the wrong type.
    """
    checked = {}
    for name, value in given.items():
        option = table.get(name)
        if option is None:
            raise OptionError(f"there is no option {name!r}{nearest(name, table)}")
        if value is None and name == "compression":
            continue
        checked[name] = option.check(name, value)
    return checked


def effective(table: Mapping[str, Option], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the table: as stored, else its default."""
    return {name: stored.get(name, option.default) for name, option in table.items()}


def refuse_difference(
    whose: str, topic: str | None, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """`OptionError` if a value given is not the stored one."""
    for name, value in given.items():
        if stored[name] != value:
            call = f"store.alter({topic!r}, {name}={value!r})"
            raise OptionError(
                f"{whose} has {name}={stored[name]!r}, and {value!r} was given; {call} changes it"
            )


def log_options(options: Mapping[str, Any]) -> _engine.LogOptions:
    """What the engine must know of a topic's options."""
    age, size = options["retention_age"], options["retention_bytes"]
    return _engine.LogOptions(
        segment_bytes=options["segment_bytes"],
        batch_bytes=batch_bytes(options),
        max_message_bytes=options["max_message_bytes"],
        sync_interval=options["sync_interval"],
        retention_bytes=-1 if size is None else size,
        retention_age=-1 if age is None else age,
        dedupe_window=options["dedupe_window"],
        durability=("os", "sync").index(options["durability"]),
        cleanup=("keep", "delete", "consumed", "compact").index(options["cleanup_policy"]),
    )


def batch_bytes(options: Mapping[str, Any]) -> int:
    """How far batches are filled: no further than what one batch may have."""
    bounds = ("batch_bytes", "max_message_bytes", "segment_bytes")
    return min(int(options[name]) for name in bounds)
