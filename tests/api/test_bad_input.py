"""Bad input gets a clear error and loses nothing."""

import errno
import json
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.damage import snapshot
from support.disk import mount, run, unavailable
from support.partition import batch

import mqlog

TOPIC = "orders"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop-data"


@pytest.fixture
def store(path: Path) -> Iterator[mqlog.Store]:
    with mqlog.open(path) as store:
        yield store


@pytest.fixture
def orders(store: mqlog.Store) -> mqlog.Stream[bytes, Any]:
    made = store.stream(TOPIC)
    made.append_many([b"%d" % n for n in range(10)])
    return made


def lost_nothing(orders: mqlog.Stream[bytes, Any]) -> None:
    """The records are those of before, and appends go on."""
    assert list(orders.values()) == [b"%d" % n for n in range(10)]
    assert orders.append(b"10") == 10


# -- names ----------------------------------------------------------------------------------------
NAMES = ["", ".", "..", "../x", "/etc/x", "a/b", "a\0b", "a b", "naïve", "x" * 246, "x" * 100_000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_a_name_that_cannot_be_is_refused_and_makes_nothing(
    orders: mqlog.Stream[bytes, Any], store: mqlog.Store, name: str
) -> None:
    around = sorted(os.listdir(store.path.parent)), sorted(os.listdir(store.path))
    calls: list[Callable[[], Any]] = [
        lambda: store.stream(name),
        lambda: store.stream(name, create=False),
        lambda: store.delete_topic(name),
        lambda: store.alter(name, partitions=2),
        lambda: store.groups(name),
        lambda: orders.consumer(name),
        lambda: store.delete_group(TOPIC, name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="name"):
            call()
    assert (sorted(os.listdir(store.path.parent)), sorted(os.listdir(store.path))) == around
    assert name not in store
    lost_nothing(orders)


def test_the_longest_name_is_allowed(path: Path) -> None:
    name = "x" * 245
    with mqlog.open(path) as store:
        assert store.stream(name).append(b"a") == 0
        with store.stream(name).consumer(name) as consumer:
            assert [record.value for record in consumer.poll(1)] == [b"a"]
    with mqlog.open(path) as store:
        assert list(store.stream(name, create=False).values()) == [b"a"]
        store.delete_topic(name)
        assert name not in store


@pytest.mark.parametrize("name", [None, 5, b"orders", ["orders"]])
def test_a_name_that_is_no_str_is_a_type_error(store: mqlog.Store, name: Any) -> None:
    with pytest.raises(TypeError, match="str"):
        store.stream(name)


# -- files and directories ------------------------------------------------------------------------
def test_a_file_where_the_store_is_expected_is_left_alone(path: Path) -> None:
    path.write_bytes(b"mine")
    for mode in ("rw", "r"):
        with pytest.raises(NotADirectoryError, match="shop-data"):
            mqlog.open(path, mode)  # type: ignore[arg-type]
    with pytest.raises(NotADirectoryError):
        mqlog.open(path / "deeper")
    assert path.read_bytes() == b"mine"


def test_a_file_where_a_partition_is_expected_is_left_alone(store: mqlog.Store) -> None:
    place = store.path / "orders-0"
    place.write_bytes(b"mine")
    with pytest.raises(OSError) as caught:
        store.stream(TOPIC).append(b"a")
    assert caught.value.errno == errno.ENOTDIR
    assert "orders-0" in str(caught.value)
    assert place.read_bytes() == b"mine"
    assert store.stream("other").append(b"a") == 0


def test_a_file_where_the_groups_are_expected_is_left_alone(
    orders: mqlog.Stream[bytes, Any], store: mqlog.Store
) -> None:
    place = store.path / "orders-0" / "groups"
    place.write_bytes(b"mine")
    with pytest.raises(OSError, match="groups"), orders.consumer("billing") as consumer:
        consumer.poll(1)
    assert place.read_bytes() == b"mine"
    lost_nothing(orders)


@pytest.mark.parametrize("file", ["mqlog.json", "store.lock", "doorbell"])
def test_a_directory_where_a_file_is_expected_is_left_alone(path: Path, file: str) -> None:
    (path / file).mkdir(parents=True)
    (path / file / "mine").write_bytes(b"mine")
    with pytest.raises((OSError, mqlog.Error), match=file):
        mqlog.open(path)
    assert (path / file / "mine").read_bytes() == b"mine"


# -- read-only directories ------------------------------------------------------------------------
@pytest.fixture
def read_only(path: Path) -> Iterator[Path]:
    """The store with ten records, on a file system that takes no writes (root may write to all
    others, whatever their modes)."""
    if os.geteuid() != 0:
        unavailable("not root")
    mount(path, "-t", "tmpfs", "-o", "size=8m", "mqlog-test")
    try:
        with mqlog.open(path, min_free_bytes=0) as store:
            store.stream(TOPIC).append_many([b"%d" % n for n in range(10)])
        del store
        run("mount", "-o", "remount,ro", path)
        yield path
    finally:
        run("umount", "-l", path)


def test_a_read_only_directory_is_refused_for_writing_and_read(read_only: Path) -> None:
    before = snapshot(read_only)
    with pytest.raises(OSError) as caught:
        mqlog.open(read_only)
    assert caught.value.errno == errno.EROFS
    with pytest.raises(OSError):
        mqlog.open(read_only / "deeper")
    with mqlog.open(read_only, "r") as store:
        assert list(store.stream(TOPIC).values()) == [b"%d" % n for n in range(10)]
    assert list(mqlog.replay(read_only))[3].value == b"3"
    assert snapshot(read_only) == before


def test_a_directory_of_somebody_else_is_a_permission_error() -> None:
    """As another user, in a child: root may do everything."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    mine = Path(tempfile.mkdtemp(prefix="mqlog-test-"))
    mine.chmod(0o755)
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            mqlog.open(mine / "s")
            os.write(start, b"opened")
        except BaseException as error:
            os.write(start, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(end, 100) == b"PermissionError"
    os.close(end)
    os.close(start)
    mine.rmdir()  # empty


# -- formats --------------------------------------------------------------------------------------
def closed_store(path: Path) -> None:
    with mqlog.open(path) as store:
        store.stream(TOPIC).append_many([b"%d" % n for n in range(10)])


@pytest.mark.parametrize("change", [{"format": 2}, {"format": 2, "oldest_writer": 2}])
def test_a_store_of_a_newer_format_is_refused_and_not_touched(
    path: Path, change: dict[str, int]
) -> None:
    closed_store(path)
    document = json.loads((path / "mqlog.json").read_bytes())
    (path / "mqlog.json").write_text(json.dumps(document | change))
    before = snapshot(path)
    for mode in ("rw", "r"):
        with pytest.raises(mqlog.FormatError, match="newer mqlog"):
            mqlog.open(path, mode)  # type: ignore[arg-type]
    assert snapshot(path) == before


def test_a_store_that_only_newer_ones_may_write_is_read(path: Path) -> None:
    closed_store(path)
    document = json.loads((path / "mqlog.json").read_bytes())
    (path / "mqlog.json").write_text(json.dumps(document | {"oldest_writer": 2}))
    before = snapshot(path)
    with pytest.raises(mqlog.FormatError, match='mode="r"'):
        mqlog.open(path)
    with mqlog.open(path, "r") as store:
        assert list(store.stream(TOPIC).values()) == [b"%d" % n for n in range(10)]
    assert snapshot(path) == before


def newer(data: bytes) -> bytes:
    """A file of ours as a layout writes it that this one may not write."""
    out = bytearray(data)
    struct.pack_into("<II", out, 8, 9, 9)
    return bytes(out)


def test_a_newer_doorbell_is_refused_and_not_touched(path: Path) -> None:
    closed_store(path)
    (path / "doorbell").write_bytes(newer((path / "doorbell").read_bytes()))
    before = snapshot(path)
    for mode in ("rw", "r"):
        with pytest.raises(mqlog.FormatError, match="newer mqlog"):
            mqlog.open(path, mode)  # type: ignore[arg-type]
    assert snapshot(path) == before


CASTAGNOLI = 0x82F63B78


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_a_newer_checkpoint_is_refused_and_not_touched(path: Path) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    closed_store(path)
    file = path / "orders-0" / "checkpoint"
    data = file.read_bytes()
    slots = [newer(data[at : at + 508]) for at in range(0, len(data), 512)]
    file.write_bytes(b"".join(slot + struct.pack("<I", crc32c(slot)) for slot in slots))
    before = file.read_bytes(), (path / "orders-0" / f"{0:020d}.log").read_bytes()
    for mode in ("rw", "r"):
        refused = pytest.raises(mqlog.FormatError, match="newer mqlog")
        with mqlog.open(path, mode) as store, refused:  # type: ignore[arg-type]
            store.stream(TOPIC, create=False)
    assert before == (file.read_bytes(), (path / "orders-0" / f"{0:020d}.log").read_bytes())


# -- values ---------------------------------------------------------------------------------------
def test_a_value_over_the_limit_is_refused_with_both_sizes(store: mqlog.Store) -> None:
    orders = store.stream("small", max_message_bytes=1000)
    fits = b"x" * 900
    assert orders.append(fits) == 0
    over = b"x" * 1000
    calls: list[Callable[[], Any]] = [
        lambda: orders.append(over),
        lambda: orders.append(b"", key=over),
        lambda: orders.append(b"", headers={"h": over}),
        lambda: orders.append_many([fits, over, fits]),
        lambda: orders.append_many([b""], keys=[over]),
    ]
    for call in calls:
        with pytest.raises(mqlog.RecordTooLargeError, match="1000"):
            call()
    assert list(orders.values()) == [fits]
    assert orders.append(fits) == 1


def test_the_default_limit_is_kafkas(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    with pytest.raises(mqlog.RecordTooLargeError):
        orders.append(b"x" * (1 << 20) + b"x")
    assert orders.append(b"x" * ((1 << 20) - 100)) == 0


def test_a_call_over_a_segment_is_refused_whole(store: mqlog.Store) -> None:
    orders = store.stream("small", segment_bytes=4096, max_message_bytes=4096)
    with pytest.raises(mqlog.RecordTooLargeError, match="segment_bytes"):
        orders.append_many([b"x" * 1000] * 10)
    assert orders.end_offset == 0


@pytest.mark.parametrize("value", ["text", 5, 1.5, ["x"], {"a": 1}, object()])
def test_a_value_of_another_type_is_a_type_error(
    orders: mqlog.Stream[bytes, Any], value: Any
) -> None:
    with pytest.raises(TypeError):
        orders.append(value)
    with pytest.raises(TypeError):
        orders.append_many([b"fine", value])
    lost_nothing(orders)


def test_what_an_iterable_of_values_raises_comes_out_and_nothing_is_appended(
    orders: mqlog.Stream[bytes, Any],
) -> None:
    def values() -> Iterator[bytes]:
        yield b"one"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        orders.append_many(values())
    lost_nothing(orders)


# -- closed stores --------------------------------------------------------------------------------
def test_a_closed_store_and_its_handles_say_so(path: Path) -> None:
    store = mqlog.open(path)
    orders = store.stream(TOPIC)
    orders.append(b"a")
    partition = orders.partitions[0]
    records, tail, consumer = orders.read(), orders.tail(), orders.consumer("billing")
    store.close()
    calls: list[Callable[[], Any]] = [
        lambda: store.stream(TOPIC),
        store.topics,
        lambda: store.groups(TOPIC),
        store.sync,
        lambda: store.alter(TOPIC, partitions=2),
        lambda: store.delete_topic(TOPIC),
        lambda: TOPIC in store,
        store.__enter__,
        lambda: orders.append(b"b"),
        lambda: orders.append_many([b"b"]),
        orders.read,
        lambda: list(orders),
        lambda: orders[0],
        lambda: orders.end_offset,
        lambda: orders.trim(0),
        lambda: orders.wait_durable(0),
        lambda: orders.consumer("other"),
        lambda: orders.partitions,
        lambda: partition.end_offset,
        lambda: partition[0],
        lambda: next(records),
        lambda: next(tail),
        lambda: consumer.poll(1, timeout=0),
        consumer.commit,
    ]
    for n, call in enumerate(calls):
        with pytest.raises(mqlog.ClosedError):
            call()
            pytest.fail(f"call {n} works on a closed store")
    store.close()
    with mqlog.open(path) as store:
        assert list(store.stream(TOPIC).values()) == [b"a"]


# -- places ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [2, 11, 2**62, 2**63 - 1])
def test_a_place_outside_the_log_names_the_range(
    orders: mqlog.Stream[bytes, Any], offset: int
) -> None:
    orders.trim(5)
    consumer = orders.consumer("billing")
    calls: list[Callable[[], Any]] = [
        lambda: orders.read(offset),
        lambda: orders.values(offset),
        lambda: orders.tail(offset),
        lambda: orders[offset],
        lambda: orders.consumer("new", start=offset),
        lambda: consumer.seek(offset, partition=0),
    ]
    for n, call in enumerate(calls):
        with pytest.raises(mqlog.OffsetOutOfRangeError) as caught:
            call()
            pytest.fail(f"call {n} takes a place outside the log")
        assert (caught.value.start, caught.value.stop) == (5, 10), n
        assert "5" in str(caught.value) and "10" in str(caught.value), n
    assert [record.offset for record in consumer.poll(9)] == [5, 6, 7, 8, 9]
    consumer.close()


@pytest.mark.parametrize("offset", [2**63, 2**64, -(2**63) - 1, -1, -(2**64)])
def test_a_number_that_no_offset_can_be_is_refused(
    orders: mqlog.Stream[bytes, Any], offset: int
) -> None:
    for call in (lambda: list(orders.read(offset)), lambda: orders[offset]):
        with pytest.raises((mqlog.OffsetOutOfRangeError, ValueError, OverflowError)):
            call()
    lost_nothing(orders)


@pytest.mark.parametrize("before", [-1, 2, 11, 2**62])
def test_trimming_outside_the_log_names_the_range_and_changes_nothing(
    orders: mqlog.Stream[bytes, Any], before: int
) -> None:
    orders.trim(5)
    with pytest.raises(mqlog.OffsetOutOfRangeError) as caught:
        orders.trim(before)
    assert (caught.value.start, caught.value.stop) == (5, 10)
    assert [record.offset for record in orders] == [5, 6, 7, 8, 9]
    orders.trim(5)
    orders.trim(10)
    assert orders.append(b"next") == 10


# -- arguments ------------------------------------------------------------------------------------
HUGE = 2**70


class Half:
    """A codec that cannot decode."""

    name = "half"

    def encode(self, value: Any) -> bytes:
        return bytes(value)


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "a path with NUL": (lambda s: mqlog.open("a\0b"), ValueError, "NUL character"),
    "an empty path to replay": (lambda s: mqlog.replay(""), ValueError, "is empty"),
    "a path to replay with NUL": (lambda s: mqlog.replay("a\0b"), ValueError, "NUL character"),
    "a clock": (lambda s: mqlog.temporary(clock=5), TypeError, "clock is a callable"),
    "a choice": (
        lambda s: mqlog.open(s.path, durability="x"),
        mqlog.OptionError,
        r"durability='x': there is no such choice; there are 'os', 'sync'$",
    ),
    "a bound": (
        lambda s: mqlog.open(s.path, min_free_bytes=-1),
        mqlog.OptionError,
        r"min_free_bytes=-1: bytes, from 0 to \d+, or None for the default$",
    ),
    "a size": (lambda s: s.stream("x", segment_bytes=1.5), TypeError, "segment_bytes is an int,"),
    "one handle to wait for": (lambda s: mqlog.wait(s.stream(TOPIC)), TypeError, "not Stream"),
    "nothing to wait for": (lambda s: mqlog.wait(None), TypeError, "takes a list .* not NoneType"),
    "progress": (lambda s: s.verify(progress=5), TypeError, "progress is a callable"),
    "an empty codec": (lambda s: s.alter(TOPIC, codec=""), mqlog.OptionError, "printable"),
    "a codec's name": (lambda s: s.alter(TOPIC, codec="\udc80"), mqlog.OptionError, "printable"),
    "a long codec": (lambda s: s.alter(TOPIC, codec="x" * 246), mqlog.OptionError, "1 to 245"),
    "half a codec": (lambda s: s.stream(TOPIC, codec=Half()), TypeError, "encode and decode"),
}
BAD_TO_STREAMS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "headers": (lambda o: o.append(b"v", headers=5), TypeError, "headers is a mapping.* not int"),
    "text as headers": (lambda o: o.append(b"v", headers=""), TypeError, "headers is .* not str"),
    "a header's name": (
        lambda o: o.append(b"v", headers={"\udc80": b"1"}),
        ValueError,
        r"header name '\\udc80' cannot be written as UTF-8",
    ),
    "a partition": (lambda o: o.append(b"v", partition=1.5), TypeError, "a partition is an int"),
    "one value as many": (lambda o: o.append_many(b"v"), TypeError, "many values, not bytes"),
    "one text as many": (lambda o: o.append_many("v"), TypeError, "many values, not str"),
    "a view as many": (lambda o: o.append_many(memoryview(b"v")), TypeError, "not memoryview"),
    "no values": (lambda o: o.append_many(None), TypeError, "many values, not NoneType"),
    "one key for many": (lambda o: o.append_many([b"v"], keys=b"k"), TypeError, "keys is as many"),
    "one moment for many": (
        lambda o: o.append_many([b"v"], timestamps=1.0),
        TypeError,
        "timestamps is as many",
    ),
    "compression": (lambda o: o.append_many([b"v"], compression=[]), TypeError, "is a str or None"),
    "huge to trim": (lambda o: o.trim(HUGE), mqlog.OffsetOutOfRangeError, r"orders-0 has .* 10$"),
    "below zero to trim": (lambda o: o.trim(-1), mqlog.OffsetOutOfRangeError, "orders-0 has"),
    "below zero to wait for": (
        lambda o: o.wait_durable(-HUGE),
        mqlog.OffsetOutOfRangeError,
        "orders-0 has offsets from 0 up to and without 10",
    ),
    "an end of a group": (
        lambda o: o.consumer("g", start=float("nan")),
        ValueError,
        "epoch seconds",
    ),
    "partitions": (lambda o: o.consumer("g", partitions=5), TypeError, "partitions is a list of"),
    "one of partitions": (lambda o: o.consumer("g", partitions=["0"]), TypeError, "is an int"),
    "on_assign": (lambda o: o.consumer("g", on_assign=5), TypeError, "on_assign is a callable"),
    "a partition to seek": (
        lambda o: o.consumer("g").seek(mqlog.LATEST, partition=0.0),
        TypeError,
        "partition is an int",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_argument_is_named_and_nothing_is_changed(
    orders: mqlog.Stream[bytes, Any], store: mqlog.Store, what: str
) -> None:
    call, kind, says = BAD[what]
    orders.consumer("g").close()
    files = sorted(os.listdir(store.path))
    options = store.options(TOPIC)
    with pytest.raises(kind, match=says):
        call(store)
    assert (sorted(os.listdir(store.path)), store.options(TOPIC)) == (files, options)
    lost_nothing(orders)


@pytest.mark.parametrize("what", BAD_TO_STREAMS)
def test_a_bad_argument_to_a_stream_is_named_and_nothing_is_appended(
    orders: mqlog.Stream[bytes, Any], what: str
) -> None:
    call, kind, says = BAD_TO_STREAMS[what]
    orders.consumer("g").close()  # a group that is not new judges `start` too
    with pytest.raises(kind, match=says):
        call(orders)
    lost_nothing(orders)


def test_as_many_as_there_will_ever_be_is_as_many_as_there_are(
    orders: mqlog.Stream[bytes, Any],
) -> None:
    [columns] = orders.columns(max_records=HUGE)
    assert len(columns) == 10
    with orders.consumer("g") as consumer:
        assert len(consumer.poll(HUGE, timeout=HUGE)) == 10
    orders.wait_durable(HUGE)


def test_a_consumer_that_comes_while_the_store_closes_its_consumers_waits(
    orders: mqlog.Stream[bytes, Any], store: mqlog.Store
) -> None:
    threads: list[threading.Thread] = []

    def join() -> None:
        with suppress(mqlog.ClosedError):
            orders.consumer("h")

    class Watched(weakref.WeakSet[Any]):
        def __iter__(self) -> Iterator[Any]:
            for consumer in super().__iter__():
                threads.append(threading.Thread(target=join))
                threads[-1].start()
                threads[-1].join(0.1)  # time enough to disturb
                yield consumer

    held = [orders.consumer("g"), orders.consumer("g")]
    store._consumers = Watched(held)
    store.close()
    for thread in threads:
        thread.join()
    assert len(threads) == len(held)


# -- what another program wrote -------------------------------------------------------------------
@pytest.mark.parametrize("ms", [2**62, -(2**62), 1_700_000_000_000_000, -62_135_596_800_001])
def test_a_timestamp_that_no_datetime_can_say_is_read_as_a_number(path: Path, ms: int) -> None:
    (path / f"{TOPIC}-0").mkdir(parents=True)
    (path / f"{TOPIC}-0" / f"{0:020d}.log").write_bytes(batch(0, b"a", timestamp=ms))
    with mqlog.open(path, "r") as store:
        [record] = store.stream(TOPIC)
        assert (record.timestamp_ms, record.timestamp) == (ms, ms / 1000)
        with pytest.raises(ValueError, match=f"{TOPIC}-0:0 is {ms} ms"):
            _ = record.datetime
