"""The numbers of the house style. An exception is a line in EXEMPT, with its reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

COLUMNS = 100
FILE_LINES = 800
FILE_LINES_OF = {"mqlog/_engine.pyx": 700}
C_FUNCTION_LINES = 70
PYTHON_FUNCTION_LINES = 50
NESTING = 3
PARAMETERS = 5

# "file: function" or "file" → why it is right as it is.
EXEMPT_FROM_LINES: dict[str, str] = {
    "csrc/mql_os_posix.c": "the only file with a system call, and mql_os.h is one page",
    "csrc/mql_recover.c": "the whole decision table, R1 to R10, and nothing else",
    "tests/engine/test_mql_os.py": "one test file a module, and this one is a list of system calls",
}
EXEMPT_FROM_NESTING: dict[str, str] = {}
PUBLIC_CALL = "mqlog.h: who calls has these at hand, and no struct to keep them in"
HOT_CALL = "per record or batch: what is passed in registers is not stored and loaded again"
ONE_ROW = "the fields of the one mql_recovered that it fills"
FILE_BY_NAME = "store, directory and base name a file, and together are no thing of their own"
EXEMPT_FROM_PARAMETERS: dict[str, str] = {
    "csrc/mql_api.c: mql_partition": PUBLIC_CALL,
    "csrc/mql_api.c: mql_append_values": PUBLIC_CALL,
    "csrc/mql_api.c: mql_batch_build": PUBLIC_CALL,
    "csrc/mql_batch.c: mql_batch_header_build": PUBLIC_CALL,
    "csrc/mql_batch.c: mql_batch_write_records": HOT_CALL,
    "csrc/mql_batch.c: mql_batch_write_values": HOT_CALL,
    "csrc/mql_index.c: mql_index_note": HOT_CALL,
    "csrc/mql_index.c: mql_index_open_active": FILE_BY_NAME,
    "csrc/mql_room.c: lengthen": "four positions in one file: where from, and three ways where to",
    "csrc/mql_recover.c: copy_out": FILE_BY_NAME,
    "csrc/mql_log.c: tell": ONE_ROW,
    "csrc/mql_log.c: tell_nothing": ONE_ROW,
    "csrc/mql_recover.c: tell": ONE_ROW,
    "csrc/mql_log.c: mql_log_open": PUBLIC_CALL,
    "csrc/mql_store.c: mql_store_log": PUBLIC_CALL,
    "csrc/mql_segment.c: mql_segment_rebuild_index": "two callers, and the tail is not its own",
}


def files(*patterns: str) -> list[str]:
    found = (path for pattern in patterns for path in ROOT.glob(pattern))
    return sorted(str(path.relative_to(ROOT)) for path in found)


PYTHON = files("mqlog/**/*.py", "tests/**/*.py", "bench/**/*.py", "examples/**/*.py", "setup.py")
CYTHON = files("mqlog/*.py[xd]", "mqlog/*.pxi")
C = files("csrc/*.[ch]", "bench/**/*.[ch]", "tests/**/*.[ch]")
OTHER = files("mqlog/**/*.pyi", "Makefile", ".ci/run", "pyproject.toml")


class Function(NamedTuple):
    name: str
    lines: int
    depth: int
    parameters: int


@pytest.mark.parametrize("name", PYTHON + CYTHON + C + OTHER)
def test_a_line_has_at_most_100_columns(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert [f"{name}:{n}" for n, line in enumerate(lines, 1) if len(line) > COLUMNS] == []


@pytest.mark.parametrize("name", PYTHON + CYTHON + C)
def test_a_file_has_at_most_800_lines(name: str) -> None:
    lines = (ROOT / name).read_text().count("\n")
    assert lines <= FILE_LINES_OF.get(name, FILE_LINES) or name in EXEMPT_FROM_LINES


@pytest.mark.parametrize("name", PYTHON + CYTHON + C)
def test_no_line_ends_in_blanks_or_holds_a_tab(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text.endswith("\n")
    assert not re.search(r"[ \t]+$|\t", text, re.MULTILINE)


# -- C ---------------------------------------------------------------------------------------------


def blank_out(text: str) -> str:
    """The same lines without comments, literals and directives. One look at each character."""
    kept: list[str] = []
    at, directive = 0, False
    while at < len(text):
        if text.startswith("/*", at):
            end = after(text, "*/", at + 2)
        elif text.startswith("//", at):
            end = after(text, "\n", at) - 1
        elif text[at] in "\"'":
            end = after_literal(text, at)
        else:
            end = at + 1
            starts_line = text[at] == "#" and not "".join(kept[-99:]).rpartition("\n")[2].strip()
            directive = starts_line or (directive and (text[at] != "\n" or text[at - 1] == "\\"))
            if not directive:
                kept.append(text[at])
                at = end
                continue
        kept.append("\n" * text.count("\n", at, end))
        at = max(end, at + 1)
    return "".join(kept)


def after(text: str, what: str, at: int) -> int:
    found = text.find(what, at)
    return len(text) + 1 if found < 0 else found + len(what)


def after_literal(text: str, at: int) -> int:
    """Behind the quote that closes the one at `at`, or at the end of the line."""
    quote, at = text[at], at + 1
    while at < len(text) and text[at] not in (quote, "\n"):
        at += 2 if text[at] == "\\" else 1
    return at + (text[at : at + 1] == quote)


# What stands before a brace that opens a block, not an initialiser or a struct.
BLOCK = re.compile(r"(\)|\belse|\bdo|[;:{}])$|^$")


def c_functions(text: str) -> Iterator[Function]:
    """Each function that has a body: brace by brace, from the line where its declaration begins."""
    text = blank_out(text)
    opened: list[bool] = []  # for each open brace: is it a block?
    start, begin, deepest, head = 0, 0, 0, ""
    for match in re.finditer(r"[{};]", text):
        at, sign = match.start(), match.group()
        before = text[start:at].strip()
        if sign == "{":
            if not opened:
                head, deepest = before, 0
                begin = text.count("\n", 0, at - len(text[start:at].lstrip()))
            opened.append(not opened or BLOCK.search(before) is not None)
            deepest = max(deepest, sum(opened) - 1)
        elif sign == "}":
            opened.pop()
            if not opened and head.endswith(")") and not head.startswith("typedef"):
                name, parameters = signature(head)
                lines = text.count("\n", 0, at) - begin + 1
                yield Function(name, lines, deepest, parameters)
        start = at + 1


def signature(head: str) -> tuple[str, int]:
    """Name and number of parameters: what the parentheses hold that end the head."""
    depth, commas = 0, 0
    for at in range(len(head) - 1, -1, -1):
        depth += (head[at] == ")") - (head[at] == "(")
        commas += depth == 1 and head[at] == ","
        if depth == 0:
            break
    inside = head[at + 1 : -1].strip()
    return head[:at].rsplit(maxsplit=1)[-1].lstrip("*"), 0 if inside in ("", "void") else commas + 1


def c_functions_over(name: str, attribute: str, limit: int, exempt: dict[str, str]) -> list[str]:
    functions = [f for f in c_functions((ROOT / name).read_text()) if getattr(f, attribute) > limit]
    found = [f"{name}: {f.name}" for f in functions]
    return [key for key in found if key not in exempt]


@pytest.mark.parametrize("name", C)
def test_a_c_function_has_at_most_70_lines(name: str) -> None:
    assert c_functions_over(name, "lines", C_FUNCTION_LINES, EXEMPT_FROM_LINES) == []


@pytest.mark.parametrize("name", C)
def test_a_c_function_nests_at_most_three_levels(name: str) -> None:
    assert c_functions_over(name, "depth", NESTING, EXEMPT_FROM_NESTING) == []


@pytest.mark.parametrize("name", C)
def test_a_c_function_has_at_most_five_parameters(name: str) -> None:
    assert c_functions_over(name, "parameters", PARAMETERS, EXEMPT_FROM_PARAMETERS) == []


def test_the_reader_of_c_sees_functions_as_they_are() -> None:
    text = """
    struct not_one { int (*call)(void); };
    static const int table[] = {1, 2, 3};
    /* { */
    #define OPENS(a, b) do { /* {
       { */ } \\
       while (0) {
    int first(int a, void (*each)(int, int), char *c)
    {
        struct x y = {.a = {1, 2}};
        if (a) {
            for (;;) {
                do {
                    call("}\\"}", '}', '\\'', '"');  // }
                } while (0);
            }
        } else {
        }
    }
    void second(void) {}
    __attribute__((format(printf, 3, 4))) char *third(int a, char *(*b)(int, int), int c) {}
    # 1 "don't" {"""
    assert list(c_functions(text)) == [
        Function("first", 12, 3, 3),
        Function("second", 1, 0, 0),
        Function("third", 1, 0, 3),
    ]


@pytest.mark.parametrize(
    "text", ["/*", "//", '"', "'", "#", "\\", "a /", '"\\', "#\\", "int f(", ")"]
)
def test_the_reader_of_c_ends_where_the_text_does(text: str) -> None:
    assert list(c_functions(text)) == []
    assert "\n" not in blank_out(text)


# -- Python ----------------------------------------------------------------------------------------


def python_functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names and lines, without docstrings: a contract may be as long as it has to."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        first = node.body[0]
        if ast.get_docstring(node, clean=False) is not None:
            lines -= (first.end_lineno or 0) - first.lineno + 1
        yield node.name, lines


@pytest.mark.parametrize("name", PYTHON)
def test_a_python_function_has_at_most_50_lines(name: str) -> None:
    functions = python_functions(ast.parse((ROOT / name).read_text()))
    long = [f"{name}: {function}" for function, lines in functions if lines > PYTHON_FUNCTION_LINES]
    assert [key for key in long if key not in EXEMPT_FROM_LINES] == []


def cython_functions(text: str) -> Iterator[tuple[str, int]]:
    """Names and lines of what begins with def, cdef or cpdef, until the indent goes back."""
    lines = re.sub(r'""".*?"""', '""', text, flags=re.DOTALL).splitlines()
    for n, line in enumerate(lines):
        found = re.match(r"(\s*)(?:def|cdef(?! class)|cpdef)\s[^=:]*?(\w+)\s*\(", line)
        if found is None:
            continue
        inner = re.compile(rf"{found[1]}(\s|\)|#)|\s*$")
        rest = enumerate(lines[n + 1 :], 1)
        length = next((i for i, later in rest if not inner.match(later)), 0)
        body = lines[n : n + length] if length else lines[n:]
        yield found[2], len("\n".join(body).rstrip().splitlines())


@pytest.mark.parametrize("name", CYTHON)
def test_a_cython_function_has_at_most_50_lines(name: str) -> None:
    functions = cython_functions((ROOT / name).read_text())
    long = [f"{name}: {function}" for function, lines in functions if lines > PYTHON_FUNCTION_LINES]
    assert [key for key in long if key not in EXEMPT_FROM_LINES] == []


def test_every_exemption_is_needed() -> None:
    functions = {
        f"{name}: {f.name}": f for name in C for f in c_functions((ROOT / name).read_text())
    }
    for key in EXEMPT_FROM_PARAMETERS:
        assert functions[key].parameters > PARAMETERS
    for key in EXEMPT_FROM_NESTING:
        assert functions[key].depth > NESTING
    for key in EXEMPT_FROM_LINES:
        name, _, function = key.partition(": ")
        assert function in (ROOT / name).read_text()
