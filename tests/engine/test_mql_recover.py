"""mql_recover: the decision table R1 .. R10, one function a row, and a walk over combinations."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.partition import (
    DIRECTORY,
    PAGE,
    Failed,
    Store,
    batch,
    check,
    dies,
    ffi,
    flip,
    lib,
    log_file,
    reboot,
    stamped,
    unclean,
)

HEADER = lib.MQL_BATCH_HEADER
CEILING = 100
B0, B1, B2 = batch(0, b"a", b"b"), batch(2, b"c", b"d", b"e"), batch(5, b"f")
B3 = batch(6, b"g" * 20, b"h")
WHOLE = B0 + B1 + B2
P1, P2 = len(B0 + B1), len(WHOLE)  # behind offset 4, behind offset 5


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory, as recovery syncs a lot."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="mqlog-test-", dir=memory))
    (path / DIRECTORY).mkdir()
    yield path
    shutil.rmtree(path)


class Found(NamedTuple):
    """What one recovery decided."""

    end: tuple[int, int, int]
    durable: tuple[int, int, int]
    log_start: int
    ceiling: int
    epoch: int
    told: list[tuple[int, int, int, int, str]]
    epochs: list[tuple[int, int]]

    @property
    def rows(self) -> list[int]:
        return [row for row, *_ in self.told]


def end_of(one: Any) -> tuple[int, int, int]:
    return one.segment, one.position, one.offset


def recover(root: Path, control: Any = ffi.NULL, identity: Any = None, **flags: Any) -> Found:
    told: list[tuple[int, int, int, int, str]] = []

    @ffi.callback("void(void *, int, int64_t, int64_t, int64_t, const char *)")
    def tell(_: Any, row: int, segment: int, position: int, size: int, file: Any) -> None:
        told.append((row, segment, position, size, ffi.string(file).decode()))

    name = ffi.new("char[]", DIRECTORY.encode())
    identity = identity or ffi.new("mql_control_identity *")
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    task = ffi.new(
        "mql_recover_task *",
        {
            "root": opened,
            "directory": name,
            "control": control,
            "identity": identity,
            "segment_bytes": 1 << 20,
            **({"mode": 0o600, "tell": tell} | flags),
        },
    )
    table, state = ffi.new("mql_epoch_table *"), ffi.new("mql_recover_state *")
    try:
        check(lib.mql_recover_run(task, table, state))
        epochs = [(table.entries[i].epoch, table.entries[i].start) for i in range(table.count)]
    finally:
        lib.mql_epoch_free(table)
        os.close(opened)
    return Found(
        end_of(state.end),
        end_of(state.durable),
        state.log_start,
        state.ceiling,
        state.epoch,
        told,
        epochs,
    )


def write_log(root: Path, data: bytes, base: int = 0) -> Path:
    path = root / DIRECTORY / log_file(base)
    path.write_bytes(data)
    return path


def write_checkpoint(root: Path, segment: int, position: int, offset: int, **more: int) -> None:
    """A sound checkpoint; the one before it, if any, is in the other slot."""
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fields = {"ceiling": CEILING, **more}
        one = ffi.new("mql_format_checkpoint *", fields)
        one.segment, one.position, one.offset = segment, position, offset
        check(lib.mql_checkpoint_write(opened, DIRECTORY.encode(), one, 0o600))
    finally:
        os.close(opened)


def write_epochs(root: Path, *entries: tuple[int, int]) -> None:
    lines = "".join(f"{epoch} {start}\n" for epoch, start in entries)
    text = f"0\n{len(entries)}\n{lines}"
    (root / DIRECTORY / "leader-epoch-checkpoint").write_text(text)


def control_of(
    end: tuple[int, int, int], durable: tuple[int, int, int] | None = None
) -> tuple[Any, Any]:
    """A control page that passes all its checks, and the identity that it passes them for."""
    identity = ffi.new(
        "mql_control_identity *", {"boot": b"b" * 16, "device": 1, "inode": 2, "mount": 3}
    )
    control = ffi.new("mql_format_control *")
    check(lib.mql_control_reset(control, identity))
    control.ceiling = CEILING
    for latch, one in ((control.published, end), (control.durable, durable or end)):
        lib.mql_control_publish(ffi.addressof(latch), ffi.new("mql_control_end *", one))
    return control, identity


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / DIRECTORY).iterdir()}


def set_aside(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(root).items() if ".cut-" in name}


# -- the rows -------------------------------------------------------------------------------------
def test_r1_whole_batches_in_order_are_kept(root: Path):
    write_log(root, WHOLE)
    found = recover(root)
    assert (found.end, found.told) == ((0, P2, 6), [])
    assert files(root)[log_file(0)] == WHOLE


def test_r1_a_newer_epoch_is_learnt_and_goes_on(root: Path):
    write_epochs(root, (0, 0))
    write_log(root, B0 + stamped(B1, epoch=3) + stamped(B2, epoch=3))
    found = recover(root)
    assert (found.end, found.told, found.epoch) == ((0, P2, 6), [], 3)
    assert found.epochs == [(0, 0), (3, 2)]


@pytest.mark.parametrize("zeros", [1, 60, 61, PAGE, 3 * PAGE + 5])
def test_r2_zeros_to_the_end_of_the_file_are_the_end_and_nothing_is_told(root: Path, zeros: int):
    write_log(root, WHOLE + bytes(zeros))
    found = recover(root)
    assert (found.end, found.told) == ((0, P2, 6), [])
    assert files(root)[log_file(0)] == WHOLE


@pytest.mark.parametrize("left", [1, 12, 60])
def test_r3_a_torn_header_is_cut(root: Path, left: int):
    write_log(root, WHOLE + batch(6, b"lost")[:left].replace(b"\0", b"\1"))
    found = recover(root)
    assert (found.end, found.told) == ((0, P2, 6), [(3, 0, P2, left, "")])
    assert files(root)[log_file(0)] == WHOLE


def test_r4_a_length_past_the_file_is_cut(root: Path):
    torn = B3[:-1]
    write_log(root, WHOLE + torn)
    found = recover(root)
    assert (found.end, found.told) == ((0, P2, 6), [(4, 0, P2, len(torn), "")])
    assert files(root)[log_file(0)] == WHOLE


def test_r4_a_length_past_the_limit_is_cut(root: Path):
    huge = bytearray(B3)
    huge[8:12] = (2**31 - 1).to_bytes(4, "big")
    write_log(root, WHOLE + bytes(huge))
    assert recover(root).told == [(4, 0, P2, len(huge), "")]


def test_r5_a_wrong_crc_is_cut_and_whole_batches_behind_it_are_set_aside(root: Path):
    behind = flip(B3, len(B3) - 1) + batch(8, b"behind")
    write_log(root, WHOLE + behind)
    found = recover(root)
    aside = f"{log_file(0)}.cut-1"
    assert (found.end, found.told) == ((0, P2, 6), [(5, 0, P2, len(behind), aside)])
    assert files(root)[log_file(0)] == WHOLE
    assert set_aside(root) == {aside: behind}


def test_r5_zeros_with_something_behind_are_cut(root: Path):
    behind = bytes(PAGE) + batch(6, b"torn page")
    write_log(root, WHOLE + behind)
    found = recover(root)
    assert (found.end, found.rows) == ((0, P2, 6), [5])
    assert list(set_aside(root).values()) == [behind]


@pytest.mark.parametrize("base", [0, 5, 7, 2**40])
def test_r5_an_offset_that_is_not_expected_is_cut(root: Path, base: int):
    behind = stamped(B3, base=base)
    write_log(root, WHOLE + behind)
    found = recover(root)
    assert (found.end, found.rows) == ((0, P2, 6), [5])
    assert list(set_aside(root).values()) == [behind]


def test_r5_a_stale_epoch_is_cut(root: Path):
    """What a dead writer left behind the end carries the epoch from before its death."""
    write_epochs(root, (0, 0), (1, 2))
    stale = stamped(B2, epoch=0)
    write_log(root, B0 + stamped(B1, epoch=1) + stale)
    found = recover(root)
    assert (found.end, found.rows) == ((0, P1, 5), [5])
    assert list(set_aside(root).values()) == [stale]


def test_r5_the_segments_behind_a_cut_are_set_aside_whole(root: Path):
    later = B3 + bytes(100)
    write_log(root, WHOLE + b"torn")
    write_log(root, later, 6)
    (root / DIRECTORY / log_file(6, ".index")).write_bytes(b"")
    write_checkpoint(root, 0, P1, 5, ceiling=0)
    found = recover(root)
    assert found.end == (0, P2, 6)
    assert found.told == [
        (3, 0, P2, 4, ""),
        (3, 6, 0, len(later), f"{log_file(6)}.cut-1"),
    ]
    assert set_aside(root) == {f"{log_file(6)}.cut-1": later}
    assert log_file(6, ".index") not in files(root)


def test_r5_a_name_that_is_taken_is_not_written_over(root: Path):
    for round in (1, 2, 3):
        behind = flip(B3, len(B3) - 1) + batch(8, b"round %d" % round)
        write_log(root, WHOLE + behind)
        recover(root)
        assert set_aside(root)[f"{log_file(0)}.cut-{round}"] == behind
    assert len(set_aside(root)) == 3


def test_r6_damage_below_the_watermark_is_never_cut(root: Path):
    damaged = flip(WHOLE, len(B0) + 70) + bytes(PAGE)
    write_log(root, damaged)
    write_checkpoint(root, 0, P2, 6, ceiling=6)
    found = recover(root)
    assert (found.end, found.told) == ((0, P2, 6), [])
    assert files(root)[log_file(0)] == damaged[:P2]


@pytest.mark.parametrize("left", [0, 10, P1, P2 - 1])
def test_r6_a_segment_shorter_than_the_watermark_is_left_and_appends_go_on_elsewhere(
    root: Path, left: int
):
    write_log(root, WHOLE[:left])
    write_checkpoint(root, 0, P2, 6)
    found = recover(root)
    assert (found.end, found.rows) == ((CEILING, 0, CEILING), [6])
    assert files(root)[log_file(0)] == WHOLE[:left]
    assert files(root)[log_file(CEILING)] == b""


def test_r6_a_missing_segment_is_told_and_the_others_are_left(root: Path):
    write_log(root, WHOLE)
    write_checkpoint(root, 6, 200, 9)
    found = recover(root)
    assert (found.end, found.rows) == ((CEILING, 0, CEILING), [6])
    assert files(root)[log_file(0)] == WHOLE


@pytest.mark.parametrize("watermark", [(0, 0, 0), (0, P1, 5), None])
def test_r7_a_misplaced_file_is_refused_and_named_and_nothing_is_changed(
    root: Path, watermark: tuple[int, int, int] | None
):
    write_log(root, stamped(B0, base=7) + stamped(B1, base=9) + b"torn")
    if watermark is not None:
        write_checkpoint(root, *watermark)
    before = files(root)
    with pytest.raises(Failed) as failed:
        recover(root)
    assert failed.value.code == lib.MQL_E_FORMAT
    assert failed.value.path == f"{DIRECTORY}/{log_file(0)}"
    assert "offset 7" in failed.value.text
    assert files(root) == before


def test_r8_a_control_page_that_passes_its_checks_is_believed_without_a_scan(root: Path):
    write_log(root, damaged := flip(WHOLE, len(B0) + 70) + bytes(PAGE))  # it is not looked at
    write_checkpoint(root, 0, 0, 0)
    found = recover(root, *(page := control_of((0, P2, 6), (0, P1, 5))))
    assert (found.end, found.durable, found.told) == ((0, P2, 6), (0, P1, 5), [])
    assert found.ceiling == CEILING, "offsets up to it may have been promised: nothing is lowered"
    page[0].ceiling = 99  # the checkpoint's was read from memory: its sync may have failed
    assert recover(root, *page).ceiling == 99
    assert files(root)[log_file(0)] == damaged


def test_r8_what_a_dead_writer_left_behind_the_end_is_zeroed_and_the_epoch_raised(root: Path):
    write_epochs(root, (0, 0))
    write_log(root, WHOLE + B3 + bytes(100))
    control, identity = control_of((0, P2, 6))
    control.dirty = P2 + len(B3)
    found = recover(root, control, identity)
    assert (found.end, found.told, found.epoch) == ((0, P2, 6), [], 1)
    assert found.epochs == [(0, 0), (1, 6)]
    assert files(root)[log_file(0)] == WHOLE + bytes(len(B3) + 100)


def test_r8_a_roll_that_was_renamed_and_not_published_is_finished(root: Path):
    write_log(root, WHOLE + bytes(100))
    write_log(root, bytes(PAGE), 6)
    found = recover(root, *control_of((0, P2, 6)))
    assert (found.end, found.told) == ((6, 0, 6), [])


def spoil(what: str, root: Path, control: Any, identity: Any) -> None:
    if what in ("device", "inode", "mount"):
        setattr(identity, what, getattr(identity, what) + 1)
    elif what == "boot":
        identity.boot[3] ^= 1
    elif what == "layout":
        control.layout = 9
    elif what == "identity_crc":
        control.identity_crc ^= 1
    elif what == "magic":
        control.magic[0] = 0
    elif what == "slot":
        control.published.slots[control.published.generation & 1].crc ^= 1
    elif what == "generation":
        control.published.generation += 1
    elif what == "short":
        write_log(root, WHOLE[:P1])
    else:
        assert what == "gone"
        (root / DIRECTORY / log_file(0)).rename(root / DIRECTORY / log_file(3))


CHECKS = "device inode mount boot layout identity_crc magic slot generation short".split()


@pytest.mark.parametrize("what", CHECKS)
def test_r8_a_page_that_fails_one_check_is_not_believed_and_the_log_is_scanned(
    root: Path, what: str
):
    """Its end says one batch less than there is: who scans finds three."""
    write_log(root, WHOLE)
    control, identity = control_of((0, P1 + 1, 5))
    spoil(what, root, control, identity)
    found = recover(root, control, identity)
    expected = ((0, P1, 5), [8]) if what == "short" else ((0, P2, 6), [])
    assert (found.end, found.rows) == expected


@pytest.mark.parametrize("bit", range(8))
def test_r8_no_flipped_bit_of_the_published_end_is_believed(root: Path, bit: int):
    write_log(root, WHOLE)
    for at in range(28):
        control, identity = control_of((0, P1, 5))
        slot = ffi.addressof(control.published.slots[control.published.generation & 1])
        ffi.cast("uint8_t *", slot)[at] ^= 1 << bit
        assert recover(root, control, identity).end == (0, P2, 6), at


def test_r8_an_end_before_the_watermark_is_not_believed(root: Path):
    write_log(root, WHOLE)
    write_checkpoint(root, 0, P2, 6, ceiling=0)
    assert recover(root, *control_of((0, P1, 5))).end == (0, P2, 6)


def test_r9_a_segment_that_ends_where_the_next_begins_is_passed(root: Path):
    unsealed = WHOLE + bytes(2 * PAGE)
    write_log(root, unsealed)
    write_log(root, B3 + bytes(PAGE), 6)
    write_checkpoint(root, 0, P1, 5, ceiling=0)
    found = recover(root)
    assert (found.end, found.told) == ((6, len(B3), 8), [])
    assert files(root)[log_file(0)] == WHOLE, "nothing behind its last batch is left unsealed"
    assert files(root)[log_file(6)] == B3


def test_r10_a_next_that_holds_the_expected_batch_gets_its_name(root: Path):
    write_log(root, WHOLE + bytes(PAGE))
    (root / DIRECTORY / "next.4").write_bytes(B3 + bytes(PAGE))
    found = recover(root)
    assert (found.end, found.told) == ((6, len(B3), 8), [])
    assert files(root)[log_file(6)] == B3
    assert "next.4" not in files(root)


def test_r10_a_next_that_holds_another_batch_is_set_aside(root: Path):
    other = batch(9, b"not expected") + bytes(PAGE)
    write_log(root, WHOLE)
    (root / DIRECTORY / "next.4").write_bytes(other)
    found = recover(root)
    assert (found.end, found.rows) == ((0, P2, 6), [10])
    assert list(set_aside(root).values()) == [other]
    assert "next.4" not in files(root)


@pytest.mark.parametrize("size", [0, 100, PAGE])
def test_r10_an_empty_next_goes(root: Path, size: int):
    write_log(root, WHOLE)
    (root / DIRECTORY / "next.4").write_bytes(bytes(size))
    found = recover(root)
    assert (found.end, found.told) == ((0, P2, 6), [])
    assert set(files(root)) == {log_file(0), "checkpoint", "leader-epoch-checkpoint"}


# -- every combination ----------------------------------------------------------------------------
CONTROLS = ("none", "good", "boot", "slot")
CHECKPOINTS = ("none", "clean", "middle", "end", "beyond")
TAILS = {
    "exact": (b"", 0),
    "zeros": (bytes(PAGE), 0),
    "torn header": (b"\1" * 9, 3),
    "torn length": (B3[:-1], 4),
    "wrong crc": (flip(B3, len(B3) - 1), 5),
    "wrong crc and more": (flip(B3, len(B3) - 1) + batch(8, b"more"), 5),
    "wrong offset": (stamped(B3, base=77), 5),
    "stale epoch": (stamped(B3, epoch=0), 5),
    "zeros and more": (bytes(PAGE) + batch(6, b"far"), 5),
}
FOLLOWING = {
    "nothing": None,
    "prepared": (6, bytes(PAGE)),
    "batch": (6, stamped(batch(6, b"follows"), epoch=1)),
    "gap": (30, stamped(batch(30, b"gap"), epoch=1)),
}
NEXTS = {
    "nothing": None,
    "empty": bytes(PAGE),
    "expected": stamped(batch(6, b"in next"), epoch=1),
    "other": stamped(batch(50, b"in other"), epoch=1),
}
KEPT = b"".join(stamped(one, epoch=1) for one in (B0, B1, B2))


class Case(NamedTuple):
    control: str
    checkpoint: str
    tail: str
    following: str
    next: str


CASES = [
    case
    for case in map(Case._make, itertools.product(CONTROLS, CHECKPOINTS, TAILS, FOLLOWING, NEXTS))
    if not (case.control == "good" and case.following == "batch")  # published means: no batch there
]


def believed(case: Case) -> bool:
    """R8, but for an end before the watermark, and bytes behind what was closed cleanly."""
    strange = case.checkpoint == "clean" and case.tail not in ("exact", "zeros")
    contradicted = case.following == "gap" or case.checkpoint == "beyond" or strange
    return case.control == "good" and not contradicted


def decide(case: Case) -> tuple[int, list[int]]:
    """The table by itself: where the kept log ends (offset), and the rows that are told."""
    held = [10] if case.next in ("expected", "other") else []
    whole = case.tail in ("exact", "zeros")
    follows = FOLLOWING[case.following]
    if believed(case):
        return 6, held
    if case.checkpoint == "clean" and case.tail == "exact" and follows is None:
        return 6, held
    if case.checkpoint == "beyond":
        return CEILING, [6, *held]
    if case.checkpoint == "none" and follows is not None:  # only the last segment is scanned
        first, data = follows
        if any(data):
            return (first + 1, held) if case.next != "expected" else (first + 1, [10])
        return 6, held
    if not whole:
        aside = [TAILS[case.tail][1]] if follows else []
        return 6, [TAILS[case.tail][1], *aside, *held]
    if follows is None:
        return (7, []) if case.next == "expected" else (6, held)
    if case.following == "gap":
        return 6, [5, *held]
    return (7, held) if case.following == "batch" else (6, held)


def build(root: Path, case: Case) -> tuple[Any, Any]:
    directory = root / DIRECTORY
    shutil.rmtree(directory)
    directory.mkdir()
    write_epochs(root, (1, 0))
    write_log(root, KEPT + TAILS[case.tail][0])
    if following := FOLLOWING[case.following]:
        write_log(root, following[1], following[0])
    if (data := NEXTS[case.next]) is not None:
        (directory / "next.1").write_bytes(data)
    places = {
        "clean": ((0, P2, 6), {"clean": 1, "ceiling": 6}),
        "middle": ((0, P1, 5), {}),
        "end": ((0, P2, 6), {}),
        "beyond": ((0, 1 << 20, 60), {}),
    }
    if case.checkpoint in places:
        place, more = places[case.checkpoint]
        write_checkpoint(root, *place, epoch=1, **more)
    if case.control == "none":
        return ffi.NULL, None
    control, identity = control_of((0, P2, 6), (0, P1, 5))
    control.allocated = P2 + len(TAILS[case.tail][0])
    if case.control != "good":
        spoil(case.control, root, control, identity)
    return control, identity


def batches_of(case: Case) -> list[bytes]:
    """The whole batches that the case has behind its kept ones."""
    every = [
        batch(8, b"more"),
        stamped(B3, base=77),
        stamped(B3, epoch=0),
        batch(6, b"far"),
        *[one[1] for one in FOLLOWING.values() if one and any(one[1])],
        *[one for one in NEXTS.values() if one and any(one)],
    ]
    parts = (TAILS[case.tail][0], NEXTS[case.next], (FOLLOWING[case.following] or (0, None))[1])
    return [one for one in every if any(part and one in part for part in parts)]


def stable(root: Path) -> dict[str, bytes]:
    """All but what a recovery may count on with: its checkpoint and the newest epoch."""
    own = ("checkpoint", "leader-epoch-checkpoint")
    return {name: data for name, data in files(root).items() if name not in own}


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_combination_of_inputs_has_one_decision_that_holds(
    root: Path, control: str, checkpoint: str
):
    for case in CASES:
        if case[:2] != (control, checkpoint):
            continue
        given = build(root, case)
        found = recover(root, *given)
        end, rows = decide(case)
        filled = max(end, CEILING) if uses_up(case) else end
        assert (found.end[2], found.rows) == (filled, rows), case
        assert files(root)[log_file(0)].startswith(KEPT), f"cut below the end: {case}"
        everything = b"".join(files(root).values())
        for one in batches_of(case):
            if not (believed(case) and one in TAILS[case.tail][0]):  # zeroed or behind the end
                assert one in everything, f"a whole batch is gone: {case}"
        once = stable(root)
        page = control_of(found.end, found.durable) if control == "good" else (ffi.NULL, None)
        if control == "good":
            page[0].allocated = len(files(root)[log_file(found.end[0])])
        again = recover(root, *page)
        assert (again.end, again.told, again.log_start) == (found.end, [], found.log_start), case
        assert stable(root) == once, f"a second recovery changed something: {case}"


def uses_up(case: Case) -> bool:
    """Whether offsets may have been given out that no scan can find any more."""
    return not believed(case) and case.checkpoint in ("middle", "end", "beyond")


# -- offsets that may have been seen --------------------------------------------------------------
@pytest.mark.parametrize("position", [P1, P2])
def test_offsets_up_to_the_ceiling_are_used_up_after_a_scan(root: Path, position: int):
    write_log(root, WHOLE)
    write_checkpoint(root, 0, position, 5 if position == P1 else 6)
    found = recover(root)
    assert found.end == (0, P2 + HEADER, CEILING)
    data = files(root)[log_file(0)]
    header = ffi.new("mql_batch_header *")
    lib.mql_batch_read_header(data[P2:], header)
    assert (header.base_offset, header.last_offset, header.count) == (6, CEILING - 1, 0)
    assert lib.mql_batch_crc_right(data[P2:], HEADER)
    assert header.epoch == found.epoch == 1
    again = recover(root)
    assert again.end == found.end, "used up once, not at every recovery"


def test_a_ceiling_too_far_for_the_segment_begins_another(root: Path):
    write_log(root, WHOLE)
    write_checkpoint(root, 0, P2, 6, ceiling=2**31 + 3)
    found = recover(root)
    assert found.end == (6, HEADER, 2**31 + 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ceiling": 2**31 + 50},
        {"ceiling": 2**62},
        {"ceiling": 2**63 - 1},
        {"ceiling": -1},
        {"ceiling": -(2**63)},
        {"position": 2**62},
        {"offset": 2**63 - 1},
        {"offset": 2**63 - 1, "ceiling": 2**63 - 1},
        {"segment": 2**63 - 1, "offset": 2**63 - 1},
        {"log_start": 2**63 - 1},
        {"epoch": -1},
        {"epoch": 2**31 - 1},
        {"clean": 7},
        {"clean": 1, "offset": 2**63 - 1},
    ],
    ids=str,
)
def test_a_checkpoint_with_a_right_crc_and_impossible_numbers_is_survived(
    root: Path, wrong: dict[str, int]
):
    """Bytes from disk are verified, never asserted: whatever is decided, it is no crash."""
    write_log(root, WHOLE)
    more = {"segment": 0, "position": P2, "offset": 6, **wrong}
    write_checkpoint(root, **more)

    def work() -> None:
        for _ in range(2):
            try:
                recover(root)
            except Failed:
                pass

    dies(work)  # with its own SIGKILL, not by an abort before
    assert files(root)[log_file(0)].startswith(WHOLE)


def test_a_clean_checkpoint_jumps_nowhere(root: Path):
    write_log(root, WHOLE)
    write_checkpoint(root, 0, P2, 6, clean=1)
    found = recover(root)
    assert (found.end, found.durable, found.epoch, found.ceiling) == ((0, P2, 6), (0, P2, 6), 0, 6)


def test_without_any_segment_the_log_begins_at_the_ceiling(root: Path):
    assert recover(root).end == (0, 0, 0)
    (root / DIRECTORY / log_file(0)).unlink()
    write_checkpoint(root, 0, P2, 6)
    assert recover(root).end == (CEILING, 0, CEILING)


# -- the checkpoint file --------------------------------------------------------------------------
def read_checkpoint(root: Path) -> Any:
    opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    out = ffi.new("mql_format_checkpoint *")
    try:
        rc = check(lib.mql_checkpoint_read(opened, DIRECTORY.encode(), out))
    finally:
        os.close(opened)
    return out if rc == lib.MQL_OK else None


def test_the_newer_sound_slot_of_a_checkpoint_counts(root: Path):
    assert read_checkpoint(root) is None
    write_checkpoint(root, 0, 10, 1, sequence=6)
    write_checkpoint(root, 0, 20, 2, sequence=7)
    assert read_checkpoint(root).position == 20
    write_checkpoint(root, 0, 30, 3, sequence=8)
    assert read_checkpoint(root).position == 30


def test_a_flipped_bit_anywhere_in_a_slot_leaves_the_other_slot(root: Path):
    write_checkpoint(root, 0, 10, 1, sequence=6)
    write_checkpoint(root, 0, 20, 2, sequence=7)
    path = root / DIRECTORY / "checkpoint"
    data = path.read_bytes()
    assert len(data) == lib.MQL_CHECKPOINT_BYTES
    for at in range(len(data)):
        path.write_bytes(flip(data, at, at % 8))
        newest_hit = at < lib.MQL_CHECKPOINT_SLOT  # sequence 8 is in slot 0
        assert read_checkpoint(root).position == (10 if newest_hit else 20), at
    path.write_bytes(flip(flip(data, 30), 600))
    assert read_checkpoint(root) is None


@pytest.mark.parametrize("length", [0, 1, 511, 512, 700])
def test_a_truncated_checkpoint_gives_what_is_whole_of_it(root: Path, length: int):
    write_checkpoint(root, 0, 10, 1, sequence=6)
    write_checkpoint(root, 0, 20, 2, sequence=7)
    path = root / DIRECTORY / "checkpoint"
    path.write_bytes(path.read_bytes()[:length])
    found = read_checkpoint(root)
    assert (found and found.position) == (20 if length >= 512 else None)


# -- look only ------------------------------------------------------------------------------------
@pytest.mark.parametrize("tail", TAILS)
def test_who_only_looks_finds_and_tells_the_same_and_changes_nothing(root: Path, tail: str):
    build(root, Case("none", "middle", tail, "nothing", "empty"))
    before, found = files(root), recover(root, look_only=True)
    assert files(root) == before
    told = [(*where, "") for *where, _ in recover(root).told]
    assert (found.end, found.told) == ((0, P2, 6), told)


def test_who_looks_at_a_live_store_believes_the_page_or_the_watermark_and_scans_nothing(root: Path):
    write_log(root, WHOLE)
    write_checkpoint(root, 0, P1, 5)
    page = control_of((0, P2, 6))
    assert recover(root, *page, look_only=True, live=True).end == (0, P2, 6)
    spoil("slot", root, *page)
    assert recover(root, *page, look_only=True, live=True).end == (0, P1, 5)


# -- through a store ------------------------------------------------------------------------------
def append_three(store: Store) -> None:
    for value in (b"a", b"b", b"c"):
        store.log().append(value)


def test_only_processes_died_so_nothing_is_cut_and_offsets_go_on(tmp_path: Path):
    unclean(tmp_path / "s", append_three)
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert (log.ends[1], store.recovered) == (3, [])
        assert log.append(b"d") == 3
        assert log.values() == [b"a", b"b", b"c", b"d"]


def test_after_a_reboot_no_offset_is_given_twice(tmp_path: Path):
    unclean(tmp_path / "s", append_three)
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        log = store.log()
        first = log.append(b"d")
        assert first >= 1 << 20
        assert log.read() == [(0, b"a"), (1, b"b"), (2, b"c"), (first, b"d")]


def test_after_a_lost_tail_and_a_reboot_no_offset_is_given_twice(tmp_path: Path):
    """A power cut took the third record, which somebody may have seen."""
    unclean(tmp_path / "s", append_three)
    reboot(tmp_path / "s")
    file = tmp_path / "s" / DIRECTORY / log_file(0)
    size = len(batch(0, b"a"))
    file.write_bytes(file.read_bytes()[: 2 * size] + bytes(PAGE))
    with Store(tmp_path / "s") as store:
        log = store.log()
        first = log.append(b"d")
        assert first >= 1 << 20
        assert log.read() == [(0, b"a"), (1, b"b"), (first, b"d")]


@pytest.mark.parametrize("how", ["rebooted", "deleted"])
def test_a_clean_close_does_not_jump_whatever_became_of_the_page(tmp_path: Path, how: str):
    with Store(tmp_path / "s") as store:
        append_three(store)
    if how == "rebooted":
        reboot(tmp_path / "s")
    else:
        (tmp_path / "s" / DIRECTORY / "control").unlink()
    with Store(tmp_path / "s") as store:
        assert (store.log().append(b"d"), store.recovered) == (3, [])


def test_recovery_that_is_killed_and_run_again_comes_to_the_same(tmp_path: Path):
    unclean(tmp_path / "s", append_three)
    reboot(tmp_path / "s")
    unclean(tmp_path / "s", lambda store: store.log())
    with Store(tmp_path / "s") as store:
        once = store.log().ends
        assert store.log().values() == [b"a", b"b", b"c"]
    unclean(tmp_path / "s", lambda store: store.log())
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        assert store.log().ends[1] == once[1]
        assert store.log().values() == [b"a", b"b", b"c"]


def test_a_partition_whose_maker_died_after_its_directory_has_epochs_all_the_same(tmp_path: Path):
    """Without them a flipped epoch, which no CRC covers, would not be noticed."""
    with Store(tmp_path / "s"):
        pass
    (tmp_path / "s" / DIRECTORY).mkdir()
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    assert (tmp_path / "s" / DIRECTORY / "leader-epoch-checkpoint").read_text() == "0\n1\n0 0\n"
