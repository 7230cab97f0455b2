"""Kills the commands of `mqlog run` when that is killed: a process beside it, told of each.

A line joins the two, and only `mqlog run` has its writing end, so the line ends when that process
does, whatever ended it. A command is told of twice: before its start by the file that will be its
standard input, then by its process number. One that was started, but never told of by number, is
found. For a new process has the line's writing end open itself until it is the leader of a group of
its own and has that standard input; it keeps that until the command runs, and may take another; and
from then on it has the file's name in its environment.

The process is this file, run by itself: it imports nothing of the package, and little else.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress

#: In the environment of a command: the name of the file that is its standard input.
VARIABLE = b"MQLOG_STDIN"


def name_of(file: int | str) -> str:
    """What a file is called on the line: the same whoever has it open."""
    found = os.stat(file)
    return f"{found.st_dev}:{found.st_ino}"


def watch(lines: Iterable[str]) -> None:
    """Hears of commands until the line ends, and then kills those that run.

    Lines are `starts FILE`, `runs FILE PROCESS` and `ended FILE`. What a command that has ended
    left running may run on.
    """
    commands: dict[str, int] = {}  # by standard input: the process, or 0
    for line in lines:
        word, name, *process = line.split()
        if word == "ended":
            commands.pop(name, None)
        else:
            commands[name] = int(process[0]) if process else 0
    untold = {name for name, process in commands.items() if not process}
    for process in {*filter(None, commands.values()), *(find(untold) if untold else ())}:
        with suppress(OSError):
            os.killpg(process, signal.SIGKILL)


def find(names: set[str]) -> list[int]:
    """The leaders of process groups whose standard input is, or was, one of these files."""
    found = []
    for process in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        with suppress(OSError):  # it has ended, or is somebody else's
            if os.getpgid(process) == process and not names.isdisjoint(names_at(process)):
                found.append(process)
    return found


def names_at(process: int) -> Iterator[str]:
    """In this order: by the time that it has lost the one it has the other."""
    with suppress(OSError):
        yield name_of(f"/proc/{process}/fd/0")
    with open(f"/proc/{process}/environ", "rb") as file:
        for one in file.read().split(b"\0"):
            name, _, value = one.partition(b"=")
            if name == VARIABLE:
                yield value.decode("ascii", "replace")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the line, and not before
    watch(sys.stdin)
