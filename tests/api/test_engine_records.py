"""Does the binding read what was appended, in each of its ways? (_records.pxi)"""

import copy
import errno
import gc
import logging
import pickle

import pytest
from support.binding import OPTIONS, Handle, values

from mqlog import _compression, _engine, errors


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


def test_a_record_says_where_it_is_and_never_what(handle, log):
    handle.append(b"secret", key=b"hidden")
    (record,) = log.reader(0)
    assert (record.topic, record.partition, record.offset, record.id) == (
        "orders",
        0,
        0,
        "orders-0:0",
    )
    assert repr(record) == "<mqlog.Record orders-0:0>"
    assert "Record[bytes]" in str(_engine.Record[bytes])
    assert "Reader[bytes]" in str(_engine.Reader[bytes])
    with pytest.raises(AttributeError):
        record.offset = 1


def test_a_record_pickles_whole(handle, log):
    handle.append(b"v", key=b"k", headers=[("h", b"1"), ("h", None)], timestamp=1.5)
    (record,) = log.reader(0)
    _ = record.headers
    twin = pickle.loads(pickle.dumps(record))
    assert (twin.id, twin.key, twin.raw, twin.value) == ("orders-0:0", b"k", b"v", b"v")
    assert (twin.headers, twin.timestamp) == (record.headers, 1.5)
    assert copy.copy(record).value == b"v"


def test_a_record_that_lends_memory_says_what_to_send_instead(handle, log):
    handle.append(b"v")
    (record,) = log.reader(0, copy=False)
    with pytest.raises(TypeError, match=r"bytes\(record\.raw\)"):
        pickle.dumps(record)


# -- reading ---------------------------------------------------------------------------------------


def test_a_reader_goes_on_when_records_arrive(handle, log):
    reader = log.reader(0)
    assert list(reader) == []
    handle.append_many([b"a", b"b"])
    assert [r.value for r in reader] == [b"a", b"b"]
    assert reader.position == 2
    assert reader.stop is None
    handle.append(b"c")
    assert [r.value for r in reader.take(9)] == [b"c"]


def test_a_reader_starts_inside_a_batch_and_stops_before_its_stop(handle, log):
    handle.append_many([b"%d" % n for n in range(10)])
    reader = log.reader(3, 7)
    assert [r.offset for r in reader] == [3, 4, 5, 6]
    assert (reader.position, reader.stop) == (7, 7)
    assert reader.take(5) == []
    assert reader.columns(5) is None
    assert list(reader.values()) == []
    reader.seek(5)
    assert list(reader.values()) == [b"5", b"6"]
    assert list(log.reader(7, 7)) == []
    assert list(log.reader(7, 3)) == []


def test_the_ways_to_read_share_one_position(handle, log):
    for n in range(30):
        handle.append(b"%d" % n)
    handle.append_many([b"%d" % n for n in range(30, 100)])
    reader = log.reader(0)
    assert next(reader).offset == 0
    assert next(reader.values()) == b"1"
    assert [r.offset for r in reader.take(3)] == [2, 3, 4]
    assert list(reader.columns(50).offsets) == list(range(5, 55))
    assert next(reader.values()) == b"55"
    assert next(reader).offset == 56
    assert reader.take(0) == []
    assert reader.position == 57
    assert len(reader.columns(10**9)) == 43


def test_columns_hold_what_the_records_say(handle, log):
    handle.append_many([b"a", None, b"c"], keys=[b"k", None, b""], timestamps=[1, 2, 3])
    handle.append(b"d", timestamp=4)
    columns = log.reader(1).columns(100)
    assert (len(columns), columns.partition) == (3, 0)
    assert columns.offsets.tolist() == [1, 2, 3]
    assert columns.timestamps_ms.tolist() == [2000, 3000, 4000]
    assert columns.offsets.format == "q"
    assert columns.values() == [None, b"c", b"d"]
    assert columns.keys() == [None, b"", None]


def test_columns_are_arrays_for_numpy(handle, log):
    numpy = pytest.importorskip("numpy")
    handle.append_many([b"v"] * 100)
    columns = log.reader(0).columns(100)
    offsets = numpy.asarray(columns.offsets)
    assert offsets.dtype == numpy.int64
    del columns
    gc.collect()
    assert offsets.sum() == 4950


def test_the_offset_at_a_moment_is_the_first_at_or_after_it(handle, log):
    handle.append_many([b"v"] * 4, timestamps=[1, 2, 3, 4])
    handle.append_many([b"v" * 50] * 4, timestamps=[5, 6, 7, 8], compression="lz4")
    assert [log.offset_at(ms) for ms in (0, 1000, 2001, 4000, 6500, 8000, 8001)] == [
        0, 0, 2, 3, 6, 7, 8,
    ]  # fmt: skip


def test_trimmed_records_are_out_of_range(handle, log):
    for _ in range(4):
        handle.append(b"v")
    reader = log.reader(0)
    log.trim(3)
    assert log.start_offset == 3
    with pytest.raises(errors.OffsetOutOfRangeError):
        log.reader(2)
    with pytest.raises(errors.OffsetOutOfRangeError):
        next(reader)
    assert values(log) == [b"v"]


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_no_way_of_reading_gives_what_was_trimmed_out_of_the_middle_of_a_batch(
    handle, log, compression
):
    handle.append(b"0")
    handle.append_many([b"%d" % n for n in range(1, 10)], compression=compression)
    readers = [log.reader(0), log.reader(0, copy=False), log.reader(0, verify=False)]
    assert [len(reader.take(1)) for reader in readers] == [1, 1, 1]
    log.trim(5)
    for reader in readers:
        for read in (
            next,
            lambda reader: reader.take(3),
            lambda reader: next(reader.values()),
            lambda reader: reader.columns(3),
        ):
            with pytest.raises(errors.OffsetOutOfRangeError) as caught:
                read(reader)
            assert (caught.value.start, caught.value.stop) == (5, 10)
        reader.seek(5)
        assert [bytes(record.value) for record in reader.take(2)] == [b"5", b"6"]
    rest = [b"%d" % n for n in range(5, 10)]
    assert values(log) == log.reader(5).columns(10).values() == rest


def test_a_payload_that_does_not_inflate_is_damage_that_is_passed(store, log, monkeypatch, caplog):
    handle = Handle(store, [log])
    handle.append(b"before")
    handle.append_many([b"z" * 100] * 3, compression="lz4")
    handle.append(b"after")

    def broken(code, data, limit):
        raise ValueError("out of lz4 frames")

    monkeypatch.setattr(_compression, "inflate", broken)
    reader = log.reader(0)
    assert [r.value for r in reader.take(10)] == [b"before"]  # what is whole comes first
    assert reader.position == 1
    with pytest.raises(errors.CorruptError, match="out of lz4 frames") as caught:
        reader.take(10)
    error = caught.value
    assert (error.start, error.stop, error.errno) == (1, 4, errno.EBADMSG)
    assert error.path.endswith("orders-0/00000000000000000000.log")
    assert reader.position == 4
    assert [r.value for r in reader.take(10)] == [b"after"]
    with caplog.at_level(logging.WARNING, "mqlog"):
        assert [r.offset for r in log.reader(2, skip_corrupt=True)] == [4]
    assert len(caplog.records) == 1


def test_an_inflater_that_fails_otherwise_loses_no_record(store, log, monkeypatch):
    Handle(store, [log]).append_many([b"z" * 100] * 3, compression="lz4")
    reader = log.reader(0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_compression, "inflate", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        next(reader)
    assert [r.offset for r in reader] == [0, 1, 2]


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def damaged(tmp_path):
    """A store whose second batch of three has a flipped bit in its payload."""
    store = _engine.Store(tmp_path / "s")
    log = store.partition("t", 0, True, OPTIONS)
    handle = Handle(store, [log])
    for batch in ([b"a", b"b"], [b"here", b"d"], [b"e"]):
        handle.append_many(batch, durable=True)
    store.close()
    folder = tmp_path / "s" / "t-0"
    path = folder / "00000000000000000000.log"
    flip(path, path.read_bytes().index(b"here"))
    store = _engine.Store(tmp_path / "s")
    return store, store.partition("t", 0, False, OPTIONS), path


def test_damage_is_raised_once_and_reading_goes_on_behind_it(tmp_path, caplog):
    store, log, path = damaged(tmp_path)
    reader = log.reader(0)
    assert [r.value for r in reader.take(9)] == [b"a", b"b"]
    with pytest.raises(errors.CorruptError) as caught:
        reader.take(9)
    error = caught.value
    assert (error.start, error.stop) == (2, 4)
    assert error.path.endswith(path.name)
    assert error.position > 0
    assert [r.value for r in reader.take(9)] == [b"e"]

    reader = log.reader(0)
    columns = reader.columns(100)
    assert columns.values() == [b"a", b"b"]
    with pytest.raises(errors.CorruptError):
        reader.columns(100)
    assert reader.columns(100).values() == [b"e"]

    with caplog.at_level(logging.WARNING, "mqlog"):
        assert [r.offset for r in log.reader(0, skip_corrupt=True)] == [0, 1, 4]
    assert len(caplog.records) == 1
    store.close()


def test_verify_tells_of_each_problem_and_passes_exceptions_on(tmp_path):
    store, log, path = damaged(tmp_path)
    found, seen = [], []
    report = log.verify(lambda *what: found.append(what), lambda *done: seen.append(done))
    assert report.problems == len(found) >= 1
    assert path.name in found[0][0]

    def refuse(*what):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log.verify(refuse)
    with pytest.raises(ZeroDivisionError):
        log.verify(print, refuse)
    store.close()
