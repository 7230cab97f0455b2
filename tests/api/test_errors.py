"""Every exception is under Error, is the built-in that fits, and pickles with its attributes."""

import errno
import io
import pickle
import queue
import sys

import pytest

import mqlog
from mqlog import errors

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
