"""Orders, payments, notifications: three processes, two streams, one kill -9, nothing lost.

    python examples/order_pipeline.py

Payment is killed part-way and started again. It goes on from its committed offset, so an order may
be paid twice; notification remembers whom it told, so that each customer hears of it once.
`mqlog demo` is the same on real orders, with a kill at any moment you like.
"""

import json
import multiprocessing
import tempfile

import mqlog

ORDERS = 5_000


def take_orders(path: str) -> None:
    with mqlog.open(path) as store:
        orders = store.stream("orders")
        for number in range(ORDERS):
            order = {"order_id": f"o-{number:05}", "cents": 500 + number * 37 % 4000}
            orders.append(json.dumps(order).encode(), key=b"customer-%d" % (number % 300))


def take_payments(path: str) -> None:
    with mqlog.open(path) as store:
        payments = store.stream("payments")
        for record in store.stream("orders").consumer("payment"):  # commits as it comes round
            order = json.loads(record.value)
            payment = {"order_id": order["order_id"], "paid": order["cents"]}
            payments.append(json.dumps(payment).encode(), key=record.key)


def notify(path: str, told: "multiprocessing.Queue[str]") -> None:
    with mqlog.open(path) as store:
        done = set()
        for record in store.stream("payments").consumer("notification"):
            order_id = json.loads(record.value)["order_id"]
            if order_id not in done:
                done.add(order_id)
                told.put(order_id)


def run(path: str) -> set[str]:
    """Gives back the orders whose customers were told."""
    processes = multiprocessing.get_context("spawn")
    told = processes.Queue()
    intake = processes.Process(target=take_orders, args=(path,))
    payment = processes.Process(target=take_payments, args=(path,))
    notification = processes.Process(target=notify, args=(path, told))
    for process in (intake, payment, notification):
        process.start()
    notified = {told.get(timeout=60) for _ in range(500)}
    payment.kill()  # SIGKILL, whatever it is doing
    payment.join()
    payment = processes.Process(target=take_payments, args=(path,))
    payment.start()
    while len(notified) < ORDERS:
        notified.add(told.get(timeout=60))
    for process in (payment, notification):  # they would wait for more orders
        process.terminate()
    for process in (intake, payment, notification):
        process.join()
    return notified


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        notified = run(path)
        log = mqlog.replay(path, topic="orders")
        orders = {json.loads(record.value or b"")["order_id"] for record in log}
        payments = sum(1 for _ in mqlog.replay(path, topic="payments"))
    print(f"orders {len(orders):,}   payments {payments:,}   notifications {len(notified):,}")
    print(f"paid twice {payments - len(orders):,}   lost {len(orders - notified):,}")
    raise SystemExit(orders != notified)
