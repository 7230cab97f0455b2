"""`mqlog alter`, `rm`, `groups --delete`."""

from pathlib import Path

import pytest

import mqlog

from .conftest import Run


def options(ok: Run, store: Path) -> dict[str, object]:
    found: dict[str, object] = ok("info", store, "orders", "--json").json["options"]
    return found


def test_alter_prints_old_and_new_and_changes_what_is_stored(ok: Run, orders: Path) -> None:
    words = ("retention_age=7d", "segment_bytes=64MiB", "cleanup_policy=delete")
    assert ok("alter", orders, "orders", *words).lines == [
        "retention_age   none -> 604800.0",
        "segment_bytes   268435456 -> 67108864",
        "cleanup_policy  keep -> delete",
    ]
    stored = options(ok, orders)
    assert stored["retention_age"] == 604800.0
    assert stored["segment_bytes"] == 64 << 20
    assert stored["cleanup_policy"] == "delete"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("segment_bytes=1048576", 1 << 20),
        ("segment_bytes=512k", 512 << 10),
        ("segment_bytes=1.5MiB", 3 << 19),
        ("retention_bytes=1G", 1 << 30),
        ("retention_bytes=none", None),
        ("retention_age=90s", 90.0),
        ("retention_age=15m", 900.0),
        ("retention_age=2h", 7200.0),
        ("retention_age=1w", 604800.0),
        ("retention_age=none", None),
        ("sync_interval=0.5", 0.5),
        ("compression=lz4", "lz4"),
        ("compression=none", "none"),
        ("durability=sync", "sync"),
        ("partitions=3", 3),
    ],
)
def test_values_are_written_as_people_write_them(
    ok: Run, orders: Path, word: str, value: object
) -> None:
    ok("alter", orders, "orders", word)
    assert options(ok, orders)[word.partition("=")[0]] == value


def test_an_option_that_was_so_already_is_said_to_be(ok: Run, orders: Path) -> None:
    assert "as it was" in ok("alter", orders, "orders", "durability=os").out


def test_alter_as_json_has_old_and_new(ok: Run, orders: Path) -> None:
    assert ok("alter", orders, "orders", "partitions=2", "--json").json == {
        "partitions": {"old": 1, "new": 2}
    }


def test_options_of_the_store_itself_are_altered_without_a_topic(ok: Run, orders: Path) -> None:
    assert ok("alter", orders, "max_bytes=10GiB").lines == ["max_bytes  0 -> 10737418240"]
    assert ok("info", orders, "--json").json["options"]["max_bytes"] == 10 << 30


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("retention_aeg=7d", "retention_age"),
        ("durability=maybe", "'sync'"),
        ("segment_bytes=1", "4096"),
        ("partitions=0", "1"),
        ("partitions=many", "int"),
        ("partitions=", "int"),
        ("maxsize=none", "int"),
        ("codec=", "codec"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line_and_nothing_changes(
    run: Run, ok: Run, orders: Path, word: str, why: str
) -> None:
    before = options(ok, orders)
    result = run("alter", orders, "orders", word, "sync_interval=5")
    assert result.code == 1
    assert why in result.err
    assert "bug" not in result.err
    assert result.err.count("\n") == 1
    assert options(ok, orders) == before


def test_a_consumer_group_has_no_options(run: Run, orders: Path) -> None:
    result = run("alter", orders, "orders", "--group", "billing", "lock_duration=60")
    assert result.code == 1
    assert "consumer group" in result.err


# ── rm ──────────────────────────────────────────────────────────────────────────────────────────


def test_rm_refuses_where_nobody_can_be_asked(run: Run, orders: Path) -> None:
    result = run("rm", orders, "orders", stdin=b"y\n")
    assert result.code == 2
    assert "the topic orders (10 records, " in result.err
    assert "--yes" in result.err
    assert len(run("cat", orders, "orders").lines) == 10


def test_rm_with_yes_deletes_the_topic_and_says_what_went(run: Run, orders: Path) -> None:
    result = run("rm", orders, "orders", "--yes")
    assert result.code == 0
    assert "deleted the topic orders (10 records, " in result.err
    assert run("cat", orders, "orders").code == 3
    assert run("ls", orders, "--json").json == []
    assert not (orders / "orders-0").exists()


@pytest.fixture
def group(orders: Path) -> Path:
    with mqlog.open(orders) as opened:
        consumer = opened.stream("orders").consumer("billing", commit="manual")
        consumer.poll(4, timeout=5.0)
        consumer.commit()
        consumer.close()
    return orders


DELETING = [("rm", "--group", "billing"), ("groups", "--delete", "billing")]


@pytest.mark.parametrize("words", DELETING)
def test_a_group_is_deleted_and_the_records_stay(
    run: Run, group: Path, words: tuple[str, ...]
) -> None:
    verb, *how = words
    refused = run(verb, group, "orders", *how)
    assert refused.code == 2
    assert "(lag 6)" in refused.err
    done = run(verb, group, "orders", *how, "--yes")
    assert done.code == 0
    assert "deleted the group billing" in done.err
    assert run("groups", group, "orders", "--json").json == []
    assert len(run("cat", group, "orders").lines) == 10


@pytest.mark.parametrize("words", DELETING)
def test_a_group_that_is_not_there_exits_3(run: Run, orders: Path, words: tuple[str, ...]) -> None:
    verb, *how = words
    result = run(verb, orders, "orders", *how, "--yes")
    assert result.code == 3
    assert "billing" in result.err


def test_a_group_with_a_live_consumer_is_not_deleted(run: Run, group: Path) -> None:
    with mqlog.open(group) as opened, opened.stream("orders").consumer("billing"):
        result = run("rm", group, "orders", "--group", "billing", "--yes")
    assert result.code == 1
    assert "live" in result.err
    assert len(run("groups", group, "orders", "--json").json) == 1
