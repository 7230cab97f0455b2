"""`mqlog peek`, `dead`, `redrive`, `purge`: the records of a queue. The first two only look."""

import argparse
import time
from typing import Any

import mqlog
from mqlog.cli import _arguments
from mqlog.cli._arguments import Parser, Verbs
from mqlog.cli._change import agreed
from mqlog.cli._read import JSON_ABOUT, add_format, output, text_of
from mqlog.cli._screen import Screen, plural, utc

PEEK = "print the records of a queue that would be delivered next"
PEEK_ABOUT = """\
They are not acquired; the store is opened read-only. Delayed records come when they are due."""
PEEK_EXAMPLES = """
mqlog peek shop-data orders
mqlog peek shop-data orders -n 100 --json | jq .key
mqlog peek shop-data orders.dlq --json                  dead letters with all their headers
"""
DEAD = "list the dead letters of a queue: what they were, why they are dead"
DEAD_ABOUT = """\
The store is opened read-only. Each was rejected, or not accepted in as many deliveries as the
group's max_deliveries says; `mqlog redrive` puts them back into the queue."""
DEAD_EXAMPLES = """
mqlog dead shop-data orders
mqlog dead shop-data orders -n 5 --json | jq -r '.[].reason'
"""
REDRIVE = "put dead letters back into the queue that they came from"
REDRIVE_ABOUT = """\
They are delivered anew, with a fresh delivery count, to the share group that failed."""
REDRIVE_EXAMPLES = """
mqlog redrive shop-data orders
mqlog redrive shop-data orders -n 10                    the ten oldest
"""
PURGE = "drop all records of a queue that wait to be delivered"
PURGE_ABOUT = """\
Delayed ones too; what a consumer holds is left to it. Of one share group: others and streams keep
theirs. Asks first; --yes answers for you, and is needed where nobody can be asked."""
PURGE_EXAMPLES = """
mqlog purge shop-data orders
mqlog purge shop-data orders.dlq --yes                  dead letters that nobody wants back
"""
LETTERS = ".dlq"
#: Kafka's names (KIP-1191) of what a dead letter says of itself.
HEADER = "__dlq.errors."


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(
        verbs, "peek", peek, PEEK, about=PEEK_ABOUT + JSON_ABOUT, examples=PEEK_EXAMPLES
    )
    _add_queue(parser)
    _add_group(parser)
    _arguments.add_limit(parser, 10, "(default 10)")
    add_format(parser)

    parser = _arguments.add_verb(
        verbs, "dead", dead, DEAD, about=DEAD_ABOUT, examples=DEAD_EXAMPLES
    )
    _add_queue(parser)
    _arguments.add_limit(parser, 100, "of the oldest (default 100)")
    _arguments.add_json(parser)

    parser = _arguments.add_verb(
        verbs, "redrive", redrive, REDRIVE, about=REDRIVE_ABOUT, examples=REDRIVE_EXAMPLES
    )
    _add_queue(parser)
    _arguments.add_limit(parser, None, "of the oldest (default all)")

    parser = _arguments.add_verb(
        verbs, "purge", purge, PURGE, about=PURGE_ABOUT, examples=PURGE_EXAMPLES
    )
    _add_queue(parser)
    _add_group(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _add_queue(parser: Parser) -> None:
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("queue", metavar="QUEUE")


def _add_group(parser: Parser) -> None:
    parser.add_argument("--group", metavar="NAME", default="default", help="the share group")


# ── looking ─────────────────────────────────────────────────────────────────────────────────────


def peek(args: argparse.Namespace, screen: Screen) -> int:
    with output(args, screen) as out, mqlog.open(args.store, mode="r") as store:
        queue = store.queue(args.queue, group=args.group)
        for record in queue.peek(args.limit) if args.limit else []:
            out.record(record)
    return 0


def dead(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, mode="r") as store:
        letters = _letters(store, args.queue)
        found = letters.peek(args.limit) if letters is not None and args.limit else []
        left = 0 if letters is None else letters.qsize() - len(found)
        if args.json:
            screen.json([letter_document(one) for one in found])
            return 0
        if found:
            show_letters(found, screen)
        if left > 0:
            say = f"{plural(left, 'dead letter')} more" if found else plural(left, "dead letter")
            screen.say(f"{say}: mqlog dead {args.store} {args.queue} -n {left + len(found)}")
        elif not found:
            screen.say(f"{args.queue} has no dead letters")
    return 0


def _letters(store: mqlog.Store, name: str) -> mqlog.Queue[Any, Any] | None:
    """The dead letters of a queue, which may be named themselves; None: there are none yet."""
    store.topic(name)
    name = name if name.endswith(LETTERS) else name + LETTERS
    return store.queue(name, create=False) if name in store else None


def letter_document(record: mqlog.Record[Any]) -> dict[str, Any]:
    said = {
        name: (record.header(HEADER + name) or b"").decode("utf-8", "replace")
        for name in ("topic", "partition", "offset", "group", "delivery.count", "message")
    }
    count = said["delivery.count"]
    return {
        "id": record.id,
        "origin": f"{said['topic']}-{said['partition']}:{said['offset']}",
        "group": said["group"],
        "deliveries": int(count) if count.isdecimal() else None,
        "reason": said["message"],
        "timestamp": record.timestamp,
        "key": text_of(record.key),
        "size": len(record.raw or b""),
    }


def show_letters(found: list[mqlog.Record[Any]], screen: Screen) -> None:
    now, rows = time.time(), []
    for one in map(letter_document, found):
        when = one["timestamp"]
        if when is not None:
            when = f"{screen.age(now - when)} ago" if screen.is_terminal else utc(when)
        rows.append(
            (
                one["origin"],
                "-" if one["deliveries"] is None else str(one["deliveries"]),
                when or "-",
                screen.size(one["size"]),
                " ".join(one["reason"].split()) or "-",
            )
        )
    screen.table(("origin", ">deliveries", ">when", ">size", "reason"), rows)


# ── changing ────────────────────────────────────────────────────────────────────────────────────


def redrive(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, create=False) as store:
        letters = _letters(store, args.queue)
        if letters is None or letters.empty():
            screen.say(f"{args.queue} has no dead letters")
            return 0
        done = letters.redrive(args.limit) if args.limit != 0 else 0
        left = letters.qsize()
        stay = f"; {left:,} stay" if left else ""
        screen.say(f"put {plural(done, 'dead letter')} back{stay}")
    return 0


def purge(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, create=False) as store:
        queue = store.queue(args.queue, group=args.group, create=False)
        stats = queue.stats()
        group = "" if args.group == "default" else f", group {args.group}"
        where = f"{args.queue}{group}"
        if stats.ready + stats.delayed == 0:
            screen.say(f"nothing waits in {where}")
            return 0
        delayed = f", {stats.delayed:,} of them delayed" if stats.delayed else ""
        what = f"the {plural(stats.ready + stats.delayed, 'record')} that wait in {where}{delayed}"
        if not agreed(args, screen, what, "purge"):
            return 1
        screen.say(f"purged {plural(queue.purge(), 'record')} of {where}")
    return 0
