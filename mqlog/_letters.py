"""What a dead letter says of itself: headers by Kafka's names (KIP-1191), their values as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mqlog._engine import Message, Record

TOPIC: Final = "__dlq.errors.topic"
PARTITION: Final = "__dlq.errors.partition"
OFFSET: Final = "__dlq.errors.offset"
GROUP: Final = "__dlq.errors.group"
COUNT: Final = "__dlq.errors.delivery.count"
REASON: Final = "__dlq.errors.message"
#: None of a record's own headers begins so.
PREFIX: Final = "__dlq."
#: Of a reason: what failed need not be told in full.
_LONGEST: Final = 2000


def reason_of(record: Record[Any]) -> str:
    """Why the record is a dead letter; "" if it is none."""
    return (record.header(REASON) or b"").decode("utf-8", "replace")


def origin_of(record: Record[Any]) -> str | None:
    """The id of the record that this dead letter was, such as "orders-0:17"."""
    parts = [record.header(name) for name in (TOPIC, PARTITION, OFFSET)]
    if None in parts:
        return None
    topic, partition, offset = ((part or b"").decode("utf-8", "replace") for part in parts)
    return f"{topic}-{partition}:{offset}"


def own_headers(record: Record[Any]) -> list[tuple[str, bytes | None]]:
    """Those that the record had before it was a dead letter."""
    return [pair for pair in record.headers if not pair[0].startswith(PREFIX)]


def headers_of(message: Message[Any], reason: str) -> list[tuple[str, bytes | None]]:
    """Those that the message will have as a dead letter."""
    return [
        *own_headers(message),
        (TOPIC, message.topic.encode()),
        (PARTITION, str(message.partition).encode()),
        (OFFSET, str(message.offset).encode()),
        (GROUP, message._group.encode()),
        (COUNT, str(message.delivery_count).encode()),
        (REASON, reason.encode("utf-8", "replace")[:_LONGEST]),
    ]
