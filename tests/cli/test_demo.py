"""`mqlog demo`: three processes, a kill, nothing lost, whatever the input and the moment."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mqlog
from mqlog.cli._demo_orders import Totals, bundled, read_orders
from mqlog.cli._demo_pipeline import Pipeline, Plan, Progress, replay_offline
from mqlog.cli._screen import Screen

from .conftest import Result, Run, command, environment

pytestmark = [pytest.mark.slow, pytest.mark.crash]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories go, those that are kept included."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def order(number: int) -> dict[str, Any]:
    return {
        "order_id": f"o-{number}",
        "placed_at": 1_773_480_000 + number,
        "customer": {"id": f"c-{number % 7}"},
        "city": ("Köln", "Wien")[number % 2],
        "currency": "EUR",
        "total_cents": 100 + number,
    }


def ndjson(documents: list[Any]) -> bytes:
    return "".join(json.dumps(document) + "\n" for document in documents).encode()


@pytest.fixture
def some_orders(tmp_path: Path) -> Path:
    """Six hundred orders."""
    path = tmp_path / "orders.ndjson"
    path.write_bytes(ndjson([order(number) for number in range(600)]))
    return path


def check(result: Result, orders: int) -> Any:
    """Everything that must be true of a run that went well."""
    found = result.json
    assert result.code == 0, result.err
    assert found["passed"] is True
    assert found["lost"] == found["invented"] == 0
    assert found["notifications"] == found["replay"]["orders"] == orders
    assert found["payments"] == found["orders"] + found["duplicates"]
    assert found["replay"]["agrees"] is True
    return found


def test_the_bundled_sample_goes_through_flat_out(run: Run) -> None:
    found = check(run("demo", "--fast", "--json"), orders=12_500)
    assert found["kill"]["payments"] >= 6250
    assert found["kill"]["recovered_after"] is not None
    assert len(found["replay"]["revenue_cents_by_city"]) == 10


@pytest.mark.parametrize("moment", ["0", "1", "50%", "100%"])
def test_nothing_is_lost_whenever_payment_is_killed(
    run: Run, some_orders: Path, moment: str
) -> None:
    result = run("demo", "--fast", "--json", "--orders", some_orders, "--kill-after", moment)
    found = check(result, orders=600)
    assert found["kill"]["payments"] >= min(600, int(moment.rstrip("%")))
    assert found["kill"]["committed"] <= found["kill"]["payments"]


def test_without_a_kill_nothing_is_paid_twice(run: Run, some_orders: Path) -> None:
    result = run("demo", "--fast", "--json", "--orders", some_orders, "--kill-after", "never")
    found = check(result, orders=600)
    assert found["kill"] is None
    assert found["duplicates"] == 0


def test_a_single_order_is_paid_again_after_the_kill(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.ndjson").write_bytes(ndjson([order(1)]))
    found = check(run("demo", "--fast", "--json", "--orders", "one.ndjson"), orders=1)
    assert found["duplicates"] == 1


@pytest.mark.parametrize("role", ["payment", "notification"])
def test_a_process_that_dies_unasked_again_and_again_loses_nothing(
    some_orders: Path, tmp_path: Path, role: str
) -> None:
    expected = Totals()
    for one in read_orders(str(some_orders), Screen()):
        expected.add(one.id, one.document)
    (tmp_path / "work").mkdir()
    plan = Plan(
        directory=tmp_path / "work",
        orders=str(some_orders),
        count=600,
        expected=expected,
        span=(0.0, 0.0),
        seconds=0.0,
        kill_after=None,
    )
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        process = pipeline._workers[role].process
        if len(killed) < 4 and process.pid not in killed and progress.payments > 100 * len(killed):
            killed.append(process.pid)
            process.kill()

    pipeline = Pipeline(plan, lambda text: None, watch)
    outcome = pipeline.run()
    replay = replay_offline(plan)
    assert outcome.restarts == len(killed) >= 1
    assert outcome.notified == replay.orders == replay.payments == expected
    assert outcome.sent == 600


def test_intake_that_dies_is_an_error_that_keeps_the_evidence(
    run: Run, some_orders: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Pipeline, *_: object) -> None:
        self._workers["intake"].process.kill()
        self._workers["intake"].process.wait()

    monkeypatch.setattr(Pipeline, "_look", dies)
    result = run("demo", "--fast", "--orders", some_orders)
    assert result.code == 1
    assert "the intake process ended with code -9" in result.err
    (kept,) = temporary.iterdir()
    assert f"everything is in {kept}" in result.err
    assert (kept / "store" / "orders-0").is_dir()


# ── input ───────────────────────────────────────────────────────────────────────────────────────


def test_orders_come_from_standard_input_gzipped_or_not(run: Run) -> None:
    lines = ndjson([order(number) for number in range(50)])
    for data in (lines, gzip.compress(lines)):
        check(run("demo", "--fast", "--json", "--orders", "-", stdin=data), orders=50)


def test_orders_come_from_a_named_pipe(run: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write = f"open({str(pipe)!r}, 'wb').write({ndjson([order(1), order(2)])!r})"
    with subprocess.Popen([sys.executable, "-c", write]):
        check(run("demo", "--fast", "--json", "--orders", pipe), orders=2)


STRANGE = [
    {},
    {},
    {"id": 7},
    {"order_id": 8, "customer": "Zoë", "placed_at": "2026-03-14T12:00:00"},
    {"order_id": "9", "customer": {"name": 'He said "no"'}, "placed_at": "yesterday"},
    {"order_id": True, "total_cents": True, "city": 12, "currency": ["EUR"]},
    {"order_id": "\ud800", "city": "\udfff", "total_cents": 10**30},
    {"order_id": "big", "note": "x" * 500_000, "placed_at": 1e300},
    {"order_id": "early", "placed_at": -5, "total_cents": -250},
]


def test_any_json_object_is_an_order(run: Run, tmp_path: Path) -> None:
    (tmp_path / "strange.ndjson").write_bytes(b"\n" + ndjson(STRANGE) + b"  \n")
    found = check(run("demo", "--fast", "--json", "--orders", "strange.ndjson"), len(STRANGE))
    assert found["orders_repeated_in_input"] == 0


def test_an_order_that_comes_twice_is_notified_once_and_said_to_be_repeated(run: Run) -> None:
    lines = ndjson([order(1), order(2), order(1)])
    result = run("demo", "--fast", "--json", "--orders", "-", stdin=lines)
    assert check(result, orders=2)["orders_repeated_in_input"] == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{'a': 1}", "not JSON"),
        (b"[1]", "a list"),
        (b'"order"', "a string"),
        (b"\xff", "not JSON"),
        (b'{"note": "' + b"x" * 1_100_000 + b'"}', "over 1000000 bytes"),
    ],
)
def test_a_line_that_is_no_order_is_named_before_anything_starts(
    run: Run, line: bytes, why: str
) -> None:
    data = ndjson([order(1), order(2)]) + line + b"\n"
    result = run("demo", "--fast", "--orders", "-", stdin=data)
    assert result.code == 1
    assert result.err.startswith("mqlog: standard input:3: ")
    assert why in result.err
    assert "nothing was started" in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


def test_no_order_at_all_is_an_error(run: Run) -> None:
    result = run("demo", "--orders", "-", stdin=b"\n")
    assert result.code == 1
    assert "no order" in result.err


def test_a_file_that_is_not_there_exits_3(run: Run) -> None:
    result = run("demo", "--orders", "nowhere.ndjson")
    assert (result.code, result.err) == (3, "mqlog: nowhere.ndjson: No such file or directory\n")


# ── what stays, and what is said ────────────────────────────────────────────────────────────────


def test_dir_keeps_store_and_outbox(run: Run, some_orders: Path) -> None:
    check(run("demo", "--fast", "--json", "--orders", some_orders, "--dir", "work"), orders=600)
    assert sorted(path.name for path in Path("work").iterdir()) == ["notifications.ndjson", "store"]
    assert len(run("cat", "work/store", "orders").lines) == 600
    assert run("verify", "work/store").code == 0
    groups = run("groups", "work/store", "--json").json
    assert {group["name"]: group["lag"] for group in groups} == {"payment": 0, "notification": 0}
    payment = run("cat", "work/store", "payments", "--json", "-n", "1").records[0]
    assert dict(payment["headers"]) == {"order-id": "o-0", "origin": "orders-0:0"}
    again = run("demo", "--fast", "--dir", "work")
    assert again.code == 2
    assert "not empty" in again.err


def test_keep_says_where_the_temporary_directory_is(
    run: Run, some_orders: Path, temporary: Path
) -> None:
    run("demo", "--fast", "--orders", some_orders)
    assert list(temporary.iterdir()) == []
    result = run("demo", "--fast", "--orders", some_orders, "--keep")
    (kept,) = temporary.iterdir()
    assert f"mqlog info {kept}/store" in result.err
    assert len(run("cat", kept / "store", "orders").lines) == 600


def test_the_table_says_that_nothing_was_lost(run: Run, some_orders: Path) -> None:
    result = run("demo", "--fast", "--orders", some_orders)
    rows = {line[:20].strip(): line[20:].split() for line in result.lines}
    assert rows["orders in"] == ["600"]
    assert rows["notifications"] == ["600"]
    assert rows["lost"] == ["0"]
    assert rows["offline replay"][0] == "agrees"
    assert "SIGKILL" in rows["killed at"][-4:] or "SIGKILL," in rows["killed at"]
    assert "recovered after" in rows
    assert len(result.err.splitlines()) == 4  # few lines where nobody watches


def test_a_loss_would_be_told_and_exit_1(
    run: Run, some_orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqlog.cli._demo_pipeline.read_outbox", lambda path: (Totals(), 0))
    result = run("demo", "--fast", "--orders", some_orders, "--json")
    assert result.code == 1
    assert (result.json["lost"], result.json["passed"]) == (600, False)
    assert "everything is in" in result.err


def test_a_replay_that_differs_would_be_told_and_exit_1(
    run: Run, some_orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mqlog.replay

    def short(path: Any, **how: Any) -> Any:
        records = real(path, **how)
        next(records)
        return records

    monkeypatch.setattr(mqlog, "replay", short)
    result = run("demo", "--fast", "--orders", some_orders)
    assert result.code == 1
    assert "DIFFERS" in result.out


def test_ctrl_c_ends_it_quietly_with_all_its_processes(tmp_path: Path, temporary: Path) -> None:
    env = environment(TMPDIR=str(temporary))
    demo = subprocess.Popen(
        command("demo", "--kill-after", "5%"),
        env=env,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert demo.stderr is not None and demo.stdout is not None
    with demo, demo.stdout, demo.stderr:
        assert b"12,500 orders" in demo.stderr.readline()
        assert b"killed the payment" in demo.stderr.readline()  # all of them are at work
        os.killpg(demo.pid, 2)
        assert demo.wait() == 130
        rest = demo.stderr.read()  # ends when no process holds the pipe any more
    assert b"Traceback" not in rest
    assert list(temporary.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        command("demo", "--dir", "work", "--kill-after", "5%"),
        env=environment(),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert demo.stderr is not None
    with demo, demo.stderr:
        demo.stderr.readline()
        assert b"killed the payment" in demo.stderr.readline()
        demo.kill()
        demo.wait()
    with mqlog.open(tmp_path / "work" / "store") as store:
        for topic, group in (("orders", "payment"), ("payments", "notification")):
            # A second consumer of a group gets the partition when the first has gone.
            with store.stream(topic).consumer(group) as consumer:
                while not consumer.position:
                    consumer.poll(1, timeout=0.1)


# ── the sample ──────────────────────────────────────────────────────────────────────────────────


def test_the_bundled_orders_add_up_and_have_their_awkward_ones() -> None:
    with gzip.open(bundled()) as file:
        orders = [json.loads(line) for line in file]
    assert len(orders) >= 12_000
    assert len({order["order_id"] for order in orders}) == len(orders)
    for one in orders:
        items = sum(item["qty"] * item["unit_cents"] for item in one["items"])
        assert one["total_cents"] == items + one["delivery_cents"]
    assert [one["placed_at"] for one in orders] == sorted(one["placed_at"] for one in orders)
    assert any(item["qty"] == 0 for one in orders for item in one["items"])
    assert any('"' in one.get("note", "") for one in orders)
    assert any(len(one["items"]) > 40 for one in orders)
    assert any(not one["customer"]["name"].isascii() for one in orders)
    refunds = [one for one in orders if "refund_of" in one]
    assert refunds and all(one["total_cents"] < 0 for one in refunds)
    by_hour = [0] * 24
    for one in orders:
        by_hour[int(one["placed_at"][11:13])] += 1
    assert by_hour[12] > 3 * by_hour[15] and by_hour[19] > 3 * by_hour[15]  # lunch and evening
    assert os.path.getsize(bundled()) < 1_500_000
