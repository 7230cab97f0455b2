"""Order processing: orders are put once, three payment workers compete for them, one is killed.

    python examples/order_pipeline.py

What the killed worker held is delivered to the others, so no order is lost. One that it had charged
and not yet accepted is charged again, under the same record id: whoever books payments sees that.
`mqlog demo` is the same on real orders, with notifications and live statistics.
"""

import json
import multiprocessing
import tempfile
from collections import Counter

import mqlog
from mqlog import codecs

ORDERS = 3_000


def take_orders(path: str) -> None:
    with mqlog.open(path) as store:
        orders = store.queue("orders", codec=codecs.json)
        for number in range(ORDERS):
            order = {"order_id": f"o-{number:05}", "cents": 500 + number * 37 % 4000}
            orders.put(order, key=b"customer-%d" % (number % 300))  # returns at once: never waits


def take_payments(path: str) -> None:
    with mqlog.open(path) as store:
        payments = store.stream("payments", codec=codecs.json)
        for message in store.queue("orders", codec=codecs.json):
            with message:  # accepted at the end; an exception gives it back, to be tried later
                paid = {"order_id": message.value["order_id"], "cents": message.value["cents"]}
                payments.append(paid, key=message.key, headers={"origin": message.id.encode()})


def run(path: str) -> None:
    processes = multiprocessing.get_context("spawn")
    workers = [processes.Process(target=take_payments, args=(path,)) for _ in range(3)]
    intake = processes.Process(target=take_orders, args=(path,))
    for process in (intake, *workers):
        process.start()
    with mqlog.open(path) as store:
        queue = store.queue("orders", codec=codecs.json)
        while queue.stats().accepted < ORDERS // 3:
            intake.join(0.01)
        workers[0].kill()  # SIGKILL, whatever it is doing
        intake.join()
        queue.join()  # until every order is accepted, by whichever process
    for worker in workers:  # they would wait for more orders
        worker.terminate()
        worker.join()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        run(path)
        origins: Counter[bytes | None] = Counter()
        paid = set()
        for record in mqlog.replay(path, topic="payments"):
            origins[record.header("origin")] += 1
            paid.add(json.loads(record.value or b"")["order_id"])
    print(f"orders {ORDERS:,}   paid {len(paid):,}   lost {ORDERS - len(paid):,}")
    print(f"charged twice {origins.total() - len(origins):,}")
    raise SystemExit(len(paid) != ORDERS)
