"""Does the binding keep its promises? Guards, errors, lifetimes, threads, signals, forks.

What a stream or a consumer does with it is in the files beside; here `mqlog._engine` is called as
they call it, and as no polite program would. Appending is in test_engine_append.py, reading in
test_engine_records.py, as the binding's own files have it.
"""

import contextlib
import copy
import errno
import gc
import os
import pickle
import signal
import sys
import threading
import weakref

import pytest
from support.binding import OPTIONS, Handle, Reverse, values

from mqlog import _compression, _engine, errors


@pytest.fixture
def store(tmp_path):
    opened = _engine.Store(tmp_path / "store")
    yield opened
    if not opened.closed:
        opened.close()


@pytest.fixture
def log(store):
    return store.partition("orders", 0, True, OPTIONS)


@pytest.fixture
def handle(store, log):
    return Handle(store, [log])


MADE_BY_THE_ENGINE = ["Gate", "Log", "Group", "Record", "Reader", "Values", "Columns"]


@pytest.mark.parametrize("name", MADE_BY_THE_ENGINE)
def test_only_the_engine_makes_its_objects(name):
    kind = getattr(_engine, name)
    for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()


def test_a_subclass_of_record_is_not_made_by_hand_either():
    class Mine(_engine.Record):
        pass

    with pytest.raises(TypeError, match="made by mqlog only"):
        Mine()


def test_a_store_that_was_never_opened_is_closed():
    store = _engine.Store.__new__(_engine.Store)
    assert store.closed
    for call in (store.sync, store.bell, store.recovered, store.read_options):
        with pytest.raises(errors.ClosedError):
            call()
    store.close()


def test_a_store_is_opened_once(store, tmp_path):
    with pytest.raises(RuntimeError, match="make another"):
        store.__init__(tmp_path / "other")


def test_a_handle_that_was_never_bound_says_so():
    class Bare(_engine.Appender):
        def _refresh(self):
            pass

    with pytest.raises(errors.ClosedError, match="Bare was never opened"):
        Bare().append(b"x")
    with pytest.raises(NotImplementedError):
        _engine.Appender().append(b"x")
    with pytest.raises(ValueError, match="at least one"):
        Bare()._bind(
            _engine.Store.__new__(_engine.Store),
            [],
            codec=None,
            compression=None,
            clock=None,
            batch_bytes=1,
            max_message_bytes=1,
        )


def test_handles_do_not_pickle(store, log):
    for thing in (store, log, log.reader(0).values(), log.group("g", True), store.gate()):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.copy(thing)


def test_a_reader_that_is_pickled_says_what_to_send_instead(log):
    with pytest.raises(TypeError, match=r"send the topic and the offset"):
        pickle.dumps(log.reader(0))


def test_a_handle_is_bound_to_logs_only(store):
    with pytest.raises(TypeError):
        Handle(store, ["orders-0"])


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "a\0b", b"a\0b"])
def test_a_path_that_no_file_can_have_is_a_value_error(path):
    with pytest.raises(ValueError, match="NUL"):
        _engine.Store(path)


@pytest.mark.parametrize("path", [None, 3, 1.5, object()])
def test_a_path_of_another_type_is_a_type_error(path):
    with pytest.raises(TypeError):
        _engine.Store(path)


def test_a_path_may_be_str_bytes_or_pathlike(tmp_path):
    for path in (str(tmp_path / "a"), os.fsencode(tmp_path / "b"), tmp_path / "c"):
        store = _engine.Store(path)
        assert store.path == os.fsdecode(path)
        store.close()


def test_a_store_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(errors.NotFoundError):
        _engine.Store(tmp_path / "missing", create=False)


def test_what_the_system_refuses_is_the_os_error_of_that_kind(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        _engine.Store(tmp_path / "file" / "store")
    assert type(caught.value) is NotADirectoryError
    assert caught.value.errno == errno.ENOTDIR
    assert caught.value.filename is not None


def test_a_partition_that_is_not_there_is_not_found(store):
    with pytest.raises(errors.NotFoundError):
        store.partition("missing", 0, False, OPTIONS)


def test_names_with_nul_are_refused(store, log):
    with pytest.raises(ValueError, match="topic's name"):
        store.partition("a\0b", 0, True, OPTIONS)
    with pytest.raises(ValueError, match="group's name"):
        log.group("a\0b", True)


def test_an_offset_outside_the_log_names_the_range(log, handle):
    handle.append_many([b"v"] * 3)
    for call in (lambda: log.reader(4), lambda: log.reader(0).seek(9)):
        with pytest.raises(errors.OffsetOutOfRangeError, match=r"0 .. 3") as caught:
            call()
        assert (caught.value.start, caught.value.stop) == (0, 3)


def test_a_record_over_the_limit_is_refused_with_both_sizes(store):
    log = store.partition("small", 0, True, OPTIONS._replace(max_message_bytes=1000))
    handle = Handle(store, [log])
    for append in (handle.append, lambda v: handle.append(v, key=b"k")):
        with pytest.raises(errors.RecordTooLargeError, match=r"\d+ bytes, the limit is 1000"):
            append(b"v" * 1000)
    assert log.end_offset == 0


def test_after_close_every_call_is_a_closed_error(store, log, handle):
    handle.append(b"v")
    group, reader = log.group("g", True), log.reader(0)
    values_of = reader.values()
    store.close()
    store.close()
    calls = [
        lambda: next(reader),
        lambda: next(values_of),
        lambda: reader.take(1),
        lambda: reader.columns(1),
        lambda: reader.seek(0),
        lambda: log.end_offset,
        lambda: log.readable_offset,
        lambda: log.reader(0),
        lambda: log.wait(0, 0),
        lambda: log.trim(0),
        lambda: log.verify(print),
        lambda: log.offset_at(0),
        group.join,
        lambda: group.commit(1, 1),
        group.committed,
        lambda: store.options_generation,
        store.sync,
        lambda: store.wait_bell(0, 0),
        lambda: store.gate().__enter__(),
    ]
    for call in calls:
        with pytest.raises(errors.ClosedError):
            call()
    with pytest.raises(errors.ClosedError, match="own words"):
        handle.append(b"v")
    group.leave(1)
    group.drop(1)


def test_a_closed_opening_leaves_another_one_of_the_same_store_open(tmp_path):
    one, two = _engine.Store(tmp_path / "s"), _engine.Store(tmp_path / "s")
    log = two.partition("t", 0, True, OPTIONS)
    one.close()
    with pytest.raises(errors.ClosedError):
        one.sync()
    assert Handle(two, [log]).append(b"v") == 0
    two.close()


def test_a_read_only_store_reads_and_writes_nothing(tmp_path):
    store = _engine.Store(tmp_path / "s")
    handle = Handle(store, [store.partition("t", 0, True, OPTIONS)])
    handle.append_many([b"a", b"b"])
    group = handle.target[1][0].group("g", True)
    group.claim(group.join())
    group.commit(group.owner(), 1)
    store.close()
    store = _engine.Store(tmp_path / "s", read_only=True)
    log = store.partition("t", 0, False, OPTIONS)
    assert values(log) == [b"a", b"b"]
    assert [bytes(r.raw) for r in log.reader(0, copy=False)] == [b"a", b"b"]
    assert log.reader(0).columns(9).values() == [b"a", b"b"]
    handle, group = Handle(store, [log]), log.group("g", False)
    assert group.committed() == 1
    for call in (
        lambda: handle.append(b"v"),
        lambda: handle.append_many([b"v"]),
        lambda: log.trim(1),
        group.join,
        lambda: group.commit(1, 1),
    ):
        with pytest.raises(errors.ReadOnlyError):
            call()
    store.close()


def test_what_is_not_owned_is_a_lost_lock(log, handle):
    handle.append(b"v")
    group = log.group("g", True)
    member = group.join()
    assert group.claim(member)
    group.commit(member, 1)
    assert group.committed() == 1
    with pytest.raises(errors.LockLostError):
        group.commit(member + 1, 1)
    assert group.members() == [member]
    assert group.owner() == member
    group.drop(member)
    group.leave(member)
    assert group.members() == []


# -- lifetimes -------------------------------------------------------------------------------------


def test_lent_memory_outlives_the_reader_and_the_store(store, handle, log):
    handle.append_many([b"first", b"second"], keys=[b"k", None])
    one, two = log.reader(0, copy=False).take(2)
    columns = log.reader(0).columns(2)
    assert type(one.raw) is memoryview
    assert one.raw.readonly
    assert two.key is None
    view = two.raw
    store.close()
    del two, log, handle, store
    gc.collect()
    assert (bytes(one.raw), bytes(one.key), bytes(view)) == (b"first", b"k", b"second")
    assert columns.values() == [b"first", b"second"]
    assert columns.keys() == [b"k", None]


def test_lent_memory_outlives_the_reading_of_the_next_batch(handle, log):
    for n in range(20):
        handle.append(b"%d" % n)
    records = list(log.reader(0, copy=False))
    assert [bytes(r.raw) for r in records] == [b"%d" % n for n in range(20)]


def test_a_store_lives_as_long_as_what_points_into_it(tmp_path):
    store = _engine.Store(tmp_path / "s")
    handle = Handle(store, [store.partition("t", 0, True, OPTIONS)])
    handle.append(b"v")
    reader = store.partition("t", 0, True, OPTIONS).reader(0)
    watch = weakref.ref(store)
    del store, handle
    gc.collect()
    assert watch() is not None
    assert next(reader).value == b"v"
    del reader
    gc.collect()
    assert watch() is None


def test_a_cycle_through_a_reader_is_collected_in_any_order(tmp_path):
    class Owner(Reverse):
        pass

    store = _engine.Store(tmp_path / "s")
    owner = Owner()
    owner.log = store.partition("t", 0, True, OPTIONS)
    owner.handle = Handle(store, [owner.log], codec=owner)
    owner.handle.append("abc")
    owner.reader = owner.log.reader(0, codec=owner)
    owner.values = owner.reader.values()
    assert next(owner.values) == "abc"
    watch = weakref.ref(store), weakref.ref(owner)
    del store, owner
    gc.collect()
    assert [w() for w in watch] == [None, None]


def test_no_call_keeps_a_reference(store, log, handle):
    value, key, header = b"value" * 30, b"key" * 30, b"header" * 30
    many, keys = [value] * 10, [key] * 10
    watched = [value, key, header, many, keys, store, log, handle]
    before = [sys.getrefcount(x) for x in watched]
    for _ in range(50):
        handle.append(value)
        handle.append(value, key=key, headers={"h": header})
        handle.append_many(many)
        handle.append_many(many, keys=keys, headers=[{"h": header}] * 10)
        handle.append_many(many, keys=keys, compression="lz4")
        for call in (lambda: handle.append(value, key=1), lambda: handle.append_many([*many, 1])):
            with pytest.raises(TypeError):
                call()
        reader = log.reader(0)
        for _ in reader.take(20), reader.values(), reader.columns(10):
            pass
        del reader, call
    gc.collect()
    assert [sys.getrefcount(x) for x in watched] == before


def test_a_finalizer_that_closes_the_store_while_a_reader_reads_does_no_harm(tmp_path):
    class Bomb:
        def __init__(self, store):
            self.store, self.me = store, self

        def __del__(self):
            self.store.close()

    for kind in ("take", "values", "columns", "lent"):
        store = _engine.Store(tmp_path / kind)
        log = store.partition("t", 0, True, OPTIONS)
        Handle(store, [log]).append_many([b"v" * 50] * 2000)
        reader = log.reader(0, copy=kind != "lent")
        Bomb(store)
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            if kind in ("take", "lent"):
                kept = reader.take(2000) + reader.take(2000)
            elif kind == "values":
                kept = [(v, [v]) for v in reader.values()]
            else:
                kept = [(reader.columns(7), []) for _ in range(200)]
        except errors.ClosedError:
            kept = []
        finally:
            gc.set_threshold(*before)
        del kept
        gc.collect()
        assert store.closed


# -- threads, signals, forks -----------------------------------------------------------------------


def test_a_reader_serves_one_thread_at_a_time(store, log, monkeypatch):
    Handle(store, [log]).append_many([b"z" * 100] * 3, compression="lz4")
    reader = log.reader(0)
    real, refused = _compression.inflate, []

    def meddle(*how):  # stands where another thread may run
        for call in (lambda: next(reader), lambda: reader.take(1), lambda: reader.seek(0)):
            with pytest.raises(RuntimeError, match="one thread at a time") as caught:
                call()
            refused.append(caught.value)
        return real(*how)

    monkeypatch.setattr(_compression, "inflate", meddle)
    assert len(list(reader)) == 3
    assert len(refused) == 3


def test_many_threads_append_and_every_offset_is_given_once(store, log):
    handle = Handle(store, [log])
    offsets, lock = [], threading.Lock()

    def work(n):
        mine = [handle.append(b"%d" % n) for _ in range(300)]
        for _ in range(30):
            mine += handle.append_many([b"%d" % n] * 10)
        mine.append(handle.append(b"x" * 100_000))
        with lock:
            offsets.extend(mine)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(offsets) == list(range(4 * 601))
    assert log.end_offset == 4 * 601


def waiting(store, log):
    return {
        "wait": lambda: log.wait(log.end_offset, None),
        "wait_bell": lambda: store.wait_bell(store.bell(), None),
    }


@pytest.mark.parametrize("name", ["wait", "wait_bell"])
def test_close_ends_calls_that_wait(store, log, name):
    seen = []

    def work():
        try:
            waiting(store, log)[name]()
        except errors.ClosedError as error:
            seen.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["wait", "wait_bell", "gate"])
def test_a_signal_ends_calls_that_wait(store, log, name):
    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    taken, done = threading.Event(), threading.Event()

    def hold():
        with store.gate():
            taken.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(20)
    calls = waiting(store, log) | {"gate": lambda: store.gate(60).__enter__()}
    before = signal.signal(signal.SIGUSR1, interrupt)
    kicker = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(Interrupted):
            kicker.start()
            calls[name]()
    finally:
        signal.signal(signal.SIGUSR1, before)
        done.set()
        kicker.join()
        holder.join()


def test_an_append_wakes_those_who_wait_for_it(store, log, handle):
    seen = []
    bell = store.bell()
    threads = [
        threading.Thread(target=lambda: seen.append(log.wait(0, 30))),
        threading.Thread(target=lambda: seen.append(store.wait_bell(bell, 30))),
    ]
    for thread in threads:
        thread.start()
    handle.append(b"v")
    for thread in threads:
        thread.join(20)
    assert seen == [True] * 2


def test_a_wait_whose_time_is_over_is_false(store, log):
    assert log.wait(0, 0) is False
    assert log.wait(0, -5) is False
    assert store.wait_bell(store.bell(), 0) is False
    with pytest.raises(ValueError, match="NaN"):
        log.wait(0, float("nan"))


def test_waiting_for_the_disk_ends_when_it_has_what_there_is(log, handle):
    handle.append_many([b"v"] * 3)
    assert log.wait_durable(3, 30) is True
    assert log.durable_offset == 3
    with pytest.raises(errors.OffsetOutOfRangeError):
        log.wait_durable(4, 0)


def test_the_gate_has_one_holder(store):
    seen = []

    def work():
        try:
            with store.gate(0):
                seen.append("in")
        except TimeoutError as error:
            seen.append(str(error))

    for gate in (store.gate(), contextlib.nullcontext()):
        with gate:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    assert "held the gate" in seen[0]
    assert seen[1] == "in"


def in_child(work):
    """What `work()` returns, True or False, in a forked child."""
    child = os.fork()
    if child == 0:
        code = 9
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def raises_forked(call):
    try:
        call()
    except errors.ForkedError as error:
        return "parent" in str(error)
    return False


def test_in_a_forked_child_the_parents_handles_say_so(store, log, handle):
    handle.append_many([b"v"] * 3)
    reader = log.reader(0)
    next(reader)
    group = log.group("g", True)
    generation = _engine.fork_generation()

    def child():
        calls = [
            lambda: next(reader),
            lambda: reader.take(1),
            lambda: log.end_offset,
            lambda: log.reader(0),
            group.join,
            store.sync,
            lambda: handle.append(b"x"),  # refreshes to the same store: it is still the parent's
        ]
        return (
            all(raises_forked(call) for call in calls)
            and store.forked
            and not store.closed
            and handle.refreshed == 1
            and _engine.fork_generation() == generation + 1
        )

    assert in_child(child)
    assert not store.forked
    assert [r.offset for r in reader] == [1, 2]
    assert handle.append(b"v") == 3


def test_a_forked_child_drops_the_parents_handles_and_opens_its_own(tmp_path):
    store = _engine.Store(tmp_path / "s")
    log = store.partition("t", 0, True, OPTIONS)
    handle = Handle(store, [log])
    handle.append(b"parent")
    held = [log.reader(0), log.reader(0, copy=False).take(1), log.group("g", True), handle, log]
    held.append(store)
    watch = weakref.ref(store)
    del store, log, handle

    def child():
        held.pop().close()
        held.clear()
        gc.collect()
        mine = _engine.Store(tmp_path / "s")
        Handle(mine, [mine.partition("t", 0, True, OPTIONS)]).append(b"child")
        mine.close()
        return watch() is None

    assert in_child(child)
    store, log, handle = held.pop(), held.pop(), held.pop()
    assert values(log) == [b"parent", b"child"]
    assert handle.append(b"parent") == 2
    store.close()
