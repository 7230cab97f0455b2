"""The Python code of README.md runs, block after block, in an empty directory."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def blocks() -> list[tuple[int, str]]:
    """Each block with the number of its first line."""
    text = README.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


@pytest.mark.slow
def test_the_code_of_the_readme_runs_from_top_to_bottom(tmp_path: Path) -> None:
    assert blocks(), "the README shows how to use it"
    # Every block at its own line, so that a traceback names the line of the README.
    lines = [""] * README.read_text().count("\n")
    for first, code in blocks():
        for i, line in enumerate(code.splitlines()):
            lines[first - 1 + i] = line
    script = tmp_path / "README.py"
    script.write_text("\n".join(lines) + "\n")
    place = tmp_path / "empty"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(script)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_block_of_python_is_one_that_runs() -> None:
    fences = re.findall(r"^```(\w*)", README.read_text(), re.MULTILINE)[::2]
    assert set(fences) <= {"python", "", "text", "sh", "console"}
    assert fences.count("python") == len(blocks())
