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
    store.queue("orders")  # attr-defined
    mqlog.open("shop-data", "w")  # arg-type
    mqlog.open("shop-data", durability="disk")  # arg-type
    mqlog.wait(clicks)  # arg-type
    print(mqlog.Queue)  # attr-defined
