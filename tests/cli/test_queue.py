"""`mqlog peek`, `dead`, `redrive`, `purge`; queues in `groups`, `info`; share groups' options."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import flip

import mqlog

from .conftest import Run, snapshot

STATE = "jobs-0/shares/default.state"


@pytest.fixture
def jobs(store: Path) -> Path:
    """A queue `jobs`: 2 accepted, 1 dead, 6 ready, 1 delayed; group `audit` has done nothing."""
    with mqlog.open(store) as opened:
        queue = opened.queue("jobs", max_deliveries=1)
        opened.queue("jobs", group="audit")
        for number in range(9):
            queue.put(b"job %d" % number, key=b"key-%d" % number, headers={"n": b"%d" % number})
        queue.put(b"later", delay=3600.0)
        queue.accept(queue.get_many(2))
        queue.get().reject("no such\ncustomer")
    return store


# ── peek ────────────────────────────────────────────────────────────────────────────────────────


def test_peek_prints_what_comes_next_and_takes_nothing(ok: Run, jobs: Path) -> None:
    before = snapshot(jobs)
    assert ok("peek", jobs, "jobs", "-n", "2").lines == ["job 3", "job 4"]
    assert ok("peek", jobs, "jobs").lines == [f"job {number}" for number in range(3, 9)]
    assert ok("peek", jobs, "jobs", "-n", "0").out == ""
    assert ok("peek", jobs, "jobs", "--group", "audit", "-n", "1").lines == ["job 0"]
    assert snapshot(jobs) == before


def test_peek_has_the_formats_of_cat(ok: Run, jobs: Path) -> None:
    [record] = ok("peek", jobs, "jobs", "-n", "1", "--json").records
    assert (record["offset"], record["key"], record["value"]) == (3, "key-3", "job 3")
    assert record["headers"] == [["n", "3"]]
    raw = ok("peek", jobs, "jobs", "-n", "2", "--format", "raw", "--delimiter", ";")
    assert raw.raw == b"job 3;job 4;"


# ── dead, redrive ───────────────────────────────────────────────────────────────────────────────


def test_dead_tells_what_they_were_and_why_they_are_dead(ok: Run, jobs: Path) -> None:
    before = snapshot(jobs)
    heading, row = ok("dead", jobs, "jobs").lines
    assert heading.split() == ["ORIGIN", "DELIVERIES", "WHEN", "SIZE", "REASON"]
    origin, deliveries, _, size, reason = row.split(None, 4)
    assert (origin, deliveries, size, reason) == ("jobs-0:2", "1", "5", "no such customer")
    [document] = ok("dead", jobs, "jobs", "--json").json
    assert document.pop("timestamp") > 1e9
    assert document == {
        "id": "jobs.dlq-0:0",
        "origin": "jobs-0:2",
        "group": "default",
        "deliveries": 1,
        "reason": "no such\ncustomer",
        "key": "key-2",
        "size": 5,
    }
    assert ok("dead", jobs, "jobs.dlq", "--json").json[0]["origin"] == "jobs-0:2"
    assert snapshot(jobs) == before


def test_dead_says_how_many_it_does_not_show(ok: Run, jobs: Path) -> None:
    with mqlog.open(jobs) as store:
        queue = store.queue("jobs")
        queue.reject(queue.get_many(3), "out of luck")
    assert len(ok("dead", jobs, "jobs").lines) == 5
    some = ok("dead", jobs, "jobs", "-n", "1")
    assert len(some.lines) == 2
    assert f"3 dead letters more: mqlog dead {jobs} jobs -n 4" in some.err
    assert len(ok("dead", jobs, "jobs", "-n", "2", "--json").json) == 2


def test_a_queue_without_dead_letters_says_so(ok: Run, orders: Path) -> None:
    for verb in ("dead", "redrive"):
        result = ok(verb, orders, "orders")
        assert (result.out, result.err) == ("", "mqlog: orders has no dead letters\n")
    assert ok("dead", orders, "orders", "--json").json == []


def test_redrive_puts_them_back_so_many_at_most(ok: Run, jobs: Path) -> None:
    with mqlog.open(jobs) as store:
        queue = store.queue("jobs")
        queue.reject(queue.get_many(2), "out of luck")
    assert ok("redrive", jobs, "jobs", "-n", "1").err == "mqlog: put 1 dead letter back; 2 stay\n"
    assert ok("redrive", jobs, "jobs", "-n", "0").err == "mqlog: put 0 dead letters back; 2 stay\n"
    assert ok("redrive", jobs, "jobs").err == "mqlog: put 2 dead letters back\n"
    assert sorted(ok("peek", jobs, "jobs", "-n", "3").lines) == ["job 5", "job 6", "job 7"]
    assert sorted(ok("peek", jobs, "jobs").lines)[:3] == ["job 2", "job 3", "job 4"]


def test_redrive_of_a_queue_that_was_deleted_says_what_stays(run: Run, jobs: Path) -> None:
    with mqlog.open(jobs) as store:
        store.delete_topic("jobs")
    result = run("redrive", jobs, "jobs.dlq")
    assert result.code == 3
    assert "0 dead letters were driven back, 1 stay" in result.err
    assert len(run("dead", jobs, "jobs.dlq").lines) == 2


# ── purge ───────────────────────────────────────────────────────────────────────────────────────


def test_purge_asks_and_is_of_one_group(run: Run, ok: Run, jobs: Path) -> None:
    refused = run("purge", jobs, "jobs", stdin=b"y\n")
    assert refused.code == 2
    assert "the 7 records that wait in jobs, 1 of them delayed" in refused.err
    assert len(ok("peek", jobs, "jobs").lines) == 6
    assert ok("purge", jobs, "jobs", "--yes").err == "mqlog: purged 7 records of jobs\n"
    assert ok("peek", jobs, "jobs").out == ""
    assert ok("purge", jobs, "jobs").err == "mqlog: nothing waits in jobs\n"
    assert len(ok("peek", jobs, "jobs", "--group", "audit").lines) == 9


def test_purge_leaves_what_a_consumer_holds(ok: Run, jobs: Path) -> None:
    with mqlog.open(jobs) as store, store.queue("jobs").get() as held:
        ok("purge", jobs, "jobs", "--yes")
        assert held.value == b"job 3"
    [group] = [one for one in ok("groups", jobs, "jobs", "--json").json if one["name"] == "default"]
    assert (group["stats"]["purged"], group["stats"]["accepted"]) == (6, 3)


# ── groups, info ────────────────────────────────────────────────────────────────────────────────


def test_groups_shows_share_groups_beside_consumer_groups(ok: Run, jobs: Path) -> None:
    with mqlog.open(jobs) as store:
        with store.stream("jobs").consumer("billing", commit="manual") as consumer:
            consumer.poll(4, timeout=5.0)
            consumer.commit()
        _, billing, empty, heading, *rows = ok("groups", jobs, "jobs").lines
        assert (billing.split()[:5], empty) == (["jobs", "billing", "0", "4", "6"], "")
        assert heading.split() == (
            "QUEUE GROUP PLACE LAG READY DELAYED ACQUIRED HOLDERS DEAD PINS".split()
        )
        size = store.topic("jobs").bytes
        audit, default = (row.split() for row in rows)
        assert audit == ["jobs", "audit", "0", "10", "9", "1", "0", "0", "0", str(size)]
        assert default[:9] == ["jobs", "default", "3", "7", "6", "1", "0", "0", "1"]
        assert 0 < int(default[9]) < size
        held = store.queue("jobs").get()
        default = ok("groups", jobs, "jobs").lines[-1].split()
        assert default[:9] == ["jobs", "default", "3", "7", "5", "1", "1", "1", "1"]
        held.accept()


def test_groups_as_json_has_what_each_pins(ok: Run, jobs: Path) -> None:
    audit, default = ok("groups", jobs, "jobs", "--json").json
    assert audit["kind"] == default["kind"] == "share"
    assert audit["pinned_bytes"] > default["pinned_bytes"] > 0
    assert audit["pinned_segments"] == 1
    assert default["stats"]["dead"] == 1
    assert default["committed"] == {"0": 3}


def test_info_of_a_store_shows_how_its_queues_stand(ok: Run, jobs: Path) -> None:
    lines = ok("info", jobs).lines
    at = next(n for n, line in enumerate(lines) if line.startswith("QUEUE"))
    assert lines[at].split() == (
        "QUEUE GROUP READY DELAYED ACQUIRED DEAD DAMAGED OLDEST PINS".split()
    )
    rows = {tuple(line.split()[:2]): line.split() for line in lines[at + 1 : at + 4]}
    assert rows["jobs", "default"][2:7] == ["6", "1", "0", "1", "0"]
    assert float(rows["jobs", "default"][7]) >= 0
    assert rows["jobs.dlq", "default"][2:7] == ["1", "0", "0", "0", "0"]
    groups = ok("info", jobs, "--json").json["groups"]
    assert {
        group["name"]: group["stats"]["ready"] for group in groups if group["topic"] == "jobs"
    } == {
        "audit": 9,
        "default": 6,
    }


def test_info_of_a_queue_has_a_column_for_each_group(ok: Run, jobs: Path) -> None:
    lines = ok("info", jobs, "jobs").lines
    at = next(n for n, line in enumerate(lines) if line.startswith("QUEUE"))
    assert lines[at].split() == ["QUEUE", "AUDIT", "DEFAULT"]
    facts = {line.rsplit(None, 2)[0]: line.rsplit(None, 2)[1:] for line in lines[at + 1 :]}
    assert facts["ready"] == ["9", "6"]
    assert facts["dead"] == ["0", "1"]
    assert facts["place"] == ["0", "3"]
    assert facts["segments pinned"] == ["1", "1"]
    assert facts["max_deliveries"] == ["5", "1"]
    assert facts["retry_delays"] == ["1,10,60,300", "1,10,60,300"]
    for name in ("delayed", "acquired", "accepted", "damaged", "oldest", "holders", "pins"):
        assert name in facts
    default = ok("info", jobs, "jobs", "--json").json["groups"][1]
    assert default["options"]["max_deliveries"] == 1


@pytest.mark.parametrize(
    "words",
    [("peek", "jobs"), ("dead", "jobs"), ("info",), ("info", "jobs"), ("groups", "jobs"), ("ls",)],
)
def test_looking_at_a_live_queue_changes_nothing_and_joins_nobody(
    ok: Run, jobs: Path, words: tuple[str, ...]
) -> None:
    with mqlog.open(jobs) as store:
        held = store.queue("jobs").get()
        locks = Path("/proc/locks").read_text().count(str((jobs / "store.lock").stat().st_ino))
        before = (jobs / STATE).read_bytes()
        ok(words[0], jobs, *words[1:])
        assert (jobs / STATE).read_bytes() == before
        found = Path("/proc/locks").read_text().count(str((jobs / "store.lock").stat().st_ino))
        assert found == locks
        held.accept()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": lambda file: file.write_bytes(flip(file.read_bytes(), 0x80 + 3)),
    "both windows": lambda file: file.write_bytes(
        flip(flip(file.read_bytes(), 0x80 + 3), 0x100 + 3)
    ),
    "cut short": lambda file: os.truncate(file, 4),
    "empty": lambda file: os.truncate(file, 0),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link": lambda file: (file.rename(file.with_suffix(".x")), file.symlink_to(file.stem + ".x")),
    "rubbish": lambda file: file.write_bytes(b"\xff" * 20_000),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_group_is_named_and_the_rest_is_shown(run: Run, jobs: Path, how: str) -> None:
    with mqlog.open(jobs) as store:
        store.queue("mails").put(b"hello")
        store.queue("jobs", group="audit")
    DAMAGE[how](jobs / STATE)
    for words in (("info", jobs), ("groups", jobs), ("ls", jobs)):
        result = run(*words)
        assert "mails" in result.out
        assert words[0] == "ls" or "audit" in result.out
        assert result.code == 0 or (STATE in result.err and "bug" not in result.err)
    for words in (("info", jobs), ("groups", jobs)):
        groups = json.loads(run(*words, "--json").out)
        groups = groups if words[0] == "groups" else groups["groups"]
        told = {(one["topic"], one["name"]): one["damage"] for one in groups}
        assert list(told)[:2] == [("jobs", "audit"), ("jobs", "default")] and len(told) == 4
        damage = told.pop(("jobs", "default"))
        assert (damage is None) == (run(*words).code == 0) and not any(told.values())
    for words in (("peek", jobs, "jobs"), ("info", jobs, "jobs"), ("dead", jobs, "jobs")):
        result = run(*words)
        assert result.code in (0, 1, 3)
        assert "bug" not in result.err and result.err.count("\n") <= 1
    if how == "flipped":
        assert run("peek", jobs, "jobs", "-n", "1").lines == ["job 3"]


# ── alter, rm ───────────────────────────────────────────────────────────────────────────────────


def test_alter_changes_the_options_of_a_share_group(ok: Run, jobs: Path) -> None:
    words = ("max_deliveries=3", "retry_delays=0.5s,2m", "lock_duration=1m", "max_acquired=10")
    assert ok("alter", jobs, "jobs", "--group", "default", *words).lines == [
        "max_deliveries  1 -> 3",
        "retry_delays    1,10,60,300 -> 0.5,120",
        "lock_duration   30.0 -> 60.0",
        "max_acquired    none -> 10",
    ]
    words = ("max_deliveries=none", "retry_delays=none", "lock_duration=none")
    result = ok("alter", jobs, "jobs", "--group", "default", *words, "--json").json
    assert result["retry_delays"] == {"old": [0.5, 120.0], "new": []}
    with mqlog.open(jobs, "r") as view:
        options = view.options("jobs", group="default")
        assert (options["max_deliveries"], options["lock_duration"]) == (None, None)
        assert view.options("jobs", group="audit")["max_deliveries"] == 5


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("jobs", "--group", "defalt", "max_deliveries=3"), 1, "no share group 'defalt'"),
        (("--group", "default", "max_deliveries=3"), 2, "TOPIC"),
        (("jobs", "--group", "default", "segment_bytes=1m"), 1, "segment_bytes"),
        (("jobs", "--group", "default", "retry_delays=soon"), 2, "no duration"),
        (("jobs", "--group", "default", "max_deliveries=0"), 1, "max_deliveries"),
    ],
)
def test_a_wrong_option_of_a_group_is_refused_in_one_line(
    run: Run, jobs: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    result = run("alter", jobs, *words)
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert why in result.err


@pytest.mark.parametrize("words", [("rm", "--group", "audit"), ("groups", "--delete", "audit")])
def test_a_share_group_is_deleted_unless_somebody_holds_its_records(
    run: Run, jobs: Path, words: tuple[str, ...]
) -> None:
    verb, *how = words
    assert "(lag 10)" in run(verb, jobs, "jobs", *how).err
    with mqlog.open(jobs) as store:
        held = store.queue("jobs", group="audit").get()
        result = run(verb, jobs, "jobs", *how, "--yes")
        assert (result.code, "consumers hold" in result.err) == (1, True)
        held.accept()
    assert run(verb, jobs, "jobs", *how, "--yes").code == 0
    left = [group["name"] for group in run("groups", jobs, "jobs", "--json").json]
    assert left == ["default"]


# ── what is not there ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["peek", "dead", "redrive", "purge", "run"])
@pytest.mark.parametrize(
    ("store_name", "queue", "why"),
    [("nowhere", "jobs", "there is no store"), ("shop", "job", "did you mean 'jobs'")],
)
def test_what_is_not_there_exits_3_and_is_not_made(
    run: Run, jobs: Path, verb: str, store_name: str, queue: str, why: str
) -> None:
    more = {"purge": ("--yes",), "run": ("os:getpid",)}.get(verb, ())
    before = snapshot(jobs)
    result = run(verb, jobs.with_name(store_name), queue, *more)
    assert (result.code, result.out, result.err.count("\n")) == (3, "", 1)
    assert why in result.err
    assert not jobs.with_name("nowhere").exists()
    assert {name for name in snapshot(jobs) if "control" not in name} == {
        name for name in before if "control" not in name
    }


@pytest.mark.parametrize("verb", ["peek", "purge", "run"])
def test_a_stream_without_share_groups_is_no_queue(run: Run, orders: Path, verb: str) -> None:
    more = {"purge": ("--yes",), "run": ("os:getpid",)}.get(verb, ())
    result = run(verb, orders, "orders", *more)
    assert result.code == 3
    assert "topic 'orders' has no share group 'default'" in result.err
    assert json.loads(run("groups", orders, "--json").out) == []
