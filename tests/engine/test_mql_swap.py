"""mql_swap: whoever dies while segments are rewritten as one, all that counts is there after it."""

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.fault import Log, Share, Store, check, dies, ffi, hooked, lib
from support.partition import kafkas_indexes, reboot

OPTIONS = {
    "segment_bytes": 1 << 16,
    "max_message_bytes": 4096,
    "batch_bytes": 4096,
    "cleanup": lib.MQL_CLEANUP_CONSUMED,
}
STAY = (3, 400)
COUNT = 500


def value(offset: int) -> bytes:
    return b"%d " % offset + bytes([offset % 251]) * 900


def open_queue(path: Path) -> tuple[Store, Log, Share]:
    store = Store(path)
    log = store.log(**OPTIONS)
    return store, log, Share(log.c)


def reclaim(log: Log) -> None:
    log.sync()
    lib.mql_reclaim_round(log.c, 0, True)


@pytest.fixture(scope="module")
def consumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store of eight segments; two records, of the first and of the seventh, are left."""
    path = tmp_path_factory.mktemp("consumed") / "s"
    store, log, share = open_queue(path)
    with store:
        for offset in range(COUNT):
            log.append(value(offset))
        items = share.acquire(COUNT)
        share.settle("accept", *[item for item in items if item.offset not in STAY])
    return path


def reclaim_and_die_at(path: Path, step: int) -> bool:
    """A process that is killed before so many calls that change the disk; whether it was."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            left = [step]

            def hook(call: int, name: str) -> int:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return 0

            _, log, _ = open_queue(path)
            with hooked(hook):
                reclaim(log)
            code = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def die_when_one_has_the_name(path: Path) -> None:
    """A process that is killed when it has put the new file in place, and no old one has gone."""
    linked = []

    def hook(call: int, name: str) -> int:
        if call == lib.MQL_FAULT_UNLINK and linked:
            os.kill(os.getpid(), signal.SIGKILL)
        linked.extend([call] if call == lib.MQL_FAULT_LINK else [])
        return 0

    def work() -> None:
        _, log, _ = open_queue(path)
        with hooked(hook):
            reclaim(log)

    dies(work)


def leftovers(log: Log) -> list[str]:
    return [name for name in log.files() if name.endswith((".swap", ".cleaned"))]


def counted(path: Path) -> int:
    """What a first opener counts."""
    files = (file for place in path.iterdir() if place.is_dir() for file in place.iterdir())
    return sum(file.stat().st_size for file in files if file.is_file())


def check_all(log: Log, share: Share) -> None:
    """What is not finished can be read and is delivered, and nothing else is."""
    found = dict(log.read(0))
    assert {offset: found[offset] for offset in found} == {n: value(n) for n in found}
    assert set(found) >= {*STAY, *range(log.end[0], COUNT)}
    assert [item.offset for item in share.acquire(COUNT)] == list(STAY)
    report = ffi.new("mql_verify_report *")
    check(lib.mql_verify(log.c, ffi.NULL, ffi.NULL, ffi.NULL, report))
    assert report.problems == 0


def check_small(log: Log, *, indexed: bool = True) -> None:
    bases = sorted(int(name[:20]) for name in log.files() if name.endswith(".log"))
    assert bases == [0, log.end[0]]
    data = log.bytes(0)
    assert len(data) < 4096
    assert not indexed or (log.bytes(0, ".index"), log.bytes(0, ".timeindex")) == kafkas_indexes(
        data, 0
    )
    assert [n for n, _ in log.read(0) if n < log.end[0]] == list(STAY)


@pytest.mark.slow
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_r11_the_next_opener_finishes_or_undoes_it(consumed: Path, tmp_path: Path, power: bool):
    for step in range(1, 1000):
        path = tmp_path / f"s{step}"
        shutil.copytree(consumed, path)
        died = reclaim_and_die_at(path, step)
        if power:
            reboot(path)
        store, log, share = open_queue(path)
        with store:
            assert leftovers(log) == []
            assert abs(log.c.home.bell.used_bytes - counted(path)) <= 4 * 4096, step
            check_all(log, share)
            reclaim(log)
            check_small(log)
        shutil.rmtree(path)
        if not died:
            break
    assert 20 < step < 200


@pytest.mark.slow
def test_who_lives_on_reads_and_finishes_it(consumed: Path, tmp_path: Path):
    for step in range(1, 1000):
        path = tmp_path / f"s{step}"
        shutil.copytree(consumed, path)
        store, log, share = open_queue(path)
        with store:
            reader = log.cursor(0)
            first = [reader.next() for _ in range(10)]
            died = reclaim_and_die_at(path, step)
            offsets = [one[0][0] for one in first] + [offset for offset, _ in reader.drain()]
            reader.free()
            assert offsets == sorted(set(offsets))
            assert set(offsets) >= {*STAY, *range(log.end[0], COUNT)}
            log.append(value(COUNT))
            share.settle("accept", *share.acquire(COUNT)[2:])
            reclaim(log)
            assert leftovers(log) == []
            check_small(log)
        shutil.rmtree(path)
        if not died:
            break
    assert 20 < step < 200


def test_a_file_that_got_its_name_from_one_who_died_before_he_said_so_is_noticed(
    consumed: Path, tmp_path: Path
):
    path = tmp_path / "s"
    shutil.copytree(consumed, path)
    store, log, share = open_queue(path)
    with store:
        assert len(log.read(0)) == COUNT
        die_when_one_has_the_name(path)
        log.control.rewrites -= 1  # as if it had died a few instructions before
        check(lib.mql_commit_settle(log.c))
        assert log.control.rewrites == 1
        lib.mql_log_forget(log.c)
        assert lib.mql_log_mapped(log.c, 0) == ffi.NULL, "the old file keeps its blocks"
        check_all(log, share)


def test_a_backlog_is_not_counted_twice_while_segments_are_replaced(consumed: Path, tmp_path: Path):
    path = tmp_path / "s"
    shutil.copytree(consumed, path)
    store, log, share = open_queue(path)
    size = ffi.new("int64_t *")
    with store:
        die_when_one_has_the_name(path)
        assert log.control.replacing == 1
        check(lib.mql_share_backlog(share.c, size))
        rest = log.end[1]  # of the active segment
        assert size[0] == len(log.bytes(0)) - 61 + rest
        assert leftovers(log) == []


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_what_cannot_be_written_is_given_up_and_done_later(
    consumed: Path, tmp_path: Path, code: int
):
    for step in range(1, 1000):
        path = tmp_path / f"s{step}"
        shutil.copytree(consumed, path)
        store, log, share = open_queue(path)
        with store:
            log.sync()
            left = [step]

            def hook(call: int, name: str, left: list[int] = left) -> int:
                left[0] -= 1
                beside = call not in (lib.MQL_FAULT_MAP, lib.MQL_FAULT_SYNC)
                return -code if left[0] == 0 and beside else 0

            with hooked(hook):
                lib.mql_reclaim_round(log.c, 0, True)
            found = log.read(0)
            assert not [one for one in found if not isinstance(one, tuple)], (step, found[:6])
            assert dict(found).keys() >= {*STAY}
            log.append(b"")
            share.settle("accept", *share.acquire(COUNT)[2:])
            reclaim(log)
            assert leftovers(log) == []
            check_small(log, indexed=False)
        shutil.rmtree(path)
        if left[0] > 0:
            break
    assert 20 < step < 200


def test_r11_a_swap_that_is_damaged_counts_for_nothing(consumed: Path, tmp_path: Path):
    path = tmp_path / "s"
    shutil.copytree(consumed, path)
    (path / "t-0" / f"{0:020d}.log.swap").write_bytes(b"no batch at all" * 10)
    (path / "t-0" / f"{0:020d}.index.cleaned").write_bytes(b"")
    store, log, share = open_queue(path)
    with store:
        assert leftovers(log) == []
        check_all(log, share)
        assert [offset for offset, _ in log.read(0)] == list(range(COUNT))


@pytest.mark.slow
def test_who_lives_on_counts_what_the_dead_has_freed(consumed: Path, tmp_path: Path):
    for step in range(1, 1000):
        path = tmp_path / f"s{step}"
        shutil.copytree(consumed, path)
        store, log, _ = open_queue(path)
        with store:
            died = reclaim_and_die_at(path, step)
            log.append(value(COUNT))  # whoever comes first may have settled it
            reclaim(log)
            assert leftovers(log) == []
            assert abs(log.c.home.bell.used_bytes - counted(path)) <= 4 * 4096, step
        shutil.rmtree(path)
        if not died:
            break
    assert 20 < step < 200


def test_files_of_other_names_are_left_alone(consumed: Path, tmp_path: Path):
    path = tmp_path / "s"
    shutil.copytree(consumed, path)
    strange = ["my.log.cleaned", "1.log.swap", f"{0:020d}.log.cleaned.old", f"{0:020d}.txt.cleaned"]
    for name in strange:
        (path / "t-0" / name).touch()
    store, log, _ = open_queue(path)
    with store:
        reclaim(log)
        assert set(strange) <= log.files()


def test_bytes_are_counted_as_they_come_and_go(consumed: Path, tmp_path: Path):
    path = tmp_path / "s"
    shutil.copytree(consumed, path)
    store, log, _ = open_queue(path)
    with store:
        reclaim(log)
        used = log.c.home.bell.used_bytes
        there = sum((log.directory / n).stat().st_size for n in log.files() if n != "control")
        groups = sum(p.stat().st_size for p in log.directory.glob("shares/*"))
    counted: dict[str, Any] = {"used": used, "there": there, "groups": groups}
    with Store(path) as again:
        assert abs(again.log(**OPTIONS).c.home.bell.used_bytes - used) <= 4 * 4096, counted
