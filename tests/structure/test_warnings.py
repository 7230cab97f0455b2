"""What compilers and readers must not stumble over."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Werror",
]
# As the package does, and without any optimisation; as tests compile it, support/engine.py does.
BUILDS = {"release": ["-O3", "-DNDEBUG"], "plain": ["-O0"]}
SOURCES = sorted(CSRC.glob("*.c"))


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_engine_compiles_without_a_warning(source: Path, build: str) -> None:
    compiler = os.environ.get("CC", "gcc")
    command = [compiler, "-std=c11", "-fPIC", *WARNINGS, *BUILDS[build], "-c", str(source)]
    done = subprocess.run([*command, "-o", os.devnull], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("header", sorted(CSRC.glob("*.h")), ids=lambda path: path.name)
def test_a_header_stands_alone(header: Path) -> None:
    compiler = os.environ.get("CC", "gcc")
    command = [compiler, "-std=c11", "-fsyntax-only", *WARNINGS, "-x", "c", str(header)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""


# One word, one instruction: the alternative is three copies of a function of one line.
CONDITIONAL_INSIDE = {"mql_os.h": ["mql_os_pause"]}


@pytest.mark.parametrize("path", sorted(CSRC.glob("*.[ch]")), ids=lambda path: path.name)
def test_no_function_is_conditional_inside(path: Path) -> None:
    text = re.sub(r"/\*.*?\*/", lambda hit: "\n" * hit[0].count("\n"), path.read_text(), flags=re.S)
    depth, function, found = 0, "", []
    for line in text.splitlines():
        if depth == 0 and (named := re.match(r"[a-z].*?(\w+)\(", line)):
            function = named[1]
        if re.match(r"\s*#\s*(if|ifdef|ifndef|elif|else)\b", line):
            found += [function] if depth > 0 else []
        elif not line.lstrip().startswith("#"):
            depth += line.count("{") - line.count("}")
    assert set(found) == set(CONDITIONAL_INSIDE.get(path.name, []))


ISO_C = {
    "assert.h",
    "ctype.h",
    "errno.h",
    "float.h",
    "inttypes.h",
    "limits.h",
    "stdalign.h",
    "stdarg.h",
    "stdatomic.h",
    "stdbool.h",
    "stddef.h",
    "stdint.h",
    "stdio.h",
    "stdlib.h",
    "string.h",
}
# The instruction's own headers: a compiler that has the instruction has them.
INTRINSICS = {"mql_crc32c.c": {"immintrin.h", "nmmintrin.h", "wmmintrin.h", "arm_acle.h"}}


@pytest.mark.parametrize("path", sorted(CSRC.glob("*.[ch]")), ids=lambda path: path.name)
def test_only_the_os_file_knows_the_system(path: Path) -> None:
    if path.name.startswith("mql_os_"):
        return
    used = set(re.findall(r"^\s*#\s*include\s+<([^>]+)>", path.read_text(), re.MULTILINE))
    assert used - ISO_C - INTRINSICS.get(path.name, set()) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_global_changes_but_those_that_are_known(path: Path) -> None:
    """The thread's last failure and hurry, the list of stores that a fork has to know, and whose
    turn it is with the process' interpreter."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    known = {"mql_base.c": {"last_error", "hurried", "left_ns"}, "mql_store.c": None}
    known["mql_turn.c"] = {"turn", "untried"}
    globals_ = re.findall(
        r"^(?:static |_Thread_local )+(?!.*\bconst\b)(?!.*\()[\w \*]*?(\w+)(?:\[.*\])?(?: =|;)",
        text,
        re.MULTILINE,
    )
    allowed = known.get(path.name, set())
    assert allowed is None or set(globals_) <= allowed


# Words of other systems for what has a name here; a page may say once what they are called there.
FORBIDDEN = ["ack", "acks", "nack", "nacks", "lease", "leases", "visibility timeout"]
PUBLIC_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PUBLIC_PAGES, ids=lambda path: path.name)
@pytest.mark.parametrize("word", FORBIDDEN)
def test_a_page_uses_one_word_for_one_thing(page: Path, word: str) -> None:
    assert len(re.findall(rf"\b{word}\b", page.read_text(), re.IGNORECASE)) <= 1
