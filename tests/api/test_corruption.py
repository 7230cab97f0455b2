"""Damaged stores: the original data or a clear error, never wrong bytes, a crash or a hang."""

import os
import random
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.damage import (
    PARTITION,
    SEGMENT,
    TOPIC,
    Damage,
    batches,
    flip,
    log_file,
    outcome,
    python,
    read,
    restore,
    snapshot,
    value,
)
from support.partition import lib

import mqlog

FIRST = f"{PARTITION}/{log_file(0)}"

#: Batches of three records each, by the size of their values. The large one does not fit beside the
#: others, so there are three segments, of which the first and the last are small.
SIZES = (40, 40, 40, 1200, 40, 40, 40)
COUNT = 3 * len(SIZES)
ALL = {n: value(n, SIZES[n // 3]) for n in range(COUNT)}
START = 1_700_000_000.0


def build(path: Path) -> dict[str, bytes]:
    """A closed store, and a group in it that has read ten records."""
    with mqlog.open(path) as store:
        orders = store.stream(TOPIC, segment_bytes=SEGMENT, max_message_bytes=SEGMENT)
        for n in range(0, COUNT, 3):
            times = [START + n + i for i in range(3)]
            orders.append_many([ALL[n + i] for i in range(3)], timestamps=times)
        with orders.consumer("billing", commit="manual") as consumer:
            consumer.poll(10)
            consumer.commit()
    files = snapshot(path)
    assert len(segments(files)) == 3
    return files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build(tmp_path_factory.mktemp("whole") / "s")


@pytest.fixture
def path(whole: dict[str, bytes]) -> Iterator[Path]:
    """The store, put down anew; in memory, as most tests here do so a thousand times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="mqlog-test-", dir=memory))
    restore(made / "s", whole)
    yield made / "s"
    shutil.rmtree(made)


WIDE = 80  # records in the store whose segments are long enough for index entries


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("wide") / "s"
    with mqlog.open(path) as store:
        orders = store.stream(TOPIC, segment_bytes=1 << 15)
        for n in range(WIDE):
            orders.append(value(n, 1000), timestamp=START + n)
    files = snapshot(path)
    assert all(data for name, data in files.items() if name.endswith(".index"))
    return files


def segments(whole: dict[str, bytes]) -> list[str]:
    return sorted(name for name in whole if name.endswith(".log"))


def expected(whole: dict[str, bytes], name: str, at: int, path: Path) -> Damage:
    """The batch that a byte belongs to."""
    position, _, first, last = next(one for one in reversed(batches(whole[name])) if one[0] <= at)
    return Damage(str(path / name), position, first, last + 1)


def holds(found: Any) -> None:
    """O11: whatever was read is what was written."""
    if isinstance(found, Exception):
        return
    records, damage = found
    for offset, data in records.items():
        assert data == ALL[offset], f"wrong bytes at offset {offset}"
    assert list(records) == sorted(records)
    lost = {n for one in damage for n in range(one.start, one.stop)}
    assert not lost & set(records), "both read and told to be lost"


# -- logs -----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("part", range(4))
def test_each_flipped_byte_of_a_log_is_told_once_and_all_else_is_read(
    whole: dict[str, bytes], path: Path, mode: str, part: int
) -> None:
    """Every byte, header bytes outside the CRC included, one bit each; the files closed."""
    names = segments(whole)
    for name in (names[0], names[-1]):
        for at in range(part, len(whole[name]), 4):
            restore(path, {**whole, name: flip(whole[name], at, (at * 7) % 8)})
            found = outcome(path, mode)
            where = expected(whole, name, at, path)
            rest = {n: data for n, data in ALL.items() if not where.start <= n < where.stop}
            assert found == (rest, [where]), (name, at)


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_each_flipped_bit_of_the_21_header_bytes_outside_the_crc_is_told(
    whole: dict[str, bytes], path: Path, bit: int
) -> None:
    for name in segments(whole):
        for position, *_ in batches(whole[name]):
            for at in range(position, position + 21):
                restore(path, {**whole, name: flip(whole[name], at, bit)})
                where = expected(whole, name, at, path)
                rest = {n: data for n, data in ALL.items() if not where.start <= n < where.stop}
                assert outcome(path, "r") == (rest, [where]), (name, at)


def test_damage_in_an_open_store_is_told_and_appends_go_on(
    whole: dict[str, bytes], path: Path
) -> None:
    for name in segments(whole):
        position, size, first, last = batches(whole[name])[0]
        restore(path, whole)
        with mqlog.open(path) as store:
            orders = store.stream(TOPIC)
            with (path / name).open("r+b") as file:
                file.seek(position + size // 2)
                file.write(flip(whole[name], position + size // 2)[position + size // 2 :][:1])
            assert orders.append(b"goes on") == COUNT
            found, damage = read(orders)
            assert damage == [Damage(str(path / name), position, first, last + 1)]
            lost = set(range(first, last + 1))
            assert set(found) == set(range(COUNT + 1)) - lost
            with pytest.raises(mqlog.CorruptError):
                _ = orders[first]
            assert orders[last + 1].value == ALL[last + 1]
        with mqlog.open(path) as store:
            orders = store.stream(TOPIC)
            assert orders.append(b"and on") == COUNT + 1
            assert len(read(orders)[1]) == 1


def test_two_damaged_places_are_told_one_after_the_other(
    whole: dict[str, bytes], path: Path
) -> None:
    names = segments(whole)
    hits = [(names[0], 0), (names[0], 2), (names[2], 1)]
    files = dict(whole)
    for name, n in hits:
        files[name] = flip(files[name], batches(whole[name])[n][0] + 80)
    restore(path, files)
    found = outcome(path, "rw")
    assert not isinstance(found, Exception)
    places = [expected(whole, name, batches(whole[name])[n][0], path) for name, n in hits]
    assert found[1] == places
    holds(found)


def test_damage_side_by_side_is_told_as_one_place_or_two_and_nothing_more_is_lost(
    whole: dict[str, bytes], path: Path
) -> None:
    name = segments(whole)[0]
    one, two = batches(whole[name])[1:3]
    data = flip(flip(whole[name], one[0] + 70), two[0] + 70)
    restore(path, {**whole, name: data})
    found = outcome(path, "r")
    assert not isinstance(found, Exception)
    lost = {n for place in found[1] for n in range(place.start, place.stop)}
    assert lost == set(range(one[2], two[3] + 1))
    assert set(found[0]) == set(range(COUNT)) - lost


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("which", ["first", "last"])
def test_each_truncation_of_a_log_loses_only_what_is_cut_off_and_says_so(
    whole: dict[str, bytes], path: Path, mode: str, which: str
) -> None:
    name = segments(whole)[0 if which == "first" else -1]
    last = int(Path(name).name[:20]) + sum(one[3] - one[2] + 1 for one in batches(whole[name]))
    for length in range(len(whole[name])):
        restore(path, {**whole, name: whole[name][:length]})
        found = outcome(path, mode)
        holds(found)
        assert not isinstance(found, Exception), (length, found)
        kept = [one for one in batches(whole[name]) if one[0] + one[1] <= length]
        stop = kept[-1][3] + 1 if kept else int(Path(name).name[:20])
        rest = {n: data for n, data in ALL.items() if not stop <= n < last}
        assert found[0] == rest, length
        assert found[1], f"{length}: records are missing, and nobody says so"


def test_a_truncated_log_takes_appends_and_gives_no_offset_twice(
    whole: dict[str, bytes], path: Path
) -> None:
    name = segments(whole)[-1]
    for length in (0, 1, 61, 100, len(whole[name]) - 1):
        restore(path, {**whole, name: whole[name][:length]})
        with mqlog.open(path) as store:
            assert store.stream(TOPIC).append(b"goes on") >= COUNT, length
        found = outcome(path, "rw")
        assert not isinstance(found, Exception)
        assert b"goes on" in found[0].values()


# -- whole files ----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_missing_segment_loses_its_records_and_no_others(
    whole: dict[str, bytes], path: Path, mode: str
) -> None:
    names = segments(whole)
    for name, following in zip(names, [*names[1:], None], strict=True):
        restore(path, {other: data for other, data in whole.items() if other != name})
        found = outcome(path, mode)
        holds(found)
        assert not isinstance(found, Exception)
        first = int(Path(name).name[:20])
        stop = int(Path(following).name[:20]) if following else COUNT
        assert set(found[0]) == {n for n in range(COUNT) if not first <= n < stop}, name


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_swapped_and_duplicated_segments_never_give_wrong_records(
    whole: dict[str, bytes], path: Path, mode: str
) -> None:
    names = segments(whole)
    for one in names:
        for other in names:
            if one == other:
                continue
            restore(path, {**whole, one: whole[other], other: whole[one]})
            holds(outcome(path, mode))
            restore(path, {**whole, one: whole[other]})
            found = outcome(path, mode)
            holds(found)
            first = batches(whole[one])[0][2]
            assert isinstance(found, Exception) or first not in found[0]


def check_lookups(path: Path, mode: Any, step: int = 7) -> None:
    with mqlog.open(path, mode) as store:
        orders = store.stream(TOPIC)
        for n in range(0, WIDE, step):
            assert orders[n].value == value(n, 1000)
            assert orders.offset_at(START + n) == n
            assert orders.offset_at(START + n - 0.5) == n


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("change", ["missing", "empty", "ones", "zeros", "first", "swapped"])
def test_an_index_that_is_not_its_segments_misleads_nobody(
    wide: dict[str, bytes], path: Path, mode: str, suffix: str, change: str
) -> None:
    names = sorted(name for name in wide if name.endswith(suffix))
    entry = 8 if suffix == ".index" else 12
    files = dict(wide)
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        by_change = {
            "empty": b"",
            "ones": b"\xff" * 96,
            "zeros": bytes(4096),
            "first": wide[name][:entry],
            "swapped": wide[other],
        }
        if change == "missing":
            del files[name]
        else:
            files[name] = by_change[change]
    restore(path, files)
    check_lookups(path, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_each_flipped_byte_of_an_index_misleads_no_lookup(
    wide: dict[str, bytes], path: Path, mode: str, suffix: str
) -> None:
    for name in (name for name in wide if name.endswith(suffix)):
        for at in range(len(wide[name])):
            restore(path, {**wide, name: flip(wide[name], at, (at * 5) % 8)})
            check_lookups(path, mode, 11)


OTHERS = (
    "control",
    "checkpoint",
    "leader-epoch-checkpoint",
    "groups/billing.offset",
    "doorbell",
    "mqlog.json",
)


def bytes_to_flip(name: str, data: bytes) -> list[int]:
    """All of a small file; of a page, its used parts and a sample of the rest."""
    if len(data) <= 1024 and "checkpoint" not in name:
        return list(range(len(data)))
    used = [at for at in range(len(data)) if data[at] or at < 0x60]
    return sorted({*used, *range(0, len(data), 97)})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("suffix", OTHERS)
def test_each_flipped_byte_beside_the_log_gives_the_original_data_or_a_clear_error(
    whole: dict[str, bytes], path: Path, mode: str, suffix: str
) -> None:
    names = [name for name in whole if name.endswith(suffix)]
    assert names
    for name in names:
        for at in bytes_to_flip(name, whole[name]):
            for bit in {at % 8, 7}:
                restore(path, {**whole, name: flip(whole[name], at, bit)})
                found = outcome(path, mode)
                holds(found)
                if suffix == "groups/billing.offset":
                    assert found == (ALL, []), (name, at, bit)
                if isinstance(found, Exception):
                    assert isinstance(found, mqlog.Error), (name, at, bit, found)
                elif not found[1]:
                    assert found[0] == ALL, f"records are missing, and nobody says so: {name} {at}"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", OTHERS[:5])
def test_after_each_flipped_byte_beside_the_log_appends_go_on_or_are_refused_clearly(
    whole: dict[str, bytes], path: Path, suffix: str
) -> None:
    for name in (name for name in whole if name.endswith(suffix)):
        for at in bytes_to_flip(name, whole[name])[::3]:
            restore(path, {**whole, name: flip(whole[name], at, (at + 3) % 8)})
            try:
                with mqlog.open(path) as store:
                    offset = store.stream(TOPIC).append(b"goes on")
                    assert offset >= COUNT, f"offset {offset} was given before: {name} {at}"
            except mqlog.Error:
                continue
            found = outcome(path, "rw")
            assert not isinstance(found, Exception)
            assert found[0].pop(offset) == b"goes on"
            holds(found)


@pytest.mark.parametrize("name", ["control", "checkpoint", "leader-epoch-checkpoint"])
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_file_beside_the_log_may_be_missing_empty_or_rubbish(
    whole: dict[str, bytes], path: Path, mode: str, name: str
) -> None:
    full = f"{PARTITION}/{name}"
    for data in (None, b"", b"\xff" * 5000, bytes(4096), random.Random(1).randbytes(4096)):
        files = {**whole, full: data} if data is not None else dict(whole)
        if data is None:
            del files[full]
        restore(path, files)
        assert outcome(path, mode) == (ALL, []), data and data[:8]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_each_flipped_byte_of_a_committed_offset_gives_a_commit_that_was_made(
    whole: dict[str, bytes], path: Path, mode: Any
) -> None:
    name = f"{PARTITION}/groups/billing.offset"
    for at in range(0x200):
        restore(path, {**whole, name: flip(whole[name], at, at % 8)})
        try:
            with mqlog.open(path, mode) as store:
                (group,) = store.groups(TOPIC)
                assert group.committed in ({0: 10}, {0: 0}, {}), at  # 0: where it began
        except mqlog.Error as error:
            assert name in str(error), at


def test_the_options_file_may_be_missing_and_is_never_written_over_when_it_is_damaged(
    whole: dict[str, bytes], path: Path
) -> None:
    (path / "mqlog.json").unlink()
    assert outcome(path, "r") == (ALL, [])
    for data in (b"", b"{", b"[]", b'{"format": "1"}', b'{"format": 1, "topics": []}', b"\xff\xfe"):
        (path / "mqlog.json").write_bytes(data)
        for mode in ("rw", "r"):
            found = outcome(path, mode)
            assert isinstance(found, mqlog.FormatError), data
            assert str(path / "mqlog.json") in str(found)
        assert (path / "mqlog.json").read_bytes() == data


# -- several segments, several topics -------------------------------------------------------------
def test_another_topic_does_not_notice(whole: dict[str, bytes], path: Path) -> None:
    with mqlog.open(path) as store:
        store.stream("other").append(b"untouched")
    files = snapshot(path)
    for name in segments(whole):
        files[name] = b"\xff" * len(files[name])
    files[f"{PARTITION}/checkpoint"] = b"\xff" * 1024
    restore(path, files)
    with mqlog.open(path) as store:
        assert list(store.stream("other").values()) == [b"untouched"]
        assert store.stream("other").append(b"goes on") == 1


@pytest.mark.slow
def test_verify_names_every_damaged_place(whole: dict[str, bytes], path: Path) -> None:
    hits = [(name, batches(whole[name])[0]) for name in segments(whole)[:2]]
    files = dict(whole)
    for name, one in hits:
        files[name] = flip(files[name], one[0] + 65)
    restore(path, files)
    done = python(
        "import sys; from mqlog.cli import main; sys.exit(main(['verify', sys.argv[1]]))", path
    )
    assert done.returncode not in (0, -11, -6), done
    for name, _ in hits:
        assert Path(name).name in done.stdout + done.stderr


# -- compression ----------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("compression", ["lz4", "gzip"])
def test_each_flipped_byte_of_a_compressed_log_is_told_and_never_inflated(
    path: Path, compression: str
) -> None:
    shutil.rmtree(path)
    with mqlog.open(path) as store:
        orders = store.stream(TOPIC, compression=compression)
        for n in range(0, 9, 3):
            orders.append_many([value(n + i, 100) for i in range(3)])
    files = snapshot(path)
    for at in range(len(files[FIRST])):
        restore(path, {**files, FIRST: flip(files[FIRST], at, at % 8)})
        found = outcome(path, "r")
        where = expected(files, FIRST, at, path)
        rest = {n: value(n, 100) for n in range(9) if not where.start <= n < where.stop}
        assert found == (rest, [where]), at


# -- values that are batches ------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["rw", "r"])
@pytest.mark.parametrize("behind", [b"", b"tail", bytes(100)], ids=["nothing", "more", "zeros"])
def test_a_batch_inside_a_damaged_value_is_never_given_out_as_a_record(
    path: Path, mode: str, behind: bytes
) -> None:
    """Who may put a value must not be able to put records of his own making under other offsets."""
    with mqlog.open(path.parent / "forge") as store:
        forge = store.stream(TOPIC)
        forge.append_many([b"x"] * 4)
        assert forge.append(b"forged") == 4
    data = (path.parent / "forge" / FIRST).read_bytes()
    position, size, _, _ = batches(data)[1]
    shutil.rmtree(path)
    with mqlog.open(path) as store:
        orders = store.stream(TOPIC)
        orders.append(b"first")
        orders.append_many(
            [b"a", b"b", b"c", b"nested" + data[position : position + size] + behind]
        )
    data = (path / FIRST).read_bytes()
    position, _, first, last = batches(data)[1]
    (path / FIRST).write_bytes(flip(data, position + 30))
    where = Damage(str(path / FIRST), position, first, last + 1)
    assert outcome(path, mode) == ({0: b"first"}, [where])


# -- hostile directories --------------------------------------------------------------------------
HOSTILE = """
    import resource, sys
    import mqlog
    from mqlog import errors
    limit = 1 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (50, 50))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for path in sys.argv[2:]:
        try:
            with mqlog.open(path, sys.argv[1], create=False) as store:
                for topic in store.topics():
                    stream = store.stream(topic.name, create=False)
                    for partition in stream.partitions:
                        records = partition.read()
                        for _ in range(10000):
                            try:
                                record = next(records)
                                record.value, record.key, record.headers, record.timestamp
                            except StopIteration:
                                break
                            except errors.CorruptError:
                                pass
                        partition.offset_at(1_700_000_000.0)
                    store.groups(topic.name)
        except (mqlog.Error, OSError) as error:
            assert str(error)
    print("survived")
"""


def hostile(rng: random.Random, whole: dict[str, bytes], how: str) -> dict[str, bytes]:
    """All files random; or the real ones with random pieces, whose CRCs may be right again."""
    files = {}
    for name, data in whole.items():
        if how == "random":
            files[name] = rng.randbytes(rng.choice([0, 1, 61, 512, 4096, 5000]))
        else:
            hit = bytearray(data)
            for _ in range(rng.randrange(1, 6)):
                if hit:
                    at, length = rng.randrange(len(hit)), rng.choice([1, 4, 8, 100])
                    piece = rng.choice([rng.randbytes(length), b"\xff" * length, bytes(length)])
                    hit[at : at + length] = piece
            files[name] = bytes(hit[: rng.choice([len(hit), rng.randrange(len(hit) + 1)])])
    if how == "random" or rng.random() < 0.7:
        files["mqlog.json"] = whole["mqlog.json"]
    return files


@pytest.mark.slow
@pytest.mark.parametrize("how", ["random", "pieces"])
@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_hostile_directory_is_survived_in_bounded_memory(
    whole: dict[str, bytes], tmp_path: Path, how: str, mode: str
) -> None:
    rng = random.Random(f"{how} {mode}")
    paths = [tmp_path / str(n) for n in range(60)]
    for path in paths:
        restore(path, hostile(rng, whole, how))
    done = python(HOSTILE, mode, *paths)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-2000:]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "device"])
@pytest.mark.parametrize("name", ["control", "checkpoint", log_file(0), "doorbell"])
def test_planted_files_of_other_kinds_are_survived_without_blocking(
    whole: dict[str, bytes], path: Path, name: str, kind: str
) -> None:
    target = path / name if name == "doorbell" else path / PARTITION / name
    target.unlink()
    if kind == "link":
        target.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "directory":
        target.mkdir()
    elif os.geteuid() == 0:
        os.mknod(target, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it never ends
    else:
        pytest.skip("only root makes devices")
    for mode in ("r", "rw"):
        holds(outcome(path, mode))
    assert not target.is_file() or target.is_symlink()
    if kind == "directory":
        target.rmdir()
    else:
        target.unlink()


# -- batches that are not as they were written -----------------------------------------------------
def thinned(data: bytes) -> bytes:
    """A batch of three small records without the last, as compaction would leave it: its offset is
    still the batch's last. The second has a longer value for it, so that all stays in its place."""

    def record(delta: int, value: bytes) -> bytes:
        body = bytes([0, 0, 2 * delta, 1, 2 * len(value)]) + value + b"\0"
        return bytes([2 * len(body)]) + body

    payload = b"".join(record(n, b"%d" % (10 + n)) for n in range(3))
    assert data[61:] == payload
    kept = record(0, b"10") + record(1, b"11" + b"+" * len(record(2, b"12")))
    assert len(kept) == len(payload)
    tail = data[21:57] + struct.pack(">i", 2) + kept
    return data[:17] + struct.pack(">I", lib.mql_crc32c(0, tail, len(tail))) + tail


def test_a_record_is_read_again_after_the_batch_around_it_was_left(tmp_path: Path) -> None:
    """What was read ahead for one get is not what a later one has."""
    path = tmp_path / "s"
    with mqlog.open(path) as store:
        jobs = store.queue("jobs", retry_delays=(0.0,))
        for n in range(10):
            jobs.put(b"%d" % n)
        jobs.put_many([b"10", b"11", b"12"])
        for n in range(13, 20):
            jobs.put(b"%d" % n)
    log = path / "jobs-0" / log_file(0)
    data = bytearray(log.read_bytes())
    position, size, first, last = batches(bytes(data))[10]
    assert (first, last) == (10, 12)
    data[position : position + size] = thinned(bytes(data[position : position + size]))
    log.write_bytes(data)

    with mqlog.open(path) as store:
        jobs = store.queue("jobs")
        jobs.accept([jobs.get() for _ in range(9)])
        held = [jobs.get() for _ in range(3)]
        assert [one.offset for one in held] == [9, 10, 11]
        held[0].release()
        held[1].release()
        again = [jobs.get(), jobs.get(), jobs.get()]
        assert [one.offset for one in again] == [9, 10, 13], "12 is not there"
        again[1].release()
        found = jobs.get()
        assert (found.offset, found.value) == (10, b"10")
        rest = [found, held[2], again[0], again[2], *(jobs.get() for _ in range(6))]
        assert sorted(one.offset for one in rest) == [9, 10, 11, *range(13, 20)]
        jobs.accept(rest)
        stats = jobs.stats()
        assert (stats.accepted, stats.ready, stats.damaged) == (19, 0, 0)
