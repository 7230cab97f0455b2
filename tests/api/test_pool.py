"""Queue.run with worker processes: what dies, who notices, and that nothing is lost by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support import jobs as support
from support import late
from support.jobs import Diary, wait_until

import mqlog
from mqlog import Queue, _pool

pytestmark = pytest.mark.slow

Jobs = Queue[bytes, Any]
HOME = Path(mqlog.__file__).resolve().parent.parent
PATH = os.pathsep.join([str(HOME), str(HOME / "tests")])
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[mqlog.Store]:
    with mqlog.open(tmp_path / "s") as store:
        yield store


@pytest.fixture
def jobs(store: mqlog.Store) -> Jobs:
    return store.queue("jobs", retry_delays=(0.0,))


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path)


@pytest.fixture
def start(tmp_path: Path, jobs: Jobs) -> Iterator[Start]:
    """Starts a program that runs the queue; it is running when this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, support.__file__, tmp_path, processes, *words]
        process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "PYTHONPATH": PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def handler(diary: Diary) -> Any:
    return partial(support.handle, str(diary.home))


def values(diary: Diary, what: str = "end") -> list[str]:
    return sorted(one.value for one in diary.events(what))


# -- all is well -----------------------------------------------------------------------------------


def test_processes_share_the_work_and_nothing_is_done_twice(jobs: Jobs, diary: Diary) -> None:
    jobs.put_many([b"hold 1", b"hold 2", b"a", b"b", b"c"])

    def go_when_two_hold() -> None:
        diary.wait("begin", count=2)
        diary.go()

    Thread(target=go_when_two_hold).start()
    jobs.run(handler(diary), processes=2, until_empty=True)
    assert values(diary) == ["a", "b", "c", "hold 1", "hold 2"]
    assert len({one.pid for one in diary.events("begin")}) == 2
    assert os.getpid() not in {one.pid for one in diary.events()}
    assert jobs.stats().accepted == 5


def test_until_empty_starts_nobody_for_an_empty_queue(jobs: Jobs, diary: Diary) -> None:
    jobs.run(handler(diary), processes=4, until_empty=True)
    assert diary.events() == []


def test_what_a_worker_has_for_the_log_is_said_here(
    jobs: Jobs, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.put(b"fail")
    jobs.run(handler(diary), processes=1, until_empty=True)
    assert [one.delivery for one in diary.events("begin")] == [1, 2, 3, 4, 5]
    failures = [one for one in caplog.records if "the handler failed" in one.getMessage()]
    assert len(failures) == 5
    assert "RuntimeError: no luck" in caplog.text
    assert {one.process for one in failures} == {diary.events()[0].pid}
    [letter] = jobs.dead_letters.get_many(5)
    assert letter.reason == "RuntimeError: no luck"
    letter.accept()


def test_values_are_decoded_in_the_worker(store: mqlog.Store, diary: Diary) -> None:
    store.queue("orders").put(b"no json")
    orders = store.queue("orders", codec=mqlog.codecs.json)
    orders.put({"order": 1})
    orders.run(partial(support.decoded, str(diary.home)), processes=1, until_empty=True)
    assert [one.what for one in diary.events()] == ["got {'order': 1}"]
    assert orders.stats().dead == 1


# -- workers die -----------------------------------------------------------------------------------


def test_a_killed_workers_message_is_delivered_again_and_done(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    pool = start(2)
    jobs.put(b"hold")
    [held] = diary.wait("begin", "hold")
    os.kill(held.pid, signal.SIGKILL)
    again = diary.wait("begin", "hold", 2)[1]
    assert (again.delivery, again.pid == held.pid) == (2, False)
    assert again.token > held.token
    jobs.put(b"other")  # the one who was killed has been replaced
    diary.go()
    jobs.join(60.0)
    pool.send_signal(signal.SIGTERM)
    _, said = pool.communicate(timeout=60)
    assert pool.returncode == 0
    assert values(diary) == ["hold", "other"]
    assert f"worker {held.pid} of <mqlog.Queue 'jobs'" in said
    assert "has ended (SIGKILL), and another takes its place" in said


def test_a_message_that_kills_its_worker_is_dead_after_five_deliveries(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    jobs.put_many([b"a", b"die", b"b", b"c"])
    pool = start(1, "threads", 3, "until_empty")
    pool.wait(60)
    assert [one.delivery for one in diary.events("begin", "die")] == [1, 2, 3, 4, 5]
    last = diary.events("begin", "die")[-1].pid
    assert [one.value for one in diary.events("begin") if one.pid == last][-1] == "die"
    # A thread may have taken another record for the last time, to give it back at once, at the very
    # moment when the process was killed: then it is dead, but not for having been worked at.
    unlucky = {"a", "b", "c"} - set(values(diary))
    assert all(len(diary.events("begin", value)) < 5 for value in unlucky)
    stats = jobs.stats()
    dead = 1 + len(unlucky)
    assert (stats.accepted, stats.dead, stats.ready, stats.acquired) == (4 - dead, dead, 0, 0)
    [letter] = jobs.dead_letters.get_many(1)
    assert "its holders died" in letter.reason
    letter.accept()


def test_one_dies_of_what_it_had_taken_when_another_thread_found_nothing(
    jobs: Jobs, diary: Diary
) -> None:
    jobs.put(b"die")
    # The pool hears that nothing is there while a thread has taken the message, and not begun.
    jobs.run(partial(late.work, str(diary.home)), processes=1, threads=2, until_empty=True)
    assert [one.delivery for one in diary.events("begin", "die")] == [1, 2, 3, 4, 5]
    assert jobs.stats().dead == 1


def test_until_empty_works_at_what_somebody_held_who_died_before(jobs: Jobs, diary: Diary) -> None:
    jobs.put(b"a")
    code = "import os, sys, mqlog; m = mqlog.open(sys.argv[1]).queue('jobs').get(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(jobs._store.path)], check=True, timeout=60)
    assert jobs.empty()
    jobs.run(handler(diary), processes=1, until_empty=True)
    assert [one.delivery for one in diary.events("end", "a")] == [2]


def test_a_handler_that_does_not_come_back_is_killed_and_others_are_not_counted(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    jobs._store.alter("jobs", group="default", max_deliveries=2)
    jobs.put_many([b"hang", b"a"])
    start(2, "timeout", 0.3)
    again = diary.wait("begin", "hang", 2)
    assert [one.delivery for one in again] == [1, 2]
    jobs.join(60.0)
    wait_until(lambda: not is_alive(again[-1].pid))
    assert values(diary) == ["a"]
    [letter] = jobs.dead_letters.get_many(1)
    assert letter.reason == "the handler did not come back within timeout=0.3 s"
    letter.accept()


def test_what_other_threads_had_when_one_was_given_up_is_delivered_uncounted(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    start(1, "threads", 2, "timeout", 2.0)
    jobs.put(b"hang")
    diary.wait("begin", "hang")
    jobs.put(b"hold")  # it began later, and its own time is not over
    diary.wait("begin", "hold", 2)
    assert [one.delivery for one in diary.events("begin", "hold")][:2] == [1, 1]
    diary.go()


def test_a_handler_that_holds_the_gil_is_killed_from_outside(
    jobs: Jobs, diary: Diary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_pool, "_GRACE", 0.5)
    jobs.put(b"freeze")
    jobs._store.alter("jobs", group="default", max_deliveries=1)
    jobs.run(handler(diary), processes=1, timeout=0.5, until_empty=True)
    assert [one.delivery for one in diary.events("begin")] == [1]
    assert "a handler holds the GIL; it is killed" in caplog.text
    assert jobs.stats().dead == 1


def test_one_that_dies_at_once_again_and_again_is_replaced_with_a_growing_pause() -> None:
    seat = _pool.Seat()
    pauses = []
    for _ in range(8):
        _pool.pause(seat)
        pauses.append(seat.pause)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


# -- the parent ends, or dies ----------------------------------------------------------------------


def test_workers_of_a_killed_parent_finish_what_they_have_and_end(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    pool = start(2)
    jobs.put_many([b"hold 1", b"hold 2", b"left 1", b"left 2"])
    workers = [one.pid for one in diary.wait("begin", count=2)]
    pool.kill()
    pool.wait()
    assert all(map(is_alive, workers))
    diary.go()
    wait_until(lambda: not any(map(is_alive, workers)))
    done = values(diary)
    assert done[:2] == ["hold 1", "hold 2"]
    stats = jobs.stats()
    assert stats.accepted == len(done)
    assert stats.accepted + stats.ready == 4
    assert (stats.acquired, stats.delayed, stats.dead) == (0, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_ends_all_when_they_are_done(
    jobs: Jobs, diary: Diary, start: Start, number: int
) -> None:
    pool = start(2)
    jobs.put_many([b"hold 1", b"hold 2", b"left"])
    diary.wait("begin", count=2)
    pool.send_signal(number)
    jobs.put(b"left too")
    assert pool.stderr is not None
    for _ in range(2):
        assert pool.stderr.readline().endswith("ends when it is done with what it has in hand\n")
    diary.go()
    out, _ = pool.communicate(timeout=60)
    assert (pool.returncode, out) == (0, "returned\n")
    assert values(diary) == ["hold 1", "hold 2"]
    assert jobs.stats().ready == 2


def test_a_signal_to_the_whole_group_is_as_one_to_the_parent(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    pool = start(2)
    jobs.put_many([b"hold 1", b"hold 2"])
    workers = [one.pid for one in diary.wait("begin", count=2)]
    for pid in (pool.pid, *workers):  # as Ctrl-C in a terminal
        os.kill(pid, signal.SIGINT)
    diary.go()
    _, said = pool.communicate(timeout=60)
    assert pool.returncode == 0
    assert "Traceback" not in said
    assert values(diary) == ["hold 1", "hold 2"]


def test_a_second_signal_kills_the_workers_and_their_messages_are_free(
    jobs: Jobs, diary: Diary, start: Start
) -> None:
    pool = start(2)
    jobs.put_many([b"hold 1", b"hold 2"])
    workers = [one.pid for one in diary.wait("begin", count=2)]
    pool.send_signal(signal.SIGTERM)
    while pool.poll() is None:  # two that come together are heard as one
        pool.send_signal(signal.SIGTERM)
    assert pool.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 5.0  # the system may be slow to forget those who were killed
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    alive = [Path(f"/proc/{pid}/status").read_text() for pid in workers if is_alive(pid)]
    assert pool.stderr is not None
    said = pool.stderr.read()
    assert not alive, (workers, [one.pid for one in diary.events("begin")], alive, said)
    assert values(diary) == []
    again = [jobs.get(timeout=30.0), jobs.get(timeout=30.0)]
    assert [one.delivery_count for one in again] == [2, 2]
    jobs.accept(again)


def test_a_worker_that_is_asked_to_end_is_replaced(jobs: Jobs, diary: Diary, start: Start) -> None:
    start(1)
    jobs.put(b"hold")
    [held] = diary.wait("begin", "hold")
    os.kill(held.pid, signal.SIGTERM)
    diary.go()
    jobs.put(b"next")
    [later] = diary.wait("end", "next")
    assert [one.delivery for one in diary.events("end")] == [1, 1]
    wait_until(lambda: not is_alive(held.pid))
    assert later.delivery == 1


def test_shutdown_in_another_thread_ends_the_workers(jobs: Jobs, diary: Diary) -> None:
    jobs.put_many([b"a", b"hold", b"b"])

    def shut_down() -> None:
        diary.wait("begin", "hold")
        jobs.shutdown()
        diary.go()

    Thread(target=shut_down).start()
    jobs.run(handler(diary), processes=1)
    assert values(diary) == ["a", "b", "hold"]


def test_a_queue_deleted_under_waiting_workers_ends_the_pool(
    store: mqlog.Store, jobs: Jobs, diary: Diary
) -> None:
    jobs.put(b"a")

    def delete() -> None:
        diary.wait("end", "a")
        wait_until(lambda: jobs.stats().accepted == 1)
        store.delete_topic("jobs")

    Thread(target=delete).start()
    with pytest.raises(mqlog.TopicDeletedError):
        jobs.run(handler(diary), processes=2)


# -- workers that cannot work ----------------------------------------------------------------------


def test_a_handler_that_workers_do_not_find_ends_the_pool(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("made_here")
    exec("def handle(message): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_here", module)
    with pytest.raises(ModuleNotFoundError, match="made_here") as raised:
        jobs.run(module.handle, processes=2)
    assert "in worker process" in raised.value.__notes__[0]


def run_script(tmp_path: Path, text: str, *how: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    where: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": PATH}, "cwd": tmp_path}
    command = [sys.executable, *(how or [str(script)])]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **where)


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import mqlog

        def handle(message):
            print(message.value)

        with mqlog.open("s2") as store:
            jobs = store.queue("jobs")
            jobs.put(b"a")
            jobs.run(handle, processes=1)
        """,
    )
    assert done.returncode == 1
    assert "is run() called under if __name__ == '__main__'?" in done.stderr


def test_a_script_with_a_main_guard_works(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import mqlog

        def handle(message):
            print(message.value.decode(), flush=True)

        if __name__ == "__main__":
            with mqlog.open("s2") as store:
                jobs = store.queue("jobs")
                jobs.put(b"a")
                jobs.run(handle, processes=1, until_empty=True)
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n", "")


def test_a_handler_that_was_typed_in_is_refused(tmp_path: Path) -> None:
    text = "import mqlog\ndef f(m): pass\nmqlog.temporary().queue('q').run(f, processes=1)"
    done = run_script(tmp_path, "", "-c", text)
    assert "TypeError: handler f cannot go to worker processes" in done.stderr
    assert "this program is no file" in done.stderr
