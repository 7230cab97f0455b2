"""Names and options: one home each, changed by alter() alone, refused with a reason."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mqlog
from mqlog import _options

DEFAULTS: dict[str, Any] = {
    "partitions": 1,
    "segment_bytes": 256 * 1024 * 1024,
    "batch_bytes": 128 * 1024,
    "max_message_bytes": 1024 * 1024 + 12,
    "cleanup_policy": "keep",
    "retention_bytes": None,
    "retention_age": None,
    "compression": "none",
    "durability": "os",
    "sync_interval": 0.1,
    "intake": "open",
    "maxsize": 0,
    "max_bytes": 0,
    "dedupe_window": 3600.0,
}
OTHERS: dict[str, Any] = {
    "segment_bytes": 1 << 20,
    "batch_bytes": 4096,
    "max_message_bytes": 1 << 19,
    "cleanup_policy": "delete",
    "retention_bytes": 1 << 30,
    "retention_age": 7 * 86400.0,
    "compression": "lz4",
    "durability": "sync",
    "sync_interval": 0.5,
    "intake": "closed",
    "maxsize": 10,
    "max_bytes": 1 << 20,
    "dedupe_window": 60.0,
}


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as store:
        yield store


def options_of(store: mqlog.Store, name: str = "orders") -> dict[str, Any]:
    [topic] = [topic for topic in store.topics() if topic.name == name]
    return dict(topic.options)


def test_the_defaults_are_those_of_the_table(store: mqlog.Store) -> None:
    store.stream("orders")
    assert options_of(store) == DEFAULTS


def test_only_what_was_given_and_what_identifies_the_topic_is_stored(store: mqlog.Store) -> None:
    store.stream("orders", segment_bytes=1 << 20)
    [(name, entry)] = json.loads((store.path / "mqlog.json").read_bytes())["topics"].items()
    assert name == "orders"
    assert len(entry.pop("id")) == 22
    assert entry == {
        "segment_bytes": 1 << 20,
        "partitions": 1,
        "cleanup_policy": "keep",
        "durability": "os",
    }


@pytest.mark.parametrize("name", OTHERS)
def test_an_option_given_at_the_start_is_stored(store: mqlog.Store, name: str) -> None:
    store.stream("orders", **{name: OTHERS[name]})
    assert options_of(store) == {**DEFAULTS, name: OTHERS[name]}


@pytest.mark.parametrize("name", OTHERS)
def test_left_out_or_equal_nothing_happens(store: mqlog.Store, name: str) -> None:
    store.stream("orders", **{name: OTHERS[name]})
    before = (store.path / "mqlog.json").read_bytes()
    store.stream("orders")
    store.stream("orders", **{name: OTHERS[name]})
    assert (store.path / "mqlog.json").read_bytes() == before


@pytest.mark.parametrize("name", OTHERS)
def test_a_different_value_names_both_and_the_call_that_changes_it(
    store: mqlog.Store, name: str
) -> None:
    store.stream("orders")
    with pytest.raises(mqlog.OptionError) as caught:
        store.stream("orders", **{name: OTHERS[name]})
    text = str(caught.value)
    assert f"{name}={DEFAULTS[name]!r}" in text
    assert f"store.alter('orders', {name}={OTHERS[name]!r}) changes it" in text
    assert options_of(store) == DEFAULTS


@pytest.mark.parametrize("name", OTHERS)
def test_alter_changes_what_is_stored(store: mqlog.Store, name: str) -> None:
    store.stream("orders")
    store.alter("orders", **{name: OTHERS[name]})
    assert options_of(store) == {**DEFAULTS, name: OTHERS[name]}
    store.stream("orders", **{name: OTHERS[name]})


@pytest.mark.parametrize("option", ["retention_bytes", "retention_age"])
def test_none_takes_a_bound_away_again(store: mqlog.Store, option: str) -> None:
    store.stream("orders", **{option: OTHERS[option]})
    store.alter("orders", **{option: None})
    assert options_of(store)[option] is None


def test_a_compression_of_none_means_the_topics(store: mqlog.Store) -> None:
    store.stream("orders", compression="lz4")
    store.stream("orders", compression=None)
    store.alter("orders", compression=None)
    assert options_of(store)["compression"] == "none"


BAD_TYPES: list[tuple[str, Any]] = [
    ("partitions", "3"),
    ("partitions", 3.0),
    ("partitions", True),
    ("segment_bytes", 1e6),
    ("retention_bytes", "1GB"),
    ("retention_age", "7d"),
    ("retention_age", True),
    ("cleanup_policy", None),
    ("compression", 3),
    ("durability", 1),
    ("sync_interval", None),
]
BAD_VALUES: list[tuple[str, Any, str]] = [
    ("partitions", 0, "from 1"),
    ("partitions", -1, "from 1"),
    ("partitions", 5000, "to 4096"),
    ("segment_bytes", 4095, "from 4096"),
    ("segment_bytes", 2**31, "to 2147483647"),
    ("batch_bytes", 0, "from 512"),
    ("max_message_bytes", 2**30 + 1, "to 1073741824"),
    ("retention_bytes", -1, "None for no bound"),
    ("retention_age", -1.0, "from 0.001"),
    ("retention_age", float("nan"), "seconds"),
    ("retention_age", 604_800_000, "are these milliseconds"),
    ("sync_interval", 0.0, "from 0.001"),
    ("sync_interval", 100, "are these milliseconds"),
    ("dedupe_window", 3_600_000, "are these milliseconds"),
    ("cleanup_policy", "deleted", "did you mean 'delete'"),
    ("compression", "lz5", "there are none, gzip, snappy, lz4, zstd"),
    ("compression", "snappy", "use lz4, gzip or zstd"),
    ("durability", "disk", "'os', 'sync'"),
    ("intake", "shut", "'closed', 'open'"),
    ("maxsize", -1, "records, from 0"),
]


@pytest.mark.parametrize(("name", "value"), BAD_TYPES)
def test_a_wrong_type_is_a_type_error(store: mqlog.Store, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} is "):
        store.stream("orders", **{name: value})
    assert "orders" not in store


@pytest.mark.parametrize(("name", "value", "says"), BAD_VALUES)
def test_a_value_out_of_range_is_an_option_error_that_says_the_range(
    store: mqlog.Store, name: str, value: Any, says: str
) -> None:
    with pytest.raises(mqlog.OptionError, match=says) as caught:
        store.stream("orders", **{name: value})
    assert f"{name}={value!r}" in str(caught.value)
    assert "orders" not in store


def test_an_unknown_option_names_the_nearest(store: mqlog.Store) -> None:
    with pytest.raises(mqlog.OptionError, match="did you mean 'segment_bytes'"):
        store.stream("orders", segment_byte=1)
    store.stream("orders")
    with pytest.raises(mqlog.OptionError, match="did you mean 'retention_age'"):
        store.alter("orders", retention_ages=1)


def test_partitions_only_grow(store: mqlog.Store) -> None:
    store.stream("orders", partitions=2)
    with pytest.raises(mqlog.OptionError, match="has 2, and partitions only grow"):
        store.alter("orders", partitions=1)
    store.alter("orders", partitions=3)
    assert options_of(store)["partitions"] == 3


def test_a_running_handle_follows_new_partitions_at_its_next_call(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    with mqlog.open(store.path) as other:
        other.alter("orders", partitions=3)
    assert len(orders.partitions) == 3
    assert orders.append(b"x", partition=2) == 0


def test_a_running_handle_follows_a_new_limit_at_its_next_call(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(bytes(2000))
    with mqlog.open(store.path) as other:
        other.alter("orders", max_message_bytes=1000)
    with pytest.raises(mqlog.RecordTooLargeError):
        orders.append(bytes(2000))
    assert orders.end_offset == 1


def test_alter_needs_something_to_change(store: mqlog.Store) -> None:
    store.stream("orders")
    with pytest.raises(TypeError, match="takes the options to change"):
        store.alter("orders")


def test_alter_of_a_topic_that_is_not_there_names_the_nearest(store: mqlog.Store) -> None:
    store.stream("orders")
    with pytest.raises(mqlog.NotFoundError, match="did you mean 'orders'"):
        store.alter("order", maxsize=1)


def test_a_consumer_group_has_no_options(store: mqlog.Store) -> None:
    store.stream("orders")
    with pytest.raises(mqlog.OptionError, match="consumer group has no options"):
        store.alter("orders", group="billing", lock_duration=3)


def test_altered_options_are_logged(store: mqlog.Store, caplog: pytest.LogCaptureFixture) -> None:
    store.stream("orders")
    with caplog.at_level(logging.INFO, "mqlog"):
        store.alter("orders", maxsize=7)
    assert "topic 'orders': maxsize=7, was 0" in caplog.text


def test_durability_at_open_is_for_topics_that_this_handle_creates(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s", durability="sync") as store:
        store.stream("orders")
        store.stream("clicks", durability="os")
        assert options_of(store)["durability"] == "sync"
        assert options_of(store, "clicks")["durability"] == "os"
    with mqlog.open(tmp_path / "s") as store:
        assert options_of(store)["durability"] == "sync"


# options of the store


def test_a_bound_of_the_store_is_stored_once(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s", max_bytes=1 << 30, min_free_bytes=1 << 20):
        pass
    document = json.loads((tmp_path / "s" / "mqlog.json").read_bytes())
    assert document["store"] == {"max_bytes": 1 << 30, "min_free_bytes": 1 << 20}
    with mqlog.open(tmp_path / "s"), mqlog.open(tmp_path / "s", max_bytes=1 << 30):
        pass


def test_another_bound_names_both_and_the_call_that_changes_it(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s"):
        pass
    with pytest.raises(mqlog.OptionError, match="max_bytes=0, and 5000000 was given") as caught:
        mqlog.open(tmp_path / "s", max_bytes=5_000_000)
    assert "store.alter(None, max_bytes=5000000)" in str(caught.value)


def test_alter_without_a_topic_changes_the_store(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s") as store:
        store.alter(None, max_bytes=1 << 30)
        with pytest.raises(mqlog.OptionError, match="no option 'segment_bytes'"):
            store.alter(None, segment_bytes=1 << 20)
    with mqlog.open(tmp_path / "s", max_bytes=1 << 30):
        pass


@pytest.mark.parametrize("bound", ["max_bytes", "min_free_bytes"])
@pytest.mark.parametrize("value", [-1, 2**63])
def test_a_bound_out_of_range_makes_no_store(tmp_path: Path, bound: str, value: int) -> None:
    with pytest.raises(mqlog.OptionError, match=bound):
        mqlog.open(tmp_path / "s", **{bound: value})  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


# names


GOOD_NAMES = ["a", "Orders.2026_v-1", "a-0", "0", "-", "_", "...", "a" * 245]
BAD_NAMES = ["", ".", "..", "../x", "a/b", "a b", "ä", "a\0", "a\n", "a" * 246]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_kafkas_characters_make_a_name(store: mqlog.Store, name: str) -> None:
    store.stream(name).append(b"x")
    assert [topic.name for topic in store.topics()] == [name]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_any_other_name_is_refused_and_told_of_topic_name(store: mqlog.Store, name: str) -> None:
    with pytest.raises(ValueError, match=r"mqlog\.topic_name\(\)"):
        store.stream(name)
    with pytest.raises(ValueError, match=r"mqlog\.topic_name\(\)"):
        store.stream("orders").consumer(name)
    assert store.topics()[0].name == "orders"
    assert name not in store


@pytest.mark.parametrize("name", [None, 3, b"orders"])
def test_a_name_is_a_str(store: mqlog.Store, name: Any) -> None:
    with pytest.raises(TypeError, match="is a str, not"):
        store.stream(name)


def test_the_suffix_of_dead_letters_is_reserved(store: mqlog.Store) -> None:
    with pytest.raises(ValueError, match=r"\.dlq is reserved for dead letters"):
        store.stream("orders.dlq")


ANY = [
    "",
    ".",
    "..",
    "../x",
    "orders/münchen",
    "a b\0",
    "orders.dlq",
    "_x",
    "a_x41",
    "\ud800",
    "日本",
]


@pytest.mark.parametrize("text", [*ANY, *GOOD_NAMES])
def test_topic_name_turns_any_str_into_a_name_and_back(text: str) -> None:
    name = mqlog.topic_name(text)
    assert _options.check_topic(name) == name
    assert mqlog.topic_name(name, undo=True) == text


def test_topic_name_gives_each_str_a_name_of_its_own() -> None:
    texts = [*ANY, *GOOD_NAMES, "_", "_x2e", "x", "_x5fx", ".dlq", "_x2edlq"]
    assert len({mqlog.topic_name(text) for text in set(texts)}) == len(set(texts))


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_topic_name_leaves_names_as_they_are(name: str) -> None:
    assert mqlog.topic_name(name) == name


def test_topic_name_refuses_what_is_too_long() -> None:
    assert len(mqlog.topic_name("ä" * 30)) == 240
    with pytest.raises(ValueError, match="would have 248 characters"):
        mqlog.topic_name("ä" * 31)


@pytest.mark.parametrize("name", ["a b", "_x2E", "_x41", "_xff"])
def test_topic_name_undoes_only_what_it_made(name: str) -> None:
    with pytest.raises(ValueError, match="was not made by topic_name"):
        mqlog.topic_name(name, undo=True)


# groups, and what mqlog.json may hold


def test_unknown_keys_of_a_newer_mqlog_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "s" / "mqlog.json"
    with mqlog.open(tmp_path / "s") as store:
        store.stream("orders")
    document = json.loads(file.read_bytes())
    document["moon"] = document["topics"]["orders"]["phase"] = {"full": True}
    file.write_text(json.dumps(document))
    with mqlog.open(tmp_path / "s") as store:
        store.alter("orders", maxsize=1)
    again = json.loads(file.read_bytes())
    assert again["moon"] == again["topics"]["orders"]["phase"] == {"full": True}


def write_json(path: Path, data: bytes) -> Path:
    with mqlog.open(path) as store:
        store.stream("orders").append(b"x")
    (path / "mqlog.json").write_bytes(data)
    return path


NO_CATALOG = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"null",
    b'{"format": "1"}',
    b'{"topics": {}}',
    b'{"format": 1, "topics": []}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("data", NO_CATALOG, ids=lambda data: repr(data[:20]))
def test_a_broken_catalog_is_named_and_left_as_it_is(
    tmp_path: Path, data: bytes, mode: Any
) -> None:
    path = write_json(tmp_path / "s", data)
    with pytest.raises(mqlog.FormatError, match=r"mqlog\.json"):
        mqlog.open(path, mode)
    assert (path / "mqlog.json").read_bytes() == data


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_newer_format_is_refused_by_its_number(tmp_path: Path, mode: Any) -> None:
    path = write_json(tmp_path / "s", b'{"format": 2, "oldest_writer": 1}')
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with pytest.raises(mqlog.FormatError, match="store format 2, this mqlog reads up to 1"):
        mqlog.open(path, mode)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_a_store_for_newer_writers_can_be_read(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "s", b'{"format": 1, "oldest_writer": 2, "topics": {"orders": {}}}'
    )
    with pytest.raises(mqlog.FormatError, match="written by store format 2 and newer"):
        mqlog.open(path)
    with mqlog.open(path, "r") as store:
        assert store.stream("orders")[0].raw == b"x"


@pytest.mark.parametrize(
    "entry",
    [b"3", b'{"partitions": 0}', b'{"compression": "moon"}', b'{"id": 3}', b'{"codec": []}'],
)
def test_a_broken_topic_is_named(tmp_path: Path, entry: bytes) -> None:
    path = write_json(tmp_path / "s", b'{"format": 1, "topics": {"orders": %s}}' % entry)
    with mqlog.open(path) as store, pytest.raises(mqlog.FormatError, match="topic 'orders'"):
        store.stream("orders")


def test_a_hostile_name_in_the_catalog_is_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "s", b'{"format": 1, "topics": {"../../x": {}}}')
    with mqlog.open(path) as store, pytest.raises(mqlog.FormatError, match="no name for a topic"):
        store.topics()
