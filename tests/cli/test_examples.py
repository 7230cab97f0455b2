"""The examples run, and the sample is what its maker makes."""

import gzip
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mqlog.cli._demo_orders import bundled

from .conftest import environment

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_orders", EXAMPLES / "make_orders.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_bundled_orders_are_what_make_orders_makes(maker: ModuleType) -> None:
    made = maker.ndjson(maker.make_orders())
    assert gzip.decompress(Path(bundled()).read_bytes()) == made


def test_the_same_seed_makes_the_same_orders_and_another_makes_others(maker: ModuleType) -> None:
    first = list(maker.make_orders(100, seed=1))
    assert first == list(maker.make_orders(100, seed=1))
    assert first != list(maker.make_orders(100, seed=2))


@pytest.mark.slow
@pytest.mark.crash
def test_the_order_pipeline_loses_nothing(tmp_path: Path) -> None:
    script = EXAMPLES / "order_pipeline.py"
    done = subprocess.run(
        [sys.executable, script],
        check=False,
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = re.findall(r"([a-z][a-z ]+?) +([\d,]+)", done.stdout)
    sums = {name: int(number.replace(",", "")) for name, number in found}
    assert sums["orders"] == sums["notifications"] == 5_000
    assert sums["payments"] == sums["orders"] + sums["paid twice"]
    assert sums["lost"] == 0


def test_the_order_pipeline_is_short() -> None:
    assert (EXAMPLES / "order_pipeline.py").read_text().count("\n") < 80
