"""What a store knows of queues: share groups with their options, priorities, dead letters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mqlog import _engine, _facts, _options, _topics
from mqlog._catalog import Topic
from mqlog._info import GroupInfo
from mqlog.errors import Error, NotFoundError, OptionError, TopicDeletedError

if TYPE_CHECKING:
    from mqlog._store import Store
    from mqlog.codecs import Codec

LOGGER: Final = logging.getLogger("mqlog")


def open_queue(
    store: Store, name: str, group: str, codec: Codec[Any] | None, options: dict[str, Any]
) -> Topic:
    """The topic of a queue and its share group, once they agree with `options`.

    Both are made if need be, but for `options["create"]`.
    """
    create = bool(options.pop("create"))
    _options.check_group(group)
    own = {option: options.pop(option) for option in list(options) if option in _options.GROUP}
    of_group = _options.check_options(_options.GROUP, own)
    given = _options.check_options(_options.TOPIC, options)
    _refuse_compact(name, given)
    made = {"cleanup_policy": "consumed"} if create else None
    topic = _topics.open_topic(store, name, codec, given, made)
    _refuse_compact(name, topic.options)
    _open_group(store, topic, group, create, of_group)
    return topic


def _refuse_compact(name: str, options: Mapping[str, Any]) -> None:
    if options.get("cleanup_policy") == "compact":
        raise OptionError(
            f"topic {name!r} with cleanup_policy='compact' is no queue: records that were not "
            "delivered would be dropped"
        )


def _open_group(
    store: Store, topic: Topic, group: str, create: bool, given: Mapping[str, Any]
) -> None:
    """The group's entry, with what its maker said."""
    known = store._known()
    if not known.has_group(topic.name, group):
        if not create:
            near = _options.nearest(group, list(known.groups.get(topic.name, ())))
            raise NotFoundError(f"topic {topic.name!r} has no share group {group!r}{near}")
        store._writable("queue()")
        with store._changing() as catalog:
            if not catalog.has_group(topic.name, group):
                catalog.change_group(topic.name, group, given)
    stored = store._known().group(topic.name, group)
    whose = f"share group {group!r} of topic {topic.name!r}"
    for option, value in given.items():
        if stored[option] != value:
            call = f"store.alter({topic.name!r}, group={group!r}, {option}={value!r})"
            raise OptionError(
                f"{whose} has {option}={stored[option]!r}, and {value!r} was given; "
                f"{call} changes it"
            )


def alter_group(store: Store, topic: str, group: str, options: Mapping[str, Any]) -> None:
    """New options for a share group."""
    _options.check_group(group)
    if not store._known().has_group(topic, group):
        store._existing(topic)
        raise OptionError(
            f"topic {topic!r} has no share group {group!r}, and a consumer group has no options"
        )
    changes = _options.check_options(_options.GROUP, options)
    before = store._known().group(topic, group)
    with store._changing() as catalog:
        if not catalog.has_group(topic, group):
            raise NotFoundError(f"share group {group!r} of {topic!r} was deleted meanwhile")
        catalog.change_group(topic, group, changes)
    store._say_altered(f"{store.path}: group {group!r} of {topic!r}", before, changes)


def add_priority(store: Store, name: str, priority: int) -> None:
    """The topic has partitions for this priority; that is durable."""
    with store._changing() as catalog:
        topic = catalog.topic(name)
        if topic is None:
            raise TopicDeletedError(f"topic {name!r} of {store.path} was deleted")
        catalog.add_priority(topic, priority)


def dead_letters(store: Store, name: str) -> Topic:
    """The topic of a queue's dead letters, made if need be."""
    source = store._existing(name)
    full = name + _options.DEAD_LETTERS
    keep = {option: source.options[option] for option in ("max_message_bytes", "durability")}
    # A dead letter has headers more than what it was.
    keep["max_message_bytes"] = min(2 * keep["max_message_bytes"], 1 << 30)
    with store._changing() as catalog:
        if catalog.topic(full) is None:
            catalog.add(full, {"cleanup_policy": "consumed", **keep}, source.codec)
        if not catalog.has_group(full, "default"):
            catalog.change_group(full, "default", {"max_deliveries": None})
    return store._existing(full)


def names(store: Store, topic: str, logs: list[_engine.Log]) -> list[str]:
    """Every share group of a topic, sorted."""
    return sorted({*store._known().groups.get(topic, ()), *_facts.share_names(store.path, logs)})


def groups(store: Store, topic: str, logs: list[_engine.Log]) -> list[GroupInfo]:
    """Every share group of a topic, by name."""
    return [_facts.share(logs, name) for name in names(store, topic, logs)]


def delete_share(store: Store, topic: str, name: str, logs: list[_engine.Log]) -> None:
    """Forgets a share group that nobody holds records of."""
    for log in logs:
        with suppress(NotFoundError):
            if not _engine.open_share(log, name, False, 0, None).delete():
                raise Error(
                    f"share group {name!r} of topic {topic!r} has records that consumers hold: "
                    "let them settle them, or close them"
                )
    with store._changing() as catalog:
        catalog.drop_group(topic, name)
    LOGGER.info("%s: share group %r of topic %r was deleted", store.path, name, topic)
