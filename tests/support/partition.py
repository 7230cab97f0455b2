"""The engine's own handles for its tests: batches and files made by hand, stores opened through C.

Stores here have no background threads: nothing happens that a test did not ask for. A failure is
raised as `Failed`, which carries the engine's own account of it.
"""

import os
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from support import engine

door = engine.load()
ffi, lib = door

NOW = 1_700_000_000_000
TOPIC = "t"
DIRECTORY = "t-0"
PAGE = 4096

DEFAULTS = {
    "segment_bytes": 1 << 20,
    "batch_bytes": 1 << 16,
    "max_message_bytes": 1 << 18,
    "sync_interval_ns": 100_000_000,
    "retention_bytes": -1,
    "retention_age_ms": -1,
    "dedupe_ms": 0,
    "durability": lib.MQL_DURABILITY_OS,
    "cleanup": lib.MQL_CLEANUP_KEEP,
}


class Failed(Exception):
    """A negative result, with what mql_error_last said."""

    def __init__(self, code: int) -> None:
        error = lib.mql_error_last()
        self.code = code
        self.errno = error.os_errno
        self.position = error.position
        self.start, self.stop = error.start, error.stop
        self.path = ffi.string(error.path).decode()
        self.text = ffi.string(error.text).decode()
        super().__init__(f"{code}: {self.path}: {self.text}")


def check(rc: int) -> int:
    if rc < 0:
        raise Failed(rc)
    return rc


# -- bytes ----------------------------------------------------------------------------------------
def values_of(values: Iterable[bytes | None], keep: list[Any]) -> Any:
    out = []
    for value in values:
        if value is None:
            out.append((ffi.NULL, -1))
        else:
            keep.append(ffi.from_buffer("uint8_t[]", value))
            out.append((keep[-1], len(value)))
    return ffi.new("mql_value[]", out)


def batch(base: int, *values: bytes | None, epoch: int = 0, timestamp: int = NOW) -> bytes:
    """One whole batch of these values, its first offset `base`."""
    keep: list[Any] = []
    given, size = values_of(values, keep), ffi.new("int64_t *")
    assert lib.mql_batch_fit_values(given, len(values), 1 << 30, size) == len(values)
    out = engine.exact(door, bytes(size[0]))
    lib.mql_batch_write_values(out, size[0], given, len(values), timestamp, base, epoch)
    return bytes(ffi.buffer(out, size[0]))


def sized(base: int, size: int, count: int = 1, *, epoch: int = 0, timestamp: int = NOW) -> bytes:
    """A batch of exactly `size` bytes: `count` records, the last of them as long as it takes."""
    small = [b""] * (count - 1)
    for length in range(max(0, size - 80 - 16 * count), size):
        made = batch(base, *small, b"x" * length, epoch=epoch, timestamp=timestamp)
        if len(made) == size:
            return made
    raise AssertionError(f"no batch of {count} records has {size} bytes")


def stamped(data: bytes, *, base: int | None = None, epoch: int | None = None) -> bytes:
    """The same batch with another offset or epoch: both lie outside its CRC."""
    out = bytearray(data)
    if base is not None:
        struct.pack_into(">q", out, 0, base)
    if epoch is not None:
        struct.pack_into(">i", out, 12, epoch)
    return bytes(out)


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


def log_file(base: int, suffix: str = ".log") -> str:
    return f"{base:020d}{suffix}"


def index_entries(data: bytes) -> list[tuple[int, int]]:
    return [struct.unpack_from(">ii", data, at) for at in range(0, len(data) // 8 * 8, 8)]


def time_entries(data: bytes) -> list[tuple[int, int]]:
    return [struct.unpack_from(">qi", data, at) for at in range(0, len(data) // 12 * 12, 12)]


def headers_of(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """(position, first offset, last offset, size, maximum timestamp) of each batch, to the end."""
    out, at = [], 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        delta, _, newest = struct.unpack_from(">iqq", data, at + 23)
        out.append((at, base, base + delta, length + 12, newest))
        at += length + 12
    assert at == len(data), "the file does not end where its last batch does"
    return out


def kafkas_indexes(data: bytes, base: int) -> tuple[bytes, bytes]:
    """What format.md 2.3 and 2.4 make of a closed segment: written from the rules alone."""
    offsets, times = [], []
    since, newest, newest_at, last = 0, -1, base, None

    def note_time() -> None:
        nonlocal last
        if newest >= 0 and (last is None or newest > last):
            times.append(struct.pack(">qi", newest, newest_at - base))
            last = newest

    for position, _, last_offset, size, timestamp in headers_of(data):
        if timestamp > newest:
            newest, newest_at = timestamp, last_offset
        if since > 4096:
            offsets.append(struct.pack(">ii", last_offset - base, position))
            note_time()
            since = 0
        since += size
    note_time()
    return b"".join(offsets), b"".join(times)


# -- handles --------------------------------------------------------------------------------------
class Store:
    """An opening of a store; leaving closes and frees it."""

    def __init__(self, path: Path, **options: Any) -> None:
        given = ffi.new("mql_open_options *")
        given.create = options.pop("create", 1)
        given.min_free_bytes = options.pop("min_free_bytes", 0)
        for name, value in options.items():
            setattr(given, name, value)
        out = ffi.new("mql_store **")
        check(lib.mql_open(os.fsencode(path), given, out))
        self.path = path
        self.c = out[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.close()
        finally:
            self.free()

    def close(self) -> None:
        check(lib.mql_close(self.c))

    def free(self) -> None:
        lib.mql_free(self.c)

    def log(self, topic: str = TOPIC, partition: int = 0, create: int = 1, **options: Any) -> "Log":
        given = ffi.new("mql_log_options *", DEFAULTS | options)
        out = ffi.new("mql_log **")
        check(lib.mql_partition(self.c, topic.encode(), partition, create, given, out))
        return Log(self, out[0])

    @property
    def recovered(self) -> list[tuple[int, int, int, int, str]]:
        """(row, segment, position, bytes, file) of what opening cut or set aside."""
        out, one = [], ffi.new("mql_recovered *")
        while check(lib.mql_recovered_at(self.c, len(out), one)) == lib.MQL_OK:
            file = ffi.string(one.file).decode()
            out.append((one.row, one.segment, one.position, one.bytes, file))
        return out


class Log:
    """A partition of an open store."""

    def __init__(self, store: Store, c: Any) -> None:
        self.store = store
        self.c = c
        self.directory = store.path / ffi.string(c.directory).decode()

    @property
    def control(self) -> Any:
        return self.c.control

    def append(self, *values: bytes | None, timestamp: int = NOW, flags: int = 0) -> int:
        keep: list[Any] = []
        given, offset = values_of(values, keep), ffi.new("int64_t *")
        rc = lib.mql_append_values(self.c, given, len(values), timestamp, flags, offset)
        assert check(rc) == lib.MQL_OK, rc
        return offset[0]

    @property
    def ends(self) -> tuple[int, int, int]:
        """Log start, log end, durable end."""
        info = ffi.new("mql_log_info *")
        check(lib.mql_log_ends(self.c, info))
        return info.start_offset, info.end_offset, info.durable_offset

    @property
    def end(self) -> tuple[int, int, int]:
        """Segment, position and offset of the published end."""
        out = ffi.new("mql_control_end *")
        lib.mql_log_end(self.c, out)
        return out.segment, out.position, out.offset

    def cursor(self, offset: int | None = None, flags: int = 0) -> "Cursor":
        return Cursor(self, self.ends[0] if offset is None else offset, flags)

    def read(self, offset: int | None = None, flags: int = 0) -> list[Any]:
        """Everything from `offset` on: (offset, value), and each damage as a `Failed`."""
        cursor = self.cursor(offset, flags)
        try:
            return cursor.drain()
        finally:
            cursor.free()

    def values(self) -> list[bytes | None]:
        return [value for _, value in self.read()]

    def files(self) -> set[str]:
        return set(os.listdir(self.directory))

    def bytes(self, base: int = 0, suffix: str = ".log") -> bytes:
        return (self.directory / log_file(base, suffix)).read_bytes()

    def sync(self) -> None:
        check(lib.mql_log_sync(self.c))

    def trim(self, before: int) -> None:
        check(lib.mql_trim(self.c, before))


class Cursor:
    """A reader's place; freed by the test, or by the end of `Log.read`."""

    def __init__(self, log: Log, offset: int, flags: int = 0) -> None:
        out = ffi.new("mql_cursor **")
        check(lib.mql_cursor_open(log.c, offset, flags, out))
        self.log = log
        self.c = out[0]
        self.wanted = offset

    def free(self) -> None:
        lib.mql_cursor_free(self.c)

    @property
    def offset(self) -> int:
        return lib.mql_cursor_offset(self.c)

    def next(self) -> list[tuple[int, bytes | None]] | None:
        """The records of the next batch, from the place wanted on; None at the end."""
        place, out = self.offset, ffi.new("mql_batch *")
        if check(lib.mql_cursor_next(self.c, out)) == lib.MQL_END:
            return None
        return [one for one in records(out) if one[0] >= place]

    def drain(self) -> list[Any]:
        out: list[Any] = []
        for _ in range(100_000):
            try:
                found = self.next()
            except Failed as failed:
                if failed.code != lib.MQL_E_CORRUPT:
                    raise
                out.append(failed)
                continue
            if found is None:
                return out
            out += found
        raise AssertionError("reading does not end")


def records(one: Any) -> list[tuple[int, bytes | None]]:
    walk, view, out = ffi.new("mql_walk *"), ffi.new("mql_record_view *"), []
    lib.mql_walk_start(walk, one, one.payload, one.payload_length)
    while check(lib.mql_walk_next(walk, view)) == lib.MQL_OK:
        value = view.value
        out.append(
            (view.offset, None if value.length < 0 else ffi.buffer(value.data, value.length)[:])
        )
    return out


# -- deaths ---------------------------------------------------------------------------------------
def dies(work: Callable[[], object]) -> None:
    """Runs `work` in a forked child, which is then killed: nothing of it is cleaned up."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert died, f"the child failed before it was to die: status {status}"


def take(mutex: Any) -> None:
    """The child's half of an owner's death: it holds the lock when `dies` ends it."""
    assert lib.mql_os_mutex_take(mutex, 10 * 10**9) == 0  # a thread of another may be inside


@contextmanager
def standing_still(work: Callable[[], object]) -> Iterator[Callable[[], object]]:
    """Another process has done `work`, taken a lock, say, and goes no further.

    It ends with the context; or when what this gives is called.
    """
    done, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(done[1], b"x")
            os.read(release[0], 1)
        finally:
            os._exit(0)
    os.close(done[1])
    try:
        assert os.read(done[0], 1) == b"x", "it has failed"
        yield lambda: os.write(release[1], b"x")
    finally:
        os.write(release[1], b"x")
        os.waitpid(child, 0)
        for descriptor in (done[0], *release):
            os.close(descriptor)


def unclean(path: Path, work: Callable[[Store], object] | None = None) -> None:
    """A store as a killed process leaves it: opened, worked on, never closed."""

    def live() -> None:
        store = Store(path)
        if work is not None:
            work(store)

    dies(live)


def reboot(path: Path) -> None:
    """What a reboot does to control pages: they are of another boot, and not to be believed."""
    for control in path.glob("*/control"):
        data = bytearray(control.read_bytes())
        data[0x10:0x20] = bytes(16)
        crc = lib.mql_crc32c(0, bytes(data[:0x38]), 0x38)
        struct.pack_into("<I", data, 0x38, crc)
        control.write_bytes(data)


def forge_end(path: Path, position: int, offset: int, segment: int | None = None) -> None:
    """The checkpoint of a store that nobody has open says that the log has come that far."""
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        checkpoint = ffi.new("mql_format_checkpoint *")
        check(lib.mql_checkpoint_read(root, b"t-0", checkpoint))
        checkpoint.position, checkpoint.offset, checkpoint.ceiling = position, offset, offset
        if segment is not None:
            checkpoint.segment = segment
        check(lib.mql_checkpoint_write(root, b"t-0", checkpoint, 0o600))
    finally:
        os.close(root)
