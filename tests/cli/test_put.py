"""`mqlog put`."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mqlog

from .conftest import Run, Start

ORDERS = [
    {"id": 1, "customer": {"id": "c-1"}, "at": "2026-03-14T12:00:00.500+01:00"},
    {"id": 2, "customer": {"id": "c-2"}, "at": 1773486001},
    {"id": 3, "customer": {"id": None}, "at": "2026-03-14T11:00:02Z"},
]
NDJSON = "".join(json.dumps(order) + "\n" for order in ORDERS).encode()


def test_it_makes_store_and_topic_and_says_so_on_standard_error(run: Run, store: Path) -> None:
    result = run("put", store, "notes", stdin=b"one\ntwo\n")
    assert result.code == 0
    assert result.out == ""
    assert result.err.splitlines() == [
        f"mqlog: made the store {store}",
        "mqlog: made the topic notes (1 partition)",
        "mqlog: put 2 records (6 B) into notes, offsets 0 to 1",
    ]


def test_it_says_nothing_of_making_what_is_there(ok: Run, store: Path) -> None:
    ok("put", store, "notes", stdin=b"one\n")
    again = ok("put", store, "notes", stdin=b"two\n")
    assert again.err == "mqlog: put 1 record (3 B) into notes, offset 1\n"


def test_quiet_says_nothing_when_all_is_well(ok: Run, store: Path) -> None:
    result = ok("put", store, "notes", "--quiet", stdin=b"one\n")
    assert (result.out, result.err) == ("", "")


def test_each_line_is_a_record_byte_for_byte(ok: Run, store: Path) -> None:
    lines = [b"plain", b"", b"  spaces\t", b"\xff\xfe not UTF-8", b"carriage\r", "Zoë".encode()]
    ok("put", store, "notes", stdin=b"\n".join(lines) + b"\n")
    with mqlog.open(store, mode="r") as opened:
        assert list(opened.stream("notes", create=False).values()) == lines


def test_a_last_line_without_an_end_is_a_record_too(ok: Run, store: Path) -> None:
    ok("put", store, "notes", stdin=b"one\ntwo")
    assert ok("cat", store, "notes").lines == ["one", "two"]


def test_nothing_in_puts_nothing(ok: Run, store: Path) -> None:
    assert ok("put", store, "notes", "--json", stdin=b"").json["records"] == 0
    assert ok("cat", store, "notes").out == ""


def test_another_delimiter_ends_lines_wherever_reads_cut_it(ok: Run, store: Path) -> None:
    parts = [b"%d" % number * 50 for number in range(20_000)]
    ok("put", store, "notes", "--delimiter", "<\\x3e", stdin=b"<>".join(parts))
    with mqlog.open(store, mode="r") as opened:
        assert list(opened.stream("notes", create=False).values()) == parts


def test_files_are_put_one_after_the_other_gzipped_or_not(
    ok: Run, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"three\n"))
    ok("put", store, "notes", "a.txt", "b.gz", "-", stdin=b"four\n")
    assert ok("cat", store, "notes").lines == ["one", "two", "three", "four"]


def test_options_may_stand_before_and_between_and_behind_files(
    ok: Run, store: Path, tmp_path: Path
) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    ok("put", "--key", "k", store, "notes", "-q", "a.txt", "--header", "h=1", "b.txt", "--json")
    assert ok("cat", "--json", store, "--from", "1", "notes", "-n", "1").records[0]["key"] == "k"


def test_a_pipe_is_read_once_and_whole(ok: Run, store: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write = "import sys; open('pipe', 'wb').write(b'one\\ntwo\\n')"
    with subprocess.Popen([sys.executable, "-c", write], cwd=tmp_path):
        ok("put", store, "notes", "pipe")
    assert ok("cat", store, "notes").lines == ["one", "two"]


def test_a_missing_file_exits_3_before_anything_is_made(
    run: Run, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n")
    result = run("put", store, "notes", "a.txt", "b.txt")
    assert result.code == 3
    assert result.err == "mqlog: b.txt: No such file or directory\n"
    assert not store.exists()


def test_a_directory_for_a_file_is_an_error_before_anything_is_made(
    run: Run, store: Path, tmp_path: Path
) -> None:
    result = run("put", store, "notes", tmp_path)
    assert result.code == 1
    assert not store.exists()


def test_key_and_time_come_from_fields_and_the_value_stays_as_it_was(ok: Run, store: Path) -> None:
    fields = ("--key-field", "customer.id", "--time-field", "at")
    ok("put", store, "orders", *fields, stdin=NDJSON)
    records = ok("cat", store, "orders", "--json").records
    assert [record["key"] for record in records] == ["c-1", "c-2", None]
    assert [record["timestamp"] for record in records] == [
        1773486000.5,
        1773486001.0,
        1773486002.0,
    ]
    assert [json.loads(record["value"]) for record in records] == ORDERS
    assert ok("cat", store, "orders").raw == NDJSON


def test_a_field_may_be_named_with_a_dot_itself(ok: Run, store: Path) -> None:
    ok("put", store, "orders", "--key-field", "a.b", stdin=b'{"a.b": "dotted", "a": {"b": "in"}}\n')
    assert ok("cat", store, "orders", "--json").records[0]["key"] == "dotted"


@pytest.mark.parametrize(
    ("value", "key"), [('"Zoë"', "Zoë"), ("17", "17"), ("1.5", "1.5"), ("true", "true")]
)
def test_strings_and_numbers_are_keys(ok: Run, store: Path, value: str, key: str) -> None:
    ok("put", store, "orders", "--key-field", "k", stdin=f'{{"k": {value}}}'.encode())
    assert ok("cat", store, "orders", "--json").records[0]["key"] == key


def test_constant_key_and_headers_go_with_every_record(ok: Run, store: Path) -> None:
    options = ("--key", "web-1", "--header", "host=web-1", "--header", "raw=a=b")
    ok("put", store, "log", *options, stdin=b"one\ntwo\n")
    for record in ok("cat", store, "log", "--json").records:
        assert record["key"] == "web-1"
        assert record["headers"] == [["host", "web-1"], ["raw", "a=b"]]


def test_blank_lines_of_ndjson_are_left_out(ok: Run, store: Path) -> None:
    ok("put", store, "orders", "--ndjson", stdin=b'{"a": 1}\n\n  \r\n{"a": 2}\n')
    assert ok("cat", store, "orders").lines == ['{"a": 1}', '{"a": 2}']


BAD_LINES = [
    (b"{", "not JSON"),
    (b"\xff", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[1]", "a list"),
    (b'"text"', "a string"),
    (b"null", "null"),
    (b'{"k": "a"}', "no field 't'"),
    (b'{"t": 1}', "no field 'k'"),
    (b'{"k": {}, "t": 1}', "an object"),
    (b'{"k": "a", "t": "noon"}', "no time"),
    (b'{"k": "a", "t": true}', "no time"),
    (b'{"k": "a", "t": -1}', "no time"),
    (b'{"k": "a", "t": NaN}', "no time"),
    (b'{"k": "a", "t": []}', "no time"),
    (b'{"k": "a", "t": 1e999}', "no time"),
    (b'{"k": "a", "t": 1' + b"0" * 400 + b"}", "milliseconds"),
    (b'{"k": "a", "t": "9999-12-31"}', "no time"),
    (b'{"k": "a", "t": "0001-01-01T00:00+14:00"}', "no time"),
    (b'{"k": "a", "t": 1773486001000}', "milliseconds"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_LINES, ids=[why for _, why in BAD_LINES])
def test_a_bad_line_stops_it_and_is_named_with_what_was_put_before(
    run: Run, store: Path, tmp_path: Path, bad: bytes, why: str
) -> None:
    good = b'{"k": "a", "t": 1}\n'
    (tmp_path / "in.ndjson").write_bytes(good + good + bad + b"\n" + good)
    result = run("put", store, "orders", "in.ndjson", "--key-field", "k", "--time-field", "t")
    assert result.code == 1
    said = result.err.splitlines()[-1]
    assert said.startswith("mqlog: in.ndjson:3: ")
    assert why in said
    assert "2 records were put before it" in said
    assert "--skip-bad" in said
    assert len(run("cat", store, "orders").lines) == 2


def test_skip_bad_names_bad_lines_and_goes_on(ok: Run, store: Path) -> None:
    lines = b'{"a": 1}\n{\n{"a": 2}\n[]\n{"a": 3}\n'
    result = ok("put", store, "orders", "--ndjson", "--skip-bad", "--json", stdin=lines)
    assert (result.json["records"], result.json["skipped"]) == (3, 2)
    assert "standard input:2: " in result.err
    assert "standard input:4: " in result.err
    assert len(ok("cat", store, "orders").lines) == 3


def test_of_many_bad_lines_the_first_are_named(ok: Run, store: Path) -> None:
    result = ok("put", store, "orders", "--ndjson", "--skip-bad", stdin=b"{\n" * 500)
    assert result.err.count("left out\n") == 11  # ten lines, and the total
    assert "500 bad lines left out" in result.err


def test_a_line_over_the_limit_is_named_and_what_came_before_stays(run: Run, store: Path) -> None:
    large = b"x" * (1 << 20)
    result = run("put", store, "notes", stdin=b"one\ntwo\n" + large + b"\nlast\n")
    assert result.code == 1
    said = result.err.splitlines()[-1]
    assert "standard input:3: " in said
    assert "2 records were put before it" in said
    assert run("cat", store, "notes").lines == ["one", "two"]


def test_a_line_without_end_is_refused_before_memory_is_full(run: Run, store: Path) -> None:
    result = run("put", store, "notes", stdin=b"one\n" + b"x" * (3 << 20))
    assert result.code == 1
    assert "standard input:2: a line of over 1048588 bytes" in result.err


def test_a_line_just_under_the_limit_is_put(ok: Run, store: Path) -> None:
    large = b"x" * (1_000_000)
    ok("put", store, "notes", stdin=b"one\n" + large + b"\nlast\n")
    assert ok("cat", store, "notes").raw == b"one\n" + large + b"\nlast\n"


def test_partitions_are_given_to_a_new_topic_and_keys_find_theirs(ok: Run, store: Path) -> None:
    ok("put", store, "orders", "--partitions", "4", "--key-field", "customer.id", stdin=NDJSON)
    with mqlog.open(store, mode="r") as opened:
        stream = opened.stream("orders", create=False)
        assert len(stream.partitions) == 4
        for record in stream.read():
            if record.key is not None:
                assert record.partition == stream.partition_for(record.key)


def test_other_partitions_than_a_topic_has_are_refused_with_the_command_that_helps(
    run: Run, orders: Path
) -> None:
    result = run("put", orders, "orders", "--partitions", "4", stdin=b"one\n")
    assert result.code == 1
    assert f"mqlog alter {orders} orders partitions=4" in result.err


def test_one_partition_can_be_chosen(ok: Run, store: Path) -> None:
    ok("put", store, "notes", "--partitions", "3", "--partition", "2", stdin=b"one\ntwo\n")
    assert ok("cat", store, "notes", "--partition", "2").lines == ["one", "two"]


def test_a_partition_that_is_not_there_is_refused(run: Run, orders: Path) -> None:
    assert run("put", orders, "orders", "--partition", "1", stdin=b"one\n").code == 3
    result = run("put", orders, "new", "--partition", "1", stdin=b"one\n")
    assert result.code == 2
    assert "--partitions" in result.err


@pytest.mark.parametrize("compression", ["lz4", "gzip"])
def test_compression_makes_a_topic_smaller_and_reads_the_same(
    ok: Run, store: Path, compression: str
) -> None:
    lines = b"the same words again and again\n" * 5000
    ok("put", store, "plain", stdin=lines)
    ok("put", store, "small", "--compression", compression, stdin=lines)
    plain, small = ok("ls", store, "--json").json
    assert small["bytes"] < plain["bytes"] / 5
    assert small["options"]["compression"] == compression
    assert ok("cat", store, "small").raw == lines


def test_json_tells_what_was_put(ok: Run, orders: Path) -> None:
    result = ok("put", orders, "orders", "--json", "--sync", stdin=b"one\ntwo\n").json
    assert result.pop("seconds") >= 0
    assert result == {
        "topic": "orders",
        "records": 2,
        "bytes": 6,
        "skipped": 0,
        "first_offset": 10,
        "last_offset": 11,
    }


def test_a_name_that_no_topic_may_have_is_refused(run: Run, store: Path) -> None:
    result = run("put", store, "../orders", stdin=b"one\n")
    assert result.code == 1
    assert "'../orders'" in result.err
    assert result.err.count("\n") == 1
    assert not store.exists()


@pytest.mark.slow
def test_a_line_is_in_the_log_before_the_next_one_comes(start: Start, run: Run) -> None:
    put = start("put", "shop", "notes")
    assert put.stdin is not None and put.stderr is not None
    put.stderr.readline()
    put.stderr.readline()
    tail = start("tail", "shop", "notes", "--from", "earliest", "-n", "3")
    assert tail.stdout is not None
    for line in (b"one\n", b"two\n", b"three\n"):
        put.stdin.write(line)
        put.stdin.flush()
        assert tail.stdout.readline() == line
    assert tail.wait() == 0
    put.stdin.close()
    assert put.wait() == 0
