"""`mqlog verify`: every batch and every index entry, checked."""

import argparse
from dataclasses import asdict
from typing import Any

import mqlog
from mqlog.cli import _arguments
from mqlog.cli._arguments import Verbs
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


def run(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, mode="r") as store:
        checked = check(store, args.topic, screen)
    problems = [problem for partition in checked for problem in partition.problems]
    if args.json:
        screen.json(document(checked, problems))
    else:
        show(args, checked, problems, screen)
    return 1 if problems else 0


def check(store: mqlog.Store, topic: str | None, screen: Screen) -> list[mqlog.VerifiedInfo]:
    with screen.progress("verify", sizes=True) as step:
        found = store.verify(topic, progress=lambda name, done, total: step(done, total, name))
        return list(found)


def by_topic(checked: list[mqlog.VerifiedInfo]) -> dict[str, list[int]]:
    """What was counted in each topic, in the order of `COUNTED`, and its problems at the end."""
    topics: dict[str, list[int]] = {}
    for part in checked:
        counts = [*(getattr(part, name) for name in COUNTED), len(part.problems)]
        before = topics.get(part.topic, [0] * len(counts))
        topics[part.topic] = [old + new for old, new in zip(before, counts, strict=True)]
    return topics


def document(
    checked: list[mqlog.VerifiedInfo], problems: list[mqlog.ProblemInfo]
) -> dict[str, Any]:
    return {
        "ok": not problems,
        "problems": [asdict(problem) for problem in problems],
        "topics": [
            {"topic": topic, **dict(zip(COUNTED, counts, strict=False))}
            for topic, counts in by_topic(checked).items()
        ],
    }


def show(
    args: argparse.Namespace,
    checked: list[mqlog.VerifiedInfo],
    problems: list[mqlog.ProblemInfo],
    screen: Screen,
) -> None:
    for problem in problems:
        screen.print(str(problem))
    if problems:
        screen.print()
    numbers = (*(name.replace("_", " ") for name in COUNTED), "problems")
    size = COUNTED.index("bytes")
    rows = []
    for topic, counts in by_topic(checked).items():
        cells = [screen.count(count) for count in counts]
        cells[size] = screen.size(counts[size])
        rows.append((topic, *cells))
    screen.table(("topic", *(f">{name}" for name in numbers)), rows)
    if problems:
        topic = args.topic or "TOPIC"
        screen.say(
            f"{plural(len(problems), 'problem')} found; what is whole stays readable: "
            f"mqlog cat {args.store} {topic} --skip-corrupt"
        )
