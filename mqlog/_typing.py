"""Type variables and aliases of the public API.

typing_extensions is for type checkers only: at run time nothing but the standard library and lz4 is
needed. `typing.Generic` knows defaults of type variables from Python 3.13 on, so at run time a
subscript such as `Stream[bytes]` is a plain alias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

__all__ = ["Buffer", "Generic", "Headers", "In", "Moment", "Out", "T"]

if TYPE_CHECKING:
    from typing import Generic

    from typing_extensions import Buffer, TypeVar

    Out = TypeVar("Out", covariant=True)
    In = TypeVar("In", contravariant=True, default=Out)
    T = TypeVar("T")
else:
    from types import GenericAlias
    from typing import Any as Buffer  # for annotations, which nobody evaluates
    from typing import TypeVar

    Out = TypeVar("Out", covariant=True)
    In = TypeVar("In", contravariant=True)
    T = TypeVar("T")

    class Generic:
        """Lets `class A(Generic[T])` and `A[int]` stand in code that runs."""

        __slots__ = ()

        def __class_getitem__(cls, item):
            return cls if cls is Generic else GenericAlias(cls, item)


#: What `headers=` takes: a mapping, or pairs where a name may come twice.
Headers = Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]]

#: A moment: seconds since 1970, or an aware datetime.
Moment = float | datetime
