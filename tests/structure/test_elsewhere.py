"""The engine on a processor that this machine has not: compiled for it, and run by an emulator."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .test_warnings import CSRC, SOURCES, WARNINGS

PROGRAM = Path(__file__).parents[1] / "support" / "elsewhere.c"
FLAGS = ("-std=gnu11", "-O1", "-static", "-pthread", *WARNINGS, f"-I{CSRC}")
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"


def run(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["armv8-a", "armv8-a+crc"])
def test_the_engine_compiles_without_a_warning_for_arm_and_runs_there(
    tmp_path: Path, processor: str
) -> None:
    """On the first of all such processors, and where the compiler knows of the CRC instruction."""
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    program = tmp_path / "elsewhere"
    run(COMPILER, *FLAGS, f"-march={processor}", PROGRAM, *SOURCES, "-o", program)
    run(EMULATOR, program, tmp_path / "s")


@pytest.mark.slow
def test_the_program_finds_nothing_wrong_here(tmp_path: Path) -> None:
    program = tmp_path / "here"
    run(os.environ.get("CC", "gcc"), *FLAGS, PROGRAM, *SOURCES, "-o", program)
    run(program, tmp_path / "s")
