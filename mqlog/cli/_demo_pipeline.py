"""Runs the demo's seven processes, kills one of them part-way, and looks after all of them.

The directory it works in:

    store/                 the topics `orders`, `orders.dlq` and `payments`
    notifications.ndjson   the outbox: what notification sent, a line each
    sales.json             the sales statistics, and how far they are
    orders.ndjson          the orders, where they came from standard input
    payment-1.err …        what a process said on standard error, if it said something

The outbox is a plain file on purpose: what reached the world outside is then counted without
mqlog's help, and "lost" is what the input has and neither the outbox nor the dead letters have.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mqlog
from mqlog.cli._demo_orders import Sales, Totals, shown
from mqlog.cli._demo_worker import HOLD
from mqlog.cli._errors import CommandError
from mqlog.cli._screen import plural

LOOK_EVERY = 0.01  # seconds between two looks at the queues
PATIENCE = 60.0  # seconds without any progress, after which the demo gives up
RESTARTS = 5  # of one process, besides the one after the kill
PAYERS = 4  # payment workers
VICTIM = "payment-1"
# Orders that the other workers leave until the kill: more than they may have in their hands, so
# that the victim finds some on a machine of any speed.
LEFT_OVER = 4 * HOLD + 1
RETRY_DELAYS = (0.05, 0.1, 0.15, 0.2)  # what takes minutes by default takes half a second here


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    directory: Path
    orders: str  # the file with the orders
    count: int  # its records
    expected: Totals  # what it adds up to, found without the log
    payable: Totals  # the same without the order that nobody can charge
    poison: str | None  # that order's id
    span: tuple[float, float]  # first and last moment of an order
    seconds: float  # to take for intake; 0 is flat out
    kill_after: int | None  # payments; None kills nothing

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def outbox(self) -> Path:
        return self.directory / "notifications.ndjson"

    @property
    def sales(self) -> Path:
        return self.directory / "sales.json"

    @property
    def stuck(self) -> Path:
        return self.directory / "stuck"

    def errors(self, role: str) -> Path:
        return self.directory / f"{role}.err"

    def job(self, role: str, *, kill: bool) -> str:
        """What a worker is told. `kill`: the kill is still to come."""
        job: dict[str, Any] = {
            "store": str(self.store),
            "outbox": str(self.outbox),
            "sales": str(self.sales),
            "stuck": str(self.stuck),
            "orders": self.orders,
            "count": self.count,
            "span": self.span,
            "seconds": self.seconds,
            "poison": self.poison,
            "stuck_at": None,
            "wait_at": None,
        }
        if kill and self.kill_after is not None:
            last = max(0, self.count - LEFT_OVER)
            if role == VICTIM:
                job["stuck_at"] = min(self.kill_after, last)
            else:
                job["wait_at"] = last
        return json.dumps(job)


@dataclass(frozen=True)
class Progress:
    """Where the pipeline is."""

    orders: int = 0  # put
    accepted: int = 0  # by payment
    dead: int = 0
    payments: int = 0  # put: those of an order that was charged again count twice
    delayed: int = 0  # of them, not due yet
    notifications: int = 0  # lines in the outbox
    sales: Sales = field(default_factory=Sales)


@dataclass
class Kill:
    """The kill and what came of it; seconds count from the first order."""

    pid: int
    at: float
    payments: int  # that were there then
    held: int  # messages that it had in its hands
    back_pid: int
    moment: float  # seconds since 1970


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, as the queues tell it."""

    progress: Progress
    seconds: float
    restarts: int
    kill: Kill | None


class Worker:
    """One of the processes, through all of its lives."""

    def __init__(self, role: str, plan: Plan) -> None:
        self.role = role
        self.restarts = 0
        self._plan = plan
        self.process = self._spawn(kill=True)

    def _spawn(self, *, kill: bool) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "mqlog.cli._demo_worker"]
        with open(self._plan.errors(self.role), "ab") as errors:
            return subprocess.Popen(
                [*command, self.role, self._plan.job(self.role, kill=kill)],
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

    def start_again(self, *, kill: bool) -> None:
        self.finish()
        self.process = self._spawn(kill=kill)

    def tell_of_the_kill(self) -> None:
        if self.process.stdin and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                os.write(self.process.stdin.fileno(), b"\n")

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
            # Kept to the end, so that all of it can be replayed.
            queues = (
                store.queue(
                    "orders", group="payment", cleanup_policy="keep", retry_delays=RETRY_DELAYS
                ),
                store.queue("payments", group="notification", cleanup_policy="keep"),
            )
            payers = [f"payment-{number + 1}" for number in range(PAYERS)]
            for role in ("notification", "statistics", *payers, "intake"):
                self._workers[role] = Worker(role, self.plan)
            self._moved = time.monotonic()
            while self._step(queues):
                time.sleep(LOOK_EVERY)
            self._look(queues)
        restarts = sum(worker.restarts for worker in self._workers.values())
        return Outcome(self._progress, self._moved - self._started, restarts, self._kill)

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

    def _step(self, queues: tuple[Any, Any]) -> bool:
        """Looks at everything once; False when there is nothing left to do."""
        finished = self._finish_in_order()
        self._look(queues)
        if self._is_killing() and self.plan.stuck.exists():
            self._look(queues)
            self._kill_payment()
        if not finished and time.monotonic() - self._moved > PATIENCE:
            self._say(f"nothing has moved for {PATIENCE:.0f} seconds: giving up")
            return False
        return not finished

    def _is_killing(self) -> bool:
        """Whether the kill is still to come."""
        return self._kill is None and self.plan.kill_after is not None

    def _finish_in_order(self) -> bool:
        """Ends each process when those before it have nothing more to give."""
        for worker in self._workers.values():
            if worker.was_killed():
                self._revive(worker)
        stages: dict[str, bool] = {}
        for role, worker in self._workers.items():
            stage = role.partition("-")[0]
            stages[stage] = worker.has_finished() and stages.get(stage, True)
        for role, worker in self._workers.items():
            if role == "notification":
                over = stages["payment"]
            else:
                over = stages["intake"] and not (role != "statistics" and self._is_killing())
            if over:
                worker.finish()
        return all(stages.values())

    def _revive(self, worker: Worker) -> None:
        """Starts a process again that somebody else has killed; intake would begin anew."""
        if worker.role == "intake" or worker.restarts == RESTARTS:
            raise worker.failed()
        worker.restarts += 1
        worker.start_again(kill=self._is_killing())
        self._say(f"somebody killed {worker.role}; it goes on as process {worker.process.pid}")

    def _look(self, queues: tuple[Any, Any]) -> None:
        orders, payments = (queue.stats() for queue in queues)
        progress = Progress(
            orders=_put(orders),
            accepted=orders.accepted,
            dead=orders.dead,
            payments=_put(payments),
            delayed=payments.delayed,
            notifications=self._outbox.count(),
            sales=Sales.load(self.plan.sales),
        )
        if progress == self._progress:
            return
        if progress.dead > self._progress.dead:
            name, tries = shown(self.plan.poison or "?"), 1 + len(RETRY_DELAYS)
            self._say(f"order {name} cannot be charged: dead after {tries} deliveries")
        self._progress = progress
        self._moved = time.monotonic()
        self._started = self._started or self._moved
        self._watch(progress)

    def _kill_payment(self) -> None:
        """Kills the payment worker that is stuck with orders in its hands, and starts another."""
        worker = self._workers[VICTIM]
        pid = worker.process.pid
        worker.kill()
        killed, moment = time.monotonic(), time.time()
        held = int(self.plan.stuck.read_text())
        self.plan.stuck.unlink()
        at = killed - self._started if self._started else 0.0
        payments = self._progress.payments
        worker.start_again(kill=False)
        for other in self._workers.values():
            if other.role.startswith("payment"):
                other.tell_of_the_kill()
        self._kill = Kill(pid, at, payments, held, worker.process.pid, moment)
        held_orders = plural(held, "order")
        self._say(f"killed the payment process {pid} (SIGKILL) while it held {held_orders}")
        self._say(f"the others take them over; process {worker.process.pid} works in its place")


def _put(stats: mqlog.QueueStats) -> int:
    """All that was ever put for a group."""
    finished = stats.accepted + stats.dead + stats.expired + stats.damaged + stats.purged
    return stats.ready + stats.delayed + stats.acquired + finished


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


def _environment() -> dict[str, str]:
    """Lets the workers import this very mqlog, wherever it was imported from."""
    home = str(Path(mqlog.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
