"""`mqlog cat`, `tail`, `replay`: records out of a store."""

import argparse
import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, BinaryIO, TypeVar

import mqlog
from mqlog.cli import _arguments, _facts
from mqlog.cli._arguments import Parser, Place, Verbs
from mqlog.cli._errors import UsageError
from mqlog.cli._screen import Screen

T = TypeVar("T")
AnyRecord = mqlog.Record[Any]
AnyStream = mqlog.Stream[Any, Any]

FLUSH_BYTES = 64 * 1024
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

CAT = "print a topic's records: values as lines, JSON, or raw bytes"
CAT_ABOUT = """\
Reads what is there and stops; the store is opened read-only. Partitions come one after the other.
A null value is an empty line."""
CAT_EXAMPLES = """
mqlog cat shop-data orders -n 10
mqlog cat shop-data orders --from -100                  the last hundred
mqlog cat shop-data orders --from -1h --json | jq .key
mqlog cat shop-data orders --from 2026-03-14T11:00Z --to 2026-03-14T13:00Z
mqlog cat shop-data frames --format raw --delimiter '\\0' > frames.bin
"""

TAIL = "print records as they arrive, until Ctrl-C"
TAIL_ABOUT = """\
Starts behind the last record, or where --from says, and follows what any process appends. It waits
inside the store, so it needs permission to write there."""
TAIL_EXAMPLES = """
mqlog tail shop-data orders
mqlog tail shop-data orders --from -10                  the last ten, then what comes
mqlog tail shop-data orders --from earliest --json | jq -c 'select(.key == "c-17")'
"""

REPLAY = "print a topic's records in time order, at their own pace or another"
REPLAY_ABOUT = """\
Merges the partitions by timestamp; the store is opened read-only. With --speed 1x the pauses
between records are those of their timestamps; without --speed there are none. STORE may also be one
partition's directory or one segment file; TOPIC may be left out where there is only one."""
REPLAY_EXAMPLES = """
mqlog replay shop-data orders --speed 10x
mqlog replay shop-data/orders-0/00000000000000000000.log --json
mqlog replay shop-data orders --from 2026-03-14T11:30Z --to 2026-03-14T12:30Z --speed 60x
"""

JSON_ABOUT = """

As JSON a record is one line: topic, partition, offset, timestamp (epoch seconds), key, headers (a
list of pairs) and value. Bytes that are not UTF-8 are {"base64": "..."}."""


def add_to(verbs: Verbs) -> None:
    parser = _add(verbs, "cat", cat, CAT, CAT_ABOUT, CAT_EXAMPLES)
    parser.add_argument("topic", metavar="TOPIC")
    _arguments.add_range(parser)
    _add_output(parser)
    _add_skip_corrupt(parser)

    parser = _add(verbs, "tail", tail, TAIL, TAIL_ABOUT, TAIL_EXAMPLES)
    parser.add_argument("topic", metavar="TOPIC")
    _arguments.add_range(parser, start="latest", stop=False)
    _add_output(parser)

    parser = _add(verbs, "replay", replay, REPLAY, REPLAY_ABOUT, REPLAY_EXAMPLES)
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="may be left out if there is one")
    _arguments.add_range(parser)
    parser.add_argument(
        "--speed",
        type=_arguments.speed,
        metavar="1x",
        help="1x as recorded, 10x ten times as fast, 0.5x half as fast",
    )
    _add_output(parser)
    _add_skip_corrupt(parser)


def _add(
    verbs: Verbs, name: str, run: _arguments.Run, summary: str, about: str, examples: str
) -> Parser:
    parser = _arguments.add_verb(
        verbs, name, run, summary, about=about + JSON_ABOUT, examples=examples
    )
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    return parser


def _add_output(parser: Parser) -> None:
    parser.add_argument(
        "--partition", type=_arguments.count, metavar="P", help="this partition alone"
    )
    add_format(parser)


def add_format(parser: Parser) -> None:
    """`--format`, `--json` and `--delimiter`, as `output` reads them."""
    parser.add_argument(
        "--format",
        choices=("lines", "json", "raw"),
        default="lines",
        help="values a line each (default), a JSON object a line, or the bytes alone",
    )
    parser.add_argument(
        "--json", dest="format", action="store_const", const="json", help="short for --format json"
    )
    parser.add_argument(
        "--delimiter",
        type=_arguments.delimiter,
        metavar="BYTES",
        help=r"with --format raw: what follows each value (default nothing; \n \t \0 \xNN)",
    )


def _add_skip_corrupt(parser: Parser) -> None:
    parser.add_argument(
        "--skip-corrupt",
        action="store_true",
        help="name damaged places and read on behind them, instead of stopping; exit code 1",
    )


# ── the verbs ───────────────────────────────────────────────────────────────────────────────────


def cat(args: argparse.Namespace, screen: Screen) -> int:
    damage = Damage(args.skip_corrupt, screen)
    with output(args, screen) as out, mqlog.open(args.store, mode="r") as store:
        stream = store.stream(args.topic, create=False)
        read = stream.read if args.format == "json" else partial(stream.values, raw=True)
        found: Iterator[Any] = chain.from_iterable(
            damage.survivors(read(*_range(stream, partition, args), partition=partition))
            for partition in _chosen(stream, args)
        )
        put = out.record if args.format == "json" else out.value
        for record in islice(found, args.limit):
            put(record)
    return damage.exit_code


def tail(args: argparse.Namespace, screen: Screen) -> int:
    with output(args, screen, live=True) as out, mqlog.open(args.store, create=False) as store:
        stream = store.stream(args.topic, create=False)
        _chosen(stream, args)
        records = stream.tail(_start_in_topic(stream, args.start))
        mine = (one for one in records if args.partition in (None, one.partition))
        for record in islice(mine, args.limit):
            out.record(record)
    return 0


def replay(args: argparse.Namespace, screen: Screen) -> int:
    damage = Damage(args.skip_corrupt, screen)
    with output(args, screen, live=args.speed is not None) as out:
        for record in islice(damage.survivors(_replayed(args)), args.limit):
            out.record(record)
    return damage.exit_code


# ── where they read ─────────────────────────────────────────────────────────────────────────────


def _chosen(stream: AnyStream, args: argparse.Namespace) -> list[int]:
    """The partitions to read; refuses an offset that would stand for several."""
    if args.partition is not None:
        _facts.check_partition(stream, args.partition)
        return [args.partition]
    count = len(stream.partitions)
    places = [args.start, getattr(args, "stop", None)]
    if count > 1 and any(place and place.is_in_one_partition for place in places):
        raise _ambiguous(stream, "add --partition P, or say a time")
    return list(range(count))


def _ambiguous(stream: AnyStream, what_next: str) -> UsageError:
    return UsageError(
        f"{stream.name} has {len(stream.partitions)} partitions, each with offsets of its own: "
        f"{what_next}"
    )


def _range(stream: AnyStream, partition: int, args: argparse.Namespace) -> tuple[Any, Any]:
    log = stream.partitions[partition]
    return args.start.in_partition(log), args.stop and args.stop.in_partition(log)


def _start_in_topic(stream: AnyStream, place: Place) -> Any:
    if not place.is_in_one_partition:
        return place.in_topic()
    if len(stream.partitions) > 1:
        raise _ambiguous(stream, "say earliest, latest or a time")
    return place.in_partition(stream.partitions[0])


def _replay_range(args: argparse.Namespace) -> tuple[Any, Any]:
    """Start and stop as `mqlog.replay` takes them."""
    places: tuple[Place, Place | None] = (args.start, args.stop)
    if not any(place and place.back is not None for place in places):
        return args.start.in_topic(), args.stop and args.stop.in_topic()
    if args.topic is None:
        raise UsageError("so many records before the end of what? Name the TOPIC")
    with mqlog.open(args.store, mode="r") as store:
        stream = store.stream(args.topic, create=False)
        if len(stream.partitions) > 1 and args.partition is None:
            raise _ambiguous(stream, "add --partition P, or say a time")
        log = stream.partitions[args.partition or 0]
        return args.start.in_partition(log), args.stop and args.stop.in_partition(log)


def _replayed(args: argparse.Namespace) -> Iterator[AnyRecord]:
    path, topic = args.store, args.topic
    if args.partition is not None:
        if topic is None:
            raise UsageError("--partition is one of a topic's: name the TOPIC")
        path, topic = os.path.join(path, f"{topic}-{args.partition}"), None
    start, stop = _replay_range(args)
    try:
        return mqlog.replay(path, start, stop, topic=topic, speed=args.speed)
    except mqlog.Error:
        raise
    except ValueError:  # several topics, or an offset of several partitions
        with mqlog.open(args.store, mode="r") as store:
            if args.topic is not None:
                stream = store.stream(args.topic, create=False)
                raise _ambiguous(stream, "add --partition P, or say a time") from None
            names = ", ".join(topic.name for topic in store.topics())
        raise UsageError(f"{args.store} has several topics: name one of {names}") from None


class Damage:
    """Decides whether reading goes on behind damaged bytes, and remembers that there were some."""

    def __init__(self, skip: bool, screen: Screen) -> None:
        self.exit_code = 0
        self._skip = skip
        self._screen = screen

    def survivors(self, records: Iterator[T]) -> Iterator[T]:
        """What `records` gives; mqlog's iterators go on behind the damage that they raise."""
        while True:
            try:
                yield from records
                return
            except mqlog.CorruptError as error:
                if not self._skip:
                    raise
                self._screen.say(str(error))
                self.exit_code = 1


# ── how they print ──────────────────────────────────────────────────────────────────────────────


class Output:
    """Bytes on standard output, in large writes; at once where somebody waits for them (`live`)."""

    def __init__(self, to: BinaryIO, form: str, delimiter: bytes, live: bool) -> None:
        self._write = to.write
        self._flush_file = to.flush
        self._json = form == "json"
        self._delimiter = delimiter
        self._bound = 0 if live else FLUSH_BYTES
        self._parts: list[bytes] = []
        self._size = 0

    def record(self, record: AnyRecord) -> None:
        if not self._json:
            self.value(record.raw)
            return
        self._add(ENCODE(as_json(record)).encode() + b"\n")

    def value(self, value: bytes | None) -> None:
        self._add((value or b"") + self._delimiter)

    def _add(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= self._bound:
            self.flush()

    def flush(self) -> None:
        if self._parts:
            self._write(b"".join(self._parts))
            self._parts.clear()
            self._size = 0
            self._flush_file()


@contextmanager
def output(args: argparse.Namespace, screen: Screen, *, live: bool = False) -> Iterator[Output]:
    """An `Output` as the options say; what it holds is written also when reading fails."""
    if args.delimiter is not None and args.format != "raw":
        raise UsageError("--delimiter goes with --format raw")
    delimiter = (args.delimiter or b"") if args.format == "raw" else b"\n"
    screen.flush()
    out = Output(screen.bytes_out, args.format, delimiter, live or screen.is_terminal)
    try:
        yield out
    finally:
        out.flush()


def as_json(record: AnyRecord) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": text_of(record.key),
        "headers": [[name, text_of(value)] for name, value in record.headers],
        "value": text_of(record.raw),
    }


def text_of(data: bytes | None) -> str | dict[str, str] | None:
    """UTF-8 as a string; other bytes as {"base64": ...}; null as null."""
    if data is None:
        return None
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}
