"""The small parts under the verbs: places, sizes, delimiters, lines, numbers for people."""

import argparse
import io
from datetime import UTC, datetime
from typing import Any

import pytest

from mqlog.cli import _arguments, _screen
from mqlog.cli._arguments import Place, place
from mqlog.cli._lines import LineTooLongError, line_groups


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("17", Place(offset=17)),
        ("0", Place(offset=0)),
        ("-17", Place(back=17)),
        ("earliest", Place(end="earliest")),
        ("latest", Place(end="latest")),
        ("@1.5", Place(moment=datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC))),
        ("2026-03-14", Place(moment=datetime(2026, 3, 14, tzinfo=UTC))),
        ("2026-03-14T12:00Z", Place(moment=datetime(2026, 3, 14, 12, tzinfo=UTC))),
        ("2026-03-14 12:00+01:00", Place(moment=datetime(2026, 3, 14, 11, tzinfo=UTC))),
    ],
)
def test_a_place_is_read_as_it_is_written(text: str, meant: Place) -> None:
    assert place(text) == meant


@pytest.mark.parametrize(
    "text", ["", "soon", "1.5", "-1y", "+1h", "@", "@nan", "@1e99", "2026-13-01", "-", "--"]
)
def test_what_is_no_place_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="earliest"):
        place(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64k", 65536),
        ("64KiB", 65536),
        ("1.5 MB", 3 << 19),
        ("2t", 2 << 40),
    ],
)
def test_sizes_count_in_powers_of_1024(text: str, size: int) -> None:
    assert _arguments.size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("1.5m", 90), ("2 h", 7200), ("7d", 604800), ("1w", 604800)]
)
def test_durations_are_seconds_unless_they_say_otherwise(text: str, seconds: float) -> None:
    assert _arguments.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "k", "-1", "1e3", "1x", "64 bits"])
def test_what_is_no_size_and_no_duration_is_refused(text: str) -> None:
    for read in (_arguments.size, _arguments.duration):
        with pytest.raises(ValueError, match="say"):
            read(text)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("\\n", b"\n"),
        ("\\0", b"\0"),
        ("a\\tb", b"a\tb"),
        ("\\x00\\xff", b"\x00\xff"),
        ("\\\\n", b"\\n"),
        ("é", b"\xc3\xa9"),
    ],
)
def test_a_delimiter_takes_escapes(text: str, data: bytes) -> None:
    assert _arguments.delimiter(text) == data


@pytest.mark.parametrize("text", ["\\q", "\\", "\\x0", "\\xgg"])
def test_an_unknown_escape_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="escape"):
        _arguments.delimiter(text)


class Drip(io.RawIOBase):
    """Gives so many bytes a read, whatever is asked for."""

    def __init__(self, data: bytes, step: int) -> None:
        self.left = data
        self.step = step

    def read1(self, size: int) -> bytes:
        data, self.left = self.left[: self.step], self.left[self.step :]
        return data


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "delimiter", "lines"),
    [
        (b"", b"\n", []),
        (b"\n", b"\n", [b""]),
        (b"one", b"\n", [b"one"]),
        (b"one\n\ntwo\n", b"\n", [b"one", b"", b"two"]),
        (b"one\ntwo", b"\n", [b"one", b"two"]),
        (b"a--b-c---d", b"--", [b"a", b"b-c", b"-d"]),
        (b"xaaay", b"aa", [b"x", b"ay"]),
    ],
)
def test_lines_are_the_same_however_reads_cut_them(
    step: int, data: bytes, delimiter: bytes, lines: list[bytes]
) -> None:
    file: Any = Drip(data, step)
    assert [line for group in line_groups(file, delimiter, 100) for line in group] == lines


def test_a_line_over_the_limit_is_told_by_its_number() -> None:
    file: Any = Drip(b"one\ntwo\n" + b"x" * 50, 5)
    with pytest.raises(LineTooLongError) as error:
        list(line_groups(file, b"\n", 20))
    assert error.value.line == 3


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (417_000, "407 KiB"),
        (1_048_575, "1.0 MiB"),
        (256 << 20, "256 MiB"),
        (5 << 40, "5.0 TiB"),
        (2000 << 50, "2000 PiB"),
    ],
)
def test_sizes_for_people(number: int, text: str) -> None:
    assert _screen.human_size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "0.1 s"), (90, "90 s"), (900, "15 min"), (3600.0, "1 h"), (604800.0, "7 d"), (0, "0 s")],
)
def test_durations_for_people_are_exact(seconds: float, text: str) -> None:
    assert _screen.human_duration(seconds) == text
