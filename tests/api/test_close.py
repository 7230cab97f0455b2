"""What a closed store leaves behind in its process: no descriptor, no mapping but lent ones."""

import gc
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.damage import python

import mqlog

SEGMENT = f"{0:020d}.log"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop-data"


def descriptors(path: Path) -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # listdir's own
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return [link for link in links if link.startswith(str(path))]


def mappings(path: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line[line.index("/") :] for line in lines if str(path) in line]


def held(path: Path) -> list[str]:
    return descriptors(path) + mappings(path)


def fill(path: Path, count: int = 1000) -> None:
    """Several segments, with indexes."""
    with mqlog.open(path) as store:
        orders = store.stream("orders", segment_bytes=1 << 16, max_message_bytes=1 << 14)
        for start in range(0, count, 50):
            orders.append_many([b"%d" % n * 50 for n in range(start, start + 50)])


def step(iterator: Any) -> Any:
    next(iterator)
    return iterator


READING: dict[str, Callable[[Any], Any]] = {
    "read": lambda orders: step(orders.read()),
    "values": lambda orders: step(orders.values(500)),
    "unverified": lambda orders: step(orders.read(verify=False)),
    "moment": lambda orders: orders.offset_at(1.0),
    "item": lambda orders: orders[700],
    "replay": lambda orders: step(orders.replay()),
    "verify": lambda orders: step(orders._store.verify()),
}
WRITING: dict[str, Callable[[Any], Any]] = {
    "tail": lambda orders: step(orders.tail(mqlog.EARLIEST)),
    "consumer": lambda orders: orders.consumer("billing").poll(10),
    "records": lambda orders: step(orders.consumer("billing").records()),
    "fileno": lambda orders: orders.fileno(),
    "append": lambda orders: orders.append(b"more", durable=True),
}


@pytest.mark.parametrize(
    ("mode", "use"),
    [*(("rw", use) for use in {**READING, **WRITING}), *(("r", use) for use in READING)],
)
def test_nothing_is_held_though_all_handles_live(path: Path, mode: Any, use: str) -> None:
    fill(path)
    store = mqlog.open(path, mode)
    orders = store.stream("orders")
    used = {**READING, **WRITING}[use](orders)
    assert descriptors(path)
    store.close()
    assert held(path) == []
    assert used is not None
    with pytest.raises(mqlog.ClosedError):
        orders.start_offset  # noqa: B018


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_an_iterator_of_a_closed_store_says_so(path: Path, mode: Any) -> None:
    fill(path)
    store = mqlog.open(path, mode)
    orders = store.stream("orders")
    used = [READING[name](orders) for name in ("read", "values", "unverified", "replay")]
    store.close()
    for iterator in used:
        with pytest.raises(mqlog.ClosedError):
            next(iterator)


def test_lent_memory_keeps_its_segment_and_nothing_else(path: Path) -> None:
    fill(path)
    store = mqlog.open(path)
    lent = [record.raw for record in store.stream("orders").read(0, 10, copy=False)]
    columns = next(store.stream("orders").columns(max_records=10))
    store.close()
    gc.collect()
    assert descriptors(path) == []
    assert mappings(path) == [str(path / "orders-0" / SEGMENT)]
    assert [bytes(raw or b"") for raw in lent] == [b"%d" % n * 50 for n in range(10)]
    assert columns.values() == [b"%d" % n * 50 for n in range(10)]
    del lent, columns
    gc.collect()
    assert held(path) == []


def test_the_last_opening_of_a_process_gives_back(path: Path) -> None:
    fill(path)
    first, second = mqlog.open(path), mqlog.open(path)
    iterator = step(first.stream("orders").read())
    orders = second.stream("orders")
    first.close()
    assert held(path)
    assert orders.append(b"more") == 1000
    second.close()
    assert held(path) == []
    del iterator


def test_a_call_in_another_thread_gives_back_when_it_ends(path: Path) -> None:
    fill(path)
    store = mqlog.open(path)
    tail = store.stream("orders").tail(mqlog.LATEST)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            next(tail)
        except mqlog.ClosedError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    store.close()
    thread.join()
    assert ended
    assert held(path) == []


def test_a_store_that_is_closed_inside_a_call_gives_back_when_the_call_ends(path: Path) -> None:
    fill(path)
    store = mqlog.open(path)
    seen = []

    def close(*_: object) -> None:
        store.close()
        seen.append(mappings(path))

    [whole] = store.verify(progress=close)
    assert (whole.records, whole.problems) == (1000, ())
    assert seen[0], "the call was in flight"
    assert held(path) == []


def test_refresh_holds_nothing_of_the_snapshot_before(path: Path) -> None:
    fill(path)
    with mqlog.open(path, "r") as store:
        orders = store.stream("orders")
        iterators = [step(orders.read()) for _ in range(3)]
        before = len(descriptors(path))
        for _ in range(5):
            store.refresh()
            iterators.append(step(orders.read()))
        assert len(descriptors(path)) <= before
    assert held(path) == []


def test_a_fork_while_a_store_is_open_harms_neither_side(path: Path) -> None:
    fill(path)
    store = mqlog.open(path)
    iterator = step(store.stream("orders").read())
    child = os.fork()
    if child == 0:
        del iterator, store
        gc.collect()
        os._exit(len(held(path)))
    assert os.waitpid(child, 0)[1] == 0
    next(iterator)
    store.close()
    assert held(path) == []


def test_what_was_not_synced_at_a_fork_is_synced_after_it(path: Path) -> None:
    with mqlog.open(path) as store:
        orders = store.stream("orders", sync_interval=0.2)
        end = orders.append(b"one") + 1
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert orders.durable_offset < end, "else it shows nothing"
        deadline = time.monotonic() + 10
        while orders.durable_offset < end and time.monotonic() < deadline:
            time.sleep(0.01)
        assert orders.durable_offset == end


CLOSED_UNDER_THREADS = """
    import random, sys, threading, time
    import mqlog

    def lend(orders):
        for record in orders.read(copy=False): record.raw[:1]

    READING = [
        lend,
        lambda orders: list(orders.values()),
        lambda orders: [columns.values() for columns in orders.columns()],
        lambda orders: list(orders._store.verify()),
        lambda orders: orders.offset_at(time.time() - 1),
    ]
    WRITING = [
        lambda orders: orders.append_many([bytes(70000), b"x"]),
        lambda orders: orders.append(b"x", durable=True),
        lambda orders: orders.consumer("billing").poll(10, timeout=0.01),
        lambda orders: orders._store.groups("orders"),
        lambda orders: list(orders.tail(timeout=0.001)),
    ]

    def use(store, how):
        try:
            orders = store.stream("orders")
            while True:
                how(orders)
        except mqlog.ClosedError:
            pass

    path, mode = sys.argv[1:]
    random.seed(1)
    for round in range(20 if mode == "r" else 5):
        store = mqlog.open(path, mode)
        uses = READING if mode == "r" else READING + WRITING
        threads = [threading.Thread(target=use, args=(store, how)) for how in uses]
        for thread in threads:
            thread.start()
        time.sleep(random.random() / 50)
        store.close()
        for thread in threads:
            thread.join()
        held = [line for line in open("/proc/self/maps") if path in line]
        assert not held, held
    print("whole")
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_closing_under_threads_in_every_call_harms_nobody(path: Path, mode: str) -> None:
    with mqlog.open(path) as store:
        orders = store.stream("orders", max_message_bytes=4 << 20)
        for _ in range(8):
            orders.append(bytes(3_000_000))  # its checksum takes long enough to be closed under
    done = python(CLOSED_UNDER_THREADS, path, mode)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
