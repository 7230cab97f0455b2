"""What the words of a command line mean: the parser, and the types of its arguments."""

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Never, Protocol

import mqlog
from mqlog.cli._errors import UsageError

if TYPE_CHECKING:
    from mqlog.cli._screen import Screen

    Verbs = argparse._SubParsersAction["Parser"]
else:
    Verbs = object

WIDTH = 96
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}


class Run(Protocol):
    """What carries a verb out and gives the exit code."""

    def __call__(self, args: argparse.Namespace, screen: "Screen", /) -> int: ...


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines; gives option names room."""

    def __init__(self, prog: str, **how: Any) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH, **how)


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print a page of usage and exit."""

    def __init__(self, **how: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **how)

    def error(self, message: str) -> Never:
        raise UsageError(f"{message} (see {self.prog} --help)")


class VerbParser(Parser):
    """Takes options anywhere, also between positional arguments: `put STORE TOPIC --key k FILE`."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


def add_verb(
    verbs: "Verbs", name: str, run: Run, summary: str, *, about: str = "", examples: str = ""
) -> Parser:
    """Declares `mqlog NAME` with a page of help that ends in examples."""
    paragraphs = f"{summary[0].upper()}{summary[1:]}. {about}".strip().split("\n\n")
    indented = "".join(f"  {line}\n" for line in examples.strip().splitlines())
    parser = verbs.add_parser(
        name,
        help=summary,
        description="\n\n".join(textwrap.fill(one, WIDTH) for one in paragraphs),
        epilog=f"examples:\n{indented}" if indented else None,
    )
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")


def split_command(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """`run STORE QUEUE -- command …` in two; None where there is no command."""
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb != "run" or "--" not in words:
        return list(words), None
    at = list(words).index("--")
    return list(words[:at]), list(words[at + 1 :])


def join_negative_values(words: Sequence[str]) -> list[str]:
    """`--from -1h` as `--from=-1h`: argparse takes a word in `-` for an option."""
    joiners = {"--from": "=", "--to": "=", "-f": "", "-t": ""}
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in joiners and re.match(r"-\d", word):
            joined[-1] += joiners[joined[-1]] + word
        else:
            joined.append(word)
    return joined


@dataclass(frozen=True)
class Place:
    """Where reading starts or stops, as `--from` and `--to` say it.

    Exactly one member is set: an offset, a number of records before the log end, a moment, or one
    of the log's two ends.
    """

    offset: int | None = None
    back: int | None = None
    moment: datetime | None = None
    end: str | None = None

    def in_partition(self, partition: Any) -> int:
        """The offset it means there."""
        if self.offset is not None:
            return self.offset
        if self.back is not None:
            return max(int(partition.start_offset), int(partition.end_offset) - self.back)
        if self.moment is not None:
            return int(partition.offset_at(self.moment))
        return int(partition.start_offset if self.end == "earliest" else partition.end_offset)

    @property
    def is_in_one_partition(self) -> bool:
        """Offsets are counted in a partition; moments and ends hold for a whole topic."""
        return self.offset is not None or self.back is not None

    def in_topic(self) -> Any:
        """The same as the API takes it; `back` has no such form."""
        if self.offset is not None:
            return self.offset
        if self.moment is not None:
            return self.moment
        return mqlog.EARLIEST if self.end == "earliest" else mqlog.LATEST


def place(text: str) -> Place:
    """Reads `earliest`, `latest`, 17, -17, -1h, @1763800000 or an ISO 8601 time."""
    if text in ("earliest", "latest"):
        return Place(end=text)
    if re.fullmatch(r"\d+", text):
        return Place(offset=int(text))
    if re.fullmatch(r"-\d+", text):
        return Place(back=-int(text))
    if match := re.fullmatch(r"-(\d+(?:\.\d+)?)([smhdw])", text):
        ago = timedelta(seconds=float(match[1]) * UNITS[match[2]])
        return Place(moment=datetime.now(UTC) - ago)
    try:
        if text.startswith("@"):
            return Place(moment=datetime.fromtimestamp(float(text[1:]), UTC))
        return Place(moment=iso_moment(text))
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no place: say an offset (17), -17 (so many before the end), earliest, "
            "latest, a time (2026-03-14T12:00Z), -1h, or @EPOCH_SECONDS"
        ) from None


def iso_moment(text: str) -> datetime:
    """An ISO 8601 time; UTC where it names no zone. `ValueError` where it is none."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


PLACES = (
    "An offset (17), -17 (so many records before the end), earliest, latest, a time "
    "(2026-03-14T12:00:00+01:00, UTC without a zone), -90s, -15m, -1h, -7d, or @EPOCH_SECONDS"
)


def add_limit(parser: Parser, default: int | None, what: str) -> None:
    """`-n`, of verbs that look at the next or the oldest of something."""
    parser.add_argument(
        *("-n", "--limit"), type=count, metavar="N", default=default, help=f"at most so many {what}"
    )


def add_range(parser: Parser, *, start: str = "earliest", stop: bool = True) -> None:
    """`--from`, `--to` and `-n`."""
    parser.add_argument(
        *("--from", "-f"),
        dest="start",
        type=place,
        default=Place(end=start),
        metavar="PLACE",
        help=f"where to start (default {start}). {PLACES}",
    )
    if stop:
        parser.add_argument(
            *("--to", "-t"),
            dest="stop",
            type=place,
            metavar="PLACE",
            help="where to stop; the record there is left out (default: the end)",
        )
    parser.add_argument(*("-n", "--limit"), type=count, metavar="N", help="stop after N records")


def count(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return min(int(text), sys.maxsize)


def speed(text: str) -> float:
    """`10x`, `0.5x` or `10`: so many seconds of the log in one of the clock."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)[x×]?", text)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no speed: say 1x (as recorded), 10x or 0.5x")
    return float(match[1])


def header(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no header: say name=value")
    return name, value.encode("utf-8", "surrogateescape")


def delimiter(text: str) -> bytes:
    r"""Bytes between records: text with the escapes \n \t \r \0 \\ and \xNN."""
    return b"".join(_unescape(text))


def _unescape(text: str) -> Iterator[bytes]:
    for part in re.findall(r"\\x[0-9A-Fa-f]{2}|\\.|[^\\]+|\\$", text, re.DOTALL):
        if part.startswith("\\x") and len(part) == 4:
            yield bytes.fromhex(part[2:])
        elif part.startswith("\\") and part[1:] in ESCAPES:
            yield ESCAPES[part[1:]]
        elif part.startswith("\\"):
            raise argparse.ArgumentTypeError(
                f"{part!r} is no escape: there are \\n \\t \\r \\0 \\\\ and \\xNN"
            )
        else:
            yield part.encode("utf-8", "surrogateescape")


def size(text: str) -> int:
    """`4096`, `64k`, `64KiB`, `1.5g`: bytes, in powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is no size: say 4096, 64KiB, 256MiB or 1GiB")
    return int(float(match[1]) * SIZES[match[2]])


def duration_argument(text: str) -> float:
    """A duration over 0."""
    try:
        seconds = duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds == 0:
        raise argparse.ArgumentTypeError("a time over 0")
    return seconds


def duration(text: str) -> float:
    """`30`, `30s`, `15m`, `2h`, `7d`, `1w`: seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is no duration: say 30, 30s, 15m, 2h, 7d or 1w")
    return float(match[1]) * UNITS[match[2] or "s"]
