"""What a run of the demo left behind, read without those who made it: outbox and closed store."""

import json
import time
from dataclasses import dataclass, field

import mqlog
from mqlog.cli._demo_orders import Sales, Totals
from mqlog.cli._demo_pipeline import Plan
from mqlog.cli._demo_worker import DELIVERY, EXPRESS, ORIGIN, order_id_of


@dataclass
class Sent:
    """The outbox: who was told. Each order should be one line."""

    orders: Totals = field(default_factory=Totals)
    lines: int = 0
    express: int = 0
    delayed: int = 0
    early: int = 0  # of the delayed ones, those sent before their time: none should be


def read_outbox(plan: Plan) -> Sent:
    """Every line of it."""
    sent = Sent()
    if plan.outbox.exists():
        for line in plan.outbox.read_bytes().splitlines():
            document = json.loads(line)
            sent.orders.add(document["order_id"], document, "charged_cents")
            sent.lines += 1
            sent.express += document["priority"] == EXPRESS
            sent.delayed += document["delayed"]
            sent.early += document["early"]
    return sent


@dataclass(frozen=True)
class Dead:
    """A dead letter."""

    order_id: str
    deliveries: int
    reason: str


@dataclass
class Replay:
    """What the closed store adds up to when it is read again from the start."""

    orders: Totals = field(default_factory=Totals)
    payments: Totals = field(default_factory=Totals)
    sales: Sales = field(default_factory=Sales)
    records: int = 0
    duplicates: int = 0  # payments for an order's record that had been paid before
    dead: list[Dead] = field(default_factory=list)
    redelivered: int = 0  # payments for a record that another worker had held before
    first_redelivered: float | None = None  # when the first of them was made
    seconds: float = 0.0


def replay_offline(plan: Plan) -> Replay:
    """Reads all of it, from the log files alone."""
    started = time.monotonic()
    found = Replay()
    for record in mqlog.replay(plan.store, topic="orders"):
        document = json.loads(record.value or b"{}")
        found.orders.add(order_id_of(record), document)
        found.sales.add(record.offset, document)
        found.records += 1
    origins: set[bytes | None] = set()
    for record in mqlog.replay(plan.store, topic="payments"):
        found.payments.add(order_id_of(record), json.loads(record.value or b"{}"), "charged_cents")
        found.records += 1
        found.duplicates += record.header(ORIGIN) in origins
        origins.add(record.header(ORIGIN))
        if int(record.header(DELIVERY) or b"1") > 1:
            found.redelivered += 1
            made = record.timestamp or 0.0
            found.first_redelivered = min(made, found.first_redelivered or made)
    if (plan.store / "orders.dlq-0").exists():
        for record in mqlog.replay(plan.store, topic="orders.dlq"):
            found.dead.append(dead_letter(record))
            found.records += 1
    found.seconds = time.monotonic() - started
    return found


def dead_letter(record: mqlog.Record[bytes | None]) -> Dead:
    reason = record.header("__dlq.errors.message") or b""
    deliveries = int(record.header("__dlq.errors.delivery.count") or b"0")
    return Dead(order_id_of(record), deliveries, reason.decode("utf-8", "replace"))
