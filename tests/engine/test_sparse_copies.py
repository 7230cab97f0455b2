"""A copy of a store that nobody closed may be without the blocks that were provided ahead.

A store through a mapping that meets a page without a block ends the process where the disk is full.
"""

import errno
import os
import shutil
from pathlib import Path

from support.fault import Share, Store, check, hooked, lib

PAGE = 4096


def sparse_copy(store: Path, copy: Path) -> None:
    """As some tools make it: where a file has pages of zeros, the copy has none."""
    shutil.copytree(store, copy)
    made = set()
    for file in copy.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        if data[-PAGE:] == bytes(PAGE):
            file.write_bytes(data.rstrip(b"\0"))
            os.truncate(file, len(data))
            made.add(file.suffix)
    assert made >= {".log", ".state"}


def test_files_that_a_copy_made_sparse_get_their_blocks(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(*[b"x" * 10] * 1000)
        log.append(b"y" * 3000)
        Share(log.c).acquire(10)
        check(lib.mql_keeper_prepare(store.c))
        sparse_copy(tmp_path / "s", tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        log = store.log()
        share = Share(log.c)
        for file in (tmp_path / "copy").rglob("*"):
            assert not file.is_file() or file.stat().st_blocks * 512 >= file.stat().st_size, file
        with hooked(lambda call, _: -errno.ENOSPC if call == lib.MQL_FAULT_ALLOCATE else 0):
            assert len(share.acquire(1024)) == 1001
        log.append(b"z")
