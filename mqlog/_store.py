"""A store: opening it, its options and topics, and its life through threads, forks and pickles.

What a `Store` says about its topics it reads from `mqlog.json` (`_catalog.py`), again whenever the
engine's options generation has moved; what it says about their records the engine tells it. The
engine's store behind a `Store` may change, after a fork and by `refresh()`, so nothing here or
above keeps it: every call begins with `_live()`.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, overload

from mqlog import _catalog, _engine, _facts, _options, _sharing, _topics
from mqlog._catalog import Catalog, Topic
from mqlog._info import GroupInfo, PartitionInfo, RecoveredInfo, TopicInfo, VerifiedInfo
from mqlog._ready import Watcher
from mqlog._times import EARLIEST, Start
from mqlog.codecs import Codec
from mqlog.errors import (
    ClosedError,
    Error,
    NotFoundError,
    ReadOnlyError,
    TopicDeletedError,
)

if TYPE_CHECKING:
    from mqlog._consumer import Consumer
    from mqlog._queue import Queue
    from mqlog._ready import Signal
    from mqlog._stream import Stream
    from mqlog._typing import Buffer, T

LOGGER: Final = logging.getLogger("mqlog")

#: Stores to be closed at the end of the interpreter.
_OPEN: weakref.WeakSet[Store] = weakref.WeakSet()


def open(
    path: str | os.PathLike[str],
    mode: Literal["rw", "r"] = "rw",
    *,
    create: bool = True,
    durability: Literal["os", "sync"] = "os",
    max_bytes: int = 0,
    min_free_bytes: int | None = None,
) -> Store:
    """Opens the store in a directory.

    On return the store is there and its directory is on disk. What a killed process left behind is
    put right when each partition is first opened; `Store.recovered` tells what was cut.

    Args:
        path: The directory. It may hold Kafka's own partition directories.
        mode: `"r"` reads a snapshot, also while others write, and writes nothing at all. Each
            partition's ends are those of its first use; `Store.refresh` looks again.
        create: Make the directory, and those above it, if it is not there.
        durability: For topics that this handle creates: `"os"` survives the death of any process,
            `"sync"` a power cut too. What a topic has is stored with it.
        max_bytes: Appends stop once the store has grown to so many bytes. 0: what is stored, and
            at first no bound.
        min_free_bytes: Appends stop when the disk has less than this left. None: what is stored,
            and at first the lesser of 64 MiB and 5 % of the disk.

    Raises:
        NotFoundError: There is no store, and `mode="r"` or `create=False`.
        OptionError: A bound differs from the stored one; `store.alter(None, …)` changes it.
        FormatError: The store is of a newer format, or its mqlog.json is none; nothing was touched.
        NotADirectoryError: There is a file of that name.
        PermissionError, OSError: The directory cannot be used.

    Opening a store twice is ordinary. Any thread may call it; it may block for up to 10 s while
    another process opens the same store.
    """
    if mode not in ("rw", "r"):
        raise ValueError(f'mode={mode!r}: "rw" or "r"')
    place = Path(_options.check_path(path))
    _options.TOPIC["durability"].check("durability", durability)
    given: dict[str, Any] = {}
    if min_free_bytes is not None:
        given["min_free_bytes"] = min_free_bytes
    if max_bytes != 0 or isinstance(max_bytes, bool):
        given["max_bytes"] = max_bytes
    given = _options.check_options(_options.STORE, given)
    store = Store(place, mode, durability)
    store._open(create, given)
    return store


def temporary(*, clock: Callable[[], float] | None = None) -> Store:
    """Opens a new store in memory; it is gone when it is closed, or at the end of the process.

    For tests: everything works as on a disk, several processes included, but for power cuts.

    Args:
        clock: The store's wall clock, in seconds since 1970: timestamps that are not given, delays,
            `ttl` and `dedupe_window` go by it. It is asked in each call, also in one that waits, a
            few times a second. Locks go by the time since boot, which no clock moves.

    Any thread may call it; it does not block.
    """
    _options.check_callable("clock", clock)
    memory = "/dev/shm"
    usable = os.path.isdir(memory) and os.access(memory, os.W_OK | os.X_OK)
    path = tempfile.mkdtemp(prefix="mqlog-", dir=memory if usable else None)
    store = Store(Path(path), "rw", "os", clock=clock, removed_by=os.getpid())
    try:
        store._open(True, {})
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return store


class Store:
    """A directory of topics. Made by `mqlog.open` and `mqlog.temporary`.

    Any thread may call any method. A store is a context manager; leaving closes it. One that is
    dropped unclosed warns (`ResourceWarning`); one that is open when the interpreter ends is closed
    there. It pickles as its path and opens itself where it arrives; in a forked child it opens
    itself again at first use.
    """

    def __init__(
        self,
        path: Path,
        mode: str,
        durability: str,
        *,
        clock: Callable[[], float] | None = None,
        removed_by: int = 0,
        quiet: bool = False,
    ) -> None:
        self._path = path
        self._mode = mode
        self._durability = durability
        self._clock = clock
        self._removed_by = removed_by  # the process that removes the directory at close, or 0
        self._quiet = quiet  # came by pickle: nobody can be blamed for not closing it
        self._core: _engine.Store | None = None
        self._closed = False
        self._lock = threading.RLock()  # over _core, _closed, _watcher
        self._cached: tuple[_engine.Store, int, Catalog] | None = None
        self._told = 0  # how many of the engine's recoveries are in the log
        self._snapshot: dict[tuple[str, int], _engine.Log] = {}  # mode "r": ends as first seen
        self._watcher: Watcher | None = None
        self._consumers: weakref.WeakSet[Consumer[Any]] = weakref.WeakSet()

    # what it is

    @property
    def path(self) -> Path:
        """The directory, absolute."""
        return self._path

    @property
    def mode(self) -> str:
        """`"rw"` or `"r"`."""
        return self._mode

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __repr__(self) -> str:
        return f"<mqlog.Store {str(self._path)!r}{self._state()}>"

    def _state(self) -> str:
        read_only = " read-only" if self._mode == "r" else ""
        return read_only + (" closed" if self._closed else "")

    def _now(self) -> float:
        return time.time() if self._clock is None else self._clock()

    # topics

    @overload
    def stream(
        self, name: str, *, create: bool = True, codec: Codec[T], **options: Any
    ) -> Stream[T, T]: ...
    @overload
    def stream(
        self, name: str, *, create: bool = True, codec: None = None, **options: Any
    ) -> Stream[bytes, Buffer]: ...
    def stream(
        self, name: str, *, create: bool = True, codec: Codec[Any] | None = None, **options: Any
    ) -> Stream[Any, Any]:
        """Opens a topic as a stream: every consumer group sees every record.

        On return the topic is stored and its directories are there; making a topic is durable.

        Args:
            name: a-z, A-Z, 0-9, '.', '_', '-', up to 245 characters; see `mqlog.topic_name`.
            create: Make the topic if it is not there.
            codec: Encodes and decodes values; bytes without one. The topic keeps its name.
            **options: The topic's options. One left out means what is stored, one that is given
                must be equal to it: `partitions`, `segment_bytes`, `batch_bytes`,
                `max_message_bytes`, `cleanup_policy` (`"keep"` unless said), `retention_bytes`,
                `retention_age`, `compression`, `durability`, `sync_interval`, and those of queues.

        Raises:
            NotFoundError: No such topic, and `create=False` or `mode="r"`; names the nearest.
            OptionError: An option differs from what is stored, is out of range, or is none.
            ValueError: Not a name that a topic may have.

        Any thread may call it. It blocks for the store's gate when it makes the topic, and for
        recovery when it is the first to open it after a crash.
        """
        from mqlog._stream import Stream  # upwards, here alone: a store makes its handles

        given = _options.check_options(_options.TOPIC, options)
        made = {"cleanup_policy": "keep"} if create else None
        return Stream(self, _topics.open_topic(self, name, codec, given, made), codec)

    @overload
    def queue(
        self,
        name: str,
        *,
        group: str = "default",
        start: Start = EARLIEST,
        create: bool = True,
        codec: Codec[T],
        **options: Any,
    ) -> Queue[T, T]: ...
    @overload
    def queue(
        self,
        name: str,
        *,
        group: str = "default",
        start: Start = EARLIEST,
        create: bool = True,
        codec: None = None,
        **options: Any,
    ) -> Queue[bytes, Buffer]: ...
    def queue(
        self,
        name: str,
        *,
        group: str = "default",
        start: Start = EARLIEST,
        create: bool = True,
        codec: Codec[Any] | None = None,
        **options: Any,
    ) -> Queue[Any, Any]:
        """Opens a topic as a queue: every record goes to one of the competing consumers.

        On return the topic and its share group are stored; making them is durable. With
        `mode="r"` the queue can be looked at (`peek`, `stats`, `qsize`, `acquired`,
        `dead_letters`), and whatever acquires, puts or waits raises `ReadOnlyError`.

        Args:
            name: As in `stream`; `"orders.dlq"` are the dead letters of `"orders"`, once there are.
            group: A share group: each delivers every record once, whatever the others do.
            start: Where a new group begins, `EARLIEST` unless said.
            create: Make topic and group if they are not there.
            codec: As in `stream`.
            **options: The topic's (see `stream`; `cleanup_policy` is `"consumed"` unless said: what
                every group has finished is freed, but what `retention_*` say is kept at least):
                `maxsize` (0: no bound), `max_bytes`, `dedupe_window`, `intake` among them; and the
                share group's: `lock_duration` (30 s; None: until settled or the holder dies),
                `max_deliveries` (5; None: no limit), `retry_delays` (1, 10, 60, 300 s) and
                `max_acquired` (None: no bound). `maxsize` counts what waits in group "default",
                `max_bytes` the log from the first record on that the group has not finished. They
                are exact while all records are in one partition. With several partitions, or
                priorities, puts at one moment may exceed them; `max_acquired` is of each of them.

        Raises:
            NotFoundError: No such topic or group, and `create=False` or `mode="r"`; names the
                nearest.
            OptionError: An option differs from what is stored, is out of range, or is none.
            ValueError: Not a name that a topic may have.

        Any thread may call it. It blocks for the store's gate when it makes something, and for
        recovery when it is the first to open it after a crash.
        """
        from mqlog._queue import Queue  # upwards, here alone: a store makes its handles

        options["create"] = create
        topic = _sharing.open_queue(self, name, group, codec, options)
        return Queue(self, topic, group, start, codec)

    def __contains__(self, topic: object) -> bool:
        """Whether there is a topic of that name."""
        return isinstance(topic, str) and self._topic(topic)[1] is not None

    def topic(self, name: str) -> TopicInfo:
        """One topic, with its partitions and options as they are now.

        Raises:
            NotFoundError: No such topic; names the nearest.

        Any thread may call it. It opens every partition of it, so it may block for recovery.
        """
        return self._describe(self._existing(name))

    def topics(self) -> list[TopicInfo]:
        """Every topic, by name, with its partitions and options as they are now.

        Any thread may call it. It opens every partition, so it may block for recovery.
        """
        catalog = self._known()
        topics = [catalog.topic(name) for name in catalog.names()]
        return [self._describe(topic) for topic in topics if topic is not None]

    def groups(self, topic: str) -> list[GroupInfo]:
        """The groups of a topic: place, lag, live members, who owns or holds what, what is pinned.

        Consumer groups by name, then share groups. One whose file is damaged says so in `damage`.

        Raises:
            NotFoundError: No such topic.

        Any thread may call it. It takes the share lock of each share group for a moment, and reads
        their files with `mode="r"`.
        """
        logs = self._logs(self._existing(topic))
        found = [_facts.group(logs, name) for name in _facts.group_names(self._path, logs)]
        return found + _sharing.groups(self, topic, logs)

    def options(self, topic: str | None = None, *, group: str | None = None) -> Mapping[str, Any]:
        """Every option as it is now, stored or by default: what `alter` changes, and nothing else.

        Args:
            topic: The topic, whose options these are, its codec's name among them; None for the
                options of the store itself.
            group: A share group of the topic, whose options these are.

        Raises:
            NotFoundError: No such topic or share group; names the nearest.

        Any thread may call it; it does not block.
        """
        if topic is None:
            if group is not None:
                raise TypeError("options(group=…) takes the topic of the group")
            return MappingProxyType(self._known().limits())
        if group is not None:
            return MappingProxyType(_sharing.existing_options(self, topic, group))
        found = self._existing(topic)
        return MappingProxyType({**found.options, "codec": found.codec})

    def alter(self, topic: str | None, *, group: str | None = None, **options: Any) -> None:
        """Changes stored options; nothing else ever does.

        On return they are on disk, and every running process follows at its next call.

        Args:
            topic: The topic; None for the options of the store itself.
            group: A share group of the topic (consumer groups have no options).
            **options: New values. `partitions` only grows: records stay where they are, and keys
                are spread over all partitions from now on. `codec=` takes a name, or None.

        Raises:
            OptionError: No such option, a bad value, or fewer partitions; nothing was changed.
            NotFoundError: No such topic.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks for the store's gate and for a sync.
        """
        self._writable("alter()")
        if not options:
            raise TypeError("alter() takes the options to change, such as segment_bytes=…")
        if group is not None:
            if topic is None:
                raise TypeError("alter(group=…) takes the topic of the group")
            _sharing.alter_group(self, topic, group, options)
            return
        if topic is None:
            self._alter_store(_options.check_options(_options.STORE, options))
        else:
            _topics.alter(self, topic, options)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic: its records, its groups, its options.

        On return it is gone from disk for every process; their handles raise `TopicDeletedError`,
        waiting calls too. Killed half-way, it deletes the rest when called again.

        Raises:
            NotFoundError: No such topic; names the nearest.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks for the store's gate and for directory syncs.
        """
        self._writable("delete_topic()")
        logs = self._logs(self._existing(name))
        with self._changing() as catalog:
            for log in logs:
                with suppress(TopicDeletedError):
                    log.delete()
            catalog.topics.pop(name, None)
            catalog.groups.pop(name, None)
        LOGGER.info("%s: topic %r was deleted", self._path, name)

    def delete_group(self, topic: str, name: str) -> None:
        """Forgets a group: its committed offsets, or what its consumers have finished.

        The next consumer of that name starts anew.

        Raises:
            NotFoundError: No such topic or group; names the nearest.
            Error: Live consumers hold the group, or records of it; nothing was deleted.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks for the store's gate.
        """
        self._writable("delete_group()")
        _options.check_group(name)
        logs = self._logs(self._existing(topic))
        if name in _sharing.names(self, topic, logs):
            _sharing.delete(self, topic, name, logs)
            return
        known = _facts.group_names(self._path, logs)
        if name not in known:
            near = _options.nearest(name, known)
            raise NotFoundError(f"topic {topic!r} has no group {name!r}{near}")
        with self._live().gate():  # without it nobody can make the group anew
            self._refuse_held(logs, name)
            for log in logs:
                with suppress(NotFoundError):
                    while not log.group(name, False).delete():
                        self._refuse_held(logs, name)
        LOGGER.info("%s: group %r of topic %r was deleted", self._path, name, topic)

    # the whole store

    @property
    def recovered(self) -> list[RecoveredInfo]:
        """What opening found and cut or set aside; with `mode="r"`, found and does not read."""
        return [
            RecoveredInfo(cut[0], cut[1], f"R{cut[2]}", *cut[3:])
            for cut in self._live().recovered()
        ]

    def sync(self) -> None:
        """On return everything appended before the call survives a power cut.

        Raises:
            DurabilityError: A sync failed: in the log, not known to be on disk.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks for the syncs.
        """
        self._writable("sync()")
        self._live().sync()

    def verify(
        self, topic: str | None = None, *, progress: _facts.Progress | None = None
    ) -> Iterator[VerifiedInfo]:
        """Reads every batch and every index entry, and tells of each partition what is wrong.

        Nothing is repaired. What keeps a partition from being opened is a problem of it, too. What
        others append meanwhile is not looked at.

        Args:
            topic: Only this one.
            progress: Called now and then with the partition's name, such as "orders-0", the bytes
                read of it and those to be read. What it raises comes out of `next()`.

        Raises:
            NotFoundError: No such topic; names the nearest.
            ClosedError: During iteration: the store was closed, or the topic deleted.

        The iterator serves one thread at a time. It blocks in `next()`, as long as reading takes.
        """
        _options.check_callable("progress", progress)
        names = self._known().names() if topic is None else [topic]
        topics = [self._existing(name) for name in names]
        return _facts.verified(self._path, topics, self._log, progress)

    def refresh(self) -> None:
        """With `mode="r"`: looks at the log ends again. Otherwise there is nothing to do.

        Iterators that were made before end with `ClosedError`; handles go on.

        Any thread may call it; it does not block.
        """
        self._live()
        if self._mode == "rw":
            return
        with self._lock:
            old, self._core = self._core, self._open_core(False, {})
            self._cached = None
            self._snapshot.clear()
        if old is not None:
            old.close()

    def close(self) -> None:
        """Ends this opening; the last one leaves every file at its exact length, synced.

        Consumers leave their groups; calls that wait end with `ClosedError`, in every thread, and
        so do all later ones. Memory lent by `copy=False` stays. Calling it again does nothing.

        Raises:
            DurabilityError: The last sync failed; the store is closed all the same.

        Any thread may call it. It blocks for a sync; a signal (Ctrl-C) ends that, and it is closed.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            watcher, self._watcher = self._watcher, None
        _OPEN.discard(self)
        core = self._core
        try:
            if core is not None and not core.forked:
                with closing(core):
                    for consumer in self._live_consumers():
                        consumer.close()
        finally:
            if watcher is not None:
                watcher.close()
            self._core = self._cached = None
            self._snapshot.clear()
            if self._removed_by == os.getpid():
                shutil.rmtree(self._path, ignore_errors=True)

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        core = getattr(self, "_core", None)
        if core is None or self._closed or core.forked:
            return
        if not self._quiet:
            warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (str(self._path), self._mode, self._durability, self._clock)

    # opening

    def _open(self, create: bool, given: Mapping[str, Any]) -> None:
        self._core = self._open_core(create, given)
        _OPEN.add(self)

    def _open_core(self, create: bool, given: Mapping[str, Any]) -> _engine.Store:
        read_only = self._mode == "r"
        data = self._look(may_create=create and not read_only)
        seen = Catalog.parse(str(self._path), data, writes=not read_only)
        limits = seen.limits()
        if data is not None:
            _options.refuse_difference(f"store {self._path}", None, limits, given)
        limits.update(given)
        core = _engine.Store(str(self._path), read_only=read_only, create=create, **limits)
        try:
            if not read_only and core.read_options() is None:
                self._write_first(core, given)
        except BaseException:
            core.close()
            raise
        return core

    def _look(self, *, may_create: bool) -> bytes | None:
        """mqlog.json, before the engine touches anything; `NotFoundError` if there is no store."""
        path = str(self._path)
        try:
            kind = os.stat(path).st_mode
        except FileNotFoundError:
            if may_create:
                return None
            near = _options.nearest(self._path.name, _neighbours(self._path))
            raise NotFoundError(f"there is no store {path}{near}") from None
        if not stat.S_ISDIR(kind):
            what = "a store is a directory, and this is a file"
            raise NotADirectoryError(errno.ENOTDIR, what, path)
        data = _catalog.read_file(path)
        if data is None and not may_create and not _catalog.partition_directories(path):
            raise NotFoundError(f"the directory {path} holds no store and no Kafka partitions")
        return data

    def _write_first(self, core: _engine.Store, given: Mapping[str, Any]) -> None:
        with core.gate():
            if core.read_options() is None:
                catalog = Catalog.new(str(self._path))
                catalog.store.update(given)
                core.write_options(catalog.dump())

    def _live(self) -> _engine.Store:
        """The engine's store, opened again if this process is a fork of the one that opened it."""
        core = self._core
        if self._closed or core is None:
            raise ClosedError(f"{self!r}: open it again with mqlog.open()")
        if core.forked:
            with self._lock:
                core = self._core
                if core is None or core.forked:
                    core = self._core = self._open_core(False, {})
                    self._cached, self._told = None, 0
                    self._snapshot.clear()
        return core

    def _after_fork(self) -> None:
        """In the child: threads are gone, and a lock that one of them held would stay held."""
        self._lock = threading.RLock()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.forget()

    def _join(self, consumer: Consumer[Any]) -> None:
        """Closing the store closes it."""
        with self._lock:  # nobody iterates meanwhile
            self._consumers.add(consumer)

    def _live_consumers(self) -> list[Consumer[Any]]:
        with self._lock:
            return list(self._consumers)

    def _writable(self, call: str) -> None:
        if self._mode == "r":
            raise ReadOnlyError(f'{call}: {self._path} was opened with mode="r"; open it with "rw"')

    def _watch(self) -> Watcher:
        """What feeds the descriptors of this store's handles."""
        with self._lock:
            core = self._live()
            if self._watcher is None:
                self._watcher = Watcher(core)
            return self._watcher

    def _drop_signal(self, signal: Signal) -> None:
        watcher = self._watcher
        if watcher is not None:
            watcher.drop(signal)

    def _refuse_held(self, logs: list[_engine.Log], name: str) -> None:
        mine = {consumer._member for consumer in self._live_consumers()}
        who = []
        for member, partitions in _facts.holders(logs, name).items():
            whose = " of this process" if member in mine else ""
            owns = f"partition {', '.join(map(str, partitions))}" if partitions else "no partition"
            who.append(f"member {member}{whose} ({owns})")
        if who:
            raise Error(
                f"group {name!r} of topic {logs[0].topic!r} is held by live consumers: "
                f"{', '.join(who)}; close them first, nothing was deleted"
            )

    # the catalog

    def _known(self) -> Catalog:
        return self._current()[1]

    def _current(self) -> tuple[int, Catalog]:
        """The options generation and the catalog as of then, or later."""
        core = self._live()
        generation = core.options_generation
        cached = self._cached
        if cached is None or cached[0] is not core or cached[1] != generation:
            catalog = Catalog.parse(str(self._path), core.read_options(), writes=self._mode != "r")
            if self._mode == "r":
                catalog.keep_directories()
            cached = self._cached = (core, generation, catalog)
        return cached[1], cached[2]

    def _topic(self, name: str) -> tuple[int, Topic | None]:
        """The options generation, and the topic of that name as of then, or later."""
        while True:
            generation, catalog = self._current()
            topic = catalog.topic(name)
            if topic is None or topic.stored or self._live().options_generation == generation:
                return generation, topic
            # its directories came meanwhile, and its entry before them: look again

    @contextmanager
    def _changing(self) -> Iterator[Catalog]:
        """The catalog, to be changed under the gate; written when nothing was raised."""
        core = self._live()
        with core.gate():
            catalog = Catalog.parse(str(self._path), core.read_options(), writes=True)
            before = catalog.dump()
            yield catalog
            after = catalog.dump()
            if after != before:
                core.write_options(after)
        core.wake()

    def _existing(self, name: str) -> Topic:
        topic = self._topic(_options.check_name("topic", name))[1]
        if topic is None:
            near = _options.nearest(name, self._known().names())
            raise NotFoundError(f"{self._path} has no topic {name!r}{near}")
        return topic

    def _alter_store(self, changes: Mapping[str, Any]) -> None:
        with self._changing() as catalog:
            before = catalog.limits()
            catalog.store.update(changes)
            limits = catalog.limits()
        self._live().set_limits(limits["min_free_bytes"], limits["max_bytes"])
        self._say_altered(str(self._path), before, changes)

    def _say_altered(self, whose: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        for option, value in after.items():
            if before.get(option) != value:
                LOGGER.info("%s: %s=%r, was %r", whose, option, value, before.get(option))

    # partitions and groups

    def _logs(self, topic: Topic) -> list[_engine.Log]:
        """The topic's partitions with its options, made where they are missing."""
        logs = [self._log(topic, partition) for partition in range(topic.partitions)]
        self._say_recovered()
        return logs

    def _log(self, topic: Topic, partition: int) -> _engine.Log:
        if self._mode == "r":
            return self._seen(topic, partition)
        options = _options.log_options(topic.options)
        log = self._live().partition(topic.name, partition, topic.stored, options)
        log.alter(options)  # one that was open before has the options of then
        return log

    def _seen(self, topic: Topic, partition: int) -> _engine.Log:
        """A partition of a snapshot: its ends stay what they were when it was first looked at."""
        core = self._live()
        with self._lock:
            log = self._snapshot.get((topic.name, partition))
            if log is None or log.store is not core:
                options = _options.log_options(topic.options)
                log = core.partition(topic.name, partition, False, options)
                self._snapshot[topic.name, partition] = log
            return log

    def _say_recovered(self) -> None:
        recovered = self.recovered
        with self._lock:
            news, self._told = recovered[self._told :], max(self._told, len(recovered))
        for cut in news:
            LOGGER.warning("recovered %s: %s", self._path, cut)

    def _describe(self, topic: Topic) -> TopicInfo:
        if self._mode == "rw":
            parts = [PartitionInfo(log.partition, *log.describe()) for log in self._logs(topic)]
        else:
            parts = [self._describe_seen(topic, number) for number in range(topic.partitions)]
        return TopicInfo(topic.name, tuple(parts), dict(topic.options), topic.codec, topic.id)

    def _describe_seen(self, topic: Topic, number: int) -> PartitionInfo:
        try:
            return PartitionInfo(number, *self._seen(topic, number).describe())
        except NotFoundError:  # its maker has not come to it yet
            return PartitionInfo(number, 0, 0, 0, 0, 0, 0, False)


def _neighbours(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _arrive(path: str, mode: str, durability: str, clock: Callable[[], float] | None) -> Store:
    """Opens a pickled store where it has come to."""
    store = Store(Path(path), mode, durability, clock=clock, quiet=True)
    store._open(False, {})
    return store


def _close_all() -> None:
    for store in list(_OPEN):
        try:
            store.close()
        except Exception as error:
            LOGGER.error("closing %r at exit: %s", store, error)


def _forked() -> None:
    for store in list(_OPEN):
        store._after_fork()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forked)
