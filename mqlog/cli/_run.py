"""`mqlog run`: workers for a queue, which call a function or start a command for each message.

The work itself is `Queue.run`. A command is one more handler: it runs in threads of this process,
and its exit code says what becomes of the message.
"""

import argparse
import base64
import importlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any, Self

import mqlog
from mqlog import codecs
from mqlog.cli import _arguments, _orphans
from mqlog.cli._arguments import Verbs
from mqlog.cli._errors import CommandError, MissingError, UsageError
from mqlog.cli._read import text_of
from mqlog.cli._screen import Screen

LOGGER = logging.getLogger("mqlog")

RUN = "work on a queue: call a function, or start a command, for each message"
RUN_ABOUT = """\
A function that returns has accepted; mqlog.Retry releases, mqlog.Reject sends to the dead letters,
anything else that it raises is released with the group's back-off. It runs in worker processes,
which are replaced when they die; the module is looked for in the current directory first.

A command gets the message's bytes on its standard input, and MQLOG_ID, MQLOG_TOPIC,
MQLOG_PARTITION, MQLOG_OFFSET, MQLOG_GROUP, MQLOG_KEY, MQLOG_HEADERS (as JSON), MQLOG_TIMESTAMP,
MQLOG_DELIVERY_COUNT and MQLOG_TOKEN. Exit code 0 accepts, 75 is tried again with the group's
back-off; anything else, a signal too, sends the message to the dead letters, with the last line of
its standard error.

Ctrl-C and SIGTERM let what is in hand be finished, and end; a second one kills. Should this process
itself be killed, then its commands are, with all of their process groups; workers finish what they
have in hand. The queue has to be there; --create makes its share group."""
RUN_EXAMPLES = """
mqlog run shop-data orders jobs:pay --processes 4
mqlog run shop-data orders jobs:pay --timeout 30 --until-empty
mqlog run shop-data mails --processes 8 -- sendmail -t
mqlog run shop-data orders --group audit --create -- sh -c 'cat >> "$MQLOG_KEY.log"'
"""
CODECS = ("json", "pickle")
RETRY = 75  # EX_TEMPFAIL of sysexits.h
#: Of standard error, in which its last line is looked for.
TAIL_BYTES = 4096
#: Of what is there when a command has ended; what it left running may write for ever.
MOST_READS = 16
#: A signal that comes just before a sleep does not end it.
SLICE = 0.25
#: Of one environment variable; Linux takes 128 KiB.
LONGEST = 100_000


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(verbs, "run", run, RUN, about=RUN_ABOUT, examples=RUN_EXAMPLES)
    parser.usage = (
        "mqlog run [options] STORE QUEUE module:function\n"
        "       mqlog run [options] STORE QUEUE -- command [argument ...]"
    )
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument(
        "function", metavar="module:function", nargs="?", help="called with each message"
    )
    parser.add_argument("--group", metavar="NAME", default="default", help="the share group")
    parser.add_argument(
        "--create", action="store_true", help="make the share group if it is not there"
    )
    parser.add_argument("--codec", choices=CODECS, help="decodes the values for a function")
    parser.add_argument(
        "--processes",
        type=_arguments.count,
        default=1,
        metavar="N",
        help="so many at once (default 1); 0 calls the function in this process",
    )
    parser.add_argument(
        "--threads", type=_arguments.count, metavar="N", help="in each process, for a function"
    )
    parser.add_argument(
        "--timeout",
        type=_arguments.duration_argument,
        metavar="TIME",
        help="kill what takes longer (30, 30s, 5m); its message is tried again",
    )
    parser.add_argument(
        "--until-empty", action="store_true", help="end when nothing is there to be delivered now"
    )
    parser.add_argument("--verbose", action="store_true", help="tell of dead letters, too")


def run(args: argparse.Namespace, screen: Screen) -> int:
    check(args)
    handler = function_of(args.function) if args.command is None else None
    command = None if args.command is None else Command(args.command, args.group, args.timeout)
    kill = None if command is None else command.kill
    with told(screen, args.verbose), second_signal(kill) as signals, command or nullcontext():
        try:
            with mqlog.open(args.store, create=False) as store:
                work(open_queue(store, args, screen), handler or command, args)
        except KeyboardInterrupt:
            return 128 + signals.number
    return 128 + signals.number if signals.heard else 0


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot be meant, before anything is opened."""
    if args.command is None and args.function is None:
        raise UsageError("say what is to be run: module:function, or -- command (see mqlog run -h)")
    if args.command is None:
        if args.timeout is not None and args.processes == 0:
            raise UsageError("--timeout kills the process of a function: --processes 1 or more")
        return
    if args.function is not None:
        raise UsageError(f"{args.function!r} or a command behind --: one of them")
    if not args.command:
        raise UsageError("there is no command behind --")
    if args.codec is not None:
        raise UsageError("a command gets the bytes as they are: --codec is for a function")
    if args.processes == 0 or args.threads is not None:
        raise UsageError("a command is a process of its own: --processes N says how many at once")
    if shutil.which(args.command[0]) is None:
        raise MissingError(f"there is no command {args.command[0]!r} that could be run")


def open_queue(
    store: mqlog.Store, args: argparse.Namespace, screen: Screen
) -> mqlog.Queue[Any, Any]:
    store.topic(args.queue)
    how = {"group": args.group, "codec": args.codec and getattr(codecs, args.codec)}
    try:
        return store.queue(args.queue, create=False, **how)
    except mqlog.NotFoundError as error:
        if not args.create:
            raise MissingError(f"{error}; --create makes it, from the oldest record on") from None
    queue = store.queue(args.queue, **how)
    screen.say(f"made the share group {args.group} of {args.queue}")
    return queue


def work(queue: mqlog.Queue[Any, Any], handler: Any, args: argparse.Namespace) -> None:
    if args.command is not None:
        queue.run(handler, threads=args.processes, until_empty=args.until_empty)
        return
    try:
        queue.run(
            handler,
            processes=args.processes,
            threads=1 if args.threads is None else args.threads,
            timeout=args.timeout,
            until_empty=args.until_empty,
        )
    except TypeError as error:  # no function that workers could call
        raise CommandError(str(error)) from error


# ── a function ──────────────────────────────────────────────────────────────────────────────────


def function_of(text: str) -> Callable[[mqlog.Message[Any]], object]:
    """What `module:function` names."""
    name, colon, path = text.partition(":")
    if not colon or not name or not path:
        raise UsageError(f"{text!r} is no function: say module:function, such as jobs:pay")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = module_of(name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise MissingError(f"the module {name!r} has no {path!r}") from None
    if not callable(found):
        raise UsageError(f"{text!r} is no function, but of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def module_of(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise CommandError(f"importing {name!r} failed: {error}") from error
        where = f"also not in {os.getcwd()}"
        raise MissingError(f"there is no module {error.name!r}, {where}") from error
    except Exception as error:
        what = f"{type(error).__name__}: {error} (--debug shows where)"
        raise CommandError(f"importing {name!r} failed: {what}") from error


# ── a command ───────────────────────────────────────────────────────────────────────────────────


class Command:
    """A handler that starts a command for each message. Any thread may call it.

    A command is in a process group of its own, so that Ctrl-C on a terminal does not reach it; it
    is killed when this process is killed (`_orphans.py`).
    """

    def __init__(self, words: Sequence[str], group: str, timeout: float | None) -> None:
        self._words = list(words)
        self._group = group
        self._timeout = timeout
        self._killed = threading.Event()
        self._lock = threading.RLock()  # a signal handler may come to a thread that has it
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> Self:
        self._beside = Beside()
        return self

    def __exit__(self, *exc: object) -> None:
        self._beside.close()

    def kill(self) -> None:
        """Ends those that run, and the workers; messages are released. For signal handlers."""
        with self._lock:
            self._killed.set()
            for process in self._running:
                _kill(process)

    def __call__(self, message: mqlog.Message[Any]) -> None:
        with self._started(message) as process:
            last = Stderr(process).follow(self._timeout)
            late = process.poll() is None
            if late:
                _kill(process)
            code = process.wait()
        if self._killed.is_set():
            raise KeyboardInterrupt
        if late:
            raise mqlog.Retry(None, f"the command did not end within {self._timeout:g} s")
        if code == 0:
            return
        said = f": {last}" if last else ""
        reason = f"{_ending(code)}{said}"
        if code == RETRY:
            raise mqlog.Retry(None, reason)
        LOGGER.warning("%s goes to the dead letters: %s", message.id, reason)
        raise mqlog.Reject(reason)

    @contextmanager
    def _started(self, message: mqlog.Message[Any]) -> Iterator["subprocess.Popen[bytes]"]:
        stdin = _file_of(message.raw or b"")
        try:
            with self._lock:
                if self._killed.is_set():
                    raise KeyboardInterrupt
                self._beside.tell("starts", stdin)
                mark = {_orphans.VARIABLE: _orphans.name_of(stdin).encode()}
                process = subprocess.Popen(
                    self._words,
                    stdin=stdin,
                    stderr=subprocess.PIPE,
                    env=os.environb | variables(message, self._group) | mark,
                    process_group=0,
                )
                self._beside.tell("runs", stdin, process.pid)
                self._running.add(process)
            if self._killed.is_set():
                _kill(process)
            try:
                yield process
            finally:
                if process.poll() is None:
                    _kill(process)
                with self._lock:
                    self._running.discard(process)
                process.wait()
                assert process.stderr is not None
                process.stderr.close()
        finally:
            self._beside.tell("ended", stdin)
            os.close(stdin)


class Beside:
    """The process that kills commands when this one is killed. Any thread may tell it something."""

    def __init__(self) -> None:
        self._gone = False
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _orphans.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            process_group=0,
        )

    def tell(self, word: str, stdin: int, *process: int) -> None:
        """Of the command with this standard input (`_orphans.watch`)."""
        assert self._process.stdin is not None
        line = " ".join([word, _orphans.name_of(stdin), *map(str, process)])
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except OSError:
            if not self._gone:
                what = "process %d is gone, which kills commands if this process is killed"
                LOGGER.warning(what, self._process.pid)
            self._gone = True

    def close(self) -> None:
        """Kills what runs still; nothing is left of it."""
        with self._process:
            pass


class Stderr:
    """The standard error of a command: passed on as it comes, its end kept."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        self._process = process
        self._file = process.stderr.fileno()
        os.set_blocking(self._file, False)
        self._tail = b""

    def follow(self, timeout: float | None) -> str:
        """Until the command ends, or for so many seconds; its last line.

        What it left running may have the pipe open still: nobody waits for that.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        ended = os.pidfd_open(self._process.pid)
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(self._file, select.POLLIN)
            while deadline is None or time.monotonic() < deadline:
                left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
                ready = [file for file, _ in poll.poll(max(0.0, left) * 1000)]
                if self._file in ready and not self._take():
                    poll.unregister(self._file)
                if ended in ready:
                    break
        finally:
            os.close(ended)
        for _ in range(MOST_READS):
            if not self._take():
                break
        lines = self._tail.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _take(self) -> bool:
        """False: nothing is there, or nothing will come any more."""
        try:
            data = os.read(self._file, 65536)
        except BlockingIOError:
            return False
        with suppress(OSError, ValueError):
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        return bool(data)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """The command, and what it started."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _file_of(data: bytes) -> int:
    """A descriptor from which the bytes can be read; unlike a pipe it waits for nobody."""
    file = os.memfd_create("message")
    with open(file, "wb", closefd=False) as writer:
        writer.write(data)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def variables(message: mqlog.Message[Any], group: str) -> dict[bytes, bytes]:
    """What a command is told of its message; what no variable can hold is left out."""
    headers = [[name, text_of(value)] for name, value in message.headers]
    told: dict[str, bytes | None] = {
        "ID": message.id.encode(),
        "TOPIC": message.topic.encode(),
        "PARTITION": b"%d" % message.partition,
        "OFFSET": b"%d" % message.offset,
        "GROUP": group.encode(),
        "KEY": message.key,
        "HEADERS": json.dumps(headers, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        "TIMESTAMP": None if message.timestamp is None else repr(message.timestamp).encode(),
        "DELIVERY_COUNT": b"%d" % message.delivery_count,
        "TOKEN": b"%d" % message.token,
    }
    if message.key is not None and b"\0" in message.key:
        told["KEY_BASE64"] = base64.b64encode(message.key)
    return {
        f"MQLOG_{name}".encode(): value
        for name, value in told.items()
        if value is not None and b"\0" not in value and len(value) <= LONGEST
    }


# ── signals, and what is said ───────────────────────────────────────────────────────────────────


ENDING = (signal.SIGINT, signal.SIGTERM)


class SecondSignal:
    """What a signal does that is not the first: `Queue.run` gives it on. A third does nothing.

    Where commands run they are killed, and their workers end: an exception here would come to a
    thread that waits for these, and they would be taken for ended.
    """

    def __init__(self, kill: Callable[[], object] | None) -> None:
        self.number = int(signal.SIGINT)
        self.heard = False
        self._kill = kill

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.number, self.heard = number, True
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        if self._kill is None:
            raise KeyboardInterrupt
        self._kill()


@contextmanager
def second_signal(kill: Callable[[], object] | None) -> Iterator[SecondSignal]:
    """A second SIGTERM ends the process as a second Ctrl-C does: after it has killed commands."""
    second = SecondSignal(kill)
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        kept = {number: signal.getsignal(number) for number in ENDING}
        before = {number: how for number, how in kept.items() if how != signal.SIG_IGN}
    for number in before:
        signal.signal(number, second.hear)
    try:
        yield second
    finally:
        for number, how in before.items():
            if not second.heard:  # else the process is at its end, and nothing is to disturb that
                signal.signal(number, how)


class Say(logging.Handler):
    """What workers have to say goes to standard error, as everything does that a verb says."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            self._screen.say(self.format(record))


@contextmanager
def told(screen: Screen, verbose: bool) -> Iterator[None]:
    handler = Say(screen)
    level, propagate = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
