"""Dead letters: what they say, and how they come back."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mqlog
from mqlog import Queue, Store

# What a test leaves in hand at its end is no mistake of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*dropped without being settled:ResourceWarning")

Bytes = Queue[bytes, Any]


def kill(queue: Bytes, *values: bytes) -> None:
    queue.put_many(values)
    queue.reject(queue.get_many(len(values)), reason="no good")


def test_a_dead_letter_is_the_record_with_its_reason_and_origin(store: Store) -> None:
    orders = store.queue("orders")
    orders.put(b"1", key=b"k", headers={"trace": b"1f"})
    orders.get().reject("no such card")
    (letter,) = orders.dead_letters.get_many(5)
    assert (letter.value, letter.key, letter.delivery_count) == (b"1", b"k", 1)
    assert (letter.reason, letter.origin) == ("no such card", "orders-0:0")
    headers = dict(letter.headers)
    assert headers["trace"] == b"1f"
    assert headers["__dlq.errors.topic"] == b"orders"
    assert headers["__dlq.errors.partition"] == headers["__dlq.errors.offset"] == b"0"
    assert headers["__dlq.errors.group"] == b"default"
    assert headers["__dlq.errors.delivery.count"] == b"1"


def test_dead_letters_have_no_limit_and_none_of_their_own(store: Store) -> None:
    orders = store.queue("orders")
    kill(orders, b"1")
    letters = orders.dead_letters
    for count in range(1, 12):
        letter = letters.get()
        assert letter.delivery_count == count
        letter.release()
    with pytest.raises(ValueError, match="none of their own"):
        letters.dead_letters  # noqa: B018
    letters.get().reject()
    assert (letters.stats().dead, letters.stats().ready) == (1, 0)
    assert "orders.dlq.dlq" not in store


def test_what_is_driven_back_begins_anew_and_is_no_dead_letter_any_more(store: Store) -> None:
    orders = store.queue("orders", max_deliveries=1)
    orders.put(b"0", headers={"trace": b"1f"}, delay=0.001, ttl=3600.0)
    orders.get(timeout=30.0).release()
    kill(orders, b"1", b"2")
    assert orders.dead_letters.redrive(max_records=2) == 2
    found = orders.get_many(5)
    assert [message.value for message in found] == [b"0", b"1"]
    assert orders.dead_letters.redrive() == 1
    (last,) = orders.get_many(5)
    assert (last.value, last.delivery_count, last.headers) == (b"2", 1, ())
    assert orders.dead_letters.redrive() == 0
    assert orders.dead_letters.qsize() == 0


def test_only_the_group_that_failed_gets_it_again(store: Store) -> None:
    bills, mails = (store.queue("orders", group=group) for group in ("bills", "mails"))
    kill(bills, b"1")
    mails.get().accept()
    assert bills.dead_letters.redrive() == 1
    assert mails.get_many(1, timeout=0) == []
    bills.get().accept()
    assert (bills.stats().accepted, mails.stats().accepted) == (1, 1)


def test_letters_whose_queue_is_gone_stay_and_the_others_go_back(store: Store) -> None:
    orders, other = store.queue("orders"), store.queue("orders", group="other")
    orders.put_many([b"1", b"2"])
    for queue in (orders, other):
        queue.reject(queue.get_many(2))
    store.delete_group("orders", "other")
    with pytest.raises(mqlog.NotFoundError) as caught:
        orders.dead_letters.redrive()
    assert caught.value.__notes__ == ["2 dead letters were driven back, 2 stay"]
    assert orders.qsize() == orders.dead_letters.qsize() == 2
    assert orders.dead_letters.stats().acquired == 0


def test_a_full_queue_takes_none_back_until_there_is_room(store: Store) -> None:
    orders = store.queue("orders", maxsize=2)
    kill(orders, b"1", b"2")
    orders.put_many([b"3", b"4"])
    with pytest.raises(mqlog.Full):
        orders.dead_letters.redrive()
    assert orders.qsize() == 2
    orders.accept(orders.get_many(2))
    letters = orders.dead_letters
    found: list[mqlog.Message[bytes]] = []
    while len(found) < 2:  # the one that was begun is ended by whoever takes dead letters next
        letters.redrive()
        letters.release(letters.get_many(1, timeout=0.1))
        found += orders.get_many(2, timeout=0.1)
    assert sorted(message.value for message in found) == [b"1", b"2"]
    assert letters.qsize() == 0


def test_a_queue_that_holds_none_cannot_drive_them_back(store: Store) -> None:
    with pytest.raises(ValueError, match=r"dead_letters\.redrive"):
        store.queue("orders").redrive()
    with pytest.raises(ValueError, match="at least 1"):
        store.queue("orders").dead_letters.redrive(0)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("mover", ["who rejected it", "another handle"])
def test_a_reason_is_kept_until_there_is_room_by_who_rejected_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, mover: str
) -> None:
    def full(*args: Any) -> None:
        raise OSError(code, "no room")

    orders = store.queue("orders")
    orders.put_many([b"1", b"2"])
    with monkeypatch.context() as patched:
        patched.setattr(Queue, "_send_raw", full)
        for message, why in zip(orders.get_many(2), ("no such card", "stolen"), strict=True):
            message.reject(why)
    assert orders.dead_letters.empty() and orders.stats().ready == 0
    mine = orders if mover == "who rejected it" else store.queue("orders")
    with pytest.raises(mqlog.Empty):
        mine.get(timeout=2.5)  # whoever looks for more moves them
    letters = {letter.value: letter.reason for letter in orders.dead_letters.get_many(2)}
    if mine is orders:
        assert letters == {b"1": "no such card", b"2": "stolen"}
    else:
        assert set(letters) == {b"1", b"2"}
        assert all(reason.startswith("moved later") for reason in letters.values())


MOVER = """
import os, signal, sys
import mqlog

send = mqlog.Queue._send_raw

def die(self, *args):
    if sys.argv[2] == "after":
        send(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)

mqlog.Queue._send_raw = die
with mqlog.open(sys.argv[1]) as store:
    store.queue("orders").get().reject("broken")
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_mover_that_is_killed_loses_nothing_and_doubles_nothing(
    tmp_path: Path, moment: str
) -> None:
    """Before or after the dead letter is there: whoever comes next ends the move."""
    with mqlog.open(tmp_path / "s") as store:
        store.queue("orders").put(b"1")
    command = [sys.executable, "-c", MOVER, str(tmp_path / "s"), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with mqlog.open(tmp_path / "s") as store:
        orders = store.queue("orders")
        with pytest.raises(mqlog.Empty):
            orders.get(timeout=0.5)  # it is on its way, and nobody's to work on
        assert [record.value for record in orders.dead_letters.peek(10)] == [b"1"]
        stats = orders.stats()
        assert (stats.dead, stats.ready, stats.delayed) == (1, 0, 0)
