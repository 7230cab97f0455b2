"""Names: what the extension exports, what mqlog.h declares, what `mqlog` offers."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
MQLOG_H = (CSRC / "mqlog.h").read_text()
C_PXD = (ROOT / "mqlog" / "_c.pxd").read_text()

# The public API of the package.
PUBLIC = {
    "open",
    "temporary",
    "wait",
    "replay",
    "topic_name",
    "Store",
    "Queue",
    "Message",
    "Retry",
    "Reject",
    "Stream",
    "Partition",
    "Record",
    "Columns",
    "Consumer",
    "Codec",
    "codecs",
    "errors",
    "EARLIEST",
    "LATEST",
    "Start",
    "TopicInfo",
    "PartitionInfo",
    "GroupInfo",
    "AcquiredInfo",
    "QueueStats",
    "RecoveredInfo",
    "VerifiedInfo",
    "ProblemInfo",
    "Error",
    "Empty",
    "Full",
    "ShutDown",
    "ClosedError",
    "TopicDeletedError",
    "CorruptError",
    "DurabilityError",
    "OffsetOutOfRangeError",
    "NotFoundError",
    "OptionError",
    "RecordTooLargeError",
    "FormatError",
    "LockLostError",
    "SettledError",
    "ForkedError",
    "ReadOnlyError",
}


def test_the_package_offers_exactly_the_public_api() -> None:
    import mqlog

    assert len(mqlog.__all__) == len(set(mqlog.__all__))
    assert set(mqlog.__all__) == PUBLIC
    for name in mqlog.__all__:
        assert getattr(mqlog, name) is not None


def test_errors_are_found_under_one_name_in_two_places() -> None:
    import mqlog
    from mqlog import errors

    for name in mqlog.__all__:
        if isinstance(getattr(mqlog, name), type) and name.endswith("Error"):
            assert getattr(errors, name) is getattr(mqlog, name)


def test_the_extension_exports_its_entry_and_nothing_else() -> None:
    spec = importlib.util.find_spec("mqlog._engine")
    assert spec is not None
    assert spec.origin is not None
    assert spec.origin.endswith(".so")
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", spec.origin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["PyInit__engine"]


# -- C ---------------------------------------------------------------------------------------------


def squeeze(text: str) -> str:
    """One blank at most, and none beside a star, a comma or a bracket."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" ?([*,()\[\]]) ?", r"\1", text)


def without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"^\s*#(?:\\\n|[^\n])*", "", text, flags=re.MULTILINE)


def c_functions() -> dict[str, str]:
    found = re.findall(r"MQL_PUBLIC\s([^;{]*?)\b(\w+)\(([^;]*)\);", without_comments(MQLOG_H))
    return {name: squeeze(f"{result} {name}({takes})") for result, name, takes in found}


def parameter(text: str) -> str:
    """An array of fixed size is a pointer to Cython."""
    return squeeze(re.sub(r"(\w+)\[\w*\]$", r"*\1", text))


def comparable(declaration: str) -> str:
    head, _, takes = declaration.rstrip(")").partition("(")
    takes = "" if takes == "void" else takes
    return f"{head}({','.join(parameter(squeeze(part)) for part in takes.split(','))})"


def pxd_lines() -> list[str]:
    text = re.sub(r"#.*", "", C_PXD)
    return re.sub(r",\s*\n\s*", ", ", text).splitlines()


def pxd_functions() -> dict[str, str]:
    found = {}
    for line in pxd_lines():
        match = re.fullmatch(r" {4}(\S.*?)\b(\w+)\((.*)\)( nogil| noexcept)*", line)
        if match is not None and not line.strip().startswith("ctypedef"):
            found[match[2]] = squeeze(f"{match[1]} {match[2]}({match[3]})")
    return found


def test_the_header_declares_functions() -> None:
    assert len(c_functions()) > 50


def test_the_binding_declares_exactly_the_functions_of_the_header() -> None:
    c = {name: comparable(text) for name, text in c_functions().items()}
    macros = set(re.findall(r"^#define (\w+)\(", MQLOG_H, re.MULTILINE))  # functions to Cython
    pxd = {name: comparable(text) for name, text in pxd_functions().items() if name not in macros}
    assert pxd == c


def struct_fields(body: str, separator: str) -> list[str]:
    fields = []
    for declaration in filter(None, map(str.strip, body.split(separator))):
        kind, _, names = (
            declaration.rpartition(" ") if "," not in declaration else (declaration.partition(" "))
        )
        fields += [squeeze(f"{kind} {name}") for name in names.split(",")]
    return fields


def c_structs() -> dict[str, list[str]]:
    text = without_comments(MQLOG_H)
    found = re.findall(r"typedef struct \w+ \{(.*?)\}\s*(\w+);", text, re.DOTALL)
    return {name: struct_fields(body, ";") for body, name in found}


def pxd_structs() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in pxd_lines():
        head = re.fullmatch(r" {4}ctypedef struct (\w+):", line)
        if head is not None:
            name = head[1]
            found[name] = []
        elif name and re.match(r" {8}\S", line):
            found[name] += struct_fields(line, ";")
        elif line.strip():
            name = ""
    return found


def test_the_binding_declares_exactly_the_structs_of_the_header() -> None:
    assert pxd_structs() == c_structs()


def test_the_binding_declares_exactly_the_handles_of_the_header() -> None:
    opaque = re.findall(r"^typedef struct (\w+) \1;", MQLOG_H, re.MULTILINE)
    assert re.findall(r"^ {4}ctypedef struct (\w+)$", C_PXD, re.MULTILINE) == opaque


def test_the_binding_declares_exactly_the_results_of_the_header() -> None:
    c = re.findall(r"enum \w+ \{(.*?)\};", without_comments(MQLOG_H), re.DOTALL)
    names = {name for body in c for name in re.findall(r"\b(MQL_\w+)\b", body)}
    blocks = re.findall(r"^ {4}enum \w+:\n((?: {8}.*\n|\n)+)", C_PXD, re.MULTILINE)
    assert {name for block in blocks for name in re.findall(r"\b(MQL_\w+)\b", block)} == names


# mql_base records the failure, so it also lends it.
DEFINED_ELSEWHERE = {"mql_error_last": "mql_base.c"}


def test_every_public_function_is_defined_where_the_api_is() -> None:
    sources = {path.name: path.read_text() for path in CSRC.glob("*.c")}
    wrong = {}
    for name in c_functions():
        body = re.compile(rf"^[a-z][\w \*]*\b{name}\([^;{{]*\)\s*\{{", re.MULTILINE)
        places = [file for file, text in sources.items() if body.search(text)]
        if places != [DEFINED_ELSEWHERE.get(name, "mql_api.c")]:
            wrong[name] = places
    assert wrong == {}


def test_nothing_else_is_public() -> None:
    for path in CSRC.glob("*.[ch]"):
        if path.name != "mqlog.h":
            assert "MQL_PUBLIC" not in path.read_text(), path.name


@pytest.mark.parametrize("path", sorted(CSRC.glob("*.h")), ids=lambda path: path.name)
def test_every_name_that_a_header_declares_has_its_prefix(path: Path) -> None:
    text = without_comments(path.read_text())
    prefix = "mql_" if path.stem == "mqlog" else path.stem
    functions = re.findall(r"^[a-z][\w \*]*?\b(\w+)\([^;{]*\)\s*[;{]", text, re.MULTILINE)
    strangers = [name for name in functions if not name.startswith(prefix)]
    assert [name for name in strangers if name != "static_assert"] == []
