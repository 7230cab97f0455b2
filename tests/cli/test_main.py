"""What holds for every verb: help, versions, exit codes, errors in one line, pipes and Ctrl-C."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mqlog
from mqlog import cli

from .conftest import Run, Start, command, environment

VERBS = (
    *("demo", "ls", "info", "groups", "put", "cat", "tail", "replay"),
    *("peek", "dead", "redrive", "purge", "run", "alter", "rm", "verify"),
)


def test_help_lists_every_verb_and_every_exit_code(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for verb in VERBS:
        assert f"\n    {verb} " in result.out
    for code in ("0 ", "1 ", "2 ", "3 ", "130 ", "141 "):
        assert f"\n  {code}" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb_ends_in_examples(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert result.code == 0
    assert "examples:\n" in result.out
    assert f"\n  mqlog {verb} " in result.out or f"\n  mqlog {verb}\n" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_no_line_of_help_is_wider_than_a_hundred_columns(run: Run, verb: str) -> None:
    assert all(len(line) <= 100 for line in run(verb, "--help").lines)


def test_version_names_the_program(run: Run) -> None:
    result = run("--version")
    assert (result.code, result.out[:6]) == (0, "mqlog ")


def test_no_verb_is_a_usage_error_that_says_where_help_is(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "mqlog --help" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate", "shop"),
        ("cat", "shop"),
        ("cat", "shop", "orders", "--from", "yesterday"),
        ("cat", "shop", "orders", "-n", "many"),
        ("cat", "shop", "orders", "--delimiter", ";"),
        ("cat", "shop", "orders", "--format", "raw", "--delimiter", "\\q"),
        ("replay", "shop", "orders", "--speed", "fast"),
        ("replay", "shop", "orders", "--speed", "0x"),
        ("put", "shop", "orders", "--header", "no-equals-sign"),
        ("put", "shop", "orders", "--skip-bad"),
        ("put", "shop", "orders", "--key", "a", "--key-field", "b"),
        ("put", "shop", "orders", "--delimiter", ""),
        ("alter", "shop", "orders"),
        ("alter", "shop", "orders", "segment_bytes=big"),
        ("groups", "shop", "--delete", "billing", "--yes"),
        ("demo", "--kill-after", "soon"),
    ],
)
def test_a_wrong_command_line_exits_2_with_one_line(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.code == 2
    assert result.err.startswith("mqlog: ")
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert not Path("shop").exists()


READING = [
    ("ls", "shop"),
    ("info", "shop"),
    ("info", "shop", "orders"),
    ("groups", "shop", "orders"),
    ("cat", "shop", "orders"),
    ("tail", "shop", "orders"),
    ("replay", "shop", "orders"),
    ("alter", "shop", "orders", "retention_age=7d"),
    ("rm", "shop", "orders", "--yes"),
    ("verify", "shop"),
]


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_a_store_that_is_not_there_exits_3_and_is_not_made(
    run: Run, words: tuple[str, ...]
) -> None:
    result = run(*words)
    assert result.code == 3
    assert result.err.startswith("mqlog: ")
    assert result.err.count("\n") == 1
    assert not Path("shop").exists()


@pytest.mark.parametrize("words", [words for words in READING if "orders" in words])
def test_a_topic_that_is_not_there_exits_3_and_names_the_nearest(
    run: Run, orders: Path, words: tuple[str, ...]
) -> None:
    verb, _, _, *rest = words
    result = run(verb, orders, "order", *rest)
    assert result.code == 3
    assert "'orders'" in result.err
    assert run("ls", orders, "--json").json[0]["name"] == "orders"
    assert len(run("ls", orders, "--json").json) == 1


def test_a_file_where_a_store_is_expected_is_an_error_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("no store")
    result = run("ls", "shop")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "shop" in result.err


def test_an_unexpected_error_is_one_line_and_debug_shows_where(
    run: Run, orders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr(mqlog, "open", broken)
    quiet = run("ls", orders)
    assert quiet.code == 1
    assert quiet.err.count("\n") == 1
    assert "a wheel came off" in quiet.err
    assert "--debug" in quiet.err
    for words in (("--debug", "ls", orders), ("ls", orders, "--debug")):
        assert "Traceback" in run(*words).err


def test_main_takes_its_words_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mqlog", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out.startswith("mqlog ")


# ── pipes and signals ───────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--json",), ("--format", "raw")])
@pytest.mark.parametrize("verb", ["cat", "replay"])
def test_a_reader_that_goes_away_ends_it_quietly_with_141(
    start: Start, run: Run, verb: str, how: tuple[str, ...]
) -> None:
    run("put", "shop", "numbers", stdin=b"".join(b"%d\n" % n for n in range(60_000)))
    process = start(verb, "shop", "numbers", *how)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_a_small_table_into_a_closed_pipe_ends_quietly_too(start: Start, orders: Path) -> None:
    process = start("ls", orders)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # long before the interpreter is up
    assert process.wait() == 141
    assert process.stderr.read() == b""


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["1>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_do_no_harm(orders: Path, closed: str) -> None:
    mqlog_ = " ".join(map(shlex.quote, command()))
    for words, code in (
        (f"ls {orders}", 0),
        (f"cat {orders} nope", 3),
        (f"put {orders} orders", 0),
    ):
        line = f"{mqlog_} {words} {closed}"
        done = subprocess.run(
            line, check=False, shell=True, env=environment(), capture_output=True, input=b"eleventh"
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
    assert (orders / "orders-0" / "00000000000000000000.log").stat().st_size > 0


@pytest.mark.slow
def test_ctrl_c_ends_tail_quietly_with_130(start: Start, orders: Path) -> None:
    process = start("tail", orders, "orders", "--from", "-1")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"order 9\n"
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_ctrl_c_ends_a_paced_replay_quietly_with_130(start: Start, orders: Path) -> None:
    process = start("replay", orders, "orders", "--speed", "0.001x")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"order 0\n"
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_ctrl_c_ends_put_quietly_and_what_was_put_stays(start: Start, run: Run) -> None:
    process = start("put", "shop", "notes")
    tail = None
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert b"made the store" in process.stderr.readline()
    assert b"made the topic" in process.stderr.readline()
    tail = start("tail", "shop", "notes", "--from", "earliest", "-n", "1")
    assert tail.stdout is not None
    assert tail.stdout.readline() == b"first\n"
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr.read() == b""
    assert run("cat", "shop", "notes").out == "first\n"
