"""Every exception is under Error, is the built-in that fits, and pickles with its attributes."""

import errno
import io
import pickle
import queue
import sys
from pathlib import Path

import pytest

import mqlog
from mqlog import _engine, _options, errors

EVERY = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_exception_is_an_error(kind: type[Exception]) -> None:
    assert issubclass(kind, mqlog.Error)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_is_a_name_of_the_package(name: str) -> None:
    assert getattr(mqlog, name) is getattr(errors, name)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.Empty, queue.Empty),
        (errors.Full, queue.Full),
        (errors.ClosedError, ValueError),
        (errors.TopicDeletedError, errors.ClosedError),
        (errors.CorruptError, OSError),
        (errors.DurabilityError, OSError),
        (errors.OffsetOutOfRangeError, IndexError),
        (errors.NotFoundError, LookupError),
        (errors.OptionError, ValueError),
        (errors.RecordTooLargeError, ValueError),
        (errors.FormatError, ValueError),
        (errors.SettledError, ValueError),
        (errors.ForkedError, RuntimeError),
        (errors.ReadOnlyError, io.UnsupportedOperation),
        (errors.ReadOnlyError, OSError),
    ],
)
def test_an_exception_is_the_builtin_that_fits(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="queue.ShutDown is new in 3.13")
def test_shutdown_is_the_standard_librarys() -> None:
    assert issubclass(errors.ShutDown, getattr(queue, "ShutDown"))  # noqa: B009


def test_a_full_disk_is_not_an_error_of_mqlog() -> None:
    assert not issubclass(OSError, mqlog.Error)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_an_exception_pickles_with_its_text(kind: type[Exception]) -> None:
    error = kind("it broke")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_a_corrupt_error_pickles_with_its_place() -> None:
    error = mqlog.CorruptError("bad checksum", "/s/t-0/0.log", 61, 5, 9)
    again = pickle.loads(pickle.dumps(error))
    place = (again.errno, again.path, again.position, again.start, again.stop)
    assert place == (errno.EBADMSG, "/s/t-0/0.log", 61, 5, 9)
    assert str(again) == str(error)


def test_a_corrupt_error_says_what_is_lost_and_where_reading_goes_on() -> None:
    text = str(mqlog.CorruptError("bad checksum", "/s/t-0/0.log", 61, 5, 9))
    assert "bad checksum in /s/t-0/0.log at byte 61" in text
    assert "offsets 5 to 8" in text
    assert "goes on at offset 9" in text


def test_a_corrupt_error_keeps_its_notes() -> None:
    error = mqlog.CorruptError("bad checksum")
    error.add_note("seen by the nightly check")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen by the nightly check"]


def test_a_durability_error_keeps_what_the_device_said() -> None:
    error = mqlog.DurabilityError(errno.EIO, "the sync failed", "/s/t-0/0.log")
    again = pickle.loads(pickle.dumps(error))
    assert (again.errno, again.filename) == (errno.EIO, "/s/t-0/0.log")


def test_an_offset_out_of_range_pickles_with_its_range() -> None:
    again = pickle.loads(pickle.dumps(mqlog.OffsetOutOfRangeError("offset 3", 5, 9)))
    assert (again.start, again.stop) == (5, 9)


def test_a_lost_lock_names_its_messages() -> None:
    assert mqlog.LockLostError("late").messages == []
    again = pickle.loads(pickle.dumps(mqlog.LockLostError("late", ["orders-0:17"])))
    assert again.messages == ["orders-0:17"]


# -- where it happened: always the full path -------------------------------------------------------


def obstruct(place: Path) -> Path:
    """A file where a directory should be."""
    place.write_bytes(b"mine")
    return place


def test_what_the_system_refuses_names_the_full_path(tmp_path: Path) -> None:
    with mqlog.open(tmp_path) as store:
        orders = store.stream("orders")
        place = obstruct(tmp_path / "orders-0" / "groups")
        with pytest.raises(NotADirectoryError) as caught:
            orders.consumer("billing")
        assert caught.value.filename == str(place / "billing.offset")
        place = obstruct(tmp_path / "clicks-0")
        with pytest.raises(NotADirectoryError) as caught:
            store.stream("clicks")
        assert caught.value.filename == str(place)


def test_a_store_that_cannot_be_opened_names_the_full_path(tmp_path: Path) -> None:
    (tmp_path / "doorbell").mkdir()
    with pytest.raises(OSError) as caught:
        mqlog.open(tmp_path)
    assert caught.value.filename == str(tmp_path / "doorbell")


def test_a_path_over_the_first_500_characters_is_named_in_full(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 4)
    deep.mkdir(parents=True)
    (deep / "doorbell").mkdir()
    with pytest.raises(OSError) as caught:
        mqlog.open(deep)
    assert caught.value.filename == str(deep / "doorbell")


def test_a_path_that_was_given_relative_is_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = _options.log_options(_options.effective(_options.TOPIC, {}))
    store = _engine.Store("s")
    monkeypatch.chdir("/")
    with pytest.raises(mqlog.NotFoundError) as caught:
        store.partition("orders", 0, False, options)
    store.close()
    assert str(tmp_path / "s" / "orders-0") in str(caught.value)


@pytest.mark.parametrize(("compression", "verify"), [("none", True), ("lz4", False)])
def test_damage_names_the_full_path_as_path_and_as_filename(
    tmp_path: Path, compression: str, verify: bool
) -> None:
    """By the engine, which checks the CRC, and by who takes the payload apart."""
    with mqlog.open(tmp_path) as store:
        store.stream("orders", compression=compression).append_many([b"value" * 9] * 9)
    segment = tmp_path / "orders-0" / f"{0:020d}.log"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with mqlog.open(tmp_path, "r") as store, pytest.raises(mqlog.CorruptError) as caught:
        list(store.stream("orders").read(verify=verify))
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.path == error.filename == str(segment)
