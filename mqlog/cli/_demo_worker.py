"""The demo's three processes: order intake, payment, notification.

    python -m mqlog.cli._demo_worker ROLE JOB

`ROLE` is intake, payment or notification, `JOB` a JSON object that `_demo_pipeline` writes. Each is
the program that a user of mqlog would write, and knows nothing of the demo around it but three
things: it works until its standard input is closed and nothing is left to do (so no worker survives
its parent); intake may be asked to take its time; and payment to stop short of the end until it
is killed, so that the kill lands part-way on a machine of any speed.

Payment and notification are at-least-once: they do their work, then commit. One that is killed in
between does that work again when it is back. Payment therefore may charge an order twice, as two
records that name one order; notification tells each customer once, by remembering whom it told.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mqlog
from mqlog.cli._demo_orders import Order, read_orders
from mqlog.cli._screen import Screen

STDIN = 0
ORDER_ID = "order-id"  # the header that names the order, in both streams
BATCH = 500  # records in one call
CHARGE = 10  # orders that payment charges at a time
COMMIT_EVERY = 100  # payments between two commits; as many may be made again after a kill
TICK = 0.005  # seconds that paced orders are gathered for
PATIENCE = 0.1  # seconds to wait for records before looking at standard input

AnyRecord = mqlog.Record[bytes]
AnyStream = mqlog.Stream[bytes, Any]


def main(role: str, job: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with mqlog.open(job["store"], create=False) as store:
        {"intake": intake, "payment": payment, "notification": notification}[role](store, job)


def order_id_of(record: mqlog.Record[Any]) -> str:
    """The id that intake gave the order."""
    return str(record.header(ORDER_ID) or b"", "utf-8", "surrogatepass")


def told_to_finish(wait: float = 0.0) -> bool:
    """Whether the parent has closed its end of the pipe, or is gone; waits so many seconds."""
    return bool(select.select([STDIN], [], [], wait)[0])


# ── intake ──────────────────────────────────────────────────────────────────────────────────────


def intake(store: mqlog.Store, job: dict[str, Any]) -> None:
    """Takes the orders of the file as they are placed, and hands them over by appending."""
    orders: AnyStream = store.stream("orders", create=False)
    for batch in batches(due_orders(job)):
        if told_to_finish():
            return
        orders.append_many(
            [order.line for order in batch],
            keys=[order.key for order in batch],
            headers=[{ORDER_ID: order.id.encode("utf-8", "surrogatepass")} for order in batch],
            timestamps=[order.placed_at or time.time() for order in batch],
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


def payment(store: mqlog.Store, job: dict[str, Any]) -> None:
    """Charges each order once or, after a kill, twice; never not at all."""
    orders: AnyStream = store.stream("orders", create=False)
    payments: AnyStream = store.stream("payments", create=False)
    hold_at = job["hold_at"]
    uncommitted = 0
    with orders.consumer("payment", commit="manual") as consumer:
        while True:
            finish = told_to_finish()
            if hold_at is not None and payments.end_offset >= hold_at:
                while not told_to_finish(PATIENCE):
                    pass  # the kill comes, or the parent is gone
                return
            records = consumer.poll(CHARGE, timeout=PATIENCE)
            charge(records, payments)
            uncommitted += len(records)
            if uncommitted >= COMMIT_EVERY or not records:
                consumer.commit()
                uncommitted = 0
            if finish and not records and has_read_all(consumer, orders):
                return


def charge(records: Sequence[AnyRecord], payments: AnyStream) -> None:
    """Appends what each order pays, under the id of the order and of its record."""
    if not records:
        return
    payments.append_many(
        [receipt(record) for record in records],
        keys=[record.key for record in records],
        headers=[
            {ORDER_ID: record.header(ORDER_ID), "origin": record.id.encode()} for record in records
        ],
        timestamps=[record.timestamp or 0.0 for record in records],
    )


def receipt(record: AnyRecord) -> bytes:
    order = json.loads(record.value)
    paid = {
        "city": order.get("city"),
        "currency": order.get("currency"),
        "charged_cents": order.get("total_cents"),
        "method": order.get("payment"),
    }
    return json.dumps(paid).encode()


def has_read_all(consumer: mqlog.Consumer[bytes], stream: AnyStream) -> bool:
    """Whether this consumer stands at the log end; one that owns no partition yet does not."""
    return consumer.position.get(0, -1) >= stream.end_offset


# ── notification ────────────────────────────────────────────────────────────────────────────────


def notification(store: mqlog.Store, job: dict[str, Any]) -> None:
    """Tells each customer once, however often the payment comes along."""
    payments: AnyStream = store.stream("payments", create=False)
    with (
        Outbox(Path(job["outbox"])) as outbox,
        payments.consumer("notification", commit="manual") as consumer,
    ):
        while True:
            finish = told_to_finish()
            records = consumer.poll(BATCH, timeout=PATIENCE)
            outbox.send(records)
            consumer.commit()
            if finish and not records and has_read_all(consumer, payments):
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

    def send(self, records: Sequence[AnyRecord]) -> None:
        lines = []
        for record in records:
            order_id = order_id_of(record)
            if order_id not in self._told:
                self._told.add(order_id)
                lines.append(json.dumps({"order_id": order_id, **json.loads(record.value)}) + "\n")
        data = "".join(lines).encode()
        while data:
            data = data[os.write(self._file, data) :]

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
