"""Plants one bug after the other, and shows which test kills it, and how fast.

    make mutants                      all of them
    python tests/mutants/run.py NAME  those whose names contain it

For each bug a copy of the tree is made, the bug put into the copy's sources, and the tests that it
belongs to are run there, until one fails. A bug that no test kills is an error; so is a bug whose
place is not in the sources any more, and a test that fails without any bug.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mutants.bugs import BUGS, Bug

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("csrc", "tests", "mqlog", "examples", "docs")
LIMIT = 600.0  # seconds for the tests of one bug


@dataclass(frozen=True)
class Outcome:
    bug: Bug
    killer: str  # the test that failed first; "": none did
    seconds: float
    said: str


def main(words: list[str]) -> int:
    chosen = [bug for bug in BUGS if all(word in bug.name for word in words)]
    if not chosen:
        print(f"no bug has {' '.join(words)!r} in its name", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mqlog-mutants-") as folder:
        sound = try_without(chosen, Path(folder))
        if not sound:
            return 1
        outcomes = [show(try_one(bug, Path(folder))) for bug in chosen]
    alive = [outcome.bug.name for outcome in outcomes if not outcome.killer]
    print(f"mutants: {len(outcomes)} planted, {len(alive)} survived")
    return 1 if alive else 0


def show(outcome: Outcome) -> Outcome:
    killer = outcome.killer or "NOBODY"
    print(f"{outcome.seconds:6.1f} s  {outcome.bug.name:<58} {killer}", flush=True)
    if not outcome.killer:
        print(outcome.said)
    return outcome


def try_without(chosen: list[Bug], folder: Path) -> bool:
    """The tests must pass where nothing is planted; it also builds what the copies share."""
    tests = sorted({test for bug in chosen for test in bug.tests})
    begin = time.monotonic()
    done = run_tests(copy_tree(folder / "sound"), tests)
    passed = done.returncode == 0
    print(f"{time.monotonic() - begin:6.1f} s  {'nothing planted':<58} {'' if passed else 'FAILS'}")
    if not passed:
        print(done.stdout)
    return passed


def try_one(bug: Bug, folder: Path) -> Outcome:
    tree = copy_tree(folder / "planted")
    bug.plant(tree)
    begin = time.monotonic()
    try:
        done = run_tests(tree, list(bug.tests))
        said, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as stuck:
        said, code = f"no end after {stuck.timeout:.0f} s", 1
    finally:
        shutil.rmtree(tree)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    killer = failed.group(1) if failed else "no end" if "no end" in said else ""
    return Outcome(bug, killer if code != 0 else "", time.monotonic() - begin, said)


def copy_tree(to: Path) -> Path:
    """The sources and, beside them, the extension as it is installed: no bug here is in that."""
    import mqlog._engine

    for name in COPIED:
        leave = shutil.ignore_patterns("__pycache__", "*.so", "_engine.c")
        shutil.copytree(ROOT / name, to / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", to)
    shutil.copy(Path(str(mqlog._engine.__file__)), to / "mqlog")
    return to


def run_tests(tree: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--timeout=120"]
    command += ["-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command,
        cwd=tree / "tests",
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
