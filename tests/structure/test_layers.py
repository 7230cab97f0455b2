"""Every include and every import points down. The two lists below are the architecture."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "mqlog"

# The engine from top to bottom. A module includes its own header and those of modules below it;
# mqlog.h is the vocabulary of them all.
ENGINE = [
    "mql_api",
    "mql_store",
    "mql_turn",
    "mql_bell",
    "mql_keeper",
    "mql_reclaim",
    "mql_shares",
    "mql_census",
    "mql_survey",
    "mql_sleep",
    "mql_share",
    "mql_reserve",
    "mql_live",
    "mql_slots",
    "mql_arrays",
    "mql_verify",
    "mql_sweep",
    "mql_dedupe",
    "mql_group",
    "mql_cursor",
    "mql_append",
    "mql_rewrite",
    "mql_commit",
    "mql_room",
    "mql_log",
    "mql_snapshot",
    "mql_recover",
    "mql_swap",
    "mql_segment",
    "mql_index",
    "mql_epoch",
    "mql_checkpoint",
    "mql_control",
    "mql_batch",
    "mql_crc32c",
    "mql_format",
    "mql_remove",
    "mql_base",
    "mql_os",
]
VOCABULARY = "mqlog"

# The package from top to bottom; what stands in one line does not know of its neighbours.
MODULES = [
    ["__main__"],
    ["cli"],
    ["__init__"],
    ["aio", "stdlib"],
    ["_pool"],
    ["_worker"],
    ["_queue"],
    ["_dead", "_put"],
    ["_consumer"],
    ["_stream"],
    ["_replay"],
    ["_tail"],
    ["_store"],
    ["_sharing"],
    ["_topics"],
    ["_ready", "_facts"],
    ["_catalog"],
    ["_options", "_times"],
    ["_engine"],
    [
        "codecs",
        "_compression",
        "_info",
        "_letters",
        "_typing",
        "errors",
    ],  # leaves: they know nobody
]

# Arrows that point up, each with its reason.
UPWARDS = {
    ("_store", "_stream"): "a store makes its handles",
    ("_store", "_queue"): "a store makes its handles",
    ("_stream", "_consumer"): "a stream makes its handles",
    ("_queue", "_pool"): "a queue starts its workers",
}


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE)


def module_of(path: Path) -> str:
    """A large one is in several files, which are called after it."""
    whole = [name for name in ("mql_os", "mql_live") if path.stem.startswith(f"{name}_")]
    return whole[0] if whole else path.stem


@pytest.mark.parametrize("path", sorted(CSRC.glob("*.[ch]")), ids=lambda path: path.name)
def test_an_engine_file_includes_what_lies_below_it(path: Path) -> None:
    module = module_of(path)
    if module == VOCABULARY:
        assert includes(path) == []
        return
    assert module in ENGINE, f"{path.name} has no place in ENGINE"
    below = {f"{name}.h" for name in ENGINE[ENGINE.index(module) + 1 :]} | {f"{VOCABULARY}.h"}
    own = {f"{module}.h"} if path.suffix == ".c" else set()
    assert set(includes(path)) <= below | own


@pytest.mark.parametrize("path", sorted(CSRC.glob("*.c")), ids=lambda path: path.name)
def test_an_engine_file_includes_its_own_header_first(path: Path) -> None:
    own = f"{module_of(path)}.h"
    assert (CSRC / own).exists()
    assert includes(path)[:1] == [own]


def package_modules() -> dict[str, list[Path]]:
    """The files of each module; a package is one module, and so are the parts of a .pyx."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix not in {".py", ".pyx", ".pxi"}:
            continue
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = "_engine" if path.suffix in {".pyx", ".pxi"} else parts[0]
        found.setdefault(name, []).append(path)
    return found


def imported(path: Path) -> set[str]:
    if path.suffix == ".py":
        return imported_by_python(ast.parse(path.read_text()))
    text = path.read_text()
    found = set(re.findall(r"^\s*(?:from|c?import)\s+mqlog\.(\w+)", text, re.MULTILINE))
    for names in re.findall(r"^\s*from\s+mqlog\s+c?import\s+(.+)$", text, re.MULTILINE):
        found.update(name.split()[0] for name in names.split(","))
    return found - {"_c"}


def imported_by_python(tree: ast.AST) -> set[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []  # names for annotations are no arrows
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "mqlog":
            found.update(f"mqlog.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be read here"
            found.add(node.module or "")
    inner = {name.split(".")[1] for name in found if name.startswith("mqlog.")}
    modules = {name for level in MODULES for name in level}
    # `from mqlog import Store` is an import of the package itself, from its __init__.
    return {name if name in modules else "__init__" for name in inner} | (
        {"__init__"} if "mqlog" in found else set()
    )


@pytest.mark.parametrize(("module", "paths"), package_modules().items(), ids=lambda x: str(x)[:20])
def test_a_python_module_imports_what_lies_below_it(module: str, paths: list[Path]) -> None:
    level = next((i for i, names in enumerate(MODULES) if module in names), None)
    assert level is not None, f"{module} has no place in MODULES"
    below = {name for names in MODULES[level + 1 :] for name in names} | {module}
    used = set().union(*(imported(path) for path in paths))
    assert {name for name in used - below if (module, name) not in UPWARDS} == set()


def test_no_exception_is_listed_that_nobody_needs() -> None:
    modules = package_modules()
    for module, name in UPWARDS:
        assert name in set().union(*(imported(path) for path in modules[module]))


OPTIONAL = ["rich", "numpy", "pyarrow", "msgspec", "lz4", "typing_extensions", "asyncio", "cffi"]


def test_importing_the_package_imports_nothing_optional() -> None:
    code = f"import sys, mqlog; print([name for name in {OPTIONAL} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What the command line needs beside the public API, each with its reason.
PRIVATE_TO_CLI = {"_options": "a topic's name is judged before a store is made for it"}


def private_members(path: Path) -> set[str]:
    """Members that begin with an underscore, of anything but the object itself."""
    nodes = (node for node in ast.walk(ast.parse(path.read_text())))
    members = [node for node in nodes if isinstance(node, ast.Attribute)]
    names = {ast.unparse(node) for node in members if re.match(r"_(?!_)", node.attr)}
    return {name for name in names if not name.startswith(("self._", "argparse._"))}


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_is_a_program_like_any_other(path: Path) -> None:
    inside = {"__init__", "cli", *PRIVATE_TO_CLI}
    assert {name for name in imported(path) if name.startswith("_")} <= inside
    assert private_members(path) == set()
