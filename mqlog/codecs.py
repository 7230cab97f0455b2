"""Codecs: how values become bytes and come back, for those who pass `codec=`.

Without one, mqlog takes bytes and gives bytes. With one, a value is encoded when it is appended and
decoded at the first access to `Record.value`. A topic keeps the name of the first codec used on it,
and another one on the same topic is an `OptionError`.

    orders = store.stream("orders", codec=mqlog.codecs.json)

Any object with `name`, `encode` and `decode` is a codec. A codec that comes along with a pickled
handle must be picklable itself.
"""

from __future__ import annotations

import json as _json
import pickle as _pickle
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import types

__all__ = ["Codec", "Json", "Msgspec", "Pickle", "json", "msgspec", "pickle"]

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol[T]):
    """What `codec=` takes. Any thread may call it."""

    @property
    def name(self) -> str:
        """Stored with the topic."""

    def encode(self, value: T, /) -> bytes:
        """The bytes to store for `value`; what it raises comes out of the append."""

    def decode(self, data: bytes, /) -> T:
        """The value again; what it raises comes out of `Record.value`."""


class Json:
    """JSON by the standard library: compact, UTF-8, no NaN."""

    name = "json"

    def __init__(self) -> None:
        self._encode = _json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode
        self._decode = _json.JSONDecoder().decode

    def encode(self, value: Any, /) -> bytes:
        """`TypeError` for what JSON cannot say, `ValueError` for NaN and infinities."""
        return self._encode(value).encode()

    def decode(self, data: bytes, /) -> Any:
        """`ValueError` if the bytes are not JSON in UTF-8."""
        return self._decode(str(data, "utf-8"))

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "json" if self is json else (type(self), ())


class Pickle:
    """Python's own pickle: any object, for Python only.

    Decoding runs what the bytes say. Name this codec only for stores that nobody else writes to.
    """

    name = "pickle"

    def encode(self, value: Any, /) -> bytes:
        """As `pickle.dumps` with the highest protocol that Python 3.11 reads."""
        return _pickle.dumps(value, protocol=5)

    def decode(self, data: bytes, /) -> Any:
        """As `pickle.loads`: only for bytes that you trust."""
        return _pickle.loads(data)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "pickle" if self is pickle else (type(self), ())


class Msgspec:
    """JSON by the msgspec package (an extra): several times faster, and typed if you like.

    Args:
        type: What decoding gives and checks, for example a `msgspec.Struct`; any JSON if left out.
    """

    name = "msgspec"

    def __init__(self, type: Any = Any) -> None:
        self._type = type
        self._encoder: Any = None
        self._decoder: Any = None

    def encode(self, value: Any, /) -> bytes:
        """`TypeError` for what msgspec cannot encode."""
        if self._encoder is None:
            self._encoder = _import_msgspec().json.Encoder()
        data: bytes = self._encoder.encode(value)
        return data

    def decode(self, data: bytes, /) -> Any:
        """`msgspec.DecodeError`, or `ValidationError` if the type does not fit."""
        if self._decoder is None:
            self._decoder = _import_msgspec().json.Decoder(self._type)
        return self._decoder.decode(data)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "msgspec" if self is msgspec else (type(self), (self._type,))


def _import_msgspec() -> types.ModuleType:
    import importlib

    try:
        return importlib.import_module("msgspec")
    except ImportError as error:
        message = 'the msgspec codec needs the package msgspec: pip install "mqlog[msgspec]"'
        raise ImportError(message, name="msgspec") from error


json = Json()
msgspec = Msgspec()
pickle = Pickle()
