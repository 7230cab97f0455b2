"""What the tests of the binding share: options, a codec, and a handle in a dozen lines."""

from mqlog import _engine, errors

OPTIONS = _engine.LogOptions(
    segment_bytes=1 << 24,
    batch_bytes=4096,
    max_message_bytes=1 << 20,
    sync_interval=0.1,
    retention_bytes=-1,
    retention_age=-1.0,
    durability=0,
    dedupe_window=0.0,
    cleanup=0,
)


class Reverse:
    """A codec whose work can be seen."""

    name = "reverse"

    def encode(self, value):
        return value[::-1].encode()

    def decode(self, data):
        assert type(data) is bytes
        return data.decode()[::-1]


class Handle(_engine.Appender):
    """What mqlog.Stream is to the binding."""

    def __init__(self, store, logs, **how):
        self.refreshed = 0
        self.target = store, logs, how
        self.bind()

    def bind(self):
        store, logs, how = self.target
        given = {"codec": None, "compression": None, "clock": None}
        limits = {"batch_bytes": 4096, "max_message_bytes": 1 << 20}
        self._bind(store, logs, **(given | limits | how))

    def _refresh(self):
        self.refreshed += 1
        if self.target[0].closed:
            raise errors.ClosedError("the handle's own words")
        self.bind()


def spread(store, partitions, **how):
    logs = [store.partition("wide", n, True, OPTIONS) for n in range(partitions)]
    return Handle(store, logs, **how), logs


def values(log):
    return list(log.reader(log.start_offset).values())
