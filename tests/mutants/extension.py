"""Makes the extension of the tree that this stands in, beside the package's Python files.

    cd tests && python -m mutants.extension

For tiers that run the package and not the engine alone. What is compiled is kept, so a bug in one
file costs that file and the linking; that is why it is not made by setup.py, which compiles all.
The binding is what Cython made of it when the package was installed: no bug is planted in that.
"""

from __future__ import annotations

import os
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import objects
from support.engine import CC, CSRC, ROOT

FLAGS = "-std=c11 -O1 -DNDEBUG -fPIC -fvisibility=hidden -fno-semantic-interposition -pthread"
LINK = ("-shared", "-pthread", f"-Wl,--version-script={CSRC / 'extension.map'}")


def make() -> Path:
    package = ROOT / "mqlog"
    include = [CSRC, Path(sysconfig.get_path("include"))]

    def compile_one(source: Path) -> str:
        also = include if source.parent == package else [CSRC]
        return str(objects.compiled(source, [CC, *FLAGS.split()], also))

    sources = [package / "_engine.c", *sorted(CSRC.glob("*.c"))]  # the longest first
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile_one, sources))
    made = package / f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
    made.unlink(missing_ok=True)  # the installed one's copy, or a link to it
    objects.run([CC, *LINK, *compiled, "-o", str(made)])
    return made


if __name__ == "__main__":
    make()
