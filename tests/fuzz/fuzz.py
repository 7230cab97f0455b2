"""Fuzzes the engine: `python tests/fuzz/fuzz.py`, or `make fuzz`.

Each target of support/hostile.py, by clang's libFuzzer under ASan and UBSan, FUZZ_SECONDS each
(60), as many at once as there are processors. One that gets through too few inputs fails. A new
input that leads further goes into corpus/<target>.hex, an input a line, which `make test` replays
without clang; what is there stays. One that breaks something is kept in build/fuzz, and its line
printed: put it into the corpus with the fix.

    FUZZ_TARGETS="log share" FUZZ_SECONDS=600 make fuzz
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import engine, hostile

PACKAGES = ("clang", "libclang-rt-dev")
FLAGS = (
    "-std=c11 -O1 -g -UNDEBUG -fno-omit-frame-pointer -pthread "
    "-fno-sanitize-recover=undefined -Wno-unused-command-line-argument"
).split()
KEPT = 500  # inputs of a target: where there are so many, new ones are not kept
LENGTH_MAX = {"batch": 2000}
# Inputs a second, at least; of a file, each is a store that is made, opened, used and closed.
LEAST = {"batch": 2000}
LEAST_OF_A_FILE = 20


def find_clang() -> None:
    """Installs it if we may; else says what is missing."""
    if shutil.which("clang") and _links():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"fuzz: this needs clang and its runtime: install {' and '.join(PACKAGES)}")
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "-q", *command], check=True, stdout=subprocess.DEVNULL)
    if not _links():
        sys.exit("fuzz: clang is here, but cannot link -fsanitize=fuzzer")


def _links() -> bool:
    source = "int LLVMFuzzerTestOneInput(const char *p, long n) { return p && n ? 0 : 0; }"
    with tempfile.TemporaryDirectory() as place:
        command = ["clang", "-fsanitize=fuzzer,address", "-xc", "-", "-o", f"{place}/a"]
        done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    return done.returncode == 0


def build(target: str) -> Path:
    """The target with libFuzzer's main."""
    engine.CC = hostile.CC = "clang"
    flags = [*FLAGS, "-fsanitize=address,undefined,fuzzer"]
    return hostile.made(
        f"fuzz-{target}", hostile.parts_of(target), flags, define=hostile.define_of(target)
    )


def unpack(kept: Path, place: Path) -> None:
    place.mkdir(parents=True)
    for n, line in enumerate(kept.read_text().split() if kept.exists() else []):
        (place / str(n)).write_bytes(bytes.fromhex(line))


def pack(place: Path, kept: Path) -> int:
    """What was there stays, since an input may be there for what it broke once."""
    old = set(kept.read_text().split()) if kept.exists() else set()
    found = {file.read_bytes().hex() for file in place.iterdir()} - {""} - old
    new = sorted(found, key=lambda one: (len(one), one))[: max(0, KEPT - len(old))]
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("\n".join(sorted({*old, *new}, key=lambda one: (len(one), one))) + "\n")
    return len(old) + len(new)


def fuzz(target: str, program: Path, seconds: int) -> bool:
    """Whether nothing broke."""
    kept = hostile.FUZZ / "corpus" / f"{target}.hex"
    broken = hostile.CACHE / f"{target}-"
    environment = {**os.environ, "ASAN_OPTIONS": hostile.ASAN_OPTIONS}
    options = [
        f"-max_len={LENGTH_MAX.get(target, 160)}",
        "-len_control=0",
        "-timeout=30",
        "-rss_limit_mb=1500",
        f"-artifact_prefix={broken}",
    ]
    with tempfile.TemporaryDirectory() as place:
        old, new = (Path(place) / name for name in ("old", "new"))
        unpack(kept, old)
        new.mkdir()
        command = [str(program), *options, f"-max_total_time={seconds}", str(new), str(old)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = re.findall(r"#(\d+)\s+(?:DONE|NEW|REDUCE|pulse|INITED)\s+cov: (\d+)", done.stderr)
        runs, coverage = lines[-1] if lines else ("0", "0")
        if done.returncode != 0:
            print(done.stderr[-3000:])
            for file in hostile.CACHE.glob(f"{target}-*-*"):
                print(f"fuzz: {target}: {file}: {file.read_bytes().hex()}")
            return False
        merge = [str(program), *options, "-merge=1", str(old), str(new)]
        subprocess.run(merge, env=environment, capture_output=True, check=True)
        count = pack(old, kept)
    least = LEAST.get(target, LEAST_OF_A_FILE) * seconds
    enough = int(runs) >= least
    word = "ok" if enough else f"TOO FEW: at least {least}"
    told = f"{runs} runs in {seconds} s, {coverage} edges, {count} inputs kept"
    print(f"fuzz: {target}: {told}, {word}", flush=True)
    return enough


def main() -> int:
    find_clang()
    seconds = int(os.environ.get("FUZZ_SECONDS", "60"))
    targets = os.environ.get("FUZZ_TARGETS", "").split() or list(hostile.TARGETS)
    programs = {target: build(target) for target in targets}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound = [*pool.map(lambda target: fuzz(target, programs[target], seconds), targets)]
    print(f"fuzz: {len(targets)} targets, {seconds} s each, {sound.count(False)} failed")
    return 0 if all(sound) else 1


if __name__ == "__main__":
    sys.exit(main())
