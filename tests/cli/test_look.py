"""`mqlog ls`, `info`, `groups`."""

from pathlib import Path

import pytest
from support.partition import batch

import mqlog

from .conftest import Run, fill, snapshot


@pytest.fixture
def busy(orders: Path) -> Path:
    """Two topics, three groups: `billing` has read 4 of 10 orders, `audit` all of them."""
    with mqlog.open(orders) as opened:
        opened.stream("clicks", partitions=2, retention_bytes=1 << 30)
        for group, read in (("billing", 4), ("audit", 10)):
            with opened.stream("orders").consumer(group, commit="manual") as consumer:
                consumer.poll(read, timeout=5.0)
                consumer.commit()
    return orders


def test_ls_has_a_line_a_topic_with_bare_numbers_in_a_pipe(ok: Run, busy: Path) -> None:
    heading, clicks, orders = ok("ls", busy).lines
    assert heading.split() == ["TOPIC", "PARTITIONS", "RECORDS", "BYTES", "SEGMENTS", "GROUPS"]
    assert clicks.split()[:3] == ["clicks", "2", "0"]
    name, partitions, records, size, segments, groups = orders.split()
    assert (name, partitions, records, segments, groups) == ("orders", "1", "10", "1", "2")
    segment = busy / "orders-0" / "00000000000000000000.log"
    assert int(size) == segment.stat().st_size


def test_columns_stand_under_their_headings(ok: Run, busy: Path) -> None:
    heading, _, orders = ok("ls", busy).lines
    end = heading.index("RECORDS") + len("RECORDS")
    assert orders[:end].endswith(" 10")


def test_ls_of_an_empty_store_says_how_to_make_a_topic(ok: Run, store: Path) -> None:
    mqlog.open(store).close()
    result = ok("ls", store)
    assert result.out == ""
    assert f"mqlog put {store} TOPIC" in result.err
    assert ok("ls", store, "--json").json == []


def test_ls_json_has_partitions_and_options(ok: Run, busy: Path) -> None:
    clicks, orders = ok("ls", busy, "--json").json
    assert clicks["options"]["retention_bytes"] == 1 << 30
    assert len(clicks["partitions"]) == 2
    assert orders["partitions"][0]["end_offset"] == 10
    assert orders["records"] == 10


def test_info_of_a_store_shows_options_topics_and_groups(ok: Run, busy: Path) -> None:
    out = ok("info", busy).out
    for word in (str(busy), "min_free_bytes", "clicks", "orders", "billing", "audit"):
        assert word in out
    document = ok("info", busy, "--json").json
    assert [topic["name"] for topic in document["topics"]] == ["clicks", "orders"]
    assert {group["name"]: group["lag"] for group in document["groups"]} == {
        "billing": 6,
        "audit": 0,
    }
    assert document["options"]["max_bytes"] == 0


def test_info_of_a_topic_shows_partitions_options_and_when_its_records_were_made(
    ok: Run, busy: Path
) -> None:
    out = ok("info", busy, "orders").out
    assert "segment_bytes      268435456\n" in out
    assert "2001-09-09T01:46:40.000Z" in out
    assert "2001-09-09T01:46:49.000Z" in out
    assert "billing" in out
    document = ok("info", busy, "orders", "--json").json
    assert document["partitions"][0]["segments"] == 1
    assert document["options"]["durability"] == "os"
    assert [group["name"] for group in document["groups"]] == ["audit", "billing"]


def test_info_of_an_empty_topic_has_no_first_record(ok: Run, busy: Path) -> None:
    assert "first record  -\n" in ok("info", busy, "clicks").out
    assert ok("info", busy, "clicks", "--json").json["last_timestamp"] is None


def test_info_shows_what_recovery_has_set_aside(ok: Run, orders: Path) -> None:
    aside = orders / "orders-0" / "00000000000000000000.log.cut-1"
    aside.write_bytes(b"once")
    for words in (("info", orders), ("info", orders, "orders")):
        assert "orders-0/00000000000000000000.log.cut-1" in ok(*words).out
        assert ok(*words, "--json").json["set_aside"] == ["orders-0/00000000000000000000.log.cut-1"]


def test_groups_shows_places_and_lags(ok: Run, busy: Path) -> None:
    heading, *rows = ok("groups", busy, "orders").lines
    assert heading.split() == ["TOPIC", "GROUP", "PARTITION", "COMMITTED", "LAG", "PINS"]
    assert [row.split()[:5] for row in rows] == [
        ["orders", "audit", "0", "10", "0"],
        ["orders", "billing", "0", "4", "6"],
    ]
    assert ok("groups", busy).lines == [heading, *rows]
    by_name = {group["name"]: group for group in ok("groups", busy, "--json").json}
    assert by_name["billing"]["committed"] == {"0": 4}


def test_a_group_of_several_partitions_has_a_line_for_each(ok: Run, store: Path) -> None:
    with mqlog.open(store) as opened:
        stream = opened.stream("clicks", partitions=2)
        for partition in (0, 1, 1):
            stream.append(b"click", partition=partition)
        with stream.consumer("audit", commit="manual") as consumer:
            while sum(consumer.position.values()) < 3:
                consumer.poll(timeout=5.0)
            consumer.commit()
        stream.append(b"later", partition=1)
    rows = [line.split() for line in ok("groups", store, "clicks").lines[1:]]
    size = rows[0].pop()  # of the whole group
    assert rows == [["clicks", "audit", "0", "1", "1"], ["clicks", "audit", "1", "2"]]
    last = ok("info", store, "clicks", "--json").json["partitions"][1]["bytes"] // 3
    assert int(size) == last


def test_a_topic_without_groups_says_so(ok: Run, orders: Path) -> None:
    result = ok("groups", orders, "orders")
    assert result.out == ""
    assert "orders has no groups" in result.err
    assert ok("groups", orders, "orders", "--json").json == []


@pytest.mark.parametrize("words", [("ls",), ("info",), ("info", "orders"), ("groups", "orders")])
@pytest.mark.parametrize("how", [(), ("--json",)])
def test_looking_changes_no_byte_and_no_time_of_any_file(
    ok: Run, busy: Path, words: tuple[str, ...], how: tuple[str, ...]
) -> None:
    before = snapshot(busy)
    ok(words[0], busy, *words[1:], *how)
    assert snapshot(busy) == before


def test_a_store_can_be_looked_at_while_it_is_written(ok: Run, store: Path) -> None:
    with mqlog.open(store) as opened:
        fill(opened.stream("orders"), range(3))
        assert ok("ls", store).lines[1].split()[2] == "3"
        assert ok("info", store, "orders", "--json").json["records"] == 3


def test_info_shows_times_that_no_calendar_has(ok: Run, store: Path) -> None:
    (store / "orders-0").mkdir(parents=True)
    data = batch(0, b"a", timestamp=1_700_000_000_000_000)  # microseconds, somebody thought
    (store / "orders-0" / f"{0:020d}.log").write_bytes(data)
    assert "@1700000000000" in ok("info", store, "orders").out
