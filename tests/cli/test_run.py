"""`mqlog run`: functions and commands as workers, what they are told, how they end."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mqlog
from mqlog.cli import _orphans

from .conftest import Run, Start, environment

pytestmark = pytest.mark.slow


@pytest.fixture
def jobs(store: Path) -> Path:
    """A queue of ten jobs; a failure is tried again at once, three times in all."""
    with mqlog.open(store) as opened:
        queue = opened.queue("jobs", max_deliveries=3, retry_delays=(0.0,))
        for number in range(10):
            queue.put(b"job %d" % number, key=b"key-%d" % number, headers={"n": b"%d" % number})
    return store


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports and where from is forgotten again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("work", "broken", "lacking"):
            del sys.modules[name]


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], None]:
    """Makes the module `work` in the directory where commands are run."""
    return lambda text: (tmp_path / "work.py").write_text(text) and None


def stats(store: Path, queue: str = "jobs") -> Any:
    with mqlog.open(store, "r") as view:
        return view.queue(queue).stats()


def reasons(run: Run, store: Path) -> dict[str, str]:
    return {one["origin"]: one["reason"] for one in run("dead", store, "jobs", "--json").json}


def wait_for(what: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    """Until it is so; fails after a minute, or when the process has ended before."""
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        assert process.poll() is None or what()
        time.sleep(0.01)


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


# ── a command ───────────────────────────────────────────────────────────────────────────────────


def test_a_command_gets_the_message_and_is_told_of_it(ok: Run, jobs: Path, tmp_path: Path) -> None:
    line = 'echo "$(cat) $MQLOG_ID $MQLOG_KEY $MQLOG_DELIVERY_COUNT $MQLOG_HEADERS" >> out'
    result = ok("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", line)
    assert (result.out, result.err) == ("", "")
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines == [f'job {n} jobs-0:{n} key-{n} 1 [["n", "{n}"]]' for n in range(10)]
    assert stats(jobs).accepted == 10


def test_every_variable_is_there(ok: Run, jobs: Path, tmp_path: Path) -> None:
    ok("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", "env -0 > vars")
    told = dict(
        item.split("=", 1) for item in (tmp_path / "vars").read_text().split("\0") if "=" in item
    )
    assert {name: told[f"MQLOG_{name}"] for name in ("TOPIC", "PARTITION", "OFFSET", "GROUP")} == {
        "TOPIC": "jobs",
        "PARTITION": "0",
        "OFFSET": "9",
        "GROUP": "default",
    }
    assert float(told["MQLOG_TIMESTAMP"]) > 1e9
    assert int(told["MQLOG_TOKEN"]) > 0
    assert told["PATH"] == os.environ["PATH"]


def test_bytes_that_no_variable_holds_are_left_out(ok: Run, store: Path, tmp_path: Path) -> None:
    value = bytes(range(256)) * 1000
    with mqlog.open(store) as opened:
        queue = opened.queue("jobs")
        queue.put(value, key=b"a\0b")
        queue.put(b"", key=b"k" * 200_000)
    line = 'cat > "value-$MQLOG_OFFSET"; echo "${MQLOG_KEY-none} $MQLOG_KEY_BASE64" >> keys'
    ok("run", store, "jobs", "--until-empty", "--", "sh", "-c", line)
    assert (tmp_path / "value-0").read_bytes() == value
    assert (tmp_path / "keys").read_text().splitlines() == ["none YQBi", "none "]
    assert stats(store).accepted == 2


OUTCOMES = """
case "$(cat)" in
  "job 1") echo first >&2; echo "no such customer" >&2; echo >&2; exit 3 ;;
  "job 2") kill -SEGV $$ ;;
  "job 3") echo busy >&2; exit 75 ;;
  "job 4") [ "$MQLOG_DELIVERY_COUNT" = 2 ] || exit 75 ;;
  "job 5") exit 1 ;;
esac
"""


def test_the_exit_code_says_what_becomes_of_the_message(run: Run, ok: Run, jobs: Path) -> None:
    ok("run", jobs, "jobs", "--until-empty", "--processes", "3", "--", "sh", "-c", OUTCOMES)
    ok("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", OUTCOMES)
    ok("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", OUTCOMES)
    assert reasons(run, jobs) == {
        "jobs-0:1": "exit code 3: no such customer",
        "jobs-0:2": "killed by SIGSEGV",
        "jobs-0:3": "exit code 75: busy",
        "jobs-0:5": "exit code 1",
    }
    found = stats(jobs)
    assert (found.accepted, found.dead, found.ready, found.acquired) == (6, 4, 0, 0)
    counts = {one["origin"]: one["deliveries"] for one in run("dead", jobs, "jobs", "--json").json}
    assert counts["jobs-0:3"] == 3 and counts["jobs-0:1"] == 1


def test_what_a_command_says_comes_through(start: Start, jobs: Path) -> None:
    line = 'echo "out $MQLOG_OFFSET"; echo "err $MQLOG_OFFSET" >&2; exit 9'
    process = start("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", line)
    out, err = process.communicate()
    assert process.returncode == 0
    assert out.decode().splitlines() == [f"out {n}" for n in range(10)]
    said = err.decode().splitlines()
    assert [line for line in said if line.startswith("err")] == [f"err {n}" for n in range(10)]
    assert "mqlog: jobs-0:7 goes to the dead letters: exit code 9: err 7" in said


def test_so_many_commands_run_at_once(ok: Run, jobs: Path, tmp_path: Path) -> None:
    """Each waits for two others, which only come while it runs."""
    line = 'touch "here-$MQLOG_OFFSET"; while [ "$(ls here-* | wc -l)" -lt 3 ]; do sleep 0.01; done'
    ok("run", jobs, "jobs", "--processes", "3", "--until-empty", "--", "sh", "-c", line)
    assert stats(jobs).accepted == 10


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(
    run: Run, ok: Run, jobs: Path, tmp_path: Path
) -> None:
    ok("alter", jobs, "jobs", "--group", "default", "max_deliveries=1")
    line = '[ "$MQLOG_OFFSET" = 4 ] || exit 0; sleep 1000 & echo $! > child; wait'
    ok("run", jobs, "jobs", "--timeout", "0.3", "--until-empty", "--", "sh", "-c", line)
    assert reasons(run, jobs) == {"jobs-0:4": "the command did not end within 0.3 s"}
    assert not is_running(int((tmp_path / "child").read_text()))


def test_what_a_command_leaves_running_is_not_waited_for(
    ok: Run, jobs: Path, tmp_path: Path
) -> None:
    line = "sleep 1000 & echo $! >> left; exit 0"  # it has standard error open
    ok("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", line)
    assert stats(jobs).accepted == 10
    left = [int(pid) for pid in (tmp_path / "left").read_text().split()]
    assert len(left) == 10 and all(is_running(pid) for pid in left)
    for pid in left:
        os.kill(pid, signal.SIGKILL)


# ── a function ──────────────────────────────────────────────────────────────────────────────────


def test_a_function_of_a_module_here_works_in_processes(
    start: Start, run: Run, jobs: Path, module: Callable[[str], None], tmp_path: Path
) -> None:
    module(
        "import os, mqlog\n"
        "class Shop:\n"
        "    @staticmethod\n"
        "    def pay(message):\n"
        "        if message.value == b'job 1': raise mqlog.Reject('no such customer')\n"
        "        if message.value == b'job 2': os.kill(os.getpid(), 9)\n"
        "        open(f'done-{message.offset}', 'w').write(str(os.getpid()))\n"
    )
    words = ("run", jobs, "jobs", "work:Shop.pay", "--processes", "2", "--until-empty")
    process = start(*words)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert b"SIGKILL" in err
    done = {int(file.name[5:]): file.read_text() for file in tmp_path.glob("done-*")}
    assert sorted(done) == [0, 3, 4, 5, 6, 7, 8, 9]
    assert str(process.pid) not in done.values()
    found = reasons(run, jobs)
    assert found["jobs-0:1"] == "no such customer"
    assert set(found) == {"jobs-0:1", "jobs-0:2"}


def test_a_function_that_does_not_come_back_is_killed(
    start: Start, run: Run, jobs: Path, module: Callable[[str], None]
) -> None:
    run("alter", jobs, "jobs", "--group", "default", "max_deliveries=1")
    module("import time\ndef pay(message):\n    if message.offset == 3: time.sleep(1000)\n")
    process = start("run", jobs, "jobs", "work:pay", "--timeout", "0.5", "--until-empty")
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert "did not come back" in reasons(run, jobs)["jobs-0:3"]
    assert stats(jobs).accepted == 9


def test_with_no_processes_it_runs_here_and_a_codec_decodes(
    ok: Run, store: Path, module: Callable[[str], None]
) -> None:
    with mqlog.open(store) as opened:
        opened.queue("jobs", codec=mqlog.codecs.json).put({"n": 17})
    module("got = []\ndef pay(message): got.append(message.value)\n")
    words = ("--processes", "0", "--until-empty", "--codec", "json")
    ok("run", store, "jobs", "work:pay", *words)
    assert sys.modules["work"].got == [{"n": 17}]


def test_a_failure_is_told_with_its_traceback_and_tried_again(
    start: Start, run: Run, jobs: Path, module: Callable[[str], None]
) -> None:
    module("def pay(message):\n    if message.offset == 3: raise ValueError('no number')\n")
    process = start("run", jobs, "jobs", "work:pay", "--until-empty")
    _, err = process.communicate()
    assert process.returncode == 0
    assert err.count(b"ValueError: no number") == 3
    assert reasons(run, jobs) == {"jobs-0:3": "ValueError: no number"}


def test_a_group_is_made_only_when_it_is_said(run: Run, ok: Run, orders: Path) -> None:
    assert "--create makes it" in run("run", orders, "orders", "--", "true").err
    words = ("run", orders, "orders", "--create", "--until-empty", "--", "true")
    assert ok(*words).err == "mqlog: made the share group default of orders\n"
    assert stats(orders, "orders").accepted == 10
    assert ok(*words).err == ""
    ok("run", orders, "orders", "--group", "audit", *words[3:])
    assert [one["name"] for one in run("groups", orders, "--json").json] == ["audit", "default"]


# ── the end ─────────────────────────────────────────────────────────────────────────────────────

SLOW = (
    'echo "$$" > "tmp-$$"; mv "tmp-$$" "pid-$MQLOG_OFFSET"; while [ ! -e go ]; do sleep 0.02; done'
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_commands_finish(
    start: Start, jobs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    more = 10_000  # than are done until the signal is heard
    with mqlog.open(jobs) as store:
        store.queue("jobs").put_many([b"more"] * more)
    process = start("run", jobs, "jobs", "--processes", "2", "--", "sh", "-c", SLOW)
    wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == 2, process)
    process.send_signal(number)
    (tmp_path / "go").touch()
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
    found = stats(jobs)
    assert (found.dead, found.acquired) == (0, 0)
    assert 2 <= found.accepted == more + 10 - found.ready < more


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("processes", [1, 3])
def test_the_second_signal_kills_commands_and_their_messages_come_again(
    start: Start, jobs: Path, tmp_path: Path, number: signal.Signals, code: int, processes: int
) -> None:
    process = start("run", jobs, "jobs", "--processes", processes, "--", "sh", "-c", SLOW)
    wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == processes, process)
    process.send_signal(number)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)  # signals that are pending are one
        process.send_signal(number)
    _, err = process.communicate()
    assert (process.returncode, err) == (code, b"")
    assert not any(is_running(int(file.read_text())) for file in tmp_path.glob("pid-*"))
    found = stats(jobs)
    assert (found.accepted, found.ready, found.dead) == (0, 10, 0)


def test_the_first_ctrl_c_on_a_terminal_does_not_reach_the_commands(
    jobs: Path, tmp_path: Path
) -> None:
    """The whole foreground group gets it; a command that died of it would be rejected."""
    words = f"exec {shlex.join(_words(jobs))}"
    process = subprocess.Popen(
        ["sh", "-c", words], env=environment(), cwd=tmp_path, start_new_session=True
    )
    try:
        wait_for(lambda: list(tmp_path.glob("pid-*")), process)
        os.killpg(process.pid, signal.SIGINT)
        (tmp_path / "go").touch()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert (stats(jobs).accepted, stats(jobs).dead) == (1, 0)


def _words(store: Path) -> list[str]:
    return [sys.executable, "-m", "mqlog", "run", str(store), "jobs", "--", "sh", "-c", SLOW]


def test_a_signal_ends_workers_that_wait(
    start: Start, store: Path, module: Callable[[str], None], tmp_path: Path
) -> None:
    with mqlog.open(store) as opened:
        opened.queue("jobs").put(b"one")
    module("def pay(message): open('done', 'w').close()\n")
    process = start("run", store, "jobs", "work:pay", "--processes", "2")
    wait_for((tmp_path / "done").exists, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
    assert stats(store).accepted == 1


# ── it is killed itself ─────────────────────────────────────────────────────────────────────────


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.parametrize("processes", [1, 3])
def test_commands_of_a_killed_run_are_killed_with_all_that_they_started(
    start: Start, jobs: Path, tmp_path: Path, processes: int
) -> None:
    line = 'sleep 1000 & echo "$$ $!" > tmp && mv tmp "pid-$MQLOG_OFFSET"; exec < /dev/null; wait'
    line = line.replace("tmp", "tmp-$MQLOG_OFFSET")
    process = start("run", jobs, "jobs", "--processes", processes, "--", "sh", "-c", line)
    wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == processes, process)
    found = [int(pid) for file in tmp_path.glob("pid-*") for pid in file.read_text().split()]
    mine = children(process.pid)
    assert len(mine) == processes + 1 and all(map(is_running, mine + found))
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, mine + found)))
    wait_until(lambda: stats(jobs).ready == 10)  # the messages come again


def test_what_a_command_left_running_outlives_a_killed_run(
    start: Start, jobs: Path, tmp_path: Path
) -> None:
    line = '[ "$MQLOG_OFFSET" = 0 ] || exec sleep 1000; sleep 1000 & echo $! > left'
    process = start("run", jobs, "jobs", "--", "sh", "-c", line)
    wait_for(lambda: stats(jobs).accepted == 1, process)
    mine = children(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, mine)))
    left = int((tmp_path / "left").read_text())
    assert is_running(left)
    os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("moment", ["at work", "waiting", "not yet ready"])
def test_workers_of_a_killed_run_end_and_take_nothing_more(
    start: Start, store: Path, module: Callable[[str], None], tmp_path: Path, moment: str
) -> None:
    with mqlog.open(store) as opened:
        opened.queue("jobs").put_many([b"job"] * (0 if moment == "waiting" else 10))
    module(
        "import multiprocessing, os, time\n"
        "def hold(event):\n"
        "    open(f'{event}-{os.getpid()}', 'w').close()\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n"
        f"if multiprocessing.parent_process() and {moment == 'not yet ready'}: hold('holds')\n"
        "def pay(message): hold('holds')\n"
    )
    process = start("run", store, "jobs", "work:pay", "--processes", "2")
    if moment == "waiting":
        wait_for(lambda: len(children(process.pid)) == 3, process)  # and multiprocessing's own
    else:
        wait_for(lambda: len(list(tmp_path.glob("holds-*"))) == 2, process)
    mine = children(process.pid)
    process.kill()
    process.wait()
    if moment == "at work":
        wait_until(lambda: os.read(process.stderr.fileno(), 4096).count(b"its parent has died"))
    (tmp_path / "go").touch()
    wait_until(lambda: not any(map(is_running, mine)))
    assert stats(store).accepted == (2 if moment == "at work" else 0)
    assert stats(store).acquired == 0


def test_a_command_that_was_started_but_not_yet_told_of_is_killed(tmp_path: Path) -> None:
    """`mqlog run` dies between the start of a process and the word of it."""
    words = [sys.executable, "-I", "-S", _orphans.__file__]
    beside = subprocess.Popen(words, stdin=subprocess.PIPE)
    assert beside.stdin is not None

    def begin(name: str, *told: str, command: str = "exec sleep 1000") -> "subprocess.Popen[bytes]":
        with open(tmp_path / name, "wb+") as file:
            mark = _orphans.name_of(file.fileno())
            env = os.environb | {_orphans.VARIABLE: mark.encode()}
            one = subprocess.Popen(["sh", "-c", command], stdin=file, process_group=0, env=env)
        for word in told:
            number = f" {one.pid}" if word == "runs" else ""
            beside.stdin.write(f"{word} {mark}{number}\n".encode())
        return one

    line = f"exec < /dev/null; touch {tmp_path}/began; exec sleep 1000"
    die = [begin("a", "starts", "runs"), begin("b", "starts"), begin("c", "starts", command=line)]
    stay = [begin("d", "starts", "ended"), begin("e", "starts", "runs", "ended"), begin("f")]
    try:
        wait_until((tmp_path / "began").exists)
        with beside:
            for number in (signal.SIGINT, signal.SIGTERM):
                wait_until(lambda number=number: _ignores(beside.pid, number))
                beside.send_signal(number)
            assert beside.poll() is None
        assert beside.returncode == 0
        assert [one.wait(60) for one in die] == [-signal.SIGKILL] * 3
        assert [one.poll() for one in stay] == [None] * 3
    finally:
        for one in die + stay:
            one.kill()
            one.wait()


def _ignores(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line for line in lines if line.startswith("SigIgn:")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_it_is_told_when_nobody_would_kill_the_commands(
    start: Start, jobs: Path, tmp_path: Path
) -> None:
    process = start("run", jobs, "jobs", "--until-empty", "--", "sh", "-c", SLOW)
    wait_for(lambda: list(tmp_path.glob("pid-*")), process)
    command = int(next(tmp_path.glob("pid-*")).read_text())
    (beside,) = set(children(process.pid)) - {command}
    os.kill(beside, signal.SIGKILL)
    (tmp_path / "go").touch()
    _, err = process.communicate()
    assert process.returncode == 0 and stats(jobs).accepted == 10
    assert err.decode().splitlines() == [
        f"mqlog: process {beside} is gone, which kills commands if this process is killed"
    ]


# ── what cannot be meant ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "module:function, or -- command"),
        (("--",), 2, "no command behind --"),
        (("work:pay", "--", "true"), 2, "one of them"),
        (("--processes", "0", "--", "true"), 2, "process of its own"),
        (("--threads", "2", "--", "true"), 2, "process of its own"),
        (("--codec", "json", "--", "true"), 2, "bytes as they are"),
        (("--", "no-such-command"), 3, "no command 'no-such-command'"),
        (("work",), 2, "module:function, such as jobs:pay"),
        (("nowhere:pay",), 3, "no module 'nowhere'"),
        (("work.nowhere:pay",), 3, "no module 'work.nowhere'"),
        (("work:nothing",), 3, "has no 'nothing'"),
        (("work:number",), 2, "no function, but of type int"),
        (("work:coroutine",), 1, "plain function"),
        (("broken:pay",), 1, "importing 'broken' failed: RuntimeError: no database"),
        (("lacking:pay",), 1, "No module named 'not_there'"),
        (("work:pay", "--processes", "0", "--timeout", "1"), 2, "--processes 1 or more"),
        (("work:pay", "--threads", "0"), 1, "threads=0"),
        (("work:pay", "--timeout", "0"), 2, "over 0"),
        (("work:pay", "--timeout", "soon"), 2, "no duration"),
        (("work:pay", "--processes", "many"), 2, "whole number"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_takes_nothing(
    run: Run, jobs: Path, tmp_path: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    (tmp_path / "work.py").write_text(
        "number = 1\nasync def coroutine(message): ...\ndef pay(message): ...\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('no database')\n")
    (tmp_path / "lacking.py").write_text("import not_there\n")
    result = run("run", jobs, "jobs", *words)
    assert (result.code, result.err.count("\n")) == (code, 1), result.err
    assert why in result.err
    assert "a bug" not in result.err
    assert stats(jobs).ready == 10
