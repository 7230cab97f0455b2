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


def example(name: str, directory: Path) -> str:
    """What it prints; it ends with 0 and says nothing else."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", EXAMPLES / name],
        check=False,
        env=environment(),
        cwd=directory,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.crash
def test_the_order_pipeline_loses_nothing(tmp_path: Path) -> None:
    found = re.findall(r"([a-z][a-z ]+?) +([\d,]+)", example("order_pipeline.py", tmp_path))
    sums = {name: int(number.replace(",", "")) for name, number in found}
    assert sums["orders"] == sums["paid"] == 3_000
    assert sums["lost"] == 0
    assert sums["charged twice"] <= 1  # a worker holds one order at a time


@pytest.mark.slow
def test_notifications_go_by_priority_and_come_back_from_the_dead(tmp_path: Path) -> None:
    printed = example("notifications.py", tmp_path)
    assert "refund" not in printed.split("dead:")[0]
    sent = printed.split("in this order:\n")[1].split("dead:")[0].split("\n")
    assert [line.strip() for line in sent if line] == [
        "the courier is at the door",
        "your order is on its way",
        "our newsletter",
        "how was it?",
    ]
    assert "delivery 3 failed" in printed and "delivery 4 failed" not in printed
    assert printed.endswith("driven back: 1\nsent now: 'your refund'; dead: 0\n")


@pytest.mark.slow
@pytest.mark.crash
def test_the_task_pool_does_every_task_although_workers_are_killed(tmp_path: Path) -> None:
    printed = example("task_pool.py", tmp_path)
    assert "dead: 13, 13 is no number of ours" in printed
    assert "tasks 60   done 59" in printed


@pytest.mark.slow
def test_the_data_stream_is_followed_summed_and_replayed(tmp_path: Path) -> None:
    printed = example("data_stream.py", tmp_path)
    assert printed.count("124.9") == 2
    assert "mean of 10,000 ticks        112.45" in printed
    assert "replayed 6,000 ticks of one minute in" in printed


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    if path.name != "make_orders.py":  # a tool, which made the sample
        assert path.read_text().count("\n") < 80
