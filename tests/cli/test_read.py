"""`mqlog cat`, `tail`, `replay`."""

import base64
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import mqlog

from .conftest import Run, Start, fill, snapshot

TEN = [f"order {number}" for number in range(10)]
BOTH = pytest.mark.parametrize("verb", ["cat", "replay"])


@BOTH
def test_it_prints_values_a_line_each(ok: Run, orders: Path, verb: str) -> None:
    assert ok(verb, orders, "orders").lines == TEN


@BOTH
@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--from", "3"), range(3, 10)),
        (("--from", "earliest"), range(10)),
        (("--from", "latest"), range(0)),
        (("--from", "-2"), range(8, 10)),
        (("--from=-2",), range(8, 10)),
        (("--from", "-200"), range(10)),
        (("--to", "3"), range(3)),
        (("--to", "-3"), range(7)),
        (("--to", "latest"), range(10)),
        (("--to", "999"), range(10)),
        (("--from", "3", "--to", "3"), range(0)),
        (("--from", "5", "--to", "3"), range(0)),
        (("-n", "4"), range(4)),
        (("-n", "9" * 30), range(10)),
        (("-n", "0"), range(0)),
        (("--from", "8", "-n", "4"), range(8, 10)),
        (("--from", "2001-09-09T01:46:43Z"), range(3, 10)),
        (("--from", "2001-09-09T01:46:43"), range(3, 10)),
        (("--from", "2001-09-09T03:46:43+02:00"), range(3, 10)),
        (("--from", "2001-09-09T01:46:42.5Z", "--to", "2001-09-09T01:46:45Z"), range(3, 5)),
        (("--from", "@1000000007"), range(7, 10)),
        (("--from", "-1h"), range(0)),
        (("--to", "-1.5d"), range(10)),
        (("-f", "2", "-t", "4"), range(2, 4)),
        (("-f", "-3", "-t", "-1"), range(7, 9)),
    ],
)
def test_from_and_to_take_offsets_moments_and_ends(
    ok: Run, orders: Path, verb: str, words: tuple[str, ...], numbers: range
) -> None:
    assert ok(verb, orders, "orders", *words).lines == [f"order {number}" for number in numbers]


def test_a_relative_time_counts_from_now(ok: Run, store: Path) -> None:
    now = datetime.now(UTC).timestamp()
    with mqlog.open(store) as opened:
        stream = opened.stream("orders")
        stream.append(b"two hours ago", timestamp=now - 7200)
        stream.append(b"a minute ago", timestamp=now - 60)
    assert ok("cat", store, "orders", "--from", "-1h").lines == ["a minute ago"]
    assert ok("cat", store, "orders", "--to", "-90s").lines == ["two hours ago"]
    assert ok("cat", store, "orders", "--from", "-1w", "--to", "-0s", "-n", "1").lines == [
        "two hours ago"
    ]


@BOTH
def test_an_offset_that_is_not_there_is_an_error_that_names_the_range(
    run: Run, orders: Path, verb: str
) -> None:
    result = run(verb, orders, "orders", "--from", "11")
    assert result.code == 1
    assert "11" in result.err and "10" in result.err
    assert result.err.count("\n") == 1


@BOTH
def test_json_tells_everything_of_a_record(ok: Run, orders: Path, verb: str) -> None:
    assert ok(verb, orders, "orders", "--json", "-n", "1").records == [
        {
            "topic": "orders",
            "partition": 0,
            "offset": 0,
            "timestamp": 1_000_000_000.0,
            "key": "customer-0",
            "headers": [["n", "0"]],
            "value": "order 0",
        }
    ]


@BOTH
def test_json_has_base64_for_bytes_that_are_not_utf_8(ok: Run, store: Path, verb: str) -> None:
    value, key = b"\xff\x00", b"\x80"
    with mqlog.open(store) as opened:
        stream = opened.stream("frames")
        stream.append(value, key=key, headers=[("h", b"\xfe"), ("h", None)])
        stream.append(None)
        stream.append("Zoë \U0001f382".encode())
    first, null, text = ok(verb, store, "frames", "--format", "json").records
    assert base64.b64decode(first["value"]["base64"]) == value
    assert base64.b64decode(first["key"]["base64"]) == key
    assert first["headers"] == [["h", {"base64": "/g=="}], ["h", None]]
    assert (null["value"], null["key"], null["headers"]) == (None, None, [])
    assert text["value"] == "Zoë \U0001f382"


@BOTH
def test_raw_gives_the_exact_bytes(ok: Run, store: Path, verb: str) -> None:
    values = [b"\x00\xff", b"", b"line\n", b"end"]
    with mqlog.open(store) as opened:
        opened.stream("frames").append_many(values)
    assert ok(verb, store, "frames", "--format", "raw").raw == b"".join(values)
    delimited = ok(verb, store, "frames", "--format", "raw", "--delimiter", "\\0|\\x7C").raw
    assert delimited == b"".join(value + b"\0||" for value in values)


def test_a_topic_with_a_codec_is_printed_as_it_is_stored(ok: Run, store: Path) -> None:
    with mqlog.open(store) as opened:
        opened.stream("orders", codec=mqlog.codecs.json).append({"id": 1})
    for verb in ("cat", "replay"):
        assert ok(verb, store, "orders").lines == ['{"id":1}']
    assert ok("tail", store, "orders", "--from", "0", "-n", "1").lines == ['{"id":1}']


@BOTH
def test_looking_changes_no_byte_and_no_time_of_any_file(ok: Run, orders: Path, verb: str) -> None:
    before = snapshot(orders)
    ok(verb, orders, "orders")
    assert snapshot(orders) == before


@BOTH
def test_a_store_that_another_handle_writes_to_can_be_read(ok: Run, store: Path, verb: str) -> None:
    with mqlog.open(store) as opened:
        stream = opened.stream("orders")
        fill(stream, range(3))
        assert ok(verb, store, "orders").lines == TEN[:3]
        fill(stream, range(3, 10))
        assert ok(verb, store, "orders").lines == TEN


# ── partitions ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def spread(store: Path) -> Path:
    """Ten records a second apart, in turn in the three partitions of `spread`."""
    with mqlog.open(store) as opened:
        stream = opened.stream("spread", partitions=3)
        for number in range(10):
            timestamp = 1_000_000_000.0 + number
            stream.append(b"%d" % number, partition=number % 3, timestamp=timestamp)
    return store


def test_cat_reads_partition_after_partition(ok: Run, spread: Path) -> None:
    assert ok("cat", spread, "spread").out.split() == list("0369147258")
    assert ok("cat", spread, "spread", "-n", "5").out.split() == list("03691")
    assert ok("cat", spread, "spread", "--from", "@1000000004").out.split() == list("694758")


def test_replay_merges_partitions_by_time(ok: Run, spread: Path) -> None:
    assert ok("replay", spread, "spread").out.split() == list("0123456789")


@BOTH
def test_one_partition_alone_takes_offsets(ok: Run, spread: Path, verb: str) -> None:
    one = (verb, spread, "spread", "--partition", "1")
    assert ok(*one).out.split() == list("147")
    assert ok(*one, "--from", "1").out.split() == list("47")
    assert ok(*one, "--from", "-1").out.split() == list("7")
    assert ok(*one, "--to", "-1").out.split() == list("14")


@BOTH
@pytest.mark.parametrize("place", ["1", "-1"])
def test_an_offset_without_a_partition_is_refused_where_there_are_several(
    run: Run, spread: Path, verb: str, place: str
) -> None:
    result = run(verb, spread, "spread", "--from", place)
    assert result.code in (1, 2)
    assert "3 partitions" in result.err
    assert result.out == ""


@BOTH
def test_a_partition_that_is_not_there_exits_3(run: Run, spread: Path, verb: str) -> None:
    assert run(verb, spread, "spread", "--partition", "3").code == 3


def test_replay_takes_a_partition_s_directory_and_a_segment(ok: Run, spread: Path) -> None:
    assert ok("replay", spread / "spread-2").out.split() == list("258")
    segment = spread / "spread-2" / "00000000000000000000.log"
    assert ok("replay", segment, "--from", "1").out.split() == list("58")


def test_replay_without_a_topic_takes_the_only_one(ok: Run, run: Run, orders: Path) -> None:
    assert ok("replay", orders).lines == TEN
    ok("put", orders, "more", stdin=b"one\n")
    result = run("replay", orders)
    assert result.code == 2
    assert "more" in result.err and "orders" in result.err


# ── pace ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_replay_takes_as_long_as_the_speed_says(ok: Run, orders: Path) -> None:
    started = time.monotonic()
    assert ok("replay", orders, "orders", "--speed", "30x").lines == TEN
    assert time.monotonic() - started >= 9 / 30


def test_replay_without_a_speed_does_not_wait(
    ok: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mqlog.open(store) as opened:
        for year in range(3):
            opened.stream("orders").append(b"%d" % year, timestamp=year * 365 * 86400.0)
    assert ok("replay", store, "orders").lines == ["0", "1", "2"]


# ── damage ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def damaged(store: Path) -> Path:
    """Thirty records in three batches, the second of which has a flipped byte."""
    with mqlog.open(store) as opened:
        stream = opened.stream("orders")
        for tens in range(3):
            stream.append_many([b"order %d" % (tens * 10 + one) for one in range(10)])
    segment = store / "orders-0" / "00000000000000000000.log"
    data = bytearray(segment.read_bytes())
    data[data.index(b"order 15")] ^= 1
    segment.write_bytes(data)
    return store


@BOTH
@pytest.mark.parametrize("how", [(), ("--json",)])
def test_damage_ends_reading_with_what_was_read_before_it(
    run: Run, damaged: Path, verb: str, how: tuple[str, ...]
) -> None:
    result = run(verb, damaged, "orders", *how)
    assert result.code == 1
    assert len(result.lines) == 10
    assert "00000000000000000000.log" in result.err
    assert "offsets 10 to 19" in result.err
    assert result.err.count("\n") == 1


@BOTH
@pytest.mark.parametrize("how", [(), ("--json",)])
def test_skip_corrupt_names_the_damage_and_reads_on(
    run: Run, damaged: Path, verb: str, how: tuple[str, ...]
) -> None:
    result = run(verb, damaged, "orders", "--skip-corrupt", *how)
    assert result.code == 1
    assert len(result.lines) == 20
    assert "order 20" in result.lines[10]
    assert "offsets 10 to 19" in result.err


# ── tail ────────────────────────────────────────────────────────────────────────────────────────


def test_tail_starts_where_it_is_told(ok: Run, orders: Path) -> None:
    assert ok("tail", orders, "orders", "--from", "-2", "-n", "2").lines == TEN[-2:]
    assert ok("tail", orders, "orders", "--from", "earliest", "-n", "3").lines == TEN[:3]
    assert ok("tail", orders, "orders", "--from", "@1000000005", "-n", "1").lines == TEN[5:6]
    assert ok("tail", orders, "orders", "-n", "0").lines == []


def test_tail_of_several_partitions_takes_moments_and_ends_only(run: Run, spread: Path) -> None:
    lines = run("tail", spread, "spread", "--from", "earliest", "-n", "10").lines
    assert sorted(lines) == list("0123456789")
    assert run("tail", spread, "spread", "--from", "2", "-n", "1").code == 2
    one = run("tail", spread, "spread", "--from", "earliest", "--partition", "2", "-n", "3")
    assert one.lines == ["2", "5", "8"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--json",), ("--format", "raw", "--delimiter", "\\n")])
def test_tail_prints_each_record_as_it_comes(
    start: Start, orders: Path, how: tuple[str, ...]
) -> None:
    with mqlog.open(orders) as opened:
        stream = opened.stream("orders")
        tail = start("tail", orders, "orders", "--from", "-1", *how)
        assert tail.stdout is not None
        assert b"order 9" in tail.stdout.readline()
        for number in range(10, 20):
            fill(stream, [number])
            assert b"order %d" % number in tail.stdout.readline()
