"""`mqlog ls`, `info`: what is in a store. Opened read-only: looking changes nothing."""

import argparse
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import mqlog
from mqlog.cli import _arguments, _facts
from mqlog.cli._arguments import Verbs
from mqlog.cli._groups import all_groups, show_consumers, show_queues, show_stats
from mqlog.cli._screen import Screen, human_duration, human_size, utc

LS = "list the topics of a store"
LS_EXAMPLES = """
mqlog ls shop-data
mqlog ls shop-data --json | jq -r '.[].name'
"""
INFO = "show a store or a topic: offsets, segments, options, groups, what recovery cut"
INFO_ABOUT = """\
Of queues: how many records are ready, delayed, acquired by consumers, dead and damaged, how old the
oldest is that waits, and how much of the log each group pins."""
INFO_EXAMPLES = """
mqlog info shop-data
mqlog info shop-data orders
mqlog info shop-data orders --json | jq .partitions[0].end_offset
"""


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(verbs, "ls", ls, LS, examples=LS_EXAMPLES)
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    _arguments.add_json(parser)

    parser = _arguments.add_verb(
        verbs, "info", info, INFO, about=INFO_ABOUT, examples=INFO_EXAMPLES
    )
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("topic", metavar="TOPIC", nargs="?")
    _arguments.add_json(parser)


# ── the verbs ───────────────────────────────────────────────────────────────────────────────────


def ls(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, mode="r") as store:
        topics = store.topics()
        if args.json:
            screen.json([topic_document(topic) for topic in topics])
        elif topics:
            found, code = all_groups(store, [topic.name for topic in topics], screen)
            show_topics(topics, Counter(group.topic for group in found), screen)
            return code
        else:
            screen.say(f"{args.store} has no topics; `mqlog put {args.store} TOPIC` makes one")
    return 0


def info(args: argparse.Namespace, screen: Screen) -> int:
    with mqlog.open(args.store, mode="r") as store:
        if args.topic is None:
            return store_info(store, args, screen)
        return topic_info(store, store.topic(args.topic), args, screen)


# ── a store ─────────────────────────────────────────────────────────────────────────────────────


def store_info(store: mqlog.Store, args: argparse.Namespace, screen: Screen) -> int:
    topics = store.topics()
    found, code = all_groups(store, [topic.name for topic in topics], screen)
    options = store.options()
    recovered, aside = recovery(store)
    if args.json:
        document = {
            "path": str(store.path),
            "options": dict(options),
            "topics": [topic_document(topic) for topic in topics],
            "groups": [asdict(group) for group in found],
            "recovered": recovered,
            "set_aside": aside,
        }
        screen.json(document)
        return code
    facts = [
        ("store", str(store.path)),
        ("topics", screen.count(len(topics))),
        ("records", screen.count(sum(topic.records for topic in topics))),
        ("bytes", screen.size(sum(topic.bytes for topic in topics))),
    ]
    screen.facts([*facts, *option_facts(options, screen)])
    if topics:
        screen.print()
        show_topics(topics, Counter(group.topic for group in found), screen)
    consumers = [group for group in found if group.kind == "consumer"]
    queues = [group for group in found if group.kind == "share"]
    if consumers:
        screen.print()
        show_consumers(consumers, screen)
    if queues:
        screen.print()
        show_queues(queues, screen)
    show_recovery(recovered, aside, screen)
    return code


def show_topics(topics: list[mqlog.TopicInfo], groups: Mapping[str, int], screen: Screen) -> None:
    columns = ("topic", ">partitions", ">records", ">bytes", ">segments", ">groups")
    rows = [
        (
            topic.name,
            screen.count(len(topic.partitions)),
            screen.count(topic.records),
            screen.size(topic.bytes),
            screen.count(topic.segments),
            screen.count(groups[topic.name]),
        )
        for topic in topics
    ]
    screen.table(columns, rows)


# ── a topic ─────────────────────────────────────────────────────────────────────────────────────


def topic_info(
    store: mqlog.Store, topic: mqlog.TopicInfo, args: argparse.Namespace, screen: Screen
) -> int:
    found, code = all_groups(store, [topic.name], screen)
    shares = [group for group in found if group.kind == "share"]
    options = {group.name: dict(store.options(topic.name, group=group.name)) for group in shares}
    recovered, aside = recovery(store, topic.name)
    first, last = time_span(store.stream(topic.name, create=False))
    if args.json:
        document = topic_document(topic)
        document["first_timestamp"], document["last_timestamp"] = first, last
        document["groups"] = [
            asdict(group) | ({"options": options[group.name]} if group.name in options else {})
            for group in found
        ]
        document["recovered"], document["set_aside"] = recovered, aside
        screen.json(document)
        return code
    facts = [
        ("topic", topic.name),
        ("id", topic.id or "none: Kafka's directories, as they are"),
        ("records", screen.count(topic.records)),
        ("bytes", screen.size(topic.bytes)),
        ("first record", "-" if first is None else utc(first)),
        ("last record", "-" if last is None else utc(last)),
        ("codec", topic.codec or "none"),
    ]
    screen.facts(facts)
    screen.print()
    screen.facts(option_facts(topic.options, screen))
    screen.print()
    show_partitions(topic, screen)
    if consumers := [group for group in found if group.kind == "consumer"]:
        screen.print()
        show_consumers(consumers, screen)
    if shares:
        screen.print()
        told = {name: dict(option_facts(some, screen)) for name, some in options.items()}
        show_stats(shares, told, screen)
    show_recovery(recovered, aside, screen)
    return code


def show_partitions(topic: mqlog.TopicInfo, screen: Screen) -> None:
    columns = (">partition", ">start", ">end", ">durable", ">segments", ">bytes", ">epoch", "")
    rows = [
        (
            *map(screen.count, (part.partition, part.start_offset, part.end_offset)),
            *map(screen.count, (part.durable_offset, part.segments)),
            screen.size(part.bytes),
            screen.count(part.epoch),
            "poisoned: a sync failed, reopen the store" if part.poisoned else "",
        )
        for part in topic.partitions
    ]
    screen.table(columns, rows)


def time_span(stream: mqlog.Stream[Any, Any]) -> tuple[float | None, float | None]:
    """Timestamps of the records at the two ends; None where there are none, or damage."""
    ends: tuple[list[float], list[float]] = ([], [])
    for log in stream.partitions:
        for found, offset in zip(ends, (log.start_offset, log.end_offset - 1), strict=True):
            with suppress(mqlog.Error, OSError):
                timestamp = log[offset].timestamp
                found.extend([] if timestamp is None else [timestamp])
    return min(ends[0], default=None), max(ends[1], default=None)


# ── parts of both ───────────────────────────────────────────────────────────────────────────────


def topic_document(topic: mqlog.TopicInfo) -> dict[str, Any]:
    return {
        "name": topic.name,
        "id": topic.id,
        "records": topic.records,
        "bytes": topic.bytes,
        "segments": topic.segments,
        "codec": topic.codec,
        "options": dict(topic.options),
        "partitions": [asdict(partition) for partition in topic.partitions],
    }


def option_facts(options: Mapping[str, Any], screen: Screen) -> list[tuple[str, str]]:
    return [(name, option_text(name, value, screen)) for name, value in options.items()]


def option_text(name: str, value: Any, screen: Screen) -> str:
    """An option's value; on a terminal with its unit."""
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple) and not screen.is_terminal:
        return ",".join(f"{one:g}" for one in value)
    if not screen.is_terminal or isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, tuple):
        return " ".join(human_duration(one) for one in value)
    if name.endswith("bytes") and value and value % 1024 == 0:
        return human_size(value)
    return human_duration(value) if isinstance(value, float) else f"{value:,}"


def recovery(store: mqlog.Store, topic: str | None = None) -> tuple[list[str], list[str]]:
    """What opening had to cut, and files that earlier recoveries set aside."""
    recovered = [str(cut) for cut in store.recovered if topic in (None, cut.topic)]
    aside = [file.relative_to(store.path) for file in _facts.set_aside(store)]
    mine = [file for file in aside if topic in (None, str(file.parent).rpartition("-")[0])]
    return recovered, [str(file) for file in mine]


def show_recovery(recovered: list[str], aside: list[str], screen: Screen) -> None:
    lines = [f"recovered  {line}" for line in recovered]
    lines += [f"set aside  {file}" for file in aside]
    if lines:
        screen.print()
        for line in lines:
            screen.print(line)
