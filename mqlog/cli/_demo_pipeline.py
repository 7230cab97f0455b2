"""Runs the demo's three processes, kills one of them part-way, and looks after all of them.

The directory it works in:

    store/                 the streams `orders` and `payments`
    notifications.ndjson   the outbox: what notification sent, a line each
    orders.ndjson          the orders, where they came from standard input
    payment.err …          what a process said on standard error, if it said something

The third ledger is a plain file on purpose: what reached the world outside is then counted without
mqlog's help, and "lost" is what the input has and the outbox has not.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mqlog
from mqlog.cli._demo_orders import Totals
from mqlog.cli._demo_worker import order_id_of
from mqlog.cli._errors import CommandError

LOOK_EVERY = 0.005  # seconds between two looks at the log
PATIENCE = 60.0  # seconds without any progress, after which the demo gives up
RESTARTS = 5  # of one process, besides the one after the kill
RUN_ON = 0.1  # of all orders: how far payment may run past the moment of the kill


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    directory: Path
    orders: str  # the file with the orders
    count: int  # its records
    expected: Totals  # what it adds up to, found without the log
    span: tuple[float, float]  # first and last moment of an order
    seconds: float  # to take for intake; 0 is flat out
    kill_after: int | None  # payments; None kills nothing

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def outbox(self) -> Path:
        return self.directory / "notifications.ndjson"

    def errors(self, role: str) -> Path:
        return self.directory / f"{role}.err"

    def job(self, *, hold: bool) -> str:
        """What a worker is told. `hold`: payment waits for its kill before the work runs out."""
        hold_at = None
        if hold and self.kill_after is not None:
            hold_at = min(self.count, self.kill_after + math.ceil(self.count * RUN_ON))
        job = {
            "store": str(self.store),
            "outbox": str(self.outbox),
            "orders": self.orders,
            "count": self.count,
            "span": self.span,
            "seconds": self.seconds,
            "hold_at": hold_at,
        }
        return json.dumps(job)


@dataclass(frozen=True)
class Progress:
    """Where the pipeline is: records in both streams, lines in the outbox."""

    orders: int = 0
    payments: int = 0
    again: int = 0  # of the payments, those made a second time after the kill
    notifications: int = 0


@dataclass
class Kill:
    """The kill and what came of it; seconds count from the first order."""

    pid: int
    at: float
    payments: int  # that were in the log then
    committed: int  # the offset in `orders` that its successor starts from
    back_pid: int
    recovered_after: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    progress: Progress
    seconds: float
    restarts: int
    kill: Kill | None
    notified: Totals
    sent: int  # lines in the outbox


class Worker:
    """One of the three processes, through all of its lives."""

    def __init__(self, role: str, plan: Plan) -> None:
        self.role = role
        self.restarts = 0
        self._plan = plan
        self.process = self._spawn(hold=True)

    def _spawn(self, *, hold: bool) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "mqlog.cli._demo_worker"]
        with open(self._plan.errors(self.role), "ab") as errors:
            return subprocess.Popen(
                [*command, self.role, self._plan.job(hold=hold)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=_environment(),
            )

    def kill(self) -> None:
        """SIGKILL, to this process alone; it is gone when this returns."""
        self.process.kill()
        self.process.wait()
        self.finish()

    def start_again(self, *, hold: bool) -> None:
        self.finish()
        self.process = self._spawn(hold=hold)

    def finish(self) -> None:
        """Tells it to end when nothing is left to do."""
        if self.process.stdin and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def has_finished(self) -> bool:
        """Whether it has done its work.

        Raises:
            CommandError: It met an error of its own, and would meet it again.
        """
        code = self.process.poll()
        if code is not None and code > 0:
            raise self.failed()
        return code == 0

    def was_killed(self) -> bool:
        return (self.process.poll() or 0) < 0

    def failed(self) -> CommandError:
        code, why = self.process.returncode, _last_line(self._plan.errors(self.role))
        return CommandError(f"the {self.role} process ended with code {code}: {why}")


class Pipeline:
    """One run of a plan. `say` hears what happens, `watch` sees how far it is."""

    def __init__(
        self, plan: Plan, say: Callable[[str], object], watch: Callable[[Progress], object]
    ) -> None:
        self.plan = plan
        self._say = say
        self._watch = watch
        self._workers: dict[str, Worker] = {}
        self._outbox = LineCounter(plan.outbox)
        self._progress = Progress()
        self._kill: Kill | None = None
        self._started = self._moved = 0.0

    def run(self) -> Outcome:
        """Works until all that the input has went through, or nothing moves any more."""
        with mqlog.open(self.plan.store) as store, self._all_ended():
            ends = store.stream("orders"), store.stream("payments")
            for role in ("notification", "payment", "intake"):
                self._workers[role] = Worker(role, self.plan)
            self._moved = time.monotonic()
            while self._step(store, ends):
                time.sleep(LOOK_EVERY)
        notified, sent = read_outbox(self.plan.outbox)
        restarts = sum(worker.restarts for worker in self._workers.values())
        seconds = self._moved - self._started
        return Outcome(self._progress, seconds, restarts, self._kill, notified, sent)

    @contextlib.contextmanager
    def _all_ended(self) -> Iterator[None]:
        """However the run ends, no process outlives it."""
        try:
            yield
        finally:
            for role, worker in self._workers.items():
                worker.kill()
                errors = self.plan.errors(role)
                if errors.stat().st_size == 0:
                    errors.unlink()

    def _step(self, store: mqlog.Store, ends: tuple[Any, Any]) -> bool:
        """Looks at everything once; False when there is nothing left to do."""
        finished = self._finish_in_order()
        self._look(ends)
        after = self.plan.kill_after
        if not self._kill and after is not None and self._progress.payments >= after:
            self._kill_payment(store, ends)
        if self._kill and self._kill.recovered_after is None:
            self._note_recovery(self._kill)
        if not finished and time.monotonic() - self._moved > PATIENCE:
            self._say(f"nothing has moved for {PATIENCE:.0f} seconds: giving up")
            return False
        return not finished

    def _finish_in_order(self) -> bool:
        """Ends each process when the one before it has nothing more to give."""
        upstream = True
        for role in ("intake", "payment", "notification"):
            worker = self._workers[role]
            if worker.was_killed():
                self._revive(worker)
            killed = self._kill is not None or self.plan.kill_after is None
            if upstream and (role == "notification" or (role == "payment" and killed)):
                worker.finish()
            upstream = worker.has_finished() and upstream
        return upstream

    def _revive(self, worker: Worker) -> None:
        """Starts a process again that somebody else has killed; intake would begin anew."""
        if worker.role == "intake" or worker.restarts == RESTARTS:
            raise worker.failed()
        worker.restarts += 1
        worker.start_again(hold=self._kill is None)
        self._say(f"somebody killed {worker.role}; it goes on as process {worker.process.pid}")

    def _look(self, ends: tuple[Any, Any]) -> None:
        orders, payments = ends
        paid, again = payments.end_offset, 0
        if self._kill is not None:
            uncommitted = self._kill.payments - self._kill.committed
            again = min(paid - self._kill.payments, uncommitted)
        progress = Progress(orders.end_offset, paid, again, self._outbox.count())
        if progress != self._progress:
            self._progress = progress
            self._moved = time.monotonic()
            self._started = self._started or self._moved
            self._watch(progress)

    def _kill_payment(self, store: mqlog.Store, ends: tuple[Any, Any]) -> None:
        """Kills payment, whatever it is doing, and starts it again from its committed offset."""
        worker = self._workers["payment"]
        pid = worker.process.pid
        worker.kill()
        killed = time.monotonic()
        groups = {group.name: group for group in store.groups("orders")}
        committed = groups["payment"].committed.get(0, 0) if "payment" in groups else 0
        worker.start_again(hold=False)
        payments = ends[1].end_offset
        at = killed - self._started if self._started else 0.0
        self._kill = Kill(pid, at, payments, committed, worker.process.pid)
        self._killed = killed
        self._say(f"killed the payment process {pid} (SIGKILL) after {payments:,} payments")
        back = worker.process.pid
        self._say(f"payment goes on as process {back} from its committed offset {committed:,}")

    def _note_recovery(self, kill: Kill) -> None:
        if self._progress.payments > kill.payments:
            kill.recovered_after = self._moved - self._killed
            self._say(f"payments flow again {kill.recovered_after:.2f} s after the kill")


class LineCounter:
    """Counts the lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._lines = 0

    def count(self) -> int:
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            file.seek(self._position)
            data = file.read()
            self._position += len(data)
            self._lines += data.count(b"\n")
        return self._lines


# ── what it left behind ─────────────────────────────────────────────────────────────────────────


def read_outbox(path: Path) -> tuple[Totals, int]:
    """What was sent, and how many notifications that were; each order should be one."""
    totals, sent = Totals(), 0
    if path.exists():
        for line in path.read_bytes().splitlines():
            document = json.loads(line)
            totals.add(document["order_id"], document, "charged_cents")
            sent += 1
    return totals, sent


@dataclass(frozen=True)
class Replay:
    """What both streams add up to when the closed store is read again from the start."""

    orders: Totals
    payments: Totals
    records: int
    duplicates: int  # payments for an order's record that had been paid before
    seconds: float


def replay_offline(plan: Plan) -> Replay:
    started = time.monotonic()
    orders, payments, records = Totals(), Totals(), 0
    origins: set[bytes | None] = set()
    for record in mqlog.replay(plan.store, topic="orders"):
        records += 1
        orders.add(order_id_of(record), json.loads(record.value or b"{}"))
    paid = 0
    for record in mqlog.replay(plan.store, topic="payments"):
        paid += 1
        origins.add(record.header("origin"))
        payments.add(order_id_of(record), json.loads(record.value or b"{}"), "charged_cents")
    return Replay(orders, payments, records + paid, paid - len(origins), time.monotonic() - started)


def _environment() -> dict[str, str]:
    """Lets the workers import this very mqlog, wherever it was imported from."""
    home = str(Path(mqlog.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
