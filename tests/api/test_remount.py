"""The file system under a store is unmounted and mounted again: old memory is not believed."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.damage import python
from support.disk import Image, mount

import mqlog

pytestmark = pytest.mark.slow

PARTITION = "orders-0"


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    with Image(tmp_path) as made:
        yield made


def mount_id(path: Path) -> int:
    """The mount that the partition's control page says it is of."""
    return struct.unpack_from("<Q", (path / PARTITION / "control").read_bytes(), 0x30)[0]


def append(path: Path, value: bytes) -> int:
    with mqlog.open(path, min_free_bytes=0) as store:
        return store.stream("orders").append(value)


def read(path: Path) -> list[bytes]:
    with mqlog.open(path, "r") as store:
        return list(store.stream("orders").values())


KILLED = """
    import os, signal, sys
    import mqlog
    store = mqlog.open(sys.argv[1], min_free_bytes=0)
    orders = store.stream("orders", segment_bytes=1 << 16, max_message_bytes=1 << 15)
    for n in range(200):
        orders.append(b"%d" % n * 100)
    {}
    for n in range(200, 220):
        orders.append(b"%d" % n * 100)
    os.kill(os.getpid(), signal.SIGKILL)
"""
VALUES = [b"%d" % n * 100 for n in range(220)]


def killed(path: Path, before_the_last: str) -> None:
    done = python(KILLED.format(before_the_last), path)
    assert done.returncode == -9, done.stderr


def test_a_closed_store_is_the_same_after_an_unmount_and_a_mount(image: Image) -> None:
    for round in range(3):
        assert append(image.path / "s", b"%d" % round) == round, "a clean close does not jump"
        image.remount()
    assert read(image.path / "s") == [b"0", b"1", b"2"]


def test_a_closed_store_holds_nothing_of_its_file_system_though_its_handles_live(
    image: Image,
) -> None:
    with mqlog.open(image.path / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        orders.append_many([b"a", b"b"])
        reading = orders.read()
        assert next(reading).value == b"a"
    image.unmount()
    with pytest.raises(mqlog.ClosedError):
        next(reading)


@pytest.mark.parametrize("sync", ["store.sync()", "orders.append(b'durable', durable=True)"])
def test_nothing_synced_is_lost_when_the_process_was_killed_before(image: Image, sync: str) -> None:
    killed(image.path / "s", sync)
    image.remount()
    with mqlog.open(image.path / "s", min_free_bytes=0) as store:
        values = [one for one in store.stream("orders").values() if one != b"durable"]
        assert values[:200] == VALUES[:200]
        assert values == VALUES[: len(values)], "a prefix, never a hole"


def test_no_offset_is_given_twice_over_a_mount(image: Image) -> None:
    """Somebody may have seen offsets of which the mount knows nothing any more."""
    killed(image.path / "s", "store.sync()")
    image.remount()
    with mqlog.open(image.path / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        assert orders.append(b"next") >= 220
        last = [record.value for record in orders.read()][-1]
        assert last == b"next"


def test_a_page_from_before_the_mount_is_not_believed_whatever_it_says(image: Image) -> None:
    """It says where the log ended; the last records' bytes did not make it to the disk."""
    killed(image.path / "s", "store.sync()")
    before = mount_id(image.path / "s")
    image.remount()
    directory = image.path / "s" / PARTITION
    last = max(directory.glob("*.log"))
    data = last.read_bytes()
    position = data.rindex(b"219" * 10)
    last.write_bytes(data[: position - 2000] + bytes(len(data) - position + 2000))
    with mqlog.open(image.path / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        values = list(orders.values())  # no CorruptError: what is gone was never synced
        assert values == VALUES[: len(values)]
        assert 200 <= len(values) < 220
        assert orders.append(b"next") >= 220
        assert mount_id(image.path / "s") != before or before == 0
        assert before != 0, "this kernel tells no mount ids: the test says nothing here"


def test_a_page_is_believed_while_the_mount_is_the_same(image: Image) -> None:
    killed(image.path / "s", "store.sync()")
    with mqlog.open(image.path / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        assert list(orders.values()) == VALUES
        assert orders.append(b"next") == 220, "only a process died: nothing is used up"


def test_a_committed_offset_is_never_past_the_log_after_a_mount(image: Image) -> None:
    with mqlog.open(image.path / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        orders.append_many([b"%d" % n for n in range(100)])
        with orders.consumer("billing", commit="manual") as consumer:
            consumer.poll(60)
            consumer.commit(durable=True)
    image.remount()
    opened = mqlog.open(image.path / "s", min_free_bytes=0)
    with opened as store, store.stream("orders").consumer("billing") as consumer:
        assert consumer.committed == {0: 60}
        assert [record.offset for record in consumer.poll(5)] == list(range(60, 65))


def test_a_read_only_mount_is_read_and_refuses_to_be_written(image: Image) -> None:
    append(image.path / "s", b"a")
    image.unmount()
    mount(image.path, "-o", "loop,ro", image.file)
    assert read(image.path / "s") == [b"a"]
    with pytest.raises(OSError) as caught:
        mqlog.open(image.path / "s")
    assert caught.value.errno == 30  # EROFS
    assert str(image.path) in str(caught.value) or caught.value.filename


def test_a_killed_store_on_a_read_only_mount_is_read_to_where_recovery_would_keep_it(
    image: Image,
) -> None:
    killed(image.path / "s", "store.sync()")
    image.unmount()
    mount(image.path, "-o", "loop,ro", image.file)
    values = read(image.path / "s")
    assert values == VALUES[: len(values)]
    assert len(values) >= 200
    image.remount()
    assert read(image.path / "s") == values


ACQUIRED_THEN_KILLED = """
    import os, signal, sys
    import mqlog
    jobs = mqlog.open(sys.argv[1], min_free_bytes=0).queue("jobs")
    if not jobs.qsize():
        jobs.put(b"once", durable=True)
    os.write(1, b"%d" % jobs.get().token)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_token_is_not_given_twice_when_the_disk_forgets_the_first_within_one_boot(
    image: Image,
) -> None:
    """Somebody may have handed it on; whoever shows the old one must be turned away."""
    tokens = []
    for _ in range(3):
        done = python(ACQUIRED_THEN_KILLED, image.path / "s")
        assert done.returncode == -9, done.stderr
        tokens.append(int(done.stdout))
        image.cut()
        image.after_the_cut()
    assert tokens == sorted(set(tokens)), "tokens only grow"
