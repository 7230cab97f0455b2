"""The command line: `mqlog VERB STORE [TOPIC]`.

One file a family of verbs, each with an `add_to(verbs)` that declares its arguments and names the
function that runs it:

    _look.py     ls, info                 what is in a store
    _groups.py   groups                   consumer groups and share groups
    _put.py      put                      lines or NDJSON into a topic
    _read.py     cat, tail, replay        records out of it
    _queue.py    peek, dead, redrive, purge    the records of a queue
    _run.py      run                      workers: a function or a command for each message;
                                          _orphans.py kills commands when it is killed itself
    _change.py   alter, rm                options, topics and groups
    _verify.py   verify                   every batch and index entry, checked
    _demo.py     demo                     the order pipeline (_demo_*.py), with a kill part-way

Under them: `_arguments.py` (what a word on the command line means), `_lines.py` (lines in files),
`_errors.py` and `_screen.py` (rich on a terminal, plain text in a pipe). Exit codes: `EXIT_CODES`.
"""

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from mqlog.cli._arguments import Parser, VerbParser, join_negative_values, split_command
from mqlog.cli._errors import UsageError, describe, exit_code
from mqlog.cli._screen import Screen

__all__ = ["main"]

EXIT_CODES = """\
exit codes:
  0    done
  1    a problem was found, or something failed
  2    the command line is wrong
  3    the store, topic, group or input file is not there
  130  ended by Ctrl-C; 143 by SIGTERM
  141  the reader of the output has gone (mqlog cat ... | head)
"""
# In the order of the help.
FAMILIES = {
    "_demo": ("demo",),
    "_look": ("ls", "info"),
    "_groups": ("groups",),
    "_put": ("put",),
    "_read": ("cat", "tail", "replay"),
    "_queue": ("peek", "dead", "redrive", "purge"),
    "_run": ("run",),
    "_change": ("alter", "rm"),
    "_verify": ("verify",),
}
VERBS = tuple(verb for names in FAMILIES.values() for verb in names)
SUMMARY = "A persistent message queue and event log in a directory."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; never raises.

    `argv` leaves the program's name out; None means `sys.argv[1:]`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    screen = Screen()
    try:
        words, command = split_command(words)
        args = build_parser(words).parse_args(join_negative_values(words))
        args.command = command
        code = int(args.run(args, screen))
        screen.flush()
        return code
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _silence(sys.stdout)
        return 141
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        with suppress(OSError):
            screen.say(describe(error))
        return exit_code(error)


def build_parser(words: Sequence[str] = ()) -> Parser:
    """The parser; of the verbs, only the family that `words` name, if they name one."""
    parser = Parser(prog="mqlog", description=SUMMARY, epilog=EXIT_CODES)
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(
        metavar="VERB", dest="verb", required=True, parser_class=VerbParser
    )
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(VERBS)}"
        raise UsageError(f"there is no verb {verb!r}; {hint} (see mqlog --help)")
    for family, names in FAMILIES.items():
        if verb is None or verb in names:
            import_module(f"mqlog.cli.{family}").add_to(verbs)
    return parser


class Version(argparse.Action):
    """Asks for the version when somebody wants to know it: that takes longer than `ls`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            known = version("mqlog")
        except PackageNotFoundError:
            known = "(not installed)"
        print(f"mqlog {known}")
        parser.exit()


def _silence(stream: object) -> None:
    """Points a closed pipe at /dev/null, so that the interpreter's last flush says nothing."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
        os.close(nowhere)
