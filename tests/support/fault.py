"""The engine with an operating system that tests make fail: doors, stores and shares of its own.

    from support.fault import Store, Share, lib, hooked

    with hooked(lambda call, name: -errno.ENOSPC if call == lib.MQL_FAULT_ALLOCATE else 0):
        ...

A hook is asked before each allocation, truncation, sync, mapping, read, write, change of a name
and look at the free space, with the path of its file or directory; "" before the sync of a mapping,
before a wait, and before a processor is yielded.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from support import engine

HERE = Path(__file__).parent
DISKS = tuple(HERE / name for name in ("sim_disk.c", "sim_trace.c"))

faulty = engine.load(HERE / "mql_os_fault.c", DISKS)
ffi, lib = faulty.ffi, faulty.lib


def _copies(*names: str) -> list[ModuleType]:
    """Modules of the tests' tools once more, with this engine behind them."""
    usual = engine.load
    before = {name: sys.modules.pop(name, None) for name in names}
    engine.load = lambda: faulty  # type: ignore[assignment]
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        engine.load = usual
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


_partition, _share = _copies("support.partition", "support.share")
Store, Log, Failed, dies = (
    _partition.Store,
    _partition.Log,
    _partition.Failed,
    _partition.dies,
)
check, Share, put = _partition.check, _share.Share, _share.put

Hook = Callable[[int, str], int]


@contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """While inside, `hook` decides: 0, or the negative errno that the call fails with."""

    @ffi.callback("int(int, int)", error=0)
    def ask(call: int, file: int) -> int:
        return hook(call, "" if file < 0 else os.readlink(f"/proc/self/fd/{file}"))

    lib.mql_os_fault_set(ask)
    try:
        yield
    finally:
        lib.mql_os_fault_set(ffi.NULL)
