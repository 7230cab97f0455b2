"""The demo's processes: order intake, payment (four of them), notification, statistics.

    python -m mqlog.cli._demo_worker ROLE JOB

`ROLE` is intake, payment-1 and so on, notification or statistics, `JOB` a JSON object that
`_demo_pipeline` writes. Each is the program that a user of mqlog would write, and knows nothing of
the demo around it but this: its standard input says when no more work will come (so no worker
survives its parent); intake may be asked to take its time; and one payment worker gets stuck with
orders in its hands, to be killed, which the others leave some orders for.

Payment and notification are at-least-once: they do their work, then accept. What one holds that is
killed in between is delivered to another. Payment therefore may charge an order twice, as two
records that name one order; notification tells each customer once, by remembering whom it told.
"""

import json
import os
import select
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mqlog
from mqlog.cli._demo_orders import Order, Sales, read_orders
from mqlog.cli._screen import Screen

STDIN = 0
# Headers, in both topics or in the payments alone.
ORDER_ID = "order-id"
ORIGIN = "origin"  # the id of the record that was paid
DELIVERY = "delivery"  # how often that record had been delivered
PRIORITY = "priority"
NOT_BEFORE = "not-before"  # seconds since 1970

BATCH = 500  # orders in one call
HOLD = 10  # orders that a payment worker takes at a time
SEND = 100  # notifications sent at a time
TICK = 0.005  # seconds that paced orders are gathered for
PATIENCE = 0.1  # seconds to wait for messages before looking at standard input
SAVE_EVERY = 0.05  # seconds between two states of the statistics

EXPRESS = 9  # the priority of customers who are told first
LATER = 0.5  # seconds after which those are told who are in no hurry

AnyMessage = mqlog.Message[bytes]
AnyQueue = mqlog.Queue[bytes, Any]
AnyRecord = mqlog.Record[Any]


class DeclinedError(Exception):
    """No terminal takes this order's payment."""


def main(role: str, job: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    work = {
        "intake": intake,
        "payment": payment,
        "notification": notification,
        "statistics": statistics,
    }
    with mqlog.open(job["store"], create=False) as store:
        work[role.partition("-")[0]](store, job, Parent())


class Parent:
    """Standard input: a byte there says that the kill is over, its end that nothing more comes."""

    def __init__(self) -> None:
        self._killed = self._finished = False

    def has_killed(self) -> bool:
        """Whether the stuck worker is dead."""
        self._look(0.0)
        return self._killed

    def wants_the_end(self, wait: float = 0.0) -> bool:
        """Whether it has closed its end of the pipe, or is gone; waits so many seconds."""
        self._look(wait)
        return self._finished

    def _look(self, wait: float) -> None:
        while not self._finished and select.select([STDIN], [], [], wait)[0]:
            self._killed = True
            self._finished = not os.read(STDIN, 16)


def order_id_of(record: AnyRecord) -> str:
    """The id that intake gave the order."""
    return str(record.header(ORDER_ID) or b"", "utf-8", "surrogatepass")


def is_drained(queue: AnyQueue) -> bool:
    """Whether nobody holds anything any more, or will be given something."""
    stats = queue.stats()
    return stats.ready + stats.delayed + stats.acquired == 0


# ── intake ──────────────────────────────────────────────────────────────────────────────────────


def intake(store: mqlog.Store, job: dict[str, Any], parent: Parent) -> None:
    """Takes the orders of the file as they are placed, and puts each of them once."""
    orders = store.queue("orders", group="payment", create=False)
    for batch in batches(due_orders(job)):
        if parent.wants_the_end():
            return
        orders.put_many(
            [order.line for order in batch],
            keys=[order.key for order in batch],
            headers=[{ORDER_ID: order.id.encode("utf-8", "surrogatepass")} for order in batch],
        )


def due_orders(job: dict[str, Any]) -> Iterator[tuple[float, Order]]:
    """Each order with the second at which it comes in, of the `seconds` that the day takes.

    Half by the clock and half by their number: so the peaks are seen, and the night is not dull.
    """
    first, last = job["span"]
    for index, order in enumerate(read_orders(job["orders"], Screen())):
        place = index / job["count"]
        if order.placed_at is not None and last > first:
            place = (place + (order.placed_at - first) / (last - first)) / 2
        yield place * job["seconds"], order


def batches(orders: Iterator[tuple[float, Order]]) -> Iterator[list[Order]]:
    """What is due by now, at most `BATCH` at a time."""
    started = time.monotonic()
    batch: list[Order] = []
    for due, order in orders:
        if due > time.monotonic() - started:
            if batch:
                yield batch
                batch = []
            time.sleep(max(TICK, due - (time.monotonic() - started)))
        batch.append(order)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


# ── payment ─────────────────────────────────────────────────────────────────────────────────────


def payment(store: mqlog.Store, job: dict[str, Any], parent: Parent) -> None:
    """Charges what it is given, in competition with the others; what it accepted is done."""
    orders = store.queue("orders", group="payment", create=False)
    payments = store.queue("payments", group="notification", create=False)
    made = store.stream("payments", create=False)
    stuck_at, wait_at = job["stuck_at"], job["wait_at"]
    while True:
        finish = parent.wants_the_end()
        if wait_at is not None and count(made) >= wait_at and not parent.has_killed():
            parent.wants_the_end(PATIENCE)
            continue
        messages = orders.get_many(HOLD, timeout=PATIENCE)
        if messages and stuck_at is not None and count(made) >= stuck_at:
            get_stuck(messages, payments, job, parent)
            return
        for message in messages:
            try:
                with message:
                    charge(message, payments, job)
            except DeclinedError:
                pass  # it is tried again later, or lies among the dead letters
        if finish and not messages and is_drained(orders):
            return


def count(stream: mqlog.Stream[Any, Any]) -> int:
    """Its records."""
    return sum(partition.end_offset for partition in stream.partitions)


def charge(message: AnyMessage, payments: AnyQueue, job: dict[str, Any]) -> None:
    """Puts what the order paid, under its id and its record's; notification is told by that.

    Every eighth customer is told first, every eighth a moment later.
    """
    order_id = order_id_of(message)
    if order_id == job["poison"]:
        raise DeclinedError("no terminal takes this payment")
    customer = zlib.crc32(message.key or b"") % 8
    priority = EXPRESS if customer == 1 else 4
    headers = {
        ORDER_ID: message.header(ORDER_ID),
        ORIGIN: message.id.encode(),
        DELIVERY: b"%d" % message.delivery_count,
        PRIORITY: b"%d" % priority,
    }
    delay = 0.0
    if customer == 2:
        delay = LATER
        headers[NOT_BEFORE] = b"%f" % (time.time() + delay)
    receipt = receipt_for(message.value)
    payments.put(receipt, key=message.key, headers=headers, priority=priority, delay=delay)


def receipt_for(line: bytes) -> bytes:
    order = json.loads(line)
    paid = {
        "city": order.get("city"),
        "currency": order.get("currency"),
        "charged_cents": order.get("total_cents"),
        "method": order.get("payment"),
    }
    return json.dumps(paid).encode()


def get_stuck(
    messages: list[AnyMessage], payments: AnyQueue, job: dict[str, Any], parent: Parent
) -> None:
    """Does half of them, charges one more without accepting it, and then nothing until the kill."""
    half = len(messages) // 2
    for message in messages[:half]:
        try:
            with message:
                charge(message, payments, job)
        except DeclinedError:
            pass
    for message in messages[half:]:
        try:
            charge(message, payments, job)
            break
        except DeclinedError:
            pass
    note = Path(job["stuck"])
    note.with_suffix(".new").write_text(str(len(messages) - half))
    note.with_suffix(".new").replace(note)
    while not parent.wants_the_end(PATIENCE):
        pass


# ── notification ────────────────────────────────────────────────────────────────────────────────


def notification(store: mqlog.Store, job: dict[str, Any], parent: Parent) -> None:
    """Tells each customer once, however often the payment comes along."""
    payments = store.queue("payments", group="notification", create=False)
    with Outbox(Path(job["outbox"])) as outbox:
        while True:
            finish = parent.wants_the_end()
            messages = payments.get_many(SEND, timeout=PATIENCE)
            outbox.send(messages)
            payments.accept(messages)
            if finish and not messages and is_drained(payments):
                return


class Outbox:
    """The world outside the store: a file with a line for each notification sent.

    It remembers whom it told, across restarts too: that makes at-least-once into once.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)  # a line torn by a kill was not sent
        self._told = {json.loads(line)["order_id"] for line in data[:whole].splitlines()}

    def send(self, messages: Sequence[AnyMessage]) -> None:
        lines = []
        for message in messages:
            order_id = order_id_of(message)
            if order_id not in self._told:
                self._told.add(order_id)
                lines.append(json.dumps(self._letter(order_id, message)) + "\n")
        data = "".join(lines).encode()
        while data:
            data = data[os.write(self._file, data) :]

    def _letter(self, order_id: str, message: AnyMessage) -> dict[str, Any]:
        not_before = message.header(NOT_BEFORE)
        return {
            "order_id": order_id,
            **json.loads(message.value),
            "priority": int(message.header(PRIORITY) or b"4"),
            "early": not_before is not None and time.time() < float(not_before),
            "delayed": not_before is not None,
        }

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


# ── statistics ──────────────────────────────────────────────────────────────────────────────────


def statistics(store: mqlog.Store, job: dict[str, Any], parent: Parent) -> None:
    """Adds up the sales from the same records, read as a stream: it takes nothing from payment.

    Where it is, is saved with the sums, in one step: so each record counts once, whatever happens.
    """
    orders = store.stream("orders", create=False)
    path = Path(job["sales"])
    sales = Sales.load(path)
    saved = time.monotonic()
    with orders.consumer("statistics", commit="manual") as consumer:
        while True:
            finish = parent.wants_the_end()
            records = consumer.poll(BATCH, timeout=PATIENCE)
            for record in records:
                sales.add(record.offset, json.loads(record.value))
            if not records or time.monotonic() - saved > SAVE_EVERY:
                sales.save(path)
                consumer.commit()
                saved = time.monotonic()
            if finish and not records and consumer.position.get(0, -1) >= orders.end_offset:
                return


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
