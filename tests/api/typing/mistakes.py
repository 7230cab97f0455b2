"""Mistakes that mypy --strict finds: each line with a comment is one, and there is no other."""

from datetime import timedelta

import mqlog


def mistakes(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append("text")  # arg-type
    clicks.append(b"x", key="user-7")  # arg-type
    clicks.append(b"x", headers={"trace": "1f"})  # arg-type
    clicks.append(b"x", timestamp=timedelta(1))  # arg-type
    clicks.append_many(["text"])  # list-item
    clicks.append_many(b"x")  # arg-type
    clicks.read("yesterday")  # arg-type
    clicks.tail(timeout="1")  # arg-type
    clicks["0"]  # index
    clicks[0:1]  # index
    len(clicks)  # arg-type
    clicks.consumer("billing", commit="later")  # arg-type
    clicks.consumer("billing").commit(17)  # arg-type
    value: str = clicks[0].value  # assignment
    del value
    store.stream("orders", codec="json")  # call-overload
    mqlog.open("shop-data", "w")  # arg-type
    mqlog.open("shop-data", durability="disk")  # arg-type
    mqlog.wait(clicks)  # arg-type


def mistakes_with_queues(store: mqlog.Store) -> None:
    orders = store.queue("orders")
    orders.put("text")  # arg-type
    orders.put(None)  # arg-type
    orders.put(b"x", key="user-7")  # arg-type
    orders.put(b"x", delay=timedelta(1))  # arg-type
    orders.put(b"x", deliver_at="tomorrow")  # arg-type
    orders.put(b"x", priority="high")  # arg-type
    orders.put_many(b"x")  # arg-type
    orders.get(timeout="1")  # arg-type
    orders.get_many()  # call-arg
    orders.get().ack()  # attr-defined
    orders.get().release("later")  # arg-type
    orders.accept(orders.get())  # arg-type
    orders.accept([b"x"])  # list-item
    value: str = orders.get().value  # assignment
    del value
    orders.stats().ready = 0  # misc
    store.queue("orders", codec="json")  # call-overload
    store.queue("orders", start="yesterday")  # call-overload
