"""A share group through C, for the engine's tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.partition import check, ffi, lib

SLICE = 50_000_000


def put(log: Any) -> int:
    """One record of nothing; the result of the call."""
    offset = ffi.new("int64_t *")
    return check(lib.mql_append(log.c, ffi.new("mql_record *"), 0, offset))


class Share:
    """One share group of a log, with the calls as a test likes them."""

    def __init__(self, log: Any, name: str = "default", *, create: bool = True, start: int = 0):
        out = ffi.new("mql_share **")
        check(lib.mql_share_open(log, name.encode(), create, start, out))
        self.c = out[0]
        self.log = log
        self.name = name

    @property
    def path(self) -> Path:
        """The state file."""
        store = Path(os.readlink(f"/proc/self/fd/{self.log.home.root}"))
        return store / ffi.string(self.log.directory).decode() / "shares" / f"{self.name}.state"

    def acquire(
        self, count: int = 1, *, lock_ms: int = 30_000, most: int = 0, any_: bool = False
    ) -> list[Any]:
        """Copies of mql_acquired."""
        how = ffi.new(
            "mql_acquire *",
            {"lock_ms": lock_ms, "max_acquired": most, "slice_ns": SLICE, "any": any_},
        )
        out = ffi.new("mql_acquired[]", count)
        got = ffi.new("size_t *", count)
        check(lib.mql_share_acquire(self.c, how, out, got))
        return [ffi.new("mql_acquired *", out[i])[0] for i in range(got[0])]

    def settle(self, event: str, *items: Any, when: int = 0, flags: int = 0) -> list[int]:
        """The result of each item."""
        given = ffi.new("mql_settle[]", [(item.offset, item.token, 0) for item in items])
        how = ffi.new(
            "mql_settlement *",
            {
                "event": getattr(lib, f"MQL_{event.upper()}"),
                "flags": flags,
                "when": when,
                "slice_ns": SLICE,
            },
        )
        check(lib.mql_share_settle(self.c, given, len(items), how))
        return [item.result for item in given]

    def info(self) -> Any:
        out = ffi.new("mql_share_info *")
        check(lib.mql_share_describe(self.c, out))
        return out

    def waiting(self) -> int:
        return int(lib.mql_share_waiting(self.c))

    def unfinished(self, start: int, stop: int) -> int:
        return int(lib.mql_share_unfinished(self.c, start, stop))

    def peek(self, count: int) -> list[int]:
        out = ffi.new("int64_t[]", count)
        return list(out[0 : check(lib.mql_share_peek(self.c, out, count))])

    def rebuild(self, *, fresh: bool = False) -> None:
        """Derives everything anew, as after a death."""
        with self.inside():
            check(lib.mql_live_rebuild(self.live, fresh))

    @property
    def live(self) -> Any:
        return ffi.addressof(self.c.live)

    @property
    def map(self) -> Any:
        return self.c.live.map

    @contextmanager
    def inside(self, *, changing: bool = True) -> Iterator[None]:
        """The share lock, held; around a change of what is derived."""
        check(lib.mql_share_enter(self.c, SLICE))
        if changing:
            lib.mql_live_begin(self.live)
        try:
            yield
        finally:
            if changing:
                lib.mql_live_end(self.live)
            lib.mql_share_leave(self.c)

    def recycle(self) -> int:
        return check(lib.mql_reserve_recycle(self.live))

    def give_back(self) -> None:
        check(lib.mql_reserve_give_back(self.live))

    def derived(self) -> dict[str, Any]:
        """Everything that rebuilding must find again."""
        map_ = self.c.live.map
        info = self.info()
        return {
            "unavailable": map_.unavailable,
            "acquired": map_.acquired,
            "available": map_.available,
            "counts": list(map_.counts),
            "held": sum(map_.held),
            "pages": map_.pages,
            "spare": map_.clean + map_.retired,
            "ready": info.ready,
            "delayed": info.delayed,
            "first": info.first,
            "oldest": info.oldest,
        }
