"""What tests of damaged stores share: a small store as bytes, put down anew, read to its end."""

import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import mqlog

TOPIC = "orders"
PARTITION = "orders-0"
SEGMENT = 4096


class Damage(NamedTuple):
    path: str
    position: int
    start: int
    stop: int


def log_file(base: int, suffix: str = ".log") -> str:
    return f"{base:020d}{suffix}"


def value(n: int, size: int = 40) -> bytes:
    """Every value says which it is, so that a wrong one is seen."""
    head = b"%d:" % n
    return head + bytes((n * 31 + i) % 251 for i in range(size - len(head)))


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a store, by its name within it."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def restore(path: Path, files: dict[str, bytes]) -> None:
    """Makes the directory hold just these files."""
    for file in list(path.rglob("*")):
        if file.is_file() and str(file.relative_to(path)) not in files:
            file.unlink()
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


def batches(data: bytes) -> list[tuple[int, int, int, int]]:
    """(position, size, first offset, last offset) of each batch."""
    out, at = [], 0
    while at + 61 <= len(data):
        base, length = struct.unpack_from(">qi", data, at)
        if length <= 0:
            break
        (delta,) = struct.unpack_from(">i", data, at + 23)
        out.append((at, length + 12, base, base + delta))
        at += length + 12
    return out


def read(stream: Any, **how: Any) -> tuple[dict[int, bytes], list[Damage]]:
    """Everything that can be read, and each damage that was raised, in order."""
    found: dict[int, bytes] = {}
    damage: list[Damage] = []
    records = stream.read(**how)
    for _ in range(100_000):
        try:
            record = next(records)
        except StopIteration:
            return found, damage
        except mqlog.CorruptError as error:
            damage.append(Damage(error.path, error.position, error.start, error.stop))
            continue
        assert record.offset not in found, "given twice"
        found[record.offset] = record.value
    raise AssertionError("reading does not end")


def outcome(path: Path, mode: Any) -> tuple[dict[int, bytes], list[Damage]] | Exception:
    """What opening and reading the store gives: its records and damages, or a clear error."""
    try:
        with mqlog.open(path, mode, create=False) as store:
            return read(store.stream(TOPIC, create=False))
    except (mqlog.Error, OSError) as error:
        assert str(error), "an error without words"
        return error


def python(code: str, *words: object, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
    """A program in an interpreter of its own, so that a crash is seen as its status."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
