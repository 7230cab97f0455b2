"""The border between Python and the engine: rules that no compiler checks."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mqlog"
BORDER = sorted([*PACKAGE.glob("*.pxi"), *PACKAGE.glob("*.pyx")])
#: They are what pins are counted against.
UNPINNED = {"mql_open", "mql_close", "mql_abandon"}


def calls_without_the_gil(path: Path) -> list[tuple[str, list[str]]]:
    """The line before each `with nogil:`, and the lines inside it."""
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines):
        if line.strip() == "with nogil:":
            indent = len(line) - len(line.lstrip())
            inside = []
            for later in lines[number + 1 :]:
                if later.strip() and len(later) - len(later.lstrip()) <= indent:
                    break
                inside.append(later.strip())
            found.append((lines[number - 1].strip(), [line for line in inside if line]))
    return found


@pytest.mark.parametrize("path", BORDER, ids=lambda path: path.name)
def test_a_call_without_the_gil_pins_its_store(path: Path) -> None:
    """Otherwise another thread's close unmaps what it reads."""
    for before, inside in calls_without_the_gil(path):
        called = set(re.findall(r"\bmql_\w+(?=\()", " ".join(inside)))
        if not called & UNPINNED:
            # `begin()` refuses a closed store; a bare pin is for giving back while it is closed,
            # and for what calls back, which is in no hurry.
            calls_back = "mql_verify" in called
            pin = r"pinned = .*\bbegin\(\)$|mql_enter\(self\._store\._c\)$"
            pin, ends = (r"mql_pin\(pinned\)", "mql_unpin(") if calls_back else (pin, "mql_leave(")
            assert re.search(pin, before), (path.name, inside)
            assert inside[-1].startswith(ends), (path.name, inside)


def test_there_are_calls_without_the_gil() -> None:
    assert sum(len(calls_without_the_gil(path)) for path in BORDER) > 15
