"""`mqlog verify`: every batch and every index entry, checked."""

import argparse
from dataclasses import asdict, dataclass, field
from typing import Any

import mqlog
from mqlog.cli import _arguments, _facts
from mqlog.cli._arguments import Verbs
from mqlog.cli._errors import describe
from mqlog.cli._screen import Screen, plural

SUMMARY = "check every batch and index entry of a topic or a store"
ABOUT = """\
Opens the store read-only, reads all of it, and prints what is wrong where. Exit code 1 if anything
is. Other processes may go on appending meanwhile; what they append is not looked at."""
EXAMPLES = """
mqlog verify shop-data
mqlog verify shop-data orders
mqlog verify shop-data --json | jq .problems
"""
COUNTED = ("segments", "batches", "records", "bytes", "index_entries")


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(verbs, "verify", run, SUMMARY, about=ABOUT, examples=EXAMPLES)
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="all topics, if left out")
    _arguments.add_json(parser)


@dataclass(frozen=True)
class Problem:
    """Something wrong; `position` is a byte in the file, -1 where it has no place."""

    file: str
    position: int
    what: str

    def __str__(self) -> str:
        where = f" at byte {self.position}" if self.position >= 0 else ""
        return f"{self.file}{where}: {self.what}"


@dataclass
class Checked:
    """What was read of a topic."""

    topic: str
    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    index_entries: int = 0
    problems: list[Problem] = field(default_factory=list)


def run(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, mode="r") as store:
        if args.topic is not None:
            _facts.topic_info(store, args.topic)
        names = [args.topic] if args.topic else [topic.name for topic in store.topics()]
        checked = [check(store, name, screen, quiet=args.json) for name in names]
    problems = [problem for topic in checked for problem in topic.problems]
    if args.json:
        screen.json(document(checked, problems))
    else:
        show(args, checked, problems, screen)
    return 1 if problems else 0


def check(store: mqlog.Store, name: str, screen: Screen, *, quiet: bool) -> Checked:
    """Reads one topic; what keeps it from being read is a problem like any other."""
    result = Checked(name)

    def found(file: str, position: int, what: str) -> None:
        result.problems.append(Problem(file, position, what))

    try:
        for partition in range(len(_facts.topic_info(store, name).partitions)):
            with screen.progress(f"{name}-{partition}", sizes=True) as step:
                report = _facts.verify_partition(store, name, partition, found, step)
            for counted in COUNTED:
                setattr(result, counted, getattr(result, counted) + getattr(report, counted))
    except (mqlog.Error, OSError) as error:
        found(name, -1, describe(error))
    if not quiet:
        for problem in result.problems:
            screen.print(str(problem))
    return result


def document(checked: list[Checked], problems: list[Problem]) -> dict[str, Any]:
    return {
        "ok": not problems,
        "problems": [asdict(problem) for problem in problems],
        "topics": [
            {"topic": topic.topic, **{name: getattr(topic, name) for name in COUNTED}}
            for topic in checked
        ],
    }


def show(
    args: argparse.Namespace, checked: list[Checked], problems: list[Problem], screen: Screen
) -> None:
    numbers = ("segments", "batches", "records", "bytes", "index entries", "problems")
    columns = ("topic", *(f">{name}" for name in numbers))
    rows = [
        (
            topic.topic,
            screen.count(topic.segments),
            screen.count(topic.batches),
            screen.count(topic.records),
            screen.size(topic.bytes),
            screen.count(topic.index_entries),
            screen.count(len(topic.problems)),
        )
        for topic in checked
    ]
    if problems:
        screen.print()
    screen.table(columns, rows)
    if problems:
        topic = args.topic or "TOPIC"
        screen.say(
            f"{plural(len(problems), 'problem')} found; what is whole stays readable: "
            f"mqlog cat {args.store} {topic} --skip-corrupt"
        )
