"""The tests' door to the engine: every function, struct and constant of csrc/, through cffi.

    from support import engine

    ffi, lib = engine.load()
    lib.mql_crc32c(0, b"123456789", 9)

What is declared is read from the headers themselves, so a module is in reach as soon as its two
files exist. Functions without a body in csrc/ are left out of `lib`; static inline ones are in it.

The engine is compiled with asserts on, once for each state of its sources, into build/engine/.
`load(os_file=...)`, or MQLOG_OS_FILE in the environment, puts another file in the place of
mql_os_posix.c and of whatever else of csrc/ it includes; what the header of the same name beside it
declares is then in `lib` too. `also`: more C files, each with such a header; `defines`: macros.
MQLOG_MODULES="mql_base mql_batch" compiles just those, while others do not compile.

With sanitizers (the build is another one, kept beside the first; Python itself has to be started
with their runtime, and leaks what it likes at its end):

    MQLOG_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0 \\
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \\
        pytest engine
"""

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cffi
from cffi import recompiler

from support import objects
from support.objects import run

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "engine"
OS_FILE = CSRC / "mql_os_posix.c"

CC = os.environ.get("CC", "gcc")
WARNINGS = (
    "-Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror".split()
)
FLAGS = "-std=c11 -O2 -g -UNDEBUG -fPIC -fvisibility=hidden -pthread".split()
SANITIZERS = (
    "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer".split()
)
# cffi takes pointers to atomic members where the member is declared without the word.
GENERATED = ["-w", "-Wno-incompatible-pointer-types", f"-I{sysconfig.get_path('include')}"]

# The headers as cffi's parser can read them: no attributes, no atomics, nothing of the system's.
STUBS = ("assert", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string")
PLAIN_C = [
    "-D__attribute__(x)=",
    "-D_Alignas(x)=",
    "-D_Static_assert(...)=",
    "-Dstatic_assert(...)=",
    "-D_Noreturn=",
    "-D_Thread_local=",
]
ALSO = "void *malloc(size_t size);\nvoid free(void *memory);\n"


class Engine(NamedTuple):
    ffi: Any
    lib: Any


@functools.cache
def load(
    os_file: Path | None = None, also: tuple[Path, ...] = (), defines: tuple[str, ...] = ()
) -> Engine:
    """Compiles what is not compiled yet and gives `ffi` and `lib`."""
    chosen = Path(os_file or os.environ.get("MQLOG_OS_FILE", OS_FILE)).resolve()
    flags = FLAGS + [f"-D{one}" for one in defines]
    flags += SANITIZERS if os.environ.get("MQLOG_SANITIZE", "0") not in ("", "0") else []
    sources = [*sorted(set(CSRC.glob("*.c")) - _replaced(chosen)), chosen, *also]
    headers = sorted(CSRC.glob("*.h"))
    if only := os.environ.get("MQLOG_MODULES", "").split():
        sources = [source for source in sources if source.stem in only]
        headers = [header for header in headers if header.stem in {"mqlog", "mql_format", *only}]
    if chosen != OS_FILE:
        given = [source.with_suffix(".h") for source in (chosen, *also)]
        headers += [header for header in given if header.exists()]
    key = _key([*sources, *headers, *sorted(_replaced(chosen)), Path(__file__)], flags)
    place = CACHE / key
    if not place.exists():
        _publish(place, lambda made: _build(made, sources, headers, flags))
    module = _import(next(place.glob("*.so")))
    return Engine(module.ffi, module.lib)


def exact(engine: Engine, data: bytes | bytearray) -> Any:
    """A copy of `data` that ends where its memory ends, so that ASan sees any step past it."""
    memory = engine.lib.malloc(len(data))
    engine.ffi.memmove(memory, data, len(data))
    return engine.ffi.gc(engine.ffi.cast("uint8_t *", memory), engine.lib.free)


# -- building -------------------------------------------------------------------------------------
def _replaced(os_file: Path) -> set[Path]:
    """The files of csrc/ that `os_file` takes the place of."""
    included = re.findall(r'#include "../../csrc/(\w+\.c)"', os_file.read_text())
    return {OS_FILE, *(CSRC / name for name in included)}


def _key(files: list[Path], flags: list[str]) -> str:
    digest = hashlib.sha256(objects.version(CC).encode())
    digest.update(repr([flags, sys.version, cffi.__version__]).encode())
    for file in files:
        if file.exists():
            digest.update(repr((file.name, file.read_bytes())).encode())
    return digest.hexdigest()[:16]


def _publish(place: Path, make: Any) -> None:
    """Fills a directory under another name first: it is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
    try:
        make(made)
        made.rename(place)
    except OSError:
        if not place.exists():  # else somebody else was as quick, with the same result
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _build(made: Path, sources: list[Path], headers: list[Path], flags: list[str]) -> None:
    def compile_one(source: Path) -> str:
        return str(objects.compiled(source, [CC, *flags, *WARNINGS], [CSRC]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile_one, sources))
    symbols = run(["nm", "--defined-only", "-g", *compiled])
    everything = made / "everything.c"
    everything.write_text("".join(f'#include "{header}"\n' for header in headers))
    declared = ALSO + declarations(everything, set(re.findall(r" T (\w+)", symbols)))
    builder = cffi.FFI()
    builder.cdef(declared)
    # Named after what it declares: engines that differ in nothing else share the compiled door.
    name = f"_mqlog_engine_{hashlib.sha256(repr([declared, flags]).encode()).hexdigest()[:16]}"
    generated = made / f"{name}.c"
    preamble = "#include <stdlib.h>\n" + "".join(f'#include "{one.name}"\n' for one in headers)
    recompiler.make_c_source(builder, name, preamble, str(generated))
    include = sorted({CSRC, *(header.parent for header in headers)})
    door = objects.compiled(generated, [CC, *flags, *GENERATED], include)
    # Lazy: while a module is missing, only the calls that need it fail.
    target = made / f"{name}.so"
    run([CC, *flags, "-shared", "-Wl,-z,lazy", str(door), *compiled, "-o", str(target)])


def _import(file: Path) -> Any:
    loader = importlib.machinery.ExtensionFileLoader(file.stem, str(file))
    spec = importlib.util.spec_from_file_location(file.stem, file, loader=loader)
    assert spec is not None
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_LOCAL)
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    finally:
        sys.setdlopenflags(before)
    return module


# -- declarations ---------------------------------------------------------------------------------
def declarations(everything: Path, defined: set[str]) -> str:
    """What the headers included by `everything` declare, as cffi's parser takes it."""
    with tempfile.TemporaryDirectory() as stubs:
        for stub in STUBS:
            (Path(stubs) / f"{stub}.h").touch()
        preprocess = [CC, "-std=c11", "-E", "-nostdinc", f"-I{stubs}", f"-I{CSRC}", *PLAIN_C]
        text = run([*preprocess, "-P", str(everything)])
        macros = run([*preprocess, "-dM", str(everything)])
    text = re.sub(r"\b_Atomic\b\s*(\(([^()]*)\))?", r"\2", text)
    kept = [_cleaned(head, body, defined) for head, body in _statements(text)]
    constants = [f"#define {name} ..." for name in _constants(macros)]
    return "\n".join(filter(None, [*constants, *kept]))


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """Top-level declarations, each as what stands before its braces, and the braces and the rest.

    A function's definition ends with its brace, everything else with a semicolon.
    """
    depth, start, brace = 0, 0, -1
    for match in re.finditer(r"[{};]", text):
        at, sign = match.start(), match.group()
        if sign == "{":
            brace = at if depth == 0 else brace
            depth += 1
            continue
        depth -= sign == "}"
        head = text[start:at] if brace < 0 else text[start:brace]
        if depth > 0 or (sign == "}" and not head.rstrip().endswith(")")):
            continue
        yield head.strip(), "" if brace < 0 else text[brace : at + 1]
        start, brace = at + 1, -1


def _cleaned(head: str, body: str, defined: set[str]) -> str:
    if head.startswith("static inline") and body:
        return head.removeprefix("static inline").strip() + ";"
    if body:
        unpacked = body.replace("\n", " ")
        if re.match(r"typedef (struct|union)|struct|union", head):
            cut = unpacked.rindex("}")
            unpacked = f"{unpacked[:cut]}...; {unpacked[cut:]}"  # the compiler knows the layout
        return f"{head} {unpacked}"
    if not head:
        return ""
    function = re.search(r"(\w+)\s*\(", head)
    if function and not head.startswith("typedef") and function.group(1) not in defined:
        return ""
    return f"{head};"


def _constants(macros: str) -> Iterator[str]:
    """The names of our macros that stand for a whole number."""
    for name, value in re.findall(r"^#define (MQL_\w+) (.+)$", macros, re.MULTILINE):
        words = set(re.findall(r"\b[a-z_]\w*", value))
        numeric = not re.search(r'["{;?]|__', value) and re.search(r"\w", value)
        if numeric and words <= {"int32_t", "int64_t", "uint32_t", "uint64_t", "sizeof"}:
            yield name
