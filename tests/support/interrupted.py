"""Programs that are interrupted: by signals, by failing system calls, by their own end.

python interrupted.py everything STORE      each verb once, then all of it read again
python interrupted.py alarms STORE COUNT    a signal's handler raises at random moments
python interrupted.py leave STORE HOW       ends while its threads wait
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from types import FrameType

import mqlog


def everything(path: str) -> None:
    values = [b"%d" % n * 20 for n in range(300)]
    with mqlog.open(path) as store:
        stream = store.stream("orders", segment_bytes=8192)
        for value in values[:100]:
            stream.append(value)
        for start in range(100, 300, 50):
            stream.append_many(values[start : start + 50])
        stream.append(b"durable", durable=True)
        queue = store.queue("jobs")
        queue.put_many([b"a", b"b", b"c"])
        first, second = queue.get(timeout=5.0), queue.get(timeout=5.0)
        first.accept()
        second.release()
        for record in stream.consumer("readers"):
            if record.offset == 300:
                break
        store.sync()
    with mqlog.open(path) as store:
        assert store.recovered == []
        found = list(store.stream("orders").values())
        assert found == [*values, b"durable"], len(found)
        queue = store.queue("jobs")
        assert sorted(queue.get(timeout=5.0).value for _ in range(2)) == [b"b", b"c"]
    print("done")


class Alarm(Exception):
    pass


def alarms(path: str, count: str) -> None:
    """What an interrupted call was to do is done or not; what returned before is done."""
    chance = random.Random(20261122)
    acknowledged: dict[int, bytes] = {}
    armed, raised, number, longest = False, 0, 0, 0.0

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Alarm

    signal.signal(signal.SIGALRM, ring)
    with mqlog.open(path) as store:
        stream = store.stream("orders", segment_bytes=1 << 16)
        queue = store.queue("jobs")
        while raised < int(count):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 3e-4))
                due = time.monotonic() + 3e-4
                for _ in range(1000):
                    number += 1
                    value = b"%d" % number
                    offset = stream.append(value)
                    acknowledged[offset] = value
                    queue.put(value)
                    if number % 3 == 0:
                        queue.get(timeout=5.0).accept()
                    if number % 7 == 0:
                        stream.append_many([value] * 20)
                    if number % 97 == 0:  # nothing comes: it is the alarm that ends the wait
                        for _ in stream.tail(stream.end_offset, timeout=90.0):
                            pass
                armed = False
            except Alarm:
                raised += 1
                longest = max(longest, time.monotonic() - due)
        armed = False
        records = list(stream)
    assert [record.offset for record in records] == list(range(len(records)))
    found = {record.offset: record.value for record in records}
    lost = {o: v for o, v in acknowledged.items() if found.get(o) != v}
    assert not lost, lost
    print(f"done {raised} {longest:.3f}")


def leave(path: str, how: str) -> None:
    store = mqlog.open(path)
    stream, queue = store.stream("orders"), store.queue("jobs")
    stream.append(b"kept")

    def follow() -> None:
        for _ in stream.tail(stream.end_offset, timeout=None):
            pass

    def put() -> None:
        while True:
            stream.append_many([b"x" * 100] * 50)

    for body in (follow, queue.get, put):
        threading.Thread(target=body, daemon=True).start()
    time.sleep(0.05)
    print("leaving", flush=True)
    if how == "_exit":
        os._exit(0)
    if how == "exception":
        raise SystemExit(0)
    if how == "terminate":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    {"everything": everything, "alarms": alarms, "leave": leave}[sys.argv[1]](*sys.argv[2:])
