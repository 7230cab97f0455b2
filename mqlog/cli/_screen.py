"""Where a command's output goes: rich on a terminal that has it, plain text everywhere else.

Results go to standard output; what is said about them (`say`), questions and progress go to
standard error. In a pipe numbers are bare digits and tables are aligned columns, so that `awk` and
`sort` can read them; on a terminal they have thousands separators and units. `rich` is an extra:
without it, with `TERM=dumb`, and in a pipe everything still works, without colour.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from io import BytesIO
from typing import Any, BinaryIO, Protocol, TextIO, cast


class Step(Protocol):
    """Told how far a long job is, and what it is at."""

    def __call__(self, done: int, total: int | None = None, what: str = "", /) -> object: ...


class Screen:
    """The three standard streams, as they are when a command starts."""

    def __init__(self) -> None:
        _fill_descriptors()
        self.out = sys.stdout or os.fdopen(1, "w", closefd=False)
        self.err = sys.stderr or os.fdopen(2, "w", closefd=False)
        self._bars: Any = None  # rich's, while they are shown

    @cached_property
    def is_terminal(self) -> bool:
        """Whether a person reads standard output."""
        return self.out.isatty()

    @cached_property
    def can_ask(self) -> bool:
        return bool(sys.stdin) and sys.stdin.isatty() and self.err.isatty()

    @cached_property
    def bytes_out(self) -> BinaryIO:
        return cast(BinaryIO, self.out.buffer)

    @cached_property
    def bytes_in(self) -> BinaryIO:
        return cast(BinaryIO, sys.stdin.buffer) if sys.stdin else BytesIO()

    def console(self, stream: TextIO) -> Any:
        """A rich console on that stream, or None."""
        if not stream.isatty() or os.environ.get("TERM") == "dumb":
            return None
        try:
            from rich.console import Console
        except ImportError:
            return None
        return Console(file=stream, highlight=False, markup=False, emoji=False)

    def flush(self) -> None:
        self.out.flush()
        self.err.flush()

    # ── results ─────────────────────────────────────────────────────────────────────────────────

    def print(self, text: str = "") -> None:
        _write(self.out, f"{text}\n")

    def json(self, document: Any) -> None:
        indent = 2 if self.is_terminal else None
        _write(self.out, json.dumps(document, ensure_ascii=False, indent=indent) + "\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        heading: bool = True,
        styles: Mapping[int, str] | None = None,
        gap: int = 3,
    ) -> None:
        """A line a row under a heading line; a column whose name begins with `>` is set right.

        `styles` gives rows a rich style, by number; `gap` is between two columns on a terminal.
        """
        if console := self.console(self.out):
            console.print(_rich_table(columns, rows, heading, styles or {}, gap))
            return
        names = [name.lstrip(">").upper() for name in columns] if heading else [""] * len(columns)
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        for row in (names, *rows) if heading else rows:
            cells = [
                cell.rjust(width) if name.startswith(">") else cell.ljust(width)
                for cell, width, name in zip(row, widths, columns, strict=True)
            ]
            self.print("  ".join(cells).rstrip())

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """A line a fact: its name, what it is."""
        self.table(("", ""), facts, heading=False)

    # ── cells ───────────────────────────────────────────────────────────────────────────────────

    def count(self, number: int) -> str:
        return f"{number:,}" if self.is_terminal else str(number)

    def size(self, number: int) -> str:
        return human_size(number) if self.is_terminal else str(number)

    def age(self, seconds: float | None) -> str:
        """How long ago; in a pipe seconds, `-` where there is none."""
        if seconds is None:
            return "-"
        return human_age(seconds) if self.is_terminal else f"{seconds:.3f}"

    # ── beside the results ──────────────────────────────────────────────────────────────────────

    def say(self, text: str) -> None:
        """One line on standard error, above the bar if there is one."""
        self.out.flush()
        if self._bars is not None:
            self._bars.console.print(f"mqlog: {text}")
            return
        _write(self.err, f"mqlog: {text}\n")
        self.err.flush()

    def ask(self, question: str) -> bool:
        """True for a yes; an empty answer or the end of the input is a no."""
        self.flush()
        _write(self.err, f"{question} [y/N] ")
        self.err.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def progress(self, what: str, *, sizes: bool = False) -> Iterator[Step]:
        """A bar on a terminal with rich; nothing elsewhere. `sizes`: the numbers are bytes."""
        console = self.console(self.err)
        if console is None:
            yield lambda done, total=None, what="": None
            return
        from rich import progress

        shown: Any = progress.DownloadColumn() if sizes else progress.MofNCompleteColumn()
        text = progress.TextColumn("{task.description}")
        columns = (text, progress.BarColumn(), shown, progress.TimeRemainingColumn())
        with progress.Progress(*columns, console=console, transient=True) as bars:
            task = bars.add_task(what, total=None)
            self._bars = bars
            try:
                yield lambda done, total=None, now="": bars.update(
                    task, completed=done, total=total, description=now or what
                )
            finally:
                self._bars = None


def _fill_descriptors() -> None:
    """Where a shell has closed 0, 1 or 2 (`2>&-`), no file of a store may come to stand there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def human_size(number: int) -> str:
    """`417 B`, `1.2 MiB`: at most four characters of number."""
    if number < 1024:
        return f"{number} B"
    units = ("KiB", "MiB", "GiB", "TiB", "PiB")
    power = next((n for n in range(1, 5) if number < 999.5 * 1024**n), 5)
    size = number / 1024**power
    return f"{size:.0f} {units[power - 1]}" if size >= 99.95 else f"{size:.1f} {units[power - 1]}"


def human_duration(seconds: float) -> str:
    """`0.1 s`, `90 s`, `15 min`, `1 h`, `7 d`: exactly, in the largest unit that divides it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:,.0f} {unit}"
    return f"{seconds:,g} s"


def human_age(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `40 d`: about."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def utc(seconds: float) -> str:
    """Epoch seconds as `2026-03-14T11:03:41.512Z`; as `@253402300800` where that cannot say it."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"@{seconds:.0f}"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(stream: TextIO, text: str) -> None:
    """Text in whatever encoding the stream has; what that cannot say is escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _rich_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    heading: bool,
    styles: Mapping[int, str],
    gap: int,
) -> Any:
    from rich.table import Table

    table = Table(
        box=None,
        show_header=heading,
        header_style="bold",
        pad_edge=False,
        padding=(0, gap, 0, 0),
    )
    for at, name in enumerate(columns):
        table.add_column(
            name.lstrip(">"),
            justify="right" if name.startswith(">") else "left",
            style="cyan" if at == 0 else None,
            overflow="fold",
            no_wrap=name.startswith(">"),
        )
    for at, row in enumerate(rows):
        table.add_row(*row, style=styles.get(at))
    return table
