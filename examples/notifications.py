"""Notifications: the urgent ones first, some later, and those that cannot be sent are kept.

    python examples/notifications.py

The provider is down for one address. Its message is tried three times, with growing pauses, and
then lies among the dead letters with the reason, until somebody drives it back.
"""

import tempfile
import time

import mqlog
from mqlog import codecs

URGENT, LATER = 9, 1  # priorities are 0 to 9; 4 is the default
down = {"eve@example.org"}
sent: list[str] = []


def send(mail: dict[str, str]) -> None:
    if mail["to"] in down:
        raise ConnectionError(f"no route to {mail['to']}")
    sent.append(mail["text"])


def send_all(queue: mqlog.Queue[dict[str, str], dict[str, str]]) -> None:
    for message in queue.messages(timeout=0.5):  # ends after half a second without one
        try:
            with message:
                send(message.value)
        except ConnectionError as error:
            print(f"  delivery {message.delivery_count} failed: {error}")


def run(path: str) -> None:
    with mqlog.open(path) as store:
        # Three deliveries, with pauses in between, before a message is a dead letter.
        queue = store.queue(
            "notifications", codec=codecs.json, max_deliveries=3, retry_delays=(0.05, 0.1)
        )
        queue.put({"to": "adam@example.org", "text": "how was it?"}, delay=0.2)
        queue.put({"to": "adam@example.org", "text": "our newsletter"}, priority=LATER)
        queue.put({"to": "adam@example.org", "text": "your order is on its way"})
        queue.put({"to": "eve@example.org", "text": "your refund"})
        queue.put({"to": "adam@example.org", "text": "the courier is at the door"}, priority=URGENT)
        queue.put({"to": "adam@example.org", "text": "too late"}, ttl=0.001)
        time.sleep(0.01)
        send_all(queue)
        print("sent, in this order:", *sent, sep="\n  ")

        letters = queue.dead_letters
        for letter in letters.peek(10):
            print(f"dead: {letter.value['text']!r}")
        down.clear()  # the provider is back
        print(f"driven back: {letters.redrive()}")
        send_all(queue)
        print(f"sent now: {sent[-1]!r}; dead: {letters.qsize()}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        run(path)
