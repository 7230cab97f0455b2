"""Builds the one extension: the binding and the whole engine. Metadata is in pyproject.toml.

The environment may ask for another build, for people who work on the engine:
`MQLOG_DEBUG=1` has asserts on and little optimisation, `MQLOG_SANITIZE=1` adds ASan and UBSan.
"""

import os
import re
import tempfile
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "clinic",
}


def wanted(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


sanitize = wanted("MQLOG_SANITIZE")
debug = sanitize or wanted("MQLOG_DEBUG")
variant = "sanitize" if sanitize else "debug" if debug else "release"

# The interpreter's own flags, which stand before these, have -DNDEBUG.
compile_args = ["-std=c11", "-fvisibility=hidden", "-fno-semantic-interposition"]
compile_args += ["-O1", "-g", "-UNDEBUG"] if debug else ["-O3", "-fno-plt"]
# The engine's files, and the binding's, as one: a get and its accept are some 7 % quicker.
AS_ONE = ["-flto=auto"]
# mqlog.h marks its functions visible for programs in C; the extension exports only its entry.
link_args = ["-Wl,--version-script=csrc/extension.map"]
if sanitize:
    compile_args += SANITIZERS
    link_args += SANITIZERS


class BuildEngine(build_ext):
    """Warns about csrc/ only: what Cython writes does not keep our rules."""

    def can(self, flags: list[str]) -> bool:
        """Whether compiler and linker both know them."""
        with tempfile.TemporaryDirectory() as place:
            source = Path(place) / "one.c"
            source.write_text("int one(void) { return 1; }")
            try:
                made = self.compiler.compile([str(source)], place, extra_preargs=flags)
                self.compiler.link_shared_object(made, f"{place}/one.so", extra_preargs=flags)
            except (CompileError, LinkError, OSError):
                return False
        return True

    def build_extensions(self) -> None:
        if not debug and self.can(AS_ONE):
            for one in self.extensions:
                one.extra_compile_args += AS_ONE
                one.extra_link_args += ["-O3", *AS_ONE]
        compile_one = self.compiler._compile

        def compile_with_warnings(obj, src, ext, cc_args, extra, macros):  # type: ignore
            ours = re.match(r"(\./)?csrc/", src) is not None
            compile_one(obj, src, ext, cc_args, extra + (WARNINGS if ours else []), macros)

        self.compiler._compile = compile_with_warnings
        super().build_extensions()


here = Path(__file__).parent
os.chdir(here)
engine = Extension(
    "mqlog._engine",
    sources=["mqlog/_engine.pyx", *sorted(glob("csrc/*.c"))],
    depends=[
        *sorted(glob("csrc/*.h")),
        "csrc/extension.map",
        "mqlog/_c.pxd",
        *sorted(glob("mqlog/*.pxi")),
        "setup.py",
    ],
    include_dirs=["csrc"],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)
setup(
    ext_modules=cythonize([engine], compiler_directives=DIRECTIVES),
    cmdclass={"build_ext": BuildEngine},
    options={"build": {"build_base": f"build/{variant}"}},
)
