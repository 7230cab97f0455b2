"""`mqlog alter`, `rm`: the options of topics, and what is deleted. What destroys asks first."""

import argparse
from typing import Any

import mqlog
from mqlog.cli import _arguments
from mqlog.cli._arguments import Verbs
from mqlog.cli._errors import CommandError, UsageError
from mqlog.cli._screen import Screen, human_size, plural

ALTER = "change options of a topic, or of the store"
ALTER_ABOUT = """\
Prints each option's old and new value. Sizes take KiB, MiB, GiB; durations s, m, h, d, w; `none` is
no bound. With --group they are those of a share group, the consumers of a queue: lock_duration,
max_deliveries, retry_delays, max_acquired. Processes that have the store open follow at their next
call. Partitions only grow. `mqlog info` shows all options."""
ALTER_EXAMPLES = """
mqlog alter shop-data orders retention_age=7d cleanup_policy=delete
mqlog alter shop-data orders segment_bytes=64MiB compression=lz4
mqlog alter shop-data orders partitions=8
mqlog alter shop-data max_bytes=10GiB                   an option of the store itself
mqlog alter shop-data orders --group default max_deliveries=3 retry_delays=1s,10s,5m
"""
RM = "delete a topic with all its records, or a group and its place"
RM_ABOUT = """\
Asks first; --yes answers for you, and is needed where nobody can be asked."""
RM_EXAMPLES = """
mqlog rm shop-data old-orders
mqlog rm shop-data old-orders --yes
mqlog rm shop-data orders --group billing               the topic stays
"""
DURATIONS = ("_age", "_interval", "_window", "_duration")


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(
        verbs, "alter", alter, ALTER, about=ALTER_ABOUT, examples=ALTER_EXAMPLES
    )
    parser.usage = "mqlog alter [-h] [--group NAME] [--json] STORE [TOPIC] OPTION=VALUE ..."
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument(
        "words",
        metavar="[TOPIC] OPTION=VALUE",
        nargs="+",
        help="without TOPIC these are options of the store itself",
    )
    parser.add_argument("--group", metavar="NAME", help="change this share group of the topic")
    _arguments.add_json(parser)

    parser = _arguments.add_verb(verbs, "rm", rm, RM, about=RM_ABOUT, examples=RM_EXAMPLES)
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("--group", metavar="NAME", help="delete this group, not the topic")
    parser.add_argument("--yes", action="store_true", help="do not ask")


# ── alter ───────────────────────────────────────────────────────────────────────────────────────


def alter(args: argparse.Namespace, screen: Screen) -> int:
    topic = None if "=" in args.words[0] else args.words[0]
    words = args.words if topic is None else args.words[1:]
    if not words:
        raise UsageError(
            f"say what to change, such as retention_age=7d; "
            f"`mqlog info {args.store} {topic}` shows the options"
        )
    if args.group is not None and topic is None:
        raise UsageError("name the TOPIC of the group")
    changes = dict(option(word) for word in words)
    with mqlog.open(args.store, create=False) as store:
        try:
            before = (
                {} if is_new(store, topic, args.group) else store.options(topic, group=args.group)
            )
            store.alter(topic, group=args.group, **changes)
        except TypeError as error:
            raise CommandError(str(error)) from None
        after = store.options(topic, group=args.group)
    changed = {name: (before.get(name), after.get(name)) for name in changes}
    if args.json:
        screen.json({name: {"old": old, "new": new} for name, (old, new) in changed.items()})
    else:
        width = max(map(len, changed))
        for name, (old, new) in changed.items():
            same = "  (as it was)" if old == new else ""
            screen.print(f"{name.ljust(width)}  {shown(old)} -> {shown(new)}{same}")
    return 0


def is_new(store: mqlog.Store, topic: str | None, group: str | None) -> bool:
    """Whether there is no such share group: `alter` says so, and why it cannot be meant."""
    if topic is None or group is None:
        return False
    shares = [found.name for found in store.groups(topic) if found.kind == "share"]
    return group not in shares


def option(word: str) -> tuple[str, Any]:
    """`name=value`, the value as the API takes it."""
    name, equals, text = word.partition("=")
    if not equals or not name:
        raise UsageError(f"{word!r} is no option: say name=value, such as retention_age=7d")
    try:
        return name, option_value(name, text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def option_value(name: str, text: str) -> Any:
    if text.lower() == "none":
        return {"compression": "none", "retry_delays": []}.get(name)
    if name == "retry_delays":
        return [_arguments.duration(one) for one in text.split(",") if one]
    if name.endswith("_bytes"):
        return _arguments.size(text)
    if name.endswith(DURATIONS):
        return _arguments.duration(text)
    return int(text) if text.isdecimal() else text


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{one:g}" for one in value) or "none"
    return "none" if value is None else str(value)


# ── rm ──────────────────────────────────────────────────────────────────────────────────────────


def rm(args: argparse.Namespace, screen: Screen) -> int:
    if args.group is not None:
        return delete_group(args, args.group, screen)
    with mqlog.open(args.store, create=False) as store:
        topic = store.topic(args.topic)
        groups = len(store.groups(args.topic))
        size = f"{plural(topic.records, 'record')}, {human_size(topic.bytes)}"
        also = f" and {plural(groups, 'group')}" if groups else ""
        what = f"the topic {args.topic} ({size}{also})"
        if not agreed(args, screen, what, "rm"):
            return 1
        store.delete_topic(args.topic)
        screen.say(f"deleted {what}")
    return 0


def delete_group(args: argparse.Namespace, name: str, screen: Screen) -> int:
    """Forgets a group of `args.topic`; asks first."""
    if args.topic is None:
        raise UsageError("name the TOPIC whose group is to be deleted")
    with mqlog.open(args.store, create=False) as store:
        lag = next((group.lag for group in store.groups(args.topic) if group.name == name), None)
        behind = "" if lag is None else f" (lag {lag:,})"
        what = f"the group {name} of {args.topic}{behind}"
        if lag is not None and not agreed(args, screen, what, args.verb):
            return 1
        store.delete_group(args.topic, name)
        screen.say(f"deleted {what}; the records stay")
    return 0


def agreed(args: argparse.Namespace, screen: Screen, what: str, verb: str) -> bool:
    """True for --yes, or a yes on the terminal.

    Raises:
        UsageError: There is nobody to ask.
    """
    if args.yes:
        return True
    if not screen.can_ask:
        raise UsageError(f"{verb} would delete {what}: add --yes, as there is no terminal to ask")
    if screen.ask(f"Delete {what}? This cannot be undone."):
        return True
    screen.say("nothing was deleted")
    return False
