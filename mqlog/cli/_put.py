"""`mqlog put`: lines, or JSON objects a line, into a topic. The one verb that creates."""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import mqlog
from mqlog.cli import _arguments, _facts
from mqlog.cli._arguments import Parser, Verbs
from mqlog.cli._errors import CommandError, UsageError, describe
from mqlog.cli._lines import (
    BadLine,
    LineTooLongError,
    Source,
    check_source,
    json_object,
    json_type,
    line_groups,
    open_source,
)
from mqlog.cli._screen import Screen, human_size, plural

SHOWN_BAD_LINES = 10
MOST_SECONDS = 1e11  # as the API has it: more must be milliseconds

ABOUT = """\
Each line becomes the value of one record, byte for byte and without its end. With --ndjson,
--key-field or --time-field each line must be a JSON object; blank lines are then left out. A store
or a topic that is not there is made, and standard error says so. Files may be gzipped. What was
put before an error stays in the log."""

EXAMPLES = """
mqlog put shop-data notes < notes.txt
mqlog put shop-data orders orders.ndjson --key-field customer.id --time-field placed_at
mqlog put shop-data orders *.ndjson.gz --ndjson --skip-bad --compression lz4
tail -F access.log | mqlog put logs access --key web-1 --header host=web-1
find . -print0 | mqlog put files names --delimiter '\\0'
"""


def add_to(verbs: Verbs) -> None:
    summary = "append lines or NDJSON to a topic, which is made if it is not there"
    parser = _arguments.add_verb(verbs, "put", run, summary, about=ABOUT, examples=EXAMPLES)
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("files", metavar="FILE", nargs="*", help="- or none is standard input")
    _add_record_options(parser)
    _add_topic_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing when all is well")
    _arguments.add_json(parser)


def _add_record_options(parser: Parser) -> None:
    parser.add_argument("--ndjson", action="store_true", help="each line must be a JSON object")
    parser.add_argument(
        "--key-field", metavar="FIELD", help="the key is this field of the object (a.b goes inside)"
    )
    parser.add_argument(
        "--time-field",
        metavar="FIELD",
        help="the timestamp is this field: ISO 8601 (UTC without a zone) or epoch seconds",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="name bad lines and go on, instead of stopping"
    )
    parser.add_argument("--key", metavar="KEY", help="the key of every record")
    parser.add_argument(
        "--header",
        metavar="NAME=VALUE",
        type=_arguments.header,
        action="append",
        default=[],
        help="a header of every record; may be given again",
    )
    parser.add_argument(
        "--delimiter",
        type=_arguments.delimiter,
        default=b"\n",
        metavar="BYTES",
        help=r"what ends a line (default \n; there are \t \r \0 \xNN)",
    )
    parser.add_argument(
        "--sync", action="store_true", help="return when all of it is on stable storage"
    )


def _add_topic_options(parser: Parser) -> None:
    parser.add_argument(
        "--partitions", type=int, metavar="N", help="partitions of a new topic (default 1)"
    )
    parser.add_argument(
        "--partition", type=_arguments.count, metavar="P", help="put into this partition alone"
    )
    parser.add_argument(
        "--compression",
        choices=("none", "lz4", "gzip"),
        help="compress these records, and later ones too if the topic is new",
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    _check(args)
    files = args.files or ["-"]
    for path in files:  # before anything is made
        check_source(path)
    started = time.perf_counter()
    with _open_store(args, screen) as store:
        stream = _open_stream(store, args, screen)
        putter = Putter(args, screen, stream, store.options(args.topic)["max_message_bytes"])
        try:
            for path in files:
                if path == "-" and screen.can_ask and not args.quiet:
                    screen.say("reading lines from the terminal; Ctrl-D ends them")
                with open_source(path, screen) as source:
                    putter.put(source)
        finally:
            if args.sync:
                store.sync()
        _report(args, screen, putter, time.perf_counter() - started)
    return 0


def _check(args: argparse.Namespace) -> None:
    _facts.check_topic(args.topic)
    if not args.delimiter:
        raise UsageError("--delimiter must not be empty")
    if args.key is not None and args.key_field:
        raise UsageError("say --key or --key-field, not both")
    args.ndjson = bool(args.ndjson or args.key_field or args.time_field)
    if args.skip_bad and not args.ndjson:
        raise UsageError("--skip-bad is about JSON: add --ndjson, --key-field or --time-field")


def _open_store(args: argparse.Namespace, screen: Screen) -> mqlog.Store:
    with suppress(mqlog.NotFoundError):
        return mqlog.open(args.store, create=False)
    store = mqlog.open(args.store)
    _tell(args, screen, f"made the store {args.store}")
    return store


def _open_stream(
    store: mqlog.Store, args: argparse.Namespace, screen: Screen
) -> mqlog.Stream[Any, Any]:
    with suppress(mqlog.NotFoundError):
        stream = store.stream(args.topic, create=False)
        if args.partitions not in (None, len(stream.partitions)):
            raise CommandError(
                f"{args.topic} has {plural(len(stream.partitions), 'partition')}, not "
                f"{args.partitions}: leave --partitions out, or first run: "
                f"mqlog alter {args.store} {args.topic} partitions={args.partitions}"
            )
        _facts.check_partition(stream, args.partition)
        return stream
    if args.partition is not None and args.partition >= (args.partitions or 1):
        raise UsageError(f"--partition {args.partition} needs --partitions, and more than that")
    asked = {"partitions": args.partitions, "compression": args.compression}
    options = {name: value for name, value in asked.items() if value is not None}
    stream = store.stream(args.topic, **options)
    partitions = plural(len(stream.partitions), "partition")
    _tell(args, screen, f"made the topic {args.topic} ({partitions})")
    return stream


def _tell(args: argparse.Namespace, screen: Screen, text: str) -> None:
    if not args.quiet:
        screen.say(text)


@dataclass
class Batch:
    """Records on their way: columns as `append_many` takes them, and the line each came from."""

    lines: list[int] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    moments: list[datetime | float] = field(default_factory=list)

    def part(self, start: int, stop: int) -> "Batch":
        columns = (self.lines, self.values, self.keys, self.moments)
        return Batch(*(column[start:stop] for column in columns))  # type: ignore[arg-type]


class Putter:
    """Appends the lines of one source after the other."""

    def __init__(
        self,
        args: argparse.Namespace,
        screen: Screen,
        stream: mqlog.Stream[Any, Any],
        max_message_bytes: int,
    ) -> None:
        self.args = args
        self.screen = screen
        self.stream = stream
        self.max_message_bytes = max_message_bytes
        self.key = None if args.key is None else args.key.encode("utf-8", "surrogateescape")
        self.records = 0
        self.bytes = 0
        self.skipped = 0
        self.offsets: tuple[int, int] | None = None

    def put(self, source: Source) -> None:
        """Appends every line of `source`; what was put before an error stays."""
        limit, number = self.max_message_bytes, 1
        with self.screen.progress(os.path.basename(source.name), sizes=True) as step:
            try:
                for lines in line_groups(source.file, self.args.delimiter, limit):
                    self._put_lines(source.name, number, lines)
                    number += len(lines)
                    step(source.done(), source.size)
            except LineTooLongError as error:
                why = f"a line of over {limit} bytes, the topic's max_message_bytes"
                raise self._stop(source.name, error.line, why) from None

    def _put_lines(self, name: str, number: int, lines: Sequence[bytes]) -> None:
        batch = Batch()
        for at, line in enumerate(lines, start=number):
            try:
                self._add(batch, at, line)
            except BadLine as error:
                if not self.args.skip_bad:
                    self._append(name, batch)
                    what_next = "; --skip-bad leaves such lines out"
                    raise self._stop(name, at, str(error), what_next=what_next) from None
                self._skip(name, at, str(error))
        self._append(name, batch)

    def _add(self, batch: Batch, number: int, line: bytes) -> None:
        key = self.key
        if self.args.ndjson:
            if not line.strip():
                return
            document = json_object(line)
            if self.args.key_field:
                key = key_of(field_of(document, self.args.key_field), self.args.key_field)
            if self.args.time_field:
                moment = field_of(document, self.args.time_field)
                batch.moments.append(moment_of(moment, self.args.time_field))
        batch.lines.append(number)
        batch.values.append(line)
        batch.keys.append(key)

    def _append(self, name: str, batch: Batch) -> None:
        headers = self.args.header
        for part in self._calls(batch):
            count = len(part.values)
            try:
                offsets = self.stream.append_many(
                    part.values,
                    keys=part.keys if any(key is not None for key in part.keys) else None,
                    headers=[headers] * count if headers else None,
                    timestamps=part.moments or None,
                    partition=self.args.partition,
                    compression=self.args.compression,
                )
            except (mqlog.Error, OSError) as error:
                some = "at least " if len(self.stream.partitions) > 1 else ""  # whole in each
                raise self._stop(name, part.lines[0], describe(error), some=some) from error
            self.records += count
            self.bytes += sum(map(len, part.values))
            self.offsets = (self.offsets or offsets)[0], offsets[-1]

    def _calls(self, batch: Batch) -> Iterator[Batch]:
        """Small lines together; one that may be too large alone, so that a refusal names it."""
        large = self.max_message_bytes // 2
        start = 0
        for at, value in enumerate(batch.values):
            if len(value) >= large:
                if start < at:
                    yield batch.part(start, at)
                yield batch.part(at, at + 1)
                start = at + 1
        if start < len(batch.values):
            yield batch.part(start, len(batch.values))

    def _skip(self, name: str, number: int, why: str) -> None:
        self.skipped += 1
        if self.skipped <= SHOWN_BAD_LINES:
            self.screen.say(f"{name}:{number}: {why}; left out")
        elif self.skipped == SHOWN_BAD_LINES + 1:
            self.screen.say("more bad lines are left out without a word")

    def _stop(
        self, name: str, number: int, why: str, *, some: str = "", what_next: str = ""
    ) -> CommandError:
        were = "was" if self.records == 1 else "were"
        before = f"{some}{plural(self.records, 'record')} {were} put before it"
        return CommandError(f"{name}:{number}: {why}; {before}{what_next}")


# ── what a line says ────────────────────────────────────────────────────────────────────────────


def field_of(document: dict[str, Any], path: str) -> Any:
    """`a.b` is the field of that very name, or else field b of the object in field a."""
    if path in document:
        return document[path]
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise BadLine(f"it has no field {path!r}")
        value = value[name]
    return value


def key_of(value: Any, path: str) -> bytes | None:
    """A string as its UTF-8, a number or boolean as JSON writes it, null as no key."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, (dict, list)):
        raise BadLine(f"field {path!r} is {json_type(value)}, and no key")
    return json.dumps(value).encode()


def moment_of(value: Any, path: str) -> datetime | float:
    """ISO 8601 in a string, epoch seconds in a number; from 1970 on."""
    what = f"field {path!r} is no time (ISO 8601 or epoch seconds)"
    try:
        moment = _arguments.iso_moment(value) if isinstance(value, str) else value
        seconds = moment.timestamp() if isinstance(moment, datetime) else moment
        if not isinstance(seconds, bool) and 0 <= seconds <= MOST_SECONDS:
            return moment if isinstance(moment, datetime) else float(seconds)
        if seconds > MOST_SECONDS:
            what += ": milliseconds?"
    except (TypeError, ValueError, OverflowError):
        pass
    text = json.dumps(value)
    raise BadLine(f"{what}: {text if len(text) <= 40 else text[:40] + '...'}")


def _report(args: argparse.Namespace, screen: Screen, putter: Putter, seconds: float) -> None:
    if args.json:
        document = {
            "topic": args.topic,
            "records": putter.records,
            "bytes": putter.bytes,
            "skipped": putter.skipped,
            "seconds": round(seconds, 6),
        }
        if putter.offsets and len(putter.stream.partitions) == 1:
            document["first_offset"], document["last_offset"] = putter.offsets
        screen.json(document)
    elif not args.quiet:
        where = ""
        if putter.offsets and len(putter.stream.partitions) == 1:
            first, last = putter.offsets
            where = f", offset {first}" if first == last else f", offsets {first} to {last}"
        skipped = f"; {plural(putter.skipped, 'bad line')} left out" if putter.skipped else ""
        records = plural(putter.records, "record")
        size = human_size(putter.bytes)
        screen.say(f"put {records} ({size}) into {args.topic}{where}{skipped}")
