"""Task distribution: worker processes share the tasks, and nothing is lost when one is killed.

    python examples/task_pool.py

`run` starts the workers, hands each one task after the other, and starts a new worker where one has
died. Some tasks here kill their worker at the first try, as the kernel does when memory runs out.
"""

import functools
import os
import signal
import tempfile
import threading
from typing import Any

import mqlog
from mqlog import codecs

TASKS = 60
KILLERS = {7, 33}


@functools.cache  # once a worker
def results() -> mqlog.Stream[Any, Any]:
    return mqlog.open(os.environ["TASK_POOL"]).stream("results", codec=codecs.json)


def work(message: mqlog.Message[int]) -> None:
    """Returning accepts the task; an exception has it tried again later."""
    number = message.value
    if number in KILLERS and message.delivery_count == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 13:
        raise mqlog.Reject("13 is no number of ours")  # straight to the dead letters
    if number == 21 and message.delivery_count < 3:
        raise mqlog.Retry(delay=0.05)  # not yet
    result = {"number": number, "square": number * number, "worker": os.getpid()}
    results().append(result, key=message.id.encode())  # a task done twice would have this key twice


def run(path: str) -> bool:
    os.environ["TASK_POOL"] = path  # for the workers
    with mqlog.open(path) as store:
        tasks = store.queue("tasks", codec=codecs.json)
        tasks.put_many(range(TASKS))
        pool = threading.Thread(target=tasks.run, args=(work,), kwargs={"processes": 3})
        pool.start()  # a service would call tasks.run(work, processes=3) here, and stay
        tasks.join()  # until all of them are accepted or dead
        tasks.shutdown()
        pool.join()
        for letter in tasks.dead_letters.messages(timeout=0.0):
            with letter:  # seen, and done with
                print(f"dead: {letter.value}, {letter.reason}")
        done = list(store.stream("results", codec=codecs.json).values())
    squares = {result["number"]: result["square"] for result in done}
    workers = len({result["worker"] for result in done})
    print(f"tasks {TASKS}   done {len(squares)}   by {workers} processes")
    return squares == {number: number**2 for number in range(TASKS) if number != 13}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        raise SystemExit(not run(path))
