"""Compression of record batches: Kafka's codecs by name and by number.

The engine stores batches as they come; what is inside a compressed one is made and read here. A
payload from disk is hostile until it is read: `inflate` never gives out more than the bytes it was
allowed, whatever the payload says of itself, and every way of being damaged is a `ValueError`.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: The numbers that Kafka's batch attributes have for the codecs (docs/FORMAT.md).
CODES: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
NAMES: Final = {code: name for name, code in CODES.items()}

_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
_LEVEL: Final = 6  # gzip; Kafka's default too


def compress(name: str, data: Buffer) -> bytes:
    """The payload of a batch whose records, back to back, are `data`.

    Args:
        name: `"none"`, `"gzip"`, `"lz4"`, or `"zstd"` where this Python can.
        data: The encoded records; borrowed.

    Raises:
        ValueError: There is no such codec, or nothing here that can write it.
    """
    return _writer(name)(data)


def inflate(code: int, data: Buffer, limit: int) -> bytes:
    """The records inside a payload, at most `limit` bytes of them.

    Memory stays within a small multiple of `limit` and of the payload.

    Args:
        code: The codec's number, from the batch's attributes.
        data: The whole payload.
        limit: The most bytes that may come out.

    Raises:
        ValueError: The payload is damaged, cut short, followed by something, or over the limit; or
            the codec is not known, or not installed.
    """
    name = NAMES.get(code)
    if name is None:
        raise ValueError(f"compression codec {code} does not exist")
    if name == "none":
        return bytes(data)
    if name == "gzip":
        return _inflate_gzip(data, limit)
    if name == "lz4":
        return _inflate_lz4(data, limit)
    if name == "zstd":
        return _inflate_zstd(data, limit)
    raise ValueError("snappy payloads cannot be read: mqlog has no snappy codec")


def check(name: str) -> str:
    """`name` again, if batches can be written with it here; otherwise `ValueError`."""
    _writer(name)
    return name


def _writer(name: str) -> Callable[[Buffer], bytes]:
    if name == "lz4":
        return _compress_lz4
    if name == "gzip":
        return _compress_gzip
    if name == "none":
        return bytes
    if name == "zstd":
        return _compress_zstd()
    if name == "snappy":
        raise ValueError("snappy batches cannot be written; use lz4, gzip or zstd")
    known = ", ".join(CODES)
    raise ValueError(f"there is no compression {name!r}; there are {known}")


def _beyond(limit: int) -> ValueError:
    return ValueError(f"the payload holds more than the {limit} bytes allowed")


# gzip: concatenated members are one payload, as in Kafka.


def _compress_gzip(data: Buffer) -> bytes:
    return zlib.compress(data, _LEVEL, wbits=_GZIP_WINDOW)


def _inflate_gzip(data: Buffer, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    rest: Any = data
    while True:
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            part = member.decompress(rest, left + 1)
        except zlib.error as error:
            raise ValueError(f"damaged gzip payload: {error}") from None
        if len(part) > left:
            raise _beyond(limit)
        if not member.eof:
            raise ValueError("the gzip payload is cut short")
        parts.append(part)
        left -= len(part)
        rest = member.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)


# lz4: Kafka's reader refuses linked blocks, and liblz4 links them unless told not to, but only from
# the second block on: 64 KiB blocks and block_linked=False give the frame header 60 40 that Kafka's
# own producer writes. Kafka reads one frame and no more, hence one frame here.


def _lz4() -> Any:
    return importlib.import_module("lz4.frame")


def _compress_lz4(data: Buffer) -> bytes:
    lz4 = _lz4()
    packed: bytes = lz4.compress(
        data,
        block_size=lz4.BLOCKSIZE_MAX64KB,
        block_linked=False,
        content_checksum=False,
        block_checksum=False,
        store_size=False,
    )
    return packed


def _inflate_lz4(data: Buffer, limit: int) -> bytes:
    frame = _lz4().LZ4FrameDecompressor()
    return _inflate_frame("lz4", frame, RuntimeError, data, limit)


def _inflate_frame(
    name: str, frame: Any, failure: type[Exception], data: Buffer, limit: int
) -> bytes:
    """One frame and nothing behind it, by a decompressor like the standard library's."""
    parts: list[bytes] = []
    left = limit
    rest: Buffer = data
    size = 8 * memoryview(data).nbytes + 65536  # a first guess; the rest, if any, in one more step
    while True:
        try:
            part = frame.decompress(rest, max_length=min(left + 1, size))
        except (failure, EOFError) as error:
            raise ValueError(f"damaged {name} payload: {error}") from None
        if len(part) > left:
            raise _beyond(limit)
        parts.append(part)
        left -= len(part)
        if frame.eof:
            break
        if frame.needs_input or (not part and rest == b""):
            raise ValueError(f"the {name} payload is cut short")
        rest, size = b"", left + 1
    if frame.unused_data:
        raise ValueError(f"{len(frame.unused_data)} bytes follow the {name} payload")
    return parts[0] if len(parts) == 1 else b"".join(parts)


# zstd: in the standard library from Python 3.14 on; the backport has the same interface.


def _zstd() -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    message = "zstd is in Python's standard library from 3.14 on; before, install backports.zstd"
    raise ValueError(message)


def _compress_zstd() -> Callable[[Buffer], bytes]:
    writer: Callable[[Buffer], bytes] = _zstd().compress
    return writer


def _inflate_zstd(data: Buffer, limit: int) -> bytes:
    zstd = _zstd()
    parts: list[bytes] = []
    rest: Buffer = data
    while True:  # concatenated frames are one payload, as in Kafka
        frame = zstd.ZstdDecompressor()
        left = limit - sum(map(len, parts))
        try:
            part = frame.decompress(rest, max_length=left + 1)
        except (zstd.ZstdError, EOFError) as error:
            raise ValueError(f"damaged zstd payload: {error}") from None
        if len(part) > left:
            raise _beyond(limit)
        if not frame.eof:
            raise ValueError("the zstd payload is cut short")
        parts.append(part)
        rest = frame.unused_data
        if not rest:
            return b"".join(parts)
