"""`Queue.run`: workers in this process or in others, replaced when they die, ended without loss.

The parent of worker processes takes no message itself. It starts them (by spawn, so that they share
no memory and no open store with it), puts another in the place of one that died, and ends them. A
line joins it with each: the worker hears on it that it is to stop, and that its parent has died,
for then the line ends; the parent hears that the worker is ready, idle, alive or at its end, and
what it has for the log.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

from mqlog._times import check_seconds
from mqlog._worker import LOGGER, SLICE, Crew, Handler, Here
from mqlog.errors import ClosedError, DurabilityError, FormatError, NotFoundError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from mqlog._queue import Queue

#: A worker that lives no longer than this is said to die at once: the next one waits for a while.
_AT_ONCE: Final = 0.2
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
#: So many starts that come to nothing, before any worker was ready, mean that none ever will be.
_VAIN_STARTS: Final = 3
#: A worker whose keeper has been silent for so much more than `timeout` is killed from outside.
_GRACE: Final = 5.0
#: What another worker would meet, too.
_FATAL: Final = (ClosedError, DurabilityError, FormatError, NotFoundError)


def run(
    queue: Queue[Any, Any],
    handler: Handler,
    processes: int,
    *,
    threads: int,
    timeout: float | None,
    until_empty: bool,
) -> None:
    """What `Queue.run` does."""
    queue._store._writable("run()")
    queue._check()
    _check_handler(handler)
    _check_count("processes", processes, 0)
    _check_count("threads", threads, 1)
    if check_seconds("timeout", timeout) == 0:
        raise ValueError("timeout=0: seconds, over 0, or None")
    if timeout is not None and processes == 0:
        raise ValueError(
            "timeout= takes processes=1 or more: a handler that does not come back is ended by "
            "killing its process, and with processes=0 that is this one"
        )
    how = {"threads": threads, "timeout": timeout, "until_empty": until_empty}
    while True:
        if processes:
            stopped = Pool(queue, handler, processes, how).run()
        else:
            stopped = _run_here(queue, handler, how)
        if queue._closed or queue._store.closed:
            queue._check()
        if not until_empty or stopped or queue.is_shutdown or not _is_left(queue):
            return  # else a message was released just when everybody had gone, or its worker died


def _is_left(queue: Queue[Any, Any]) -> bool:
    """Whether anything is ready now, what the dead held among it."""
    if queue.empty():
        queue.acquired()  # releases that
    return not queue.empty()


def _run_here(queue: Queue[Any, Any], handler: Handler, how: dict[str, Any]) -> bool:
    """Whether a signal has ended it."""
    crew = Here(queue, handler, **how)
    with Signals(crew.stop, None) as signals:
        crew.run()
    return signals.heard


# -- what is refused -------------------------------------------------------------------------------


def _check_count(what: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{what}={value}: at least {least}")


def _check_handler(handler: Any) -> None:
    if not callable(handler):
        raise TypeError(f"handler is a function of a message, not {type(handler).__name__}")
    for one in (handler, getattr(handler, "__call__", None)):  # noqa: B004 - of an instance
        if inspect.iscoroutinefunction(one) or inspect.isgeneratorfunction(one):
            raise TypeError(
                f"{_name_of(handler)} would only be made ready by a call, and not run: run() takes "
                "a plain function, which may call asyncio.run()"
            )


def _name_of(handler: Any) -> str:
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    return f"handler {name}"


def _pack(queue: Queue[Any, Any], handler: Handler) -> bytes:
    """What a worker process gets, and can unpack."""
    try:
        pickle.dumps(queue)
    except Exception as error:
        raise TypeError(
            f"{queue!r} cannot go to worker processes: {error}; its codec, and the clock of its "
            "store, must be importable there"
        ) from error
    try:
        packed = pickle.dumps((queue, handler))
    except Exception as error:
        raise _not_importable(handler, str(error)) from error
    if b"__main__" in packed and not os.path.exists(_main_file()):
        raise _not_importable(handler, "this program is no file: it was typed in, or came by -c")
    return packed


def _main_file() -> str:
    return getattr(sys.modules["__main__"], "__file__", None) or ""


def _not_importable(handler: Any, why: str) -> TypeError:
    return TypeError(
        f"{_name_of(handler)} cannot go to worker processes, which import it by its name: {why}. "
        "Define it at the top level of a module, or run with processes=0, threads=N"
    )


# -- signals ---------------------------------------------------------------------------------------


class Signals:
    """SIGINT and SIGTERM while workers work: the first asks them to stop, the second ends them.

    Only in the main thread. What was ignored before is ignored still. What was there before is put
    back at the end, and before the second signal is given on to it.
    """

    def __init__(self, stop: Callable[[], object], kill: Callable[[int], object] | None) -> None:
        self.heard = False
        self._stop = stop
        self._kill = kill
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._hear)
        return self

    def __exit__(self, *exc: object) -> None:
        before, self._before = self._before, {}  # what is heard meanwhile changes nothing
        for number, how in before.items():
            signal.signal(number, how)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.heard:
            self.heard = True
            self._stop()
        elif self._kill is not None:
            for one in self._before:
                signal.signal(one, signal.SIG_IGN)  # a third would find nothing left to do
            self._kill(number)
        else:
            self.__exit__()
            signal.raise_signal(number)


# -- the parent ------------------------------------------------------------------------------------


class Seat:
    """A place for one worker: who sits there, and what is known of it."""

    def __init__(self) -> None:
        self.process: SpawnProcess | None = None
        self.line: Connection | None = None
        self.ready = False
        self.idle = False
        self.since = 0.0  # when it was started, and then when it was ready
        self.heard = 0.0  # when its keeper last said that it is alive
        self.pause = 0.0  # before the next one is started
        self.free_at = 0.0
        self.told = ""  # the last word to who sits there
        self.done = False  # nobody is to sit here any more


class Pool:
    """Worker processes, and their parent's loop. One `run`."""

    def __init__(
        self, queue: Queue[Any, Any], handler: Handler, processes: int, how: dict[str, Any]
    ) -> None:
        self._queue = queue
        self._how = how
        self._packed = _pack(queue, handler)
        self._context = multiprocessing.get_context("spawn")
        self._seats = [Seat() for _ in range(processes)]
        self._stopping = False
        self._draining = False
        self._empty = False  # it is stopping because nothing is left
        self._killed_by = 0  # the signal that was the second
        self._failure: BaseException | None = None
        self._proved = False  # a worker was ready once
        self._vain = 0

    def run(self) -> bool:
        """Whether it ended for another reason than that nothing was left."""
        if self._how["until_empty"] and not _is_left(self._queue):
            return False
        self._bell = os.pipe()
        os.set_blocking(self._bell[1], False)
        resource_tracker.ensure_running()  # else it would unblock SIGINT in the midst of a start
        try:
            with Signals(self._stop, self._kill):
                try:
                    while not self._killed_by and not all(seat.done for seat in self._seats):
                        self._look()
                        self._fill()
                        self._listen()
                finally:
                    self._end()
        finally:
            for descriptor in self._bell:  # no handler rings it any more
                os.close(descriptor)
        if self._killed_by:
            signal.raise_signal(self._killed_by)
        if self._failure is not None:
            self._queue._check()  # a queue that was closed or deleted says so itself
            raise self._failure
        return not self._empty

    def _stop(self) -> None:
        """Called by signal handlers, too."""
        self._stopping = True
        self._ring()

    def _kill(self, number: int) -> None:
        self._killed_by = number
        self._ring()

    def _ring(self) -> None:
        with suppress(OSError):
            os.write(self._bell[1], b".")

    def _end(self) -> None:
        """Nobody is left when this returns; what they held is free."""
        for seat in self._seats:
            if seat.process is not None:
                seat.process.kill()
        for seat in self._seats:
            if seat.process is not None:
                seat.process.join()
            if seat.line is not None:
                seat.line.close()

    # what there is to do

    def _look(self) -> None:
        """At the handle, the clock, and whether there is anything left to do."""
        queue, now = self._queue, time.monotonic()
        if queue._closed or queue._store.closed or queue._halts:
            self._stopping = True
        elif queue.is_shutdown and not self._draining:
            self._draining = True
            self._tell_all("drain")
        elif self._how["until_empty"] and not self._stopping and self._is_empty():
            self._empty = self._stopping = True
        timeout = self._how["timeout"]
        for seat in self._seats:
            late = timeout is not None and seat.ready and now - seat.heard > timeout + _GRACE
            if late and seat.process is not None:
                what = "worker %d does not answer: a handler holds the GIL; it is killed"
                LOGGER.error(what, seat.process.pid)
                seat.process.kill()
                seat.heard = now
        if self._stopping:
            self._tell_all("stop")

    def _is_empty(self) -> bool:
        return all(seat.idle for seat in self._seats) and not _is_left(self._queue)

    def _tell_all(self, word: str) -> None:
        for seat in self._seats:
            if seat.process is None and word == "stop":
                seat.done = True
            elif seat.line is not None and seat.told != word:
                seat.told = word
                with suppress(OSError):
                    seat.line.send(word)

    def _fill(self) -> None:
        for number, seat in enumerate(self._seats):
            free = seat.process is None and not seat.done and not self._stopping
            if free and time.monotonic() >= seat.free_at:
                try:
                    self._start(number, seat)
                except OSError as error:
                    LOGGER.error("a worker of %r cannot be started: %s", self._queue, error)
                    self._came_to_nothing(error)
                    pause(seat)

    def _start(self, number: int, seat: Seat) -> None:
        ours, theirs = self._context.Pipe()
        words = (theirs, self._packed, os.getpid(), self._how, LOGGER.getEffectiveLevel())
        name = f"mqlog-{self._queue.name}-{number}"
        process = self._context.Process(target=work, args=words, name=name, daemon=False)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until it is prepared
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        seat.process, seat.line = process, ours
        seat.ready = seat.idle = False
        seat.told = ""
        seat.since = time.monotonic()
        if self._draining:
            self._tell_all("drain")

    # what they say

    def _listen(self) -> None:
        lines = {seat.line: seat for seat in self._seats if seat.line is not None}
        sitting = [seat.process for seat in self._seats if seat.process is not None]
        now = time.monotonic()
        waits = [seat.free_at - now for seat in self._seats if seat.process is None]
        ends = [process.sentinel for process in sitting]
        for one in connection.wait([self._bell[0], *lines, *ends], max(0.0, min([SLICE, *waits]))):
            if one == self._bell[0]:
                os.read(self._bell[0], 4096)
            elif isinstance(one, Connection):
                self._read(lines[one])
        for seat in self._seats:
            if seat.process is not None and seat.process.exitcode is not None:
                while seat.line is not None and seat.line.poll():
                    self._read(seat)
                self._bury(seat)

    def _read(self, seat: Seat) -> None:
        assert seat.line is not None and seat.process is not None
        try:
            word, *rest = seat.line.recv()
        except (EOFError, OSError):  # it is at its end
            seat.line.close()
            seat.line = None
            return
        if word == "log":
            record = logging.makeLogRecord(rest[0])
            logging.getLogger(record.name).handle(record)
        elif word == "ready":
            seat.ready = self._proved = True
            seat.since = seat.heard = time.monotonic()
        elif word == "beat":
            seat.heard = time.monotonic()
        elif word in ("idle", "back"):
            seat.idle = word == "idle"
        elif word == "failed":
            self._failed(seat, *rest)

    def _failed(self, seat: Seat, error: BaseException, trace: str) -> None:
        assert seat.process is not None
        if self._failure is None and (isinstance(error, _FATAL) or not self._proved):
            error.add_note(f"in worker process {seat.process.pid}:\n{trace.rstrip()}")
            self._failure = error
            self._stopping = True
        elif self._failure is None:
            LOGGER.error("worker %d of %r ends:\n%s", seat.process.pid, self._queue, trace.rstrip())

    def _bury(self, seat: Seat) -> None:
        """The worker is dead."""
        process, now = seat.process, time.monotonic()
        assert process is not None
        code, by_itself = process.exitcode, self._stopping or self._draining
        if code == 0 and by_itself:
            seat.done = True
        else:
            what = "worker %d of %r has ended (%s), and another takes its place"
            if not self._stopping:
                LOGGER.warning(what, process.pid, self._queue, _ending(code))
            if not seat.ready and code is not None and code > 0:
                self._came_to_nothing(None)
            if not seat.ready or now - seat.since < _AT_ONCE:
                pause(seat)
            else:
                seat.pause = seat.free_at = 0.0
        if seat.line is not None:
            seat.line.close()
        process.close()
        seat.process = seat.line = None
        seat.ready = seat.idle = False

    def _came_to_nothing(self, error: BaseException | None) -> None:
        self._vain += 1
        if self._proved or self._failure is not None or self._vain < _VAIN_STARTS:
            return
        self._failure = error or RuntimeError(
            "worker processes end before they are ready (what they said is on standard error). "
            "They import the main module: is run() called under if __name__ == '__main__'?"
        )
        self._stopping = True


def pause(seat: Seat) -> None:
    """Nobody sits there for a while, and longer than the last time."""
    seat.pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * seat.pause))
    seat.free_at = time.monotonic() + seat.pause


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


# -- the worker ------------------------------------------------------------------------------------


class Line:
    """The worker's end. Any thread may tell something."""

    def __init__(self, line: Connection, parent: int) -> None:
        self._line: Connection | None = line
        self._parent = parent
        self._lock = threading.Lock()

    def tell(self, *words: Any) -> bool:
        """False: there is nobody to hear it."""
        with self._lock:
            try:
                if self._line is not None:
                    self._line.send(words)
                    return True
            except OSError:
                pass
            return False

    def hear(self, seconds: float) -> str | None:
        """What the parent says within so many seconds; "stop" if it is dead."""
        line = self._line
        if line is None:
            time.sleep(seconds)
            return None
        try:
            # The line's other end may live on in a process that the parent forked.
            if os.getppid() == self._parent:
                return str(line.recv()) if line.poll(seconds) else None
        except (EOFError, OSError):
            pass
        self._line = None
        LOGGER.warning("worker %d: its parent has died", os.getpid())
        return "stop"


class Hired(Crew):
    """The crew of a worker process."""

    def __init__(self, line: Line, queue: Queue[Any, Any], handler: Handler, **how: Any) -> None:
        super().__init__(queue, handler, **how)
        self._line = line
        self._last_beat = 0.0

    def idle(self) -> None:
        """The parent decides whether that is the end."""
        self._line.tell("idle")

    def back(self) -> None:
        """The parent is told."""
        self._line.tell("back")

    def watch(self, seconds: float) -> None:
        """Hears the parent."""
        word = self._line.hear(seconds)
        if word == "stop":
            self.stop()
            LOGGER.info("worker %d ends when it is done with what it has in hand", os.getpid())
        elif word == "drain":
            self.drain()

    def beat(self) -> None:
        """Tells the parent, if it wants to know."""
        now = time.monotonic()
        if self._timeout is not None and now - self._last_beat > 1.0:
            self._last_beat = now
            self._line.tell("beat")


class Forward(logging.Handler):
    """What a worker has for the log is said by its parent, whose logging is set up."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Sends it; without a parent, to standard error."""
        fields = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
        if record.exc_info:
            fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if not self._line.tell("log", fields) and logging.lastResort is not None:
            logging.lastResort.handle(record)


def work(line: Connection, packed: bytes, parent: int, how: dict[str, Any], level: int) -> None:
    """What a worker process does from its beginning to its end."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the parent
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end = Line(line, parent)
    LOGGER.addHandler(Forward(end))
    LOGGER.setLevel(level)
    LOGGER.propagate = False
    try:
        queue, handler = pickle.loads(packed)
        crew = Hired(end, queue, handler, **how)
        signal.signal(signal.SIGTERM, lambda *_: crew.stop())
        end.tell("ready")
        crew.watch(0.0)  # its parent may have died while it was made ready
        with queue._store:
            crew.run()
    except BaseException as error:
        end.tell("failed", _portable(error), "".join(traceback.format_exception(error)))
        sys.exit(1)


def _portable(error: BaseException) -> BaseException:
    """The error, as any process can unpickle it."""
    with suppress(Exception):
        if type(error).__module__ in ("builtins", "mqlog.errors"):
            pickle.loads(pickle.dumps(error))
            return error
    return RuntimeError(f"{type(error).__qualname__}: {error}")
