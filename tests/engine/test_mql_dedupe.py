"""Idempotent puts: a key that was put within the window is found, and nothing else is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.partition import Log, Store, check, dies, ffi, lib

WINDOW = 3_600_000
NAME = b"__mqlog.dedupe"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Store(tmp_path / "s") as store:
        yield store.log()


def put(log: Log, key: bytes, *, window: int = WINDOW, ignore: int = -1) -> tuple[int, bool]:
    """Its offset, and whether it was there before."""
    size = lib.mql_header_size(len(NAME), len(key))
    headers = ffi.new("uint8_t[]", size)
    lib.mql_header_encode(NAME, len(NAME), key, len(key), headers)
    held = ffi.new("uint8_t[]", key)
    record = ffi.new("mql_record *")
    record.key.length = -1
    record.value.data, record.value.length = held, len(key)
    record.headers.data, record.headers.length, record.header_count = headers, size, 1
    record.timestamp = lib.MQL_NOW
    once = ffi.new("mql_once *", {"window_ms": window, "ignore": ignore})
    once.key.data, once.key.length = held, len(key)
    offset = ffi.new("int64_t *")
    rc = check(lib.mql_append_once(log.c, record, once, 0, offset))
    assert rc in (lib.MQL_OK, lib.MQL_FOUND)
    return offset[0], rc == lib.MQL_FOUND


def test_a_key_is_put_once(log: Log) -> None:
    assert put(log, b"order-17") == (0, False)
    assert put(log, b"order-18") == (1, False)
    assert put(log, b"order-17") == (0, True)
    assert log.ends[1] == 2


def test_plain_appends_between_do_not_matter(log: Log) -> None:
    put(log, b"a")
    log.append(*[b"plain"] * 5000)
    assert put(log, b"b") == (5001, False)
    assert put(log, b"a") == (0, True)


def test_outside_the_window_a_key_is_new(log: Log) -> None:
    put(log, b"a")
    lib.mql_os_sleep(20_000_000)
    assert put(log, b"a", window=5) == (1, False)


def test_another_key_of_the_same_hash_can_be_told_apart(log: Log) -> None:
    put(log, b"a")
    assert put(log, b"a", ignore=0) == (1, False)


def test_the_table_grows_and_forgets_nothing_of_the_window(log: Log) -> None:
    keys = [b"key-%d" % n for n in range(5000)]
    assert [put(log, key)[0] for key in keys] == list(range(5000))
    assert all(put(log, key) == (n, True) for n, key in enumerate(keys))


@pytest.mark.parametrize("lost", [False, True])
def test_keys_are_known_again_after_reopening(tmp_path: Path, lost: bool) -> None:
    with Store(tmp_path / "s") as store:
        for n in range(300):
            put(store.log(), b"key-%d" % n)
    if lost:
        (tmp_path / "s" / "t-0" / "dedupe").unlink()
    with Store(tmp_path / "s") as store:
        assert put(store.log(), b"key-0") == (0, True)
        assert put(store.log(), b"key-299") == (299, True)
        assert put(store.log(), b"key-300") == (300, False)


def test_rubbish_in_the_file_is_not_believed(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        put(store.log(), b"a")
    file = tmp_path / "s" / "t-0" / "dedupe"
    for at in (0, 0x10, 0xC0, 0xC8, 0xD0):
        data = bytearray(file.read_bytes())
        data[at] ^= 0xFF
        file.write_bytes(data)
        with Store(tmp_path / "s") as store:
            end = store.log().ends[1]
            offset, found = put(store.log(), b"a")
            assert offset < end if found else offset == end


def test_a_table_that_says_it_has_read_more_than_there_is_reads_the_log_again(
    tmp_path: Path,
) -> None:
    with Store(tmp_path / "s") as store:
        put(store.log(), b"a")
    file = tmp_path / "s" / "t-0" / "dedupe"
    data = bytearray(file.read_bytes())
    data[0xD6] ^= 0x10
    file.write_bytes(data)
    with Store(tmp_path / "s") as store:
        assert put(store.log(), b"a") == (0, True)
        assert put(store.log(), b"b") == (1, False)
        assert put(store.log(), b"b") == (1, True), "what came later is known too"


def test_what_a_dead_process_put_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    log = store.log()
    put(log, b"ours")

    def other() -> None:
        theirs = Store(tmp_path / "s").log()
        put(theirs, b"theirs")
        assert lib.mql_os_mutex_try(ffi.addressof(theirs.c.dedupe.map.lock)) == 0

    dies(other)
    assert put(log, b"theirs") == (1, True)
    assert put(log, b"ours") == (0, True)
    store.close()
