"""`mqlog groups`, and what other verbs show of groups: places, lags, holders, what pins the log."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import mqlog
from mqlog.cli import _arguments
from mqlog.cli._arguments import Verbs
from mqlog.cli._change import delete_group
from mqlog.cli._errors import describe
from mqlog.cli._screen import Screen

GROUPS = "list the groups of a topic: places, lags, what they pin; or delete one"
GROUPS_ABOUT = """\
Of a consumer group `committed` is the next offset that it will read, `lag` how many records it has
still to read. Of a share group, the consumers of a queue, `place` is the first offset that is not
finished, `lag` how many records are not, and `holders` how many processes hold some. `pins` is how
much of the log lies between a group's place and the log end: what has to stay on the disk for it.

Which consumers are alive is known to the processes that hold the store open, not to this."""
GROUPS_EXAMPLES = """
mqlog groups shop-data                                  of every topic
mqlog groups shop-data orders
mqlog groups shop-data orders --json | jq '.[] | {name, pinned_bytes}'
mqlog groups shop-data orders --delete billing --yes
"""


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(
        verbs, "groups", groups, GROUPS, about=GROUPS_ABOUT, examples=GROUPS_EXAMPLES
    )
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("topic", metavar="TOPIC", nargs="?")
    parser.add_argument("--delete", metavar="NAME", help="forget this group and its place")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    _arguments.add_json(parser)


def groups(args: argparse.Namespace, screen: Screen) -> int:
    if args.delete is not None:
        return delete_group(args, args.delete, screen)
    with mqlog.open(args.store, mode="r") as store:
        names = [args.topic] if args.topic else [topic.name for topic in store.topics()]
        found, code = all_groups(store, names, screen)
        if args.json:
            screen.json([asdict(group) for group in found])
        elif found:
            show_groups(found, screen)
        elif code == 0:
            where = f"{args.topic} has" if args.topic else f"the topics of {args.store} have"
            screen.say(f"{where} no groups; a consumer makes one when it starts")
    return code


def all_groups(
    store: mqlog.Store, topics: Sequence[str], screen: Screen
) -> tuple[list[mqlog.GroupInfo], int]:
    """The groups of topics, and the exit code: 1 if one is damaged, or they cannot be told."""
    found: list[mqlog.GroupInfo] = []
    code = 0
    for name in topics:
        try:
            for group in store.groups(name):
                found.append(group)
                if group.damage is not None:
                    screen.say(f"the group {group.name} of {name} is damaged: {group.damage}")
                    code = 1
        except mqlog.NotFoundError:
            raise
        except (mqlog.Error, OSError) as error:
            screen.say(f"the groups of {name} cannot be read: {describe(error)}")
            code = 1
    return found, code


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def show_groups(found: list[mqlog.GroupInfo], screen: Screen) -> None:
    """Consumer groups, and then share groups."""
    consumers = [group for group in found if group.kind == "consumer"]
    shares = [group for group in found if group.kind == "share"]
    if consumers:
        show_consumers(consumers, screen)
    if consumers and shares:
        screen.print()
    if shares:
        show_shares(shares, screen)


def show_consumers(found: list[mqlog.GroupInfo], screen: Screen) -> None:
    rows = []
    for group in found:
        once = (screen.count(group.lag), screen.size(group.pinned_bytes))  # of the whole group
        for partition, committed in sorted(group.committed.items()):
            rows.append((group.topic, group.name, str(partition), screen.count(committed), *once))
            once = ("", "")
        if not group.committed:
            rows.append((group.topic, group.name, "-", "-", *once))
    columns = ("topic", "group", ">partition", ">committed", ">lag", ">pins")
    screen.table(columns, rows)


def show_shares(found: list[mqlog.GroupInfo], screen: Screen) -> None:
    columns = ("queue", "group", ">place", ">lag", ">ready", ">delayed", ">acquired")
    rows = []
    for group in found:
        stats = group.stats
        assert stats is not None, "a share group has them"
        counts = (group.lag, stats.ready, stats.delayed, stats.acquired)
        others = (len(group.members), stats.dead)
        rows.append(
            (
                group.topic,
                group.name,
                place_of(group, screen),
                *map(screen.count, counts),
                *map(screen.count, others),
                screen.size(group.pinned_bytes),
            )
        )
    screen.table((*columns, ">holders", ">dead", ">pins"), rows, gap=1)


def place_of(group: mqlog.GroupInfo, screen: Screen) -> str:
    """`17`, or by partition `0:17 1:4`."""
    places = sorted(group.committed.items())
    if len(places) == 1:
        return screen.count(places[0][1])
    return " ".join(f"{partition}:{place}" for partition, place in places) or "-"


def show_queues(found: list[mqlog.GroupInfo], screen: Screen) -> None:
    """How the queues of a store stand."""
    columns = ("queue", "group", ">ready", ">delayed", ">acquired", ">dead", ">damaged")
    rows = []
    for group in found:
        stats = group.stats
        assert stats is not None, "a share group has them"
        counts = (stats.ready, stats.delayed, stats.acquired, stats.dead, stats.damaged)
        size = screen.size(group.pinned_bytes)
        age = screen.age(stats.oldest_age)
        rows.append((group.topic, group.name, *map(screen.count, counts), age, size))
    screen.table((*columns, ">oldest", ">pins"), rows, gap=2)


def show_stats(
    found: list[mqlog.GroupInfo], options: dict[str, dict[str, str]], screen: Screen
) -> None:
    """One queue in full: a column for each of its share groups."""
    rows: dict[str, list[str]] = {}
    for group in found:
        stats: dict[str, Any] = asdict(group)["stats"]
        age = stats.pop("oldest_age")
        del stats["bytes"]  # the topic's, which stands above
        facts = {name: screen.count(number) for name, number in stats.items()}
        facts |= {"oldest": screen.age(age), "holders": screen.count(len(group.members))}
        facts |= {"place": place_of(group, screen), "pins": screen.size(group.pinned_bytes)}
        facts["segments pinned"] = screen.count(group.pinned_segments)
        for name, text in (facts | options.get(group.name, {})).items():
            rows.setdefault(name, []).append(text)
    columns = ("queue", *(f">{group.name}" for group in found))
    screen.table(columns, [(name, *cells) for name, cells in rows.items()])
