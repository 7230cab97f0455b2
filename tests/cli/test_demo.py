"""`mqlog demo`: seven processes, a kill, nothing lost, whatever the input and the moment."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

import mqlog
from mqlog.cli import _demo
from mqlog.cli._demo_ledger import Sent, read_outbox, replay_offline
from mqlog.cli._demo_orders import Sales, Totals, bundled, money, read_orders
from mqlog.cli._demo_pipeline import Pipeline, Plan, Progress
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


def check(result: Result, orders: int, repeated: int = 0) -> Any:
    """Everything that must be true of a run that went well, with so many distinct orders."""
    found = result.json
    assert result.code == 0, result.err
    assert found["passed"] is True
    assert all(found["sums"].values())
    assert found["lost"] == found["invented"] == found["early"] == 0
    assert found["orders"] == found["statistics"]["orders"] == orders + repeated
    assert found["orders"] == found["accepted"] + found["dead"]
    assert found["payments"] == found["accepted"] + found["duplicates"]
    assert found["notifications"] == orders - found["dead"]
    assert found["records"] == found["orders"] + found["payments"] + found["dead"]
    assert found["statistics"]["agree"] is found["replay"]["agrees"] is True
    assert found["replay"]["orders"] == orders
    assert found["statistics"]["revenue_cents"] == found["replay"]["revenue_cents"]
    return found


def check_poison(found: Any, order_id: str) -> None:
    """One dead letter, which is that order."""
    assert found["dead"] == 1
    (letter,) = found["dead_letters"]
    assert letter == {
        "order_id": order_id,
        "deliveries": 5,
        "reason": "DeclinedError: no terminal takes this payment",
    }


def check_kill(found: Any) -> None:
    """A worker was killed while it held orders; they went to others, one was charged again."""
    kill = found["kill"]
    assert 1 <= kill["held"] <= 10
    assert kill["pid"] != kill["back_pid"]
    assert found["duplicates"] == 1
    assert 1 <= kill["redelivered"] <= kill["held"]
    assert 0 <= kill["recovered_after"] < 30


def test_the_bundled_sample_goes_through_flat_out(run: Run) -> None:
    found = check(run("demo", "--fast", "--json"), orders=12_500)
    check_poison(found, "260314-000100")
    check_kill(found)
    assert found["kill"]["payments"] >= 6250
    assert found["kill"]["redelivered"] == found["kill"]["held"]
    assert found["express"] > 1000 and found["delayed"] > 1000
    assert found["statistics"]["cities"][0] == "Berlin"
    assert len(found["replay"]["revenue_cents_by_city"]) == 10
    with gzip.open(bundled()) as file:
        total = sum(json.loads(line)["total_cents"] for line in file)
    assert found["statistics"]["revenue_cents"] == {"EUR": total}


@pytest.mark.parametrize("moment", ["0", "1", "50%", "100%"])
def test_nothing_is_lost_whenever_payment_is_killed(
    run: Run, some_orders: Path, moment: str
) -> None:
    result = run("demo", "--fast", "--json", "--orders", some_orders, "--kill-after", moment)
    found = check(result, orders=600)
    check_poison(found, "o-99")
    check_kill(found)
    assert found["kill"]["payments"] >= min(600, int(moment.rstrip("%")))


def test_without_a_kill_nothing_is_paid_twice(run: Run, some_orders: Path) -> None:
    result = run("demo", "--fast", "--json", "--orders", some_orders, "--kill-after", "never")
    found = check(result, orders=600)
    check_poison(found, "o-99")
    assert found["kill"] is None
    assert found["duplicates"] == 0


def test_a_single_order_is_paid_again_after_the_kill(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one.ndjson").write_bytes(ndjson([order(1)]))
    found = check(run("demo", "--fast", "--json", "--orders", "one.ndjson"), orders=1)
    assert found["dead"] == 0  # there would be nothing to notify of
    assert found["duplicates"] == 1
    assert found["kill"]["held"] == 1


def test_of_a_few_orders_the_last_is_the_poisonous_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "few.ndjson").write_bytes(ndjson([order(number) for number in range(3)]))
    found = check(run("demo", "--fast", "--json", "--orders", "few.ndjson"), orders=3)
    check_poison(found, "o-2")


def planned(directory: Path, orders: Path) -> Plan:
    """Six hundred orders, flat out, and no kill of the demo's own."""
    expected = Totals()
    for one in read_orders(str(orders), Screen()):
        expected.add(one.id, one.document)
    directory.mkdir()
    return Plan(
        directory=directory,
        orders=str(orders),
        count=600,
        expected=expected,
        payable=expected,
        poison=None,
        span=(0.0, 0.0),
        seconds=0.0,
        kill_after=None,
    )


@pytest.mark.parametrize("role", ["payment-2", "notification", "statistics"])
def test_a_process_that_dies_unasked_again_and_again_loses_nothing(
    some_orders: Path, tmp_path: Path, role: str
) -> None:
    plan = planned(tmp_path / "work", some_orders)
    killed: list[subprocess.Popen[bytes]] = []

    def watch(progress: Progress) -> None:
        process = pipeline._workers[role].process
        if len(killed) < 4 and process not in killed and progress.payments > 100 * len(killed):
            killed.append(process)
            process.kill()

    pipeline = Pipeline(plan, lambda text: None, watch)
    outcome = pipeline.run()
    sent, replay = read_outbox(plan), replay_offline(plan)
    hit = [process.wait() for process in killed].count(-signal.SIGKILL)  # the last may have ended
    assert outcome.restarts == hit >= 1
    assert sent.orders == replay.orders == replay.payments == plan.expected
    assert sent.lines == 600
    assert outcome.progress.sales == replay.sales
    assert _demo.judge(plan, outcome, sent, replay)["passed"] is True


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
    assert check(result, orders=2, repeated=1)["orders_repeated_in_input"] == 1
    assert result.json["dead"] == 0  # the last is none that is there once


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
    kept = ["notifications.ndjson", "sales.json", "store"]
    assert sorted(path.name for path in Path("work").iterdir()) == kept
    assert len(run("cat", "work/store", "orders").lines) == 600
    assert run("verify", "work/store").code == 0
    with mqlog.open("work/store") as store:
        groups = [group for topic in ("orders", "payments") for group in store.groups(topic)]
    lags = {group.name: group.lag for group in groups}
    assert lags == {"payment": 0, "notification": 0, "statistics": 0}
    payments = run("cat", "work/store", "payments", "--json").records
    headers = [dict(payment["headers"]) for payment in payments]
    assert {one["origin"] for one in headers} == {f"orders-0:{n}" for n in range(600) if n != 99}
    assert {one["priority"] for one in headers} == {"4", "9"}
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
    assert rows["payments accepted"][0] == "599"
    assert rows["dead"] == ["1", "order", "o-99,", "after", "5", "deliveries"]
    assert rows["notifications"][0] == "599"
    assert rows["lost"] == ["0"]
    assert rows["sales statistics"][:3] == ["agree", "2,397.00", "EUR,"]
    assert rows["offline replay"][0] == "agrees"
    assert rows["it adds up"] == "yes 600 in = 599 accepted + 1 dead".split()
    assert "SIGKILL," in rows["killed at"]
    assert "recovered after" in rows
    assert max(map(len, result.lines)) <= 80
    assert len(result.err.splitlines()) == 4  # few lines where nobody watches
    assert "order o-99 cannot be charged: dead after 5 deliveries" in result.err


def test_a_loss_would_be_told_and_exit_1(
    run: Run, some_orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqlog.cli._demo.read_outbox", lambda plan: Sent())
    result = run("demo", "--fast", "--orders", some_orders, "--json")
    assert result.code == 1
    assert (result.json["lost"], result.json["passed"]) == (599, False)
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
    assert "not true: the statistics are those of the replay" in result.out


@pytest.mark.parametrize("worse", ["early", "lines"])
def test_a_sum_that_is_wrong_would_be_told_and_exit_1(
    run: Run, some_orders: Path, monkeypatch: pytest.MonkeyPatch, worse: str
) -> None:
    def read(plan: Plan) -> Sent:
        sent = read_outbox(plan)
        setattr(sent, worse, getattr(sent, worse) + 1)
        return sent

    monkeypatch.setattr("mqlog.cli._demo.read_outbox", read)
    result = run("demo", "--fast", "--orders", some_orders)
    assert result.code == 1
    (row,) = (line for line in result.lines if line.startswith("it adds up"))
    assert row.split()[3] == "NO" and "not true: " in row


def test_statistics_go_on_where_they_were_and_count_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "sales.json"
    sales = Sales.load(path)
    for number in range(3):
        sales.add(number, order(number))
    sales.save(path)
    again = Sales.load(path)
    for number in range(1, 5):
        again.add(number, order(number))
    assert (again.records, again.position, again.sums()) == (5, 5, {"EUR": 510})
    assert again.cities() == ["Köln", "Wien"]
    assert again.by_city() == {"Köln EUR": 306, "Wien EUR": 204}
    assert money({"EUR": 123456, "-": 100}) == "1,234.56 EUR + 1.00"
    assert money({"EUR": 1, "PLN": 1, "SEK": 1}) == "3 currencies"


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
        read_until(demo.stderr, b"killed the payment")  # all of them are at work
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
        read_until(demo.stderr, b"killed the payment")
        demo.kill()
        demo.wait()
    with mqlog.open(tmp_path / "work" / "store") as store:
        # A second consumer of a group gets the partition when the first has gone.
        with store.stream("orders").consumer("statistics") as consumer:
            while not consumer.position:
                consumer.poll(1, timeout=0.1)
        for topic, group in (("orders", "payment"), ("payments", "notification")):
            queue = store.queue(topic, group=group)
            while queue.acquired():  # nobody accepts what this one is not given
                for message in queue.get_many(1000, timeout=0.1):
                    message.accept()


def read_until(stream: IO[bytes], text: bytes) -> None:
    """Reads lines, up to and including one with that text."""
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")


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
