"""`mqlog.stdlib.Queue` is `queue.Queue` to those who use it: CPython's own tests say so."""

import logging
import logging.handlers
import multiprocessing
import os
import pickle
import queue
import shutil
import subprocess
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mqlog
from mqlog import codecs, stdlib

try:
    from test.test_queue import BaseQueueTestMixin
except ImportError as error:  # a Python without its test package, as Debian's
    BaseQueueTestMixin = None
    REASON = f"this Python comes without CPython's own tests: {error}"

Open = Callable[..., stdlib.Queue[Any]]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Open]:
    """Opens a queue in a directory of its own, as `queue.Queue(maxsize)` makes one."""
    opened: list[stdlib.Queue[Any]] = []

    def fresh(maxsize: int = 0, **how: Any) -> stdlib.Queue[Any]:
        path = tmp_path / f"queue-{len(opened)}"
        opened.append(stdlib.Queue(path, maxsize, codec=codecs.pickle, **how))
        return opened[-1]

    yield fresh
    for one in opened:
        one.close()


# ── CPython's tests ─────────────────────────────────────────────────────────────────────────────

if BaseQueueTestMixin is None:

    @pytest.mark.skip(reason=REASON)
    def test_cpythons_tests_of_queue_pass() -> None:
        raise AssertionError

else:

    @pytest.mark.slow
    class TestCPythonsOwn(BaseQueueTestMixin, unittest.TestCase):  # type: ignore[misc]
        """All of them run; none is left out."""

        queue = queue  # whose exceptions they expect

        @pytest.fixture(autouse=True)
        def _type2test(self, fresh: Open) -> None:
            self.type2test = fresh


# ── what queue.Queue does not have: it is stored ────────────────────────────────────────────────


@pytest.fixture
def open_again(tmp_path: Path) -> Iterator[Open]:
    """Opens one queue, as often as it is called."""
    opened: list[stdlib.Queue[Any]] = []

    def open_again(maxsize: int = 0, *, codec: Any = codecs.json, **how: Any) -> stdlib.Queue[Any]:
        opened.append(stdlib.Queue(tmp_path / "jobs", maxsize, codec=codec, **how))
        return opened[-1]

    yield open_again
    for one in opened:
        one.close()


def test_values_are_there_for_the_next_handle(open_again: Open) -> None:
    with open_again() as first:
        for value in ("one", 2, None, [4]):
            first.put(value)
    second = open_again()
    assert second.qsize() == second.unfinished_tasks == 4
    assert [second.get() for _ in range(4)] == ["one", 2, None, [4]]


def test_a_value_that_is_not_done_comes_again_when_its_holder_ends(open_again: Open) -> None:
    with open_again() as first:
        first.put("one")
        first.put("two")
        assert (first.get(), first.get()) == ("one", "two")
        first.task_done()
    second = open_again()
    assert second.get(timeout=10) == "two"
    assert second.empty()


GET_AND_DIE = """
import os, sys
from mqlog import codecs, stdlib
queue = stdlib.Queue(sys.argv[1], codec=codecs.json, done=sys.argv[2])
queue.get()
os.kill(os.getpid(), 9)
"""


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("done", ["task_done", "get"])
def test_a_kill_brings_back_what_was_got_unless_get_is_done(
    open_again: Open, tmp_path: Path, done: str
) -> None:
    queue = open_again()
    queue.put("job")
    killed = subprocess.run(
        [sys.executable, "-c", GET_AND_DIE, str(tmp_path / "jobs"), done], check=False
    )
    assert killed.returncode == -9
    if done == "get":
        assert queue.unfinished_tasks == 0
    else:
        assert queue.get(timeout=10) == "job"


def test_task_done_means_the_oldest_value_of_its_thread(open_again: Open) -> None:
    queue = open_again()
    for value in ("slow", "fast", "later"):
        queue.put(value)
    assert queue.get() == "slow"

    def fast() -> None:
        assert queue.get() == "fast"
        queue.task_done()

    run(fast)
    queue.close()
    again = open_again()
    assert [again.get(timeout=10), again.get(timeout=10)] == ["slow", "later"]


def test_task_done_of_a_thread_that_got_nothing_means_the_oldest_of_all(open_again: Open) -> None:
    queue = open_again()
    for value in ("first", "second"):
        queue.put(value)
    run(queue.get)
    assert queue.get() == "second"
    run(queue.task_done)
    queue.close()
    assert open_again().get(timeout=10) == "second"


def run(target: Callable[[], object]) -> None:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


def test_with_done_at_get_a_value_is_got_once_and_task_done_only_counts(open_again: Open) -> None:
    queue = open_again(done="get")
    queue.put("job")
    assert queue.get() == "job"
    queue.join()
    queue.task_done()
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()
    queue.close()
    with pytest.raises(stdlib.Empty):
        open_again().get_nowait()


def test_a_value_is_done_at_task_done_or_at_get_and_nowhere_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='"task_done" or "get"'):
        stdlib.Queue(tmp_path, codec=codecs.json, done="later")  # type: ignore[arg-type]


def test_the_bound_is_one_for_all_handles(open_again: Open) -> None:
    first, second = open_again(1), open_again()
    assert second.maxsize == 1
    first.put("one")
    assert second.full()
    with pytest.raises(stdlib.Full):
        second.put("two", timeout=0.01)
    with pytest.raises(mqlog.OptionError, match="maxsize"):
        open_again(2)
    second.maxsize = 2
    first.put("two")
    assert first.qsize() == first.maxsize == 2
    first.maxsize = -1  # none, as in queue.Queue
    assert not second.full()


def test_another_codec_is_refused(open_again: Open) -> None:
    open_again()
    with pytest.raises(mqlog.OptionError, match="codec"):
        open_again(codec=codecs.pickle)


def test_join_waits_for_what_another_handle_got(open_again: Open) -> None:
    first, second = open_again(), open_again()
    first.put("job")
    second.get()
    joined = threading.Thread(target=first.join)
    joined.start()
    assert first.unfinished_tasks == 1
    second.task_done()
    joined.join(10)
    assert not joined.is_alive()


def test_an_immediate_shutdown_discards_nothing(open_again: Open) -> None:
    queue, other = open_again(), open_again()
    for value in ("got", "left"):
        queue.put(value)
    queue.get()
    queue.shutdown(immediate=True)
    queue.shutdown()
    with pytest.raises(stdlib.ShutDown):
        queue.get()
    assert (queue.qsize(), queue.unfinished_tasks, queue.full()) == (0, 1, False)
    queue.task_done()
    queue.join()
    assert not other.is_shutdown
    assert other.get() == "left"


def test_a_value_that_does_not_decode_is_a_dead_letter(open_again: Open, tmp_path: Path) -> None:
    queue = open_again()
    with mqlog.open(tmp_path / "jobs") as store:
        raw = store.queue("queue")
        raw.put(b"{no json")
        queue.put("good")
        with pytest.raises(ValueError, match="Expecting"):
            queue.get()
        assert queue.get() == "good"
        with raw.dead_letters.get() as letter:
            assert letter.raw == b"{no json"
            assert letter.reason.startswith("JSONDecodeError")


def test_it_pickles_as_its_directory(open_again: Open) -> None:
    queue = open_again(7, done="get")
    queue.put("job")
    with pickle.loads(pickle.dumps(queue)) as there:
        assert (there.maxsize, there.get()) == (7, "job")
        assert "jobs" in repr(there)
    assert queue.unfinished_tasks == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_is_handed_to_a_process_which_holds_nothing_of_its_parents(
    open_again: Open, method: str
) -> None:
    queue = open_again()
    queue.put("mine")
    queue.put("yours")
    assert queue.get() == "mine"
    child = multiprocessing.get_context(method).Process(target=in_child, args=(queue,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert queue.unfinished_tasks == 1
    queue.task_done()
    assert queue.unfinished_tasks == 0


def in_child(queue: stdlib.Queue[Any]) -> None:
    try:
        queue.task_done()
    except ValueError:
        assert queue.get() == "yours"
        queue.task_done()
    else:
        raise AssertionError("the parent's value was done")


@pytest.mark.parametrize("block", [True, False])
def test_a_timeout_counts_only_where_it_waits(open_again: Open, block: bool) -> None:
    queue = open_again()
    queue.put("job")
    if block:
        with pytest.raises(ValueError, match="timeout"):
            queue.get(block, -1)  # although there is something
    else:
        assert queue.get(block, -1) == "job"


# ── logging ─────────────────────────────────────────────────────────────────────────────────────


def test_logging_goes_through_it(fresh: Open) -> None:
    queue = fresh()
    target = Kept()
    logger = logging.Logger("shop")
    logger.addHandler(logging.handlers.QueueHandler(queue))
    listener = logging.handlers.QueueListener(queue, target)
    listener.start()
    for number in range(100):
        logger.warning("order %d is late", number)
    listener.stop()
    assert target.messages == [f"order {number} is late" for number in range(100)]
    assert queue.unfinished_tasks == 0


def test_what_was_logged_before_a_restart_is_handled_after_it(tmp_path: Path) -> None:
    with stdlib.Queue(tmp_path, codec=codecs.pickle) as queue:
        handler = logging.handlers.QueueHandler(queue)
        handler.handle(logging.makeLogRecord({"msg": "late"}))
    with stdlib.Queue(tmp_path, codec=codecs.pickle) as queue:
        target = Kept()
        listener = logging.handlers.QueueListener(queue, target)
        listener.start()
        listener.stop()
    assert target.messages == ["late"]


class Kept(logging.Handler):
    """Keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# ── the other Pythons of this machine ───────────────────────────────────────────────────────────

ROOT = Path(__file__).parents[2]


def python_of(minor: int) -> str | None:
    """A Python 3.`minor` that has CPython's tests: from the PATH, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python3.{minor}"), *pyenv.glob(f"versions/3.{minor}.*/bin/python")]
    code = f"import sys, venv, test.test_queue; sys.exit(sys.version_info[:2] != (3, {minor}))"
    for python in found:
        if python is not None:
            done = subprocess.run([python, "-c", code], check=False, capture_output=True)
            if done.returncode == 0:
                return str(python)
    return None


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("minor", [m for m in range(11, 16) if m != sys.version_info.minor])
def test_cpythons_tests_pass_on_every_python_of_this_machine(minor: int, tmp_path: Path) -> None:
    python = python_of(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} with CPython's own tests is on this machine")
    own = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "venv", own.parent.parent], check=True)
    for name in ("csrc", "mqlog"):
        built = shutil.ignore_patterns("*.so", "_engine.c", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "tree" / name, ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "tree")
    install = [
        own,
        "-m",
        "pip",
        "install",
        "--quiet",
        tmp_path / "tree",
        "pytest",
        "pytest-timeout",
    ]
    done = subprocess.run(install, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mqlog cannot be installed for Python 3.{minor}: {done.stderr[-300:]}")
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml"]
    tests = [own, "-m", "pytest", *options, "--rootdir", ROOT, Path(__file__).resolve()]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        tests, check=False, capture_output=True, text=True, cwd=ROOT / "tests", env=environment
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
