"""The programs of tests/fuzz: the engine and a small store in one process, under sanitizers.

made = hostile.program("flips", sanitize=True)  # compiled once for each state of the sources
hostile.run(made, "closed", 1)                  # the states that it has been through
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support import objects
from support.engine import CC, CSRC, FLAGS, ROOT, SANITIZERS, WARNINGS

FUZZ = ROOT / "tests" / "fuzz"
SUPPORT = ROOT / "tests" / "support"
CACHE = ROOT / "build" / "fuzz"
FULL = os.environ.get("MQLOG_CRASH") == "full"

ASAN_OPTIONS = "detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=256"

#: Programs, and what they are made of beside the engine.
FILES = ("judge", "scene", "place_files")
MEMORY = ("judge", "scene", "place_memory")
PARTS = {
    "flips": ("flips", *FILES),
    "flips-memory": ("flips", *MEMORY),
    "cuts": ("cuts", *FILES),
    "batch": ("fuzz_batch", "mend", *FILES),
    "file": ("fuzz_file", "patch", "mend", *FILES),
}
#: The operating system of those whose store is in memory.
DISKS = tuple(SUPPORT / f"{name}.c" for name in ("mql_os_fault", "sim_disk", "sim_trace"))

#: What is fuzzed: the files of a store that an input may be, by how their names end. None: a batch.
TARGETS = {
    "batch": None,
    "log": ("30.log", "15.log"),
    "index": ("00.index", "00.timeindex"),
    "control": ("control", "doorbell"),
    "checkpoint": ("/checkpoint", "leader-epoch-checkpoint"),
    "group": ("billing.offset",),
    "share": (".state",),
    "live": (".live", "dedupe"),
}


def program(name: str, *, sanitize: bool = False) -> Path:
    """Compiles the program, with the engine's asserts on."""
    flags = [*FLAGS, *(SANITIZERS if sanitize else [])]
    return made(name, PARTS[name], flags)


def replayer(target: str) -> Path:
    """The target under gcc's sanitizers, run over inputs that were kept."""
    flags = [*FLAGS, *SANITIZERS]
    return made(target, (*parts_of(target), "replay"), flags, define=define_of(target))


def parts_of(target: str) -> tuple[str, ...]:
    return PARTS["batch" if TARGETS[target] is None else "file"]


def define_of(target: str) -> tuple[str, ...]:
    names = TARGETS[target]
    return () if names is None else ("-DFUZZ_FILES=" + ",".join(f'"{name}"' for name in names),)


def made(
    name: str, parts: tuple[str, ...], flags: list[str], *, define: tuple[str, ...] = ()
) -> Path:
    """The program of these parts and the engine."""
    engine = _made("engine.a", sorted(CSRC.glob("*.c")), flags)
    sources = [FUZZ / f"{part}.c" for part in parts]
    if "place_memory" in parts:
        sources += DISKS
    return _made(name, [*sources, engine], [*flags, *define])


def _made(name: str, sources: list[Path], flags: list[str]) -> Path:
    """The archive or program that comes of these; made once for each state of them."""
    digest = hashlib.sha256(repr(flags).encode())
    headers = [*CSRC.glob("*.h"), *FUZZ.glob("*.h"), *SUPPORT.glob("*.h")]
    for file in [*sources, *sorted(headers)]:
        digest.update(file.read_bytes())
    made = CACHE / f"{digest.hexdigest()[:16]}-{name}"
    if made.exists():
        return made
    CACHE.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> Path:
        return objects.compiled(source, [CC, *flags, *WARNINGS], [CSRC, FUZZ, SUPPORT])

    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        target = Path(place) / name
        code = [source for source in sources if source.suffix == ".c"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = list(pool.map(compile_one, code))
        if name.endswith(".a"):
            _run("ar", "rcs", target, *compiled)
        else:
            _run(CC, *flags, *compiled, *(set(sources) - set(code)), "-o", target)
        target.rename(made)
    return made


def _run(*words: object) -> None:
    objects.run([str(word) for word in words])


@contextmanager
def directory() -> Iterator[Path]:
    """A new one, in memory where there is one: stores are made in it a million times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="mqlog-hostile-", dir=memory))
    path.chmod(0o755)  # some of it is looked at by nobody
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(made: Path, *words: object, timeout: float = 3600) -> int:
    """Runs it on a store of its own; the states it says it has been through. None may be wrong."""
    with directory() as path:
        return count_of([made, path / "s", *words], timeout=timeout)


def replay(target: str) -> int:
    """Runs the inputs that were kept of the target; how many."""
    return count_of([replayer(target), FUZZ / "corpus" / f"{target}.hex"], timeout=600)


def count_of(command: list[object], *, timeout: float) -> int:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "ASAN_OPTIONS": ASAN_OPTIONS},
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    found = re.search(r"(\d+) states, 0 violations$", done.stdout.strip())
    assert found, done.stdout
    return int(found[1])


def run_both(made: Path, stride: int) -> int:
    """A store that was closed, and one whose process was killed, at once."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda left: run(made, left, stride), ["closed", "killed"]))
