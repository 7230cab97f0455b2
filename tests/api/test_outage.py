"""An outage of what the handlers need: nothing goes to the dead letters for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import mqlog


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as opened:
        yield opened


@pytest.mark.slow
def test_a_handler_that_fails_for_two_seconds_costs_no_message(store: mqlog.Store) -> None:
    queue = store.queue("jobs")  # the back-off that a queue has by itself
    queue.put_many([b"%d" % number for number in range(1000)])
    back = time.monotonic() + 2.0
    failures = accepted = 0
    while accepted < 1000:
        try:
            with queue.get(timeout=60.0):
                if time.monotonic() < back:
                    raise ConnectionError("the payment service is down")
            accepted += 1
        except ConnectionError:
            failures += 1
    stats = queue.stats()
    assert failures >= 1000, "the outage has hit every message"
    assert (stats.accepted, stats.dead, stats.ready, stats.delayed) == (1000, 0, 0, 0)
