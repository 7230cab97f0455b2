"""Orders, payments, notifications: three processes, two streams, one kill -9, nothing lost.

    python examples/order_pipeline.py

Payment is killed part-way and started again. It goes on from its committed offset, so it may pay an
order twice; notification remembers whom it told, so that each customer hears of it once.
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
            paid = {"order_id": order["order_id"], "paid": order["cents"]}
            payments.append(json.dumps(paid).encode(), key=record.key)


def notify(path: str, told: "multiprocessing.Queue[str]") -> None:
    with mqlog.open(path) as store:
        done = set()
        for record in store.stream("payments").consumer("notification"):
            order_id = json.loads(record.value)["order_id"]
            if order_id not in done:
                done.add(order_id)
                told.put(order_id)


def run(path: str) -> set[str]:
    """Runs the three processes; gives back the orders whose customers were told."""
    processes = multiprocessing.get_context("spawn")
    told = processes.Queue()
    payment = processes.Process(target=take_payments, args=(path,))
    others = [
        processes.Process(target=take_orders, args=(path,)),
        processes.Process(target=notify, args=(path, told), daemon=True),
    ]
    for process in (payment, *others):
        process.start()
    notified = {told.get(timeout=60) for _ in range(ORDERS // 2)}
    payment.kill()  # SIGKILL, whatever it is doing
    payment.join()
    payment = processes.Process(target=take_payments, args=(path,), daemon=True)
    payment.start()
    notified |= {told.get(timeout=60) for _ in range(ORDERS - len(notified))}
    return notified


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        notified = run(directory)
        orders = {
            json.loads(r.value or b"")["order_id"] for r in mqlog.replay(directory, topic="orders")
        }
        paid = sum(1 for _ in mqlog.replay(directory, topic="payments"))
    print(f"orders {len(orders):,}, payments {paid:,}, notifications {len(notified):,}")
    print(f"paid twice {paid - len(orders):,}, lost {len(orders - notified):,}")
    raise SystemExit(orders != notified)
