"""What a store knows of queues: share groups with their options, priorities, dead letters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mqlog import _engine, _facts, _options, _topics
from mqlog._catalog import Topic
from mqlog._info import GroupInfo
from mqlog.errors import Error, NotFoundError, OptionError, TopicDeletedError

if TYPE_CHECKING:
    from mqlog._store import Store
    from mqlog.codecs import Codec

LOGGER: Final = logging.getLogger("mqlog")

#: The share group that a queue has if nothing else is said, and whose records `maxsize` counts.
DEFAULT: Final = "default"


def open_queue(
    store: Store, name: str, group: str, codec: Codec[Any] | None, options: dict[str, Any]
) -> Topic:
    """The topic of a queue and its share group, once they agree with `options`.

    Both are made if need be, but for `options["create"]`.
    """
    create = bool(options.pop("create")) and store.mode == "rw"
    _options.check_group(group)
    own = {option: options.pop(option) for option in list(options) if option in _options.GROUP}
    of_group = _options.check_options(_options.GROUP, own)
    given = _options.check_options(_options.TOPIC, options)
    _refuse_compact(name, given)
    made = {"cleanup_policy": "consumed"} if create else None
    if name.endswith(_options.DEAD_LETTERS):
        _refuse_missing(store, name)
    topic = _topics.open_topic(store, name, codec, given, made)
    _refuse_compact(name, topic.options)
    _open_group(store, topic, group, create, of_group)
    return topic


def _refuse_missing(store: Store, letters: str) -> None:
    if letters not in store:
        of = letters.removesuffix(_options.DEAD_LETTERS)
        raise NotFoundError(f"{letters!r}: queue {of!r} has no dead letters yet")


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


def group_options(store: Store, topic: str, group: str) -> dict[str, Any]:
    """Every option of a share group.

    Raises:
        NotFoundError: It was deleted.
    """
    known = store._known()
    if not known.has_group(topic, group):
        raise NotFoundError(
            f"share group {group!r} of topic {topic!r} was deleted: store.queue({topic!r}, "
            f"group={group!r}) makes it anew"
        )
    return known.group(topic, group)


def existing_options(store: Store, topic: str, group: str) -> dict[str, Any]:
    """The same, of a group that somebody names.

    Raises:
        NotFoundError: There is no such topic or group; names the nearest.
    """
    store._existing(topic)
    known = store._known()
    if not known.has_group(topic, group):
        near = _options.nearest(group, list(known.groups.get(topic, ())))
        raise NotFoundError(f"topic {topic!r} has no share group {group!r}{near}")
    return known.group(topic, group)


def bound(store: Store, topic: Topic, logs: list[_engine.Log]) -> list[_engine.Share]:
    """Holds all appends of this process to the topic's bounds; whose records are counted."""
    if store.mode == "r" or not store._known().has_group(topic.name, DEFAULT):
        return []
    places = list(_facts.share_places(logs, DEFAULT))
    for place in places:
        place.bound(topic.options["maxsize"], topic.options["max_bytes"])
    return places


def size_of_letters(largest: int) -> int:
    """The `max_message_bytes` of dead letters, which have headers more than what they were."""
    return min(2 * largest, 1 << 30)


def dead_letters(store: Store, name: str) -> Topic:
    """The topic of a queue's dead letters, made if need be, with room for the largest of them.

    Raises:
        NotFoundError: There are none yet, and the store is read-only.
    """
    source = store._existing(name)
    full = name + _options.DEAD_LETTERS
    if store.mode == "r":
        _refuse_missing(store, full)
        return store._existing(full)
    largest = size_of_letters(source.options["max_message_bytes"])
    made = {"cleanup_policy": "consumed", "durability": source.options["durability"]}
    with store._changing() as catalog:
        topic = catalog.topic(full)
        if topic is None:
            catalog.add(full, {**made, "max_message_bytes": largest}, source.codec)
        elif topic.options["max_message_bytes"] < largest:
            catalog.change(topic, {"max_message_bytes": largest})
        if not catalog.has_group(full, DEFAULT):
            catalog.change_group(full, DEFAULT, {"max_deliveries": None})
    return store._existing(full)


def names(store: Store, topic: str, logs: list[_engine.Log]) -> list[str]:
    """Every share group of a topic, sorted."""
    return sorted({*store._known().groups.get(topic, ()), *_facts.share_names(store.path, logs)})


def groups(store: Store, topic: str, logs: list[_engine.Log]) -> list[GroupInfo]:
    """Every share group of a topic, by name."""
    return [_facts.share(logs, name, store._now()) for name in names(store, topic, logs)]


def delete(store: Store, topic: str, name: str, logs: list[_engine.Log]) -> None:
    """Forgets a share group that nobody holds records of; its consumers are told so."""
    if any(place.holders(1) for place in _facts.share_places(logs, name)):
        raise _held(topic, name)
    with store._changing() as catalog:
        before = catalog.groups.get(topic, {}).get(name, {})
        catalog.drop_group(topic, name)
    for place in _facts.share_places(logs, name):
        if not place.delete():  # somebody was quicker
            with store._changing() as catalog:
                catalog.change_group(topic, name, before)
            raise _held(topic, name)
    LOGGER.info("%s: share group %r of topic %r was deleted", store.path, name, topic)


def _held(topic: str, name: str) -> Error:
    return Error(
        f"share group {name!r} of topic {topic!r} has records that consumers hold: let them "
        "settle them, or close them; nothing was deleted"
    )
