"""Plants one bug after the other, and shows which test kills it, and how fast.

    make mutants                      all of them
    python tests/mutants/run.py NAME  those whose names contain it

For each bug a copy of the tree is made and the bug put into the copy's sources. Each tier that the
bug belongs to must then kill it by itself: its tests are run there until one fails. A tier that
lets a bug live is an error; so is a bug whose place is not in the sources any more, and a test that
fails without any bug. What two do at the same moment does not happen in each run on a busy machine:
tiers that live by chance run up to TRIES times, and say in which they killed. A tier whose tests
are skipped here, for want of root or of strace, has killed nothing, and is told as that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mutants.bugs import BUGS, BUILT, Bug

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("csrc", "tests", "mqlog", "examples", "docs")
OBJECTS = (
    Path("build") / "objects"
)  # compiled files, known by what is in them: all trees share them
LIMIT = 300.0  # seconds for a tier's tests
LINE = "{:6.1f} s  {:<11} {:<62} {}"
SKIPPED = "(skipped here)"
CHANCE = ("litmus", "races", "random", "group")  # tiers
TRIES = 5


@dataclass(frozen=True)
class Outcome:
    bug: str
    tier: str
    killer: str  # the test that failed first; "": none did
    seconds: float
    said: str

    @property
    def skipped(self) -> bool:
        return self.killer == SKIPPED


def main(words: list[str]) -> int:
    chosen = [bug for bug in BUGS if all(word in bug.name for word in words)]
    if not chosen:
        print(f"no bug has {' '.join(words)!r} in its name", file=sys.stderr)
        return 2
    for bug in chosen:
        if (found := bug.places(ROOT)) != 1:
            print(f"{bug.name}: its place is {found} times in {bug.file}: mend bugs.py")
            return 1
    begin = time.monotonic()
    (ROOT / OBJECTS).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=ROOT / "build") as place:
        folder = Path(place)
        # The copies use what is compiled already; what they compile goes with them.
        shutil.copytree(ROOT / OBJECTS, folder / "objects", copy_function=os.link)
        if not try_without(chosen, folder):
            return 1
        outcomes = [show(outcome) for bug in chosen for outcome in try_one(bug, folder)]
    alive = [outcome for outcome in outcomes if not outcome.killer]
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(
        f"mutants: {len(chosen)} planted, {len(outcomes) - len(alive) - skipped} of "
        f"{len(outcomes)} times killed by the tier, {len(alive)} survived, {skipped} skipped here, "
        f"{time.monotonic() - begin:.0f} s"
    )
    for outcome in alive:  # once more where it is not overlooked
        print(f"survived: {outcome.tier}: {outcome.bug}")
    return 1 if alive or (skipped and must_run_all()) else 0


def must_run_all() -> bool:
    """Root in CI can: a tier that is never run is none."""
    return os.geteuid() == 0 and os.environ.get("CI", "") not in ("", "0", "false")


def show(outcome: Outcome) -> Outcome:
    killer = outcome.killer or "NOBODY"
    print(LINE.format(outcome.seconds, outcome.tier, outcome.bug, killer), flush=True)
    if not outcome.killer:
        print(outcome.said)
    return outcome


def try_without(chosen: list[Bug], folder: Path) -> bool:
    """The tests must pass where nothing is planted; it also builds what the copies share."""
    tree = copy_tree(folder, "sound")
    if any(is_built(bug) for bug in chosen):
        build(tree, "nothing planted")
    for tier in {tier: None for bug in chosen for tier in bug.killers}:
        tests = {test: None for bug in chosen for test in bug.killers.get(tier, ())}
        begin = time.monotonic()
        code, said = run_tier(tree, tests)
        seconds = time.monotonic() - begin
        word = "FAILS" if code else SKIPPED if is_skipped(said) else ""
        print(LINE.format(seconds, tier, "nothing planted", word), flush=True)
        if code != 0:
            print(said)
            return False
    shutil.rmtree(tree)
    return True


def try_one(bug: Bug, folder: Path) -> Iterable[Outcome]:
    tree = copy_tree(folder, "planted")
    bug.plant(tree)
    if is_built(bug):
        build(tree, bug.name)
    for tier, tests in bug.killers.items():
        begin = time.monotonic()
        killer, said = run_until_killed(tree, tier, tests)
        yield Outcome(bug.name, tier, killer, time.monotonic() - begin, said)
    shutil.rmtree(tree)


def run_until_killed(tree: Path, tier: str, tests: Iterable[str]) -> tuple[str, str]:
    """What killed the bug, "" if nothing did; and what was said in the last run.

    A run that breaks off without a test that failed says nothing, and is made again.
    """
    killer = said = ""
    for tries in range(1, 1 + TRIES):
        code, said = run_tier(tree, tests)
        killer = killer_of(said) if code != 0 else SKIPPED if is_skipped(said) else ""
        if killer and tries > 1:
            killer += f" (run {tries})"
        if killer or (code == 0 and tier not in CHANCE):
            break
    return killer, said


def is_built(bug: Bug) -> bool:
    """Whether a tier that has to kill it runs the package, and the bug is in what is compiled."""
    return bug.file.startswith("csrc/") and not BUILT.isdisjoint(bug.killers)


def build(tree: Path, planted: str) -> None:
    """The package's extension, made of the tree's sources."""
    code, said = run([sys.executable, "-m", "mutants.extension"], tree / "tests")
    if code != 0:
        raise SystemExit(f"{planted}: the extension cannot be made:\n{said}")


def is_skipped(said: str) -> bool:
    """Every test was, by pytest's last line."""
    return re.search(r"^\d+ skipped(?:, \d+ \w+)* in ", said, re.MULTILINE) is not None


def killer_of(said: str) -> str:
    """What failed, by what it said; "" if it cannot even be compiled."""
    if re.search(r"RuntimeError: \S*(?:gcc|cc|clang) ", said):
        return ""
    patterns = (
        r"^no end after .*",
        r"^(?:FAILED|ERROR) (\S+::.*)",
        r"Fatal Python error: (?:.|\n)*?/(test_\w+\.py\", line \d+ in test_\w+)",
        r"(?:Thread|Address)Sanitizer: [^(\n]*",
    )
    for pattern in patterns:
        if found := re.search(pattern, said, re.MULTILINE):
            killer = found.group(found.lastindex or 0)
            return killer.removeprefix("crash/").partition(" - ")[0]
    return ""


def copy_tree(folder: Path, name: str) -> Path:
    """The sources and, beside them, the extension as it is installed: no bug here is in that one.

    What Cython has made of the binding goes along, for those whose bug is to be in it.
    """
    import mqlog._engine

    tree = folder / name
    for part in COPIED:
        leave = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, tree / part, ignore=leave)
    for file in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / file, tree)
    shutil.copy(Path(str(mqlog._engine.__file__)), tree / "mqlog")
    (tree / OBJECTS).parent.mkdir()
    (tree / OBJECTS).symlink_to(folder / "objects")
    return tree


def run_tier(tree: Path, tests: Iterable[str]) -> tuple[int, str]:
    """The exit code, and what was said."""
    targets = [test.removeprefix("make ") for test in tests if test.startswith("make ")]
    if targets:
        return run(["make", *targets, "ROUNDS=10"], tree)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--timeout=120"]
    return run([*command, "-p", "no:cacheprovider", *tests], tree / "tests", tree)


def run(command: list[str], where: Path, package: Path | None = None) -> tuple[int, str]:
    path = {"PYTHONPATH": str(package)} if package else {}
    try:
        done = subprocess.run(
            command,
            cwd=where,
            env={**os.environ, **path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as stuck:
        return 1, f"no end after {stuck.timeout:.0f} s"
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
