"""mypy --strict accepts programs written against the API, and finds what is wrong with others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = HERE / "typing"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of all the programs."""
    pytest.importorskip("mypy")
    cache = tmp_path_factory.mktemp("mypy")
    programs = sorted(str(path) for path in PROGRAMS.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={cache}", *programs],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


@pytest.mark.slow
def test_programs_against_the_api_are_accepted(found: list[str]) -> None:
    assert [line for line in found if "mistakes.py" not in line] == []


@pytest.mark.slow
def test_every_mistake_is_found_where_it_stands(found: list[str]) -> None:
    pattern = re.compile(r".*mistakes\.py:(\d+): error: .*\[([\w-]+)\]")
    errors = {(int(hit[1]), hit[2]) for line in found if (hit := pattern.fullmatch(line))}
    lines = (PROGRAMS / "mistakes.py").read_text().splitlines()
    planted = {
        (number, line.rpartition("  # ")[2])
        for number, line in enumerate(lines, 1)
        if "  # " in line
    }
    assert errors == planted


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "mqlog" / "py.typed").exists()
