"""Hostile bytes through the package: payloads, options, files cut under a reader's feet (O11, O13).

A sample by default; more of each with MQLOG_CRASH=full.
"""

import random
import struct
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop.peers import BASE, Seen, crc32c, kafka_directory, write
from support import hostile
from support.damage import PARTITION, TOPIC, Damage, flip, python, restore, snapshot, value

import mqlog
from mqlog import _compression

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(3600)]

FULL = hostile.FULL
SIZES = (40, 40, 1200, 40, 900, 40)
ALL = {n: value(n, size) for n, size in enumerate(SIZES)}


def say(capsys: pytest.CaptureFixture[str], what: str) -> None:
    with capsys.disabled():
        print(f"\nhostile: {what}, 0 violations")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A closed store of two segments, with a topic's options and a consumer group."""
    path = tmp_path_factory.mktemp("whole") / "s"
    with mqlog.open(path) as store:
        sizes = {"segment_bytes": 4096, "max_message_bytes": 4096}
        orders = store.stream(TOPIC, **sizes, retention_age=3600.0)
        for data in ALL.values():
            orders.append(data)
        orders.append(bytes(3000))
        with orders.consumer("billing", commit="manual") as consumer:
            consumer.poll(2)
            consumer.commit()
    return snapshot(path)


# -- compressed payloads --------------------------------------------------------------------------
class Edit(NamedTuple):
    place: float
    data: bytes
    replaces: int


EDITS = st.lists(
    st.builds(
        Edit,
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from([b"\0" * 8, b"\xff" * 4, b"\x04\x22\x4d\x18", b"\x1f\x8b"]),
        ),
        st.integers(0, 9),
    ),
    max_size=4,
)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    out = bytearray(data)
    for edit in edits:
        at = int(edit.place * (len(out) + 1))
        out[at : at + edit.replaces] = edit.data
    return bytes(out)


def batch(offset: int, codec: int, payload: bytes, count: int) -> bytes:
    """Its checksum is right, whatever its payload is: the decompressor meets it."""
    covered = struct.pack(">hiqqqhii", codec, count - 1, BASE, BASE, -1, -1, -1, count) + payload
    return struct.pack(">qiiBI", offset, 49 + len(payload), 0, 2, crc32c(covered)) + covered


RECORDS = write("kafka-python", "none", [Seen(n, BASE, b"k", b"v" * n * 9) for n in range(5)])[61:]
CODES = {name: n for n, name in enumerate(["none", "gzip", "snappy", "lz4", "zstd"])}
BUDGET = settings(
    max_examples=5_000 if FULL else 250,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_around(path: Path, count: int) -> list[int]:
    """The offsets that are read; what is told lies within the first batch."""
    seen: list[int] = []
    with mqlog.open(path, "r") as store:
        records = store.stream(TOPIC).read()
        for _ in range(count + 3):
            try:
                seen.append(next(records).offset)
            except mqlog.CorruptError as error:
                assert 0 <= error.start <= error.stop <= count
            except StopIteration:
                return seen
    raise AssertionError("reading does not end")


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "none"])
def test_a_payload_changed_anyhow_is_its_records_or_corrupt(
    codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = RECORDS if codec == "none" else _compression.compress(codec, RECORDS)
    tried = 0

    @BUDGET
    @given(EDITS, st.integers(1, 6))
    def try_one(edits: list[Edit], count: int) -> None:
        nonlocal tried
        tried += 1
        bad = batch(0, CODES[codec], edited(packed, edits), count)
        good = write("kafka-python", "none", [Seen(count, BASE, b"k", b"good")])
        with hostile.directory() as memory:
            kafka_directory(memory, TOPIC, {0: bad, count: good})
            seen = read_around(memory, count)
        assert seen[-1] == count, "what follows is read"
        assert seen == sorted(set(seen))

    try_one()
    assert tried >= BUDGET.max_examples // 2
    say(capsys, f"{tried} changed payloads of {codec}")


# -- options --------------------------------------------------------------------------------------
def use(path: Path, mode: Any) -> None:
    """All is read that was written, or the options' file is named."""
    try:
        with mqlog.open(path, mode) as store:
            orders = store.stream(TOPIC, create=False)
            read = {record.offset: record.value for record in orders.read()}
            assert {n: read[n] for n in ALL} == ALL
            store.topics()
            if mode == "rw":
                orders.append(b"goes on")
    except (mqlog.Error, OSError) as error:
        assert "mqlog.json" in str(error) or TOPIC in str(error), error


def test_each_flipped_bit_of_the_options_is_harmless_or_an_error_that_names_the_file(
    whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    data = whole["mqlog.json"]
    tried = 0
    with hostile.directory() as memory:
        for at in range(0, len(data), 1 if FULL else 3):
            for bit in range(8):
                restore(memory / "s", {**whole, "mqlog.json": flip(data, at, bit)})
                use(memory / "s", "r")
                use(memory / "s", "rw")
                tried += 1
    assert tried >= len(data) * 8 // (1 if FULL else 3)
    say(capsys, f"{tried} flips of mqlog.json")


OPTIONS_BUDGET = settings(BUDGET, max_examples=2_000 if FULL else 250)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


def test_options_of_any_shape_are_harmless_or_an_error_that_names_the_file(
    whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    sound = json.loads(whole["mqlog.json"])
    topic = sound["topics"][TOPIC]
    keys = sorted(topic)
    tried = 0
    with hostile.directory() as memory:

        @OPTIONS_BUDGET
        @given(st.dictionaries(st.sampled_from(keys), JSON), st.none() | JSON)
        def try_one(changes: dict[str, Any], instead: Any) -> None:
            nonlocal tried
            tried += 1
            made = {**topic, **changes} if instead is None else instead
            text = json.dumps({**sound, "topics": {TOPIC: made}})
            restore(memory / "s", {**whole, "mqlog.json": text.encode()})
            use(memory / "s", "r")
            use(memory / "s", "rw")

        try_one()
    assert tried >= OPTIONS_BUDGET.max_examples // 2
    say(capsys, f"{tried} options of any shape")


# -- a file that is cut under a reader (E5) -------------------------------------------------------
CUT = """
    import os, random, sys
    import mqlog
    from pathlib import Path
    path, times = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(5)
    logs = sorted(path.glob("*/*.log"))
    whole = {file: file.read_bytes() for file in logs}
    for n in range(times):
        with mqlog.open(path, "r") as store:
            records = store.stream("orders").read()
            for _ in range(rng.randrange(7)):
                next(records)
            file = rng.choice(logs)
            os.truncate(file, rng.randrange(len(whole[file]) + 1))
            told = 0
            for _ in range(20):
                try:
                    record = next(records)
                    assert whole[logs[0]].find(record.value) > 0 or record.value in whole[logs[1]]
                except StopIteration:
                    break
                except (mqlog.Error, OSError) as error:
                    assert str(error)
                    told += 1
            else:
                raise AssertionError("reading does not end")
            store.stream("orders").offset_at(0.0)
        file.write_bytes(whole[file])
    print("survived")
"""


def test_a_file_that_is_cut_under_a_reader_gives_errors_and_no_signal(
    whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    times = 20_000 if FULL else 400
    with hostile.directory() as memory:
        restore(memory / "s", whole)
        done = python(CUT, memory / "s", times, timeout=1800)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]
    say(capsys, f"{times} files cut under a reader")


# -- rubbish --------------------------------------------------------------------------------------
RUBBISH = """
    import resource, sys
    import mqlog
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for path in sys.argv[1:]:
        try:
            with mqlog.open(path, "r") as store:
                store.recovered, store.topics()
                for topic in ("orders", "other"):
                    stream = store.stream(topic, create=False)
                    for partition in stream.partitions:
                        for record in partition.read(on_corrupt="skip"):
                            record.value, record.key, record.headers, record.timestamp
                        partition.offset_at(1_700_000_000.0)
                    store.groups(topic)
        except (mqlog.Error, OSError) as error:
            assert str(error)
        for how in ("values", "columns"):
            try:
                with mqlog.open(path, "r") as store:
                    list(getattr(store.stream("orders", create=False), how)())
            except (mqlog.Error, OSError) as error:
                assert str(error)
    print("survived")
"""


def rubbish(rng: random.Random, data: bytes) -> bytes:
    """Of the length that it had, of none, or of another; noise, one byte, or pieces of itself."""
    length = rng.choice([len(data), 0, 1, 60, 61, 512, 4096, 70_000])
    how = rng.randrange(4)
    if how == 0 or not data:
        return rng.randbytes(length)
    if how == 1:
        return bytes([rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])]) * length
    at = rng.randrange(len(data))
    return (data[at:] + data + rng.randbytes(9) + data)[:length]


def test_a_store_whose_every_file_is_rubbish_is_read_in_bounded_time_and_memory(
    whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(11)
    rounds, each = (200 if FULL else 8), 25
    for _ in range(rounds):
        with hostile.directory() as memory:
            paths = [memory / str(n) for n in range(each)]
            for n, path in enumerate(paths):
                files = dict(whole)
                for name in rng.sample(sorted(whole), rng.randrange(1, len(whole) + 1)):
                    if name != "mqlog.json" or n % 4 == 0:
                        files[name] = rubbish(rng, whole[name])
                restore(path, files)
            done = python(RUBBISH, *paths, timeout=120)
        assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]
    say(capsys, f"{rounds * each} stores of rubbish")


def test_the_damage_that_is_told_has_its_place(whole: dict[str, bytes], tmp_path: Path) -> None:
    """What `use` and the others above lean on."""
    name = f"{PARTITION}/{0:020d}.log"
    restore(tmp_path / "s", {**whole, name: flip(whole[name], 70)})
    with mqlog.open(tmp_path / "s", "r") as store, pytest.raises(mqlog.CorruptError) as caught:
        list(store.stream(TOPIC).read())
    error = caught.value
    where = Damage(error.path, error.position, error.start, error.stop)
    assert where == Damage(str(tmp_path / "s" / name), 0, 0, 1)
