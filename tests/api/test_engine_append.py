"""Does the binding append what it was given, and refuse what it should? (_append.pxi)"""

import os
from array import array
from datetime import UTC, datetime, timedelta, timezone

import pytest
from support.binding import OPTIONS, Handle, Reverse, spread, values

from mqlog import _compression, _engine


@pytest.fixture
def store(tmp_path):
    opened = _engine.Store(tmp_path / "store")
    yield opened
    if not opened.closed:
        opened.close()


@pytest.fixture
def log(store):
    return store.partition("orders", 0, True, OPTIONS)


@pytest.fixture
def handle(store, log):
    return Handle(store, [log])


def test_text_is_refused_with_the_remedies(handle):
    for call in (lambda: handle.append("text"), lambda: handle.append_many(["text"])):
        with pytest.raises(TypeError, match=r"\.encode\(\).*codec="):
            call()
    with pytest.raises(TypeError, match=r"a key is bytes-like, not str"):
        handle.append(b"v", key="k")


@pytest.mark.parametrize("value", [7, 1.5, object(), [b"x"], {}])
def test_what_is_not_bytes_like_is_refused(handle, log, value):
    for call in (lambda: handle.append(value), lambda: handle.append_many([b"ok", value])):
        with pytest.raises(TypeError, match="a value is bytes-like"):
            call()
    assert log.end_offset == 0


def test_every_buffer_is_a_value(handle, log):
    numbers = array("i", [1, 2])
    given = [
        b"b",
        bytearray(b"ba"),
        memoryview(b"mv"),
        memoryview(b"a-b-c")[::2],
        numbers,
        b"",
        None,
    ]
    for value in given:
        handle.append(value)
    handle.append_many(given)
    handle.append_many(given, keys=given)
    wanted = [b"b", b"ba", b"mv", b"abc", numbers.tobytes(), b"", None]
    assert values(log) == wanted * 3
    assert [r.key for r in log.reader(14)] == wanted


def test_a_lent_buffer_is_given_back(handle):
    value, key, header = bytearray(b"v"), bytearray(b"k"), bytearray(b"h")
    handle.append(value, key=key, headers={"h": header})
    handle.append_many([value] * 3)
    handle.append_many([value] * 3, keys=[key] * 3)
    with pytest.raises(TypeError):
        handle.append_many([value, 1])
    for lent in (value, key, header):
        lent.append(0)  # BufferError while anything holds it


def test_a_caller_that_changes_its_list_meanwhile_changes_nothing(log, store):
    class Meddler(Reverse):
        def encode(self, value):
            given.clear()
            return super().encode(value)

    given = ["ab", "cd"]
    Handle(store, [log], codec=Meddler()).append_many(given)
    assert values(log) == [b"ba", b"dc"]


def test_headers_are_a_mapping_or_pairs_and_come_back_as_pairs(handle, log):
    handle.append(b"v", headers={"a": b"1", "b": None})
    handle.append(b"v", headers=[("a", b"1"), ("ü", memoryview(b"2")), ("a", b"")])
    handle.append(b"v", headers=iter(()))
    first, second, third = log.reader(0).take(3)
    assert first.headers == (("a", b"1"), ("b", None))
    assert second.headers == (("a", b"1"), ("ü", b"2"), ("a", b""))
    assert second.header("a") == b""
    assert second.header("x", b"default") == b"default"
    assert first.header("b", b"default") is None
    assert third.headers == ()


@pytest.mark.parametrize(
    ("headers", "kind", "words"),
    [
        ({"__mqlog.due": b""}, ValueError, "reserved"),
        ({"a": "text"}, TypeError, "a header's value"),
        ({b"a": b""}, TypeError, "name is str"),
        ("ab", TypeError, "headers is a mapping, or pairs"),
        ([("a", b"1", b"2")], TypeError, "pair of str"),
        (7, TypeError, "headers is a mapping, or pairs"),
    ],
)
def test_bad_headers_are_refused(handle, log, headers, kind, words):
    for call in (
        lambda: handle.append(b"v", headers=headers),
        lambda: handle.append_many([b"v"], headers=[headers]),
    ):
        with pytest.raises(kind, match=words):
            call()
    assert log.end_offset == 0


MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def test_a_moment_is_epoch_seconds_or_an_aware_datetime(handle, log):
    assert _engine.to_ms(MOMENT) == _engine.to_ms(MOMENT.timestamp()) == 1767323045678
    assert _engine.to_ms(MOMENT.astimezone(timezone(timedelta(hours=5)))) == 1767323045678
    assert _engine.to_ms(0) == 0
    handle.append(b"v", timestamp=MOMENT)
    record = log.reader(0).take(1)[0]
    assert record.datetime == MOMENT
    assert record.timestamp == 1767323045.678
    assert record.timestamp_ms == 1767323045678


@pytest.mark.parametrize(
    ("moment", "kind", "words"),
    [
        (datetime(2026, 1, 1), ValueError, "naive"),
        (float("nan"), ValueError, "nan"),
        (float("inf"), ValueError, "inf"),
        (-1.0, ValueError, "-1.0"),
        (1.7e12, ValueError, "milliseconds"),
        (True, TypeError, "bool"),
        ("now", TypeError, "str"),
    ],
)
def test_what_is_no_moment_is_refused(handle, log, moment, kind, words):
    for call in (
        lambda: _engine.to_ms(moment),
        lambda: handle.append(b"v", timestamp=moment),
        lambda: handle.append_many([b"a", b"b"], timestamps=[1.0, moment]),
    ):
        with pytest.raises(kind, match=words):
            call()
    assert log.end_offset == 0


def test_a_clock_says_what_now_is(store, log):
    handle = Handle(store, [log], clock=lambda: 12.5)
    handle.append(b"a")
    handle.append_many([b"b"])
    handle.append_many([b"c"], keys=[b"k"])
    handle.append(b"d", timestamp=1)
    assert [r.timestamp for r in log.reader(0)] == [12.5, 12.5, 12.5, 1.0]


def test_columns_of_another_length_are_refused_and_nothing_is_appended(handle, log):
    for how in ({"keys": [b"k"]}, {"headers": [()] * 3}, {"timestamps": []}):
        with pytest.raises(ValueError, match=rf"2 values but \d {next(iter(how))}"):
            handle.append_many([b"a", b"b"], **how)
    assert log.end_offset == 0


def test_a_partition_out_of_range_is_refused(store):
    handle, logs = spread(store, 2)
    for partition in (-1, 2):
        with pytest.raises(ValueError, match=r"0 .. 1"):
            handle.append(b"v", partition=partition)
        with pytest.raises(ValueError, match=r"0 .. 1"):
            handle.append_many([b"v"], partition=partition)
    for partition in (True, "0", 1.0):
        with pytest.raises(TypeError):
            handle.append(b"v", partition=partition)
    assert [log.end_offset for log in logs] == [0, 0]


def test_an_unknown_compression_is_refused(handle):
    with pytest.raises(ValueError, match="brotli"):
        handle.append_many([b"v"], compression="brotli")


# -- appending -------------------------------------------------------------------------------------


def test_offsets_are_a_range_where_one_partition_was_hit(handle):
    assert handle.append(b"v") == 0
    assert handle.append_many([b"v"] * 3) == range(1, 4)
    assert handle.append_many(iter([b"v"])) == range(4, 5)
    assert handle.append_many([b"v"] * 2, keys=[b"a", None]) == range(5, 7)
    assert handle.append_many([]) == range(7, 7)
    assert len(handle.append_many([], keys=[])) == 0


def test_keys_choose_the_partition_as_in_kafka(store):
    handle, logs = spread(store, 3)
    keys = [b"user-%d" % n for n in range(40)]
    for key in keys:
        handle.append(b"v", key=key)
    for n, log in enumerate(logs):
        assert [r.key for r in log.reader(0)] == [
            k for k in keys if _engine.partition_for(k, 3) == n
        ]
    assert _engine.partition_for(b"21", 1000) == _engine.partition_for(bytearray(b"21"), 1000)


def test_append_many_with_keys_gives_offsets_in_the_order_given(store):
    handle, logs = spread(store, 3)
    keys = [b"user-%d" % n for n in range(50)]
    given = [b"%d" % n for n in range(50)]
    offsets = handle.append_many(given, keys=keys)
    for value, key, offset in zip(given, keys, offsets, strict=True):
        (record,) = logs[_engine.partition_for(key, 3)].reader(offset).take(1)
        assert (record.value, record.key) == (value, key)
    assert sum(log.end_offset for log in logs) == 50
    same = handle.append_many([b"x"] * 3, keys=[b"user-1"] * 3)
    assert type(same) is range


def test_without_keys_the_partitions_take_turns(store):
    handle, logs = spread(store, 3)
    for _ in range(6):
        handle.append(b"v")
    assert [log.end_offset for log in logs] == [2, 2, 2]
    for _ in range(3):
        assert handle.append_many([b"v"] * 5) == range(2, 7)
    assert [log.end_offset for log in logs] == [7, 7, 7]
    handle.append_many([b"v"] * 4, keys=[None] * 4)  # sticky: one partition a call
    assert sorted(log.end_offset for log in logs) == [7, 7, 11]


def test_a_partition_asked_for_wins_over_the_key(store):
    handle, logs = spread(store, 3)
    for partition in range(3):
        handle.append(b"v", key=b"same", partition=partition)
        handle.append_many([b"v"], keys=[b"same"], partition=partition)
    assert [log.end_offset for log in logs] == [2, 2, 2]


def test_big_values_and_durable_ones_arrive_too(handle, log):
    big = os.urandom(300_000)
    handle.append(big)
    handle.append_many([big, big])
    handle.append(b"d", durable=True)
    handle.append_many([b"e"], durable=True)
    assert log.durable_offset == 5
    assert values(log) == [big, big, big, b"d", b"e"]


def test_a_topic_that_syncs_is_never_appended_to_with_the_gil_and_is_durable(store):
    log = store.partition("sync", 0, True, OPTIONS._replace(durability=1))
    handle = Handle(store, [log])
    handle.append(b"a")
    handle.append_many([b"b"])
    assert log.durable_offset == log.readable_offset == 2


def test_a_codec_encodes_and_decodes(store, log):
    handle = Handle(store, [log], codec=Reverse())
    handle.append("abc")
    handle.append(None)
    handle.append_many(["def", None])
    assert values(log) == [b"cba", None, b"fed", None]
    reader = log.reader(0, codec=Reverse())
    first, second = reader.take(2)
    assert (first.value, first.raw, second.value) == ("abc", b"cba", None)
    assert first.value is first.value
    assert list(reader.values()) == ["def", None]
    assert next(log.reader(0, codec=Reverse()).values(raw=True)) == b"cba"
    lent = log.reader(0, copy=False, codec=Reverse()).take(1)[0]
    assert lent.value == "abc"


def test_a_value_that_does_not_decode_is_in_hand_when_it_fails(handle, log):
    handle.append(b"\xff")
    (record,) = log.reader(0, codec=Reverse()).take(1)
    with pytest.raises(UnicodeDecodeError):
        _ = record.value
    assert record.raw == b"\xff"


@pytest.mark.parametrize("name", ["lz4", "gzip"])
def test_compressed_batches_read_as_if_they_were_not(store, log, name):
    handle = Handle(store, [log])
    given = [b"%d:" % n + b"z" * 200 for n in range(500)]
    keys = [b"k%d" % n for n in range(500)]
    assert handle.append_many(given, keys=keys, compression=name) == range(500)
    assert log.describe().bytes < sum(map(len, given)) / 4
    Handle(store, [log], compression=name).append(b"one" * 100, headers={"h": b"1"})
    assert values(log)[:500] == given
    assert [r.key for r in log.reader(100, 200)] == keys[100:200]
    assert [bytes(r.raw) for r in log.reader(0, 500, copy=False)] == given
    assert log.reader(0).columns(500).values() == given
    (last,) = log.reader(500).take(1)
    assert (last.value, last.headers) == (b"one" * 100, (("h", b"1"),))


def test_what_compression_does_not_shrink_is_stored_as_it_is(store, log, monkeypatch):
    Handle(store, [log], compression="lz4").append(os.urandom(64))
    monkeypatch.setattr(_compression, "inflate", None)
    assert len(values(log)[0]) == 64


def test_compression_none_is_the_topics_and_the_word_none_is_none(store, log, monkeypatch):
    asked = []
    real = _compression.compress
    monkeypatch.setattr(_compression, "compress", lambda n, d: asked.append(n) or real(n, d))
    handle = Handle(store, [log], compression="gzip")
    handle.append_many([b"v" * 100])
    handle.append_many([b"v" * 100], compression="none")
    handle.append_many([b"v" * 100], compression="lz4")
    assert asked == ["gzip", "lz4"]


def test_a_batch_is_filled_up_to_batch_bytes_before_it_is_compressed(store, log, monkeypatch):
    sizes = []
    real = _compression.compress
    monkeypatch.setattr(_compression, "compress", lambda n, d: sizes.append(len(d)) or real(n, d))
    handle = Handle(store, [log], compression="lz4", batch_bytes=1000)
    handle.append_many([b"v" * 90] * 100 + [b"w" * 5000] + [b"x"])
    assert len(values(log)) == 102
    assert sorted(sizes)[-1] > 5000  # one record alone is a batch whatever its size
    assert all(700 < size <= 1000 - 61 for size in sizes[:-3])


def test_a_handle_refreshes_when_options_move_and_only_then(store, handle):
    handle.append(b"v")
    assert handle.refreshed == 0
    with store.gate():
        store.write_options(b"{}")
    assert store.read_options() == b"{}"
    handle.append(b"v")
    handle.append_many([b"v"])
    handle._check()
    assert handle.refreshed == 1


def test_a_handle_bound_to_options_that_have_moved_meanwhile_refreshes(store, log, handle):
    before = store.options_generation
    with store.gate():
        store.write_options(b"{}")
    store_, logs, how = handle.target
    handle.target = store_, logs, how | {"generation": before}
    handle.bind()
    handle.target = store_, logs, how
    handle.append(b"v")
    assert handle.refreshed == 1
