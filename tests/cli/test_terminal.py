"""What a person at a terminal sees: rich where it is, plain text where it is not, and questions."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Run, command, environment

pytestmark = pytest.mark.slow

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


class Terminal:
    """A process with a pseudo-terminal for its three streams."""

    def __init__(self, words: tuple[object, ...], env: dict[str, str], cwd: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command(*words), env=env, cwd=cwd, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.seen = ""

    def read(self) -> bool:
        """Reads what is there next; False at the end."""
        assert select.select([self.master], [], [], 60)[0], f"nothing more after {self.seen!r}"
        try:
            data = os.read(self.master, 65536)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def read_until(self, text: str) -> None:
        while text not in self.plain:
            assert self.read(), f"no {text!r} in {self.seen!r}"

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        while self.read():
            pass
        return self.process.wait()

    @property
    def plain(self) -> str:
        return ESCAPE.sub("", self.seen).replace("\r", "")


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        if terminal.process.poll() is None:
            terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


class Open:
    """`terminal("ls", store, NO_COLOR="1")`."""

    def __init__(self, opened: list[Terminal], cwd: Path) -> None:
        self.opened = opened
        self.cwd = cwd

    def __call__(self, *words: object, **variables: str) -> Terminal:
        env = environment(**{"TERM": "xterm-256color", **variables})
        self.opened.append(Terminal(words, env, self.cwd))
        return self.opened[-1]


@pytest.fixture
def terminal(terminals: list[Terminal], tmp_path: Path) -> Open:
    return Open(terminals, tmp_path)


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """Variables under which `import rich` fails."""
    (tmp_path / "no" / "rich").mkdir(parents=True)
    (tmp_path / "no" / "rich" / "__init__.py").write_text("raise ImportError('no rich here')\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "no"), environment()["PYTHONPATH"]])}


@pytest.fixture
def shop(run: Run, store: Path) -> Path:
    """Twelve thousand records in `orders`."""
    run("put", store, "orders", stdin=b"order\n" * 12_000)
    return store


def test_tables_have_colours_separators_and_units(terminal: Open, shop: Path) -> None:
    screen = terminal("ls", shop)
    assert screen.end() == 0
    assert COLOUR.search(screen.seen)
    assert "12,000" in screen.plain
    assert "KiB" in screen.plain


def test_no_color_is_honoured(terminal: Open, shop: Path) -> None:
    screen = terminal("ls", shop, NO_COLOR="1")
    assert screen.end() == 0
    assert not COLOUR.search(screen.seen)
    assert "12,000" in screen.plain


def test_a_dumb_terminal_gets_no_escapes(terminal: Open, shop: Path) -> None:
    screen = terminal("ls", shop, TERM="dumb")
    assert screen.end() == 0
    assert "\x1b" not in screen.seen
    assert "12,000" in screen.plain


def test_everything_works_without_rich(
    terminal: Open, shop: Path, without_rich: dict[str, str]
) -> None:
    for words in (("ls", shop), ("info", shop, "orders"), ("verify", shop)):
        screen = terminal(*words, **without_rich)
        assert screen.end() == 0
        assert "\x1b" not in screen.seen
        assert "12,000" in screen.plain
    demo = terminal("demo", "--fast", **without_rich)
    assert demo.end() == 0
    assert "\x1b" not in demo.seen
    assert re.search(r"lost +0\n", demo.plain)


def test_an_error_is_one_line_on_a_terminal_too(terminal: Open) -> None:
    screen = terminal("ls", "nowhere")
    assert screen.end() == 3
    assert screen.plain.startswith("mqlog: ")
    assert screen.plain.count("\n") == 1


def test_the_demo_shows_four_bars_and_a_table(terminal: Open) -> None:
    screen = terminal("demo", "--fast")
    assert screen.end() == 0
    for word in ("orders", "payments", "notifications", "statistics"):
        assert re.search(rf"{word} .*━━━━", screen.plain)
    for text in ("killed the payment process", "1 dead", "307,874.90 EUR", "it adds up"):
        assert text in screen.plain
    assert re.search(r"lost +0 *\n", screen.plain)
    assert COLOUR.search(screen.seen)


def test_the_demo_shows_strange_names_in_few_plain_columns(terminal: Open, tmp_path: Path) -> None:
    documents = [{"id": name, "city": name, "currency": name} for name in ("a", "\ud800\x1b[2J")]
    (tmp_path / "strange.ndjson").write_text("".join(f"{json.dumps(one)}\n" for one in documents))
    screen = terminal("demo", "--fast", "--orders", "strange.ndjson", COLUMNS="80")
    assert screen.end() == 0
    assert "\x1b[2J" not in screen.seen
    assert r"order '\ud800\x1b[2J', after 5" in screen.plain


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y", 0, 0), ("yes", 0, 0), ("n", 1, 12_000), ("", 1, 12_000)]
)
def test_rm_asks_and_takes_only_a_yes(
    terminal: Open, run: Run, shop: Path, answer: str, code: int, left: int
) -> None:
    screen = terminal("rm", shop, "orders")
    screen.read_until("[y/N]")
    assert "Delete the topic orders (12,000 records, " in screen.plain
    screen.type(answer.encode() + b"\n")
    assert screen.end() == code
    assert len(run("cat", shop, "orders").lines) == left


def test_ctrl_c_at_a_question_deletes_nothing(terminal: Open, run: Run, shop: Path) -> None:
    screen = terminal("rm", shop, "orders")
    screen.read_until("[y/N]")
    screen.process.send_signal(signal.SIGINT)
    assert screen.end() == 130
    assert "Traceback" not in screen.seen
    assert len(run("cat", shop, "orders").lines) == 12_000


def test_put_from_a_terminal_says_how_to_end_it(terminal: Open, run: Run, store: Path) -> None:
    screen = terminal("put", store, "notes")
    screen.read_until("Ctrl-D")
    screen.type(b"one\ntwo\n")
    screen.type(b"\x04")
    assert screen.end() == 0
    assert run("cat", store, "notes").lines == ["one", "two"]


def test_put_of_a_file_shows_how_far_it_is(terminal: Open, store: Path, tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_bytes(b"a line of some length\n" * 200_000)
    screen = terminal("put", store, "notes", "big.txt")
    assert screen.end() == 0
    assert "big.txt" in screen.plain
    assert "put 200,000 records" in screen.plain


def test_rich_is_not_imported_in_a_pipe(shop: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from mqlog.cli import main; main(sys.argv[1:]); "
        "sys.exit('rich' in sys.modules)"
    )
    for words in (["ls", shop], ["verify", shop], ["cat", shop, "orders", "-n", "1"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, words)],
            check=False,
            env=environment(TERM="xterm"),
            cwd=tmp_path,
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
