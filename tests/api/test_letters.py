"""What a dead letter says of itself."""

import pytest

import mqlog


def test_a_dead_letter_tells_how_often_it_was_delivered() -> None:
    with mqlog.temporary() as store:
        queue = store.queue("orders", max_deliveries=2, retry_delays=(), lock_duration=0.01)
        queue.put(b"rejected")
        queue.get().reject("no such customer")
        queue.put(b"released")
        for _ in range(2):
            queue.get().release(reason="later")
        queue.put(b"late")
        late = [queue.get(timeout=10), queue.get(timeout=10)]  # as soon as the lock has passed
        assert queue.get_many(1, timeout=0.1) == []
        assert [message.delivery_count for message in late] == [1, 2]
        found = queue.dead_letters.peek(9)
        for message in late:
            with pytest.raises(mqlog.LockLostError):
                message.accept()
    counts = [letter.header("__dlq.errors.delivery.count") for letter in found]
    reasons = [letter.header("__dlq.errors.message") for letter in found]
    assert [letter.raw for letter in found] == [b"rejected", b"released", b"late"]
    assert counts == [b"1", b"2", b"2"]
    assert reasons[:2] == [b"no such customer", b"later"]
    assert b"not accepted in 2 deliveries" in (reasons[2] or b"")
