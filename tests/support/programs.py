"""C programs of the tests' own, linked with the engine: made once for each state of the sources.

    from support import programs

    stepper = programs.make("stepper", "scene", "deeds", "stepping")

compiles support/stepper.c and those beside it with all of csrc/, optimized as the shipped build is
but with asserts, into build/programs/.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import objects

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "programs"

CC = os.environ.get("CC", "gcc")
FLAGS = "-O2 -g -UNDEBUG -pthread -Wall -Wextra -Werror".split()
# Bound at once: that the first call of a function looks it up is no step of what it does.
LINK = ["-Wl,-z,now"]


def make(name: str, *others: str) -> Path:
    """The program of which support/<name>.c has the main function."""
    sources = [*sorted(CSRC.glob("*.c")), *(HERE / f"{one}.c" for one in (name, *others))]
    headers = [*sorted(CSRC.glob("*.h")), *sorted(HERE.glob("*.h"))]
    digest = hashlib.sha256(objects.version(CC).encode())
    digest.update(repr([FLAGS, LINK, name, others]).encode())
    for file in [*sources, *headers]:
        digest.update(repr((file.name, file.read_bytes())).encode())
    place = CACHE / digest.hexdigest()[:16]
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            _build(made, name, sources)
            made.rename(place)
        except OSError:
            if not place.exists():  # else somebody else was as quick, with the same result
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return place / name


def _build(made: Path, name: str, sources: list[Path]) -> None:
    def compile_one(source: Path) -> str:
        standard = "-std=c11" if source.parent == CSRC else "-std=gnu11"
        include = [CSRC] if source.parent == CSRC else [CSRC, HERE]
        return str(objects.compiled(source, [CC, standard, *FLAGS], include))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile_one, sources))
    objects.run([CC, "-pthread", *LINK, *compiled, "-o", str(made / name)])
