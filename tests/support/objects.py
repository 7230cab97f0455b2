"""Compiled C files, kept in build/objects: after a change of one file only that one is compiled.

    from support import objects

    made = objects.compiled(source, [CC, *FLAGS], [CSRC, HERE])

An object is known by the compiler, its flags, the file's bytes and those of every header in the
directories given, which are also where it is told to look for them; not by where the tree is.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "objects"


def compiled(source: Path, command: list[str], include: Iterable[Path]) -> Path:
    """The object of the file."""
    include = [*include]
    digest = hashlib.sha256(repr([command, version(command[0]), source.name]).encode())
    for file in [source, *_included(source), *_headers({source.parent, *include})]:
        digest.update(repr((file.name, file.read_bytes())).encode())
    made = CACHE / f"{digest.hexdigest()[:24]}.o"
    if made.exists():
        return made
    CACHE.mkdir(parents=True, exist_ok=True)
    handle, new = tempfile.mkstemp(dir=CACHE, suffix=".new")
    os.close(handle)
    try:
        run([*command, *(f"-I{one}" for one in include), "-c", str(source), "-o", new])
        os.replace(new, made)
    except BaseException:
        os.unlink(new)
        raise
    return made


@functools.cache
def version(compiler: str) -> str:
    return run([compiler, "--version"])


def _included(source: Path) -> list[Path]:
    """C files that it takes in."""
    names = re.findall(r'^#include "(.+\.c)"', source.read_text(), re.MULTILINE)
    return [source.parent / name for name in names]


def _headers(directories: set[Path]) -> list[Path]:
    return sorted(header for one in directories for header in one.glob("*.h"))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout
