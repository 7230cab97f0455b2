"""What a store does to its topics: it opens them, or makes them, and changes their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mqlog import _options
from mqlog._catalog import Topic
from mqlog.errors import OptionError, TopicDeletedError

if TYPE_CHECKING:
    from mqlog._store import Store
    from mqlog.codecs import Codec


#: Options that a topic is made with where nothing else is said.
Made = Mapping[str, Any] | None


def open_topic(
    store: Store, name: str, codec: Codec[Any] | None, given: Mapping[str, Any], made: Made
) -> Topic:
    """The topic once it agrees with what was given; `made`: what a new one has, None: none is."""
    _options.check_name("topic", name)
    codec_name = None if codec is None else _codec_name(codec)
    topic = store._topic(name)[1]
    if topic is None and made is not None and store.mode == "rw":
        _options.check_topic(name)
        defaults = {"durability": store._durability, **made}
        with store._changing() as catalog:
            if catalog.topic(name) is None:
                catalog.add(name, {**defaults, **given}, codec_name)
    topic = store._existing(name)
    _options.refuse_difference(f"topic {name!r}", name, topic.options, given)
    if codec_name is not None and topic.codec != codec_name:
        _keep_codec(store, topic, codec_name)
    return topic


def _keep_codec(store: Store, topic: Topic, codec: str) -> None:
    """A topic that has no codec yet keeps the name of the first one."""
    stored = {"codec": topic.codec}
    if topic.codec is not None:
        whose = f"topic {topic.name!r}"
        _options.refuse_difference(whose, topic.name, stored, {"codec": codec})
    if store.mode == "r":
        return
    with store._changing() as catalog:
        now = catalog.topic(topic.name)
        if now is not None and now.codec is None:
            catalog.change(now, {"codec": codec})
        elif now is not None and now.codec != codec:
            stored = {"codec": now.codec}
            _options.refuse_difference("the topic", topic.name, stored, {"codec": codec})


def alter(store: Store, name: str, options: dict[str, Any]) -> None:
    """New values for some of a topic's options."""
    _options.check_name("topic", name)
    changes: dict[str, Any] = {}
    if "codec" in options:
        codec = options.pop("codec")
        if isinstance(codec, str):
            changes["codec"] = _options.check_codec(codec)
        else:
            changes["codec"] = None if codec is None else _codec_name(codec)
    if "compression" in options and options["compression"] is None:
        options["compression"] = "none"
    changes.update(_options.check_options(_options.TOPIC, options))
    store._existing(name)
    with store._changing() as catalog:
        topic = catalog.topic(name)
        if topic is None:
            raise TopicDeletedError(f"topic {name!r} of {store.path} was deleted meanwhile")
        _check_partitions(topic, int(changes.get("partitions", topic.spread)))
        catalog.change(topic, changes)
    store._logs(store._existing(name))
    store._say_altered(f"{store.path}: topic {name!r}", topic.options, changes)


def _check_partitions(topic: Topic, wanted: int) -> None:
    if wanted != topic.spread and topic.priorities:
        raise OptionError(
            f"partitions={wanted}: topic {topic.name!r} has records of several priorities, each "
            f"with {topic.spread} partitions of its own, and keeps them"
        )
    if wanted < topic.spread:
        raise OptionError(
            f"partitions={wanted}: topic {topic.name!r} has {topic.spread}, and partitions only "
            "grow; copy the records to a new topic for fewer"
        )


def _codec_name(codec: Any) -> str:
    name = getattr(codec, "name", None)
    both = callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))
    if isinstance(name, str) and both:
        return _options.check_codec(name)
    raise TypeError(
        f"codec= takes an object with name, encode and decode, such as mqlog.codecs.json, not "
        f"{type(codec).__name__}"
    )
