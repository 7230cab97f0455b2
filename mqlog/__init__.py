"""mqlog: a persistent message queue and event log that lives inside your Python process.

    import mqlog

    store = mqlog.open("shop-data")
    clicks = store.stream("clicks")
    clicks.append(b"/cart", key=b"user-7")
    with clicks.consumer("billing") as consumer:
        for record in consumer:
            bill(record)

Public names come from here, from `mqlog.errors`, `mqlog.codecs` and `mqlog.stdlib`; everything that
begins with an underscore may change. The layout, and each line imports only what stands under it:

    cli/            mqlog VERB STORE [TOPIC]
    stdlib.py       the drop-in for queue.Queue
    _replay.py      replay without an open store
    _pool.py _worker.py    Queue.run: worker processes; what each of them does
    _stream.py      Stream, Partition: appending and reading
    _consumer.py    Consumer: members of a group, who divide the partitions
    _tail.py        iterators over several partitions, and over what is yet to come
    _store.py       open, temporary, Store: options, topics, threads, forks and pickles
    _facts.py       what the engine tells of groups and of damage
    _ready.py       wait, and descriptors for event loops
    _catalog.py     mqlog.json
    _options.py     every option and name, and how it is refused
    _info.py _times.py _typing.py    facts; offsets and moments; type variables
    _engine.pyx     the border to the C engine in csrc/
    _compression.py codecs.py errors.py
"""

from mqlog import codecs, errors
from mqlog._consumer import Consumer
from mqlog._engine import Columns, Message, Record
from mqlog._info import (
    AcquiredInfo,
    GroupInfo,
    PartitionInfo,
    ProblemInfo,
    QueueStats,
    RecoveredInfo,
    TopicInfo,
    VerifiedInfo,
)
from mqlog._options import topic_name
from mqlog._queue import Queue
from mqlog._ready import wait
from mqlog._replay import replay
from mqlog._store import Store, open, temporary
from mqlog._stream import Partition, Stream
from mqlog._times import EARLIEST, LATEST, Start
from mqlog._worker import Reject, Retry
from mqlog.codecs import Codec
from mqlog.errors import (
    ClosedError,
    CorruptError,
    DurabilityError,
    Empty,
    Error,
    ForkedError,
    FormatError,
    Full,
    LockLostError,
    NotFoundError,
    OffsetOutOfRangeError,
    OptionError,
    ReadOnlyError,
    RecordTooLargeError,
    SettledError,
    ShutDown,
    TopicDeletedError,
)

__all__ = [
    "open",
    "temporary",
    "wait",
    "replay",
    "topic_name",
    "Store",
    "Queue",
    "Message",
    "Retry",
    "Reject",
    "Stream",
    "Partition",
    "Record",
    "Columns",
    "Consumer",
    "Codec",
    "codecs",
    "errors",
    "EARLIEST",
    "LATEST",
    "Start",
    "TopicInfo",
    "PartitionInfo",
    "GroupInfo",
    "AcquiredInfo",
    "QueueStats",
    "RecoveredInfo",
    "VerifiedInfo",
    "ProblemInfo",
    "Error",
    "Empty",
    "Full",
    "ShutDown",
    "ClosedError",
    "TopicDeletedError",
    "CorruptError",
    "DurabilityError",
    "OffsetOutOfRangeError",
    "NotFoundError",
    "OptionError",
    "RecordTooLargeError",
    "FormatError",
    "LockLostError",
    "SettledError",
    "ForkedError",
    "ReadOnlyError",
]
