"""Every call of the system fails: the k-th of each kind, once and for ever, with each error.

The store is on a disk in memory. An operation then says so or succeeds, of an append that failed
nothing is seen, nothing acknowledged is lost, and when the fault is over the store goes on; at the
end no descriptor, mapping or allocation is left. After a sync that failed the power is cut too: the
kernel has marked the pages as clean, and they are not on the disk (E2).
"""

import errno
from collections.abc import Iterator

import pytest
from support import power
from support.power import lib

# The errors that each call can return, as the manual pages of Linux have them.
ERRORS = {
    "OPEN_FILE": "EMFILE EACCES EIO ENOSPC EDQUOT EROFS",
    "OPEN_DIRECTORY": "EMFILE EACCES EIO",
    "STAT": "EIO EACCES",
    "READ": "EIO",
    "WRITE": "ENOSPC EDQUOT EIO EFBIG",
    "ALLOCATE": "ENOSPC EDQUOT EIO EFBIG",
    "TRUNCATE": "EIO EROFS",
    "SYNC": "EIO ENOSPC EDQUOT",
    "SYNC_DIRECTORY": "EIO",
    "SYNC_MAP": "EIO ENOSPC EDQUOT",  # the manual has EIO alone, but it is an fsync of the range
    "RENAME": "ENOSPC EDQUOT EIO EROFS",
    "UNLINK": "EACCES EIO EROFS",
    "WRITE_ZEROS": "EIO ENOSPC EDQUOT",
    "MAKE_DIRECTORY": "ENOSPC EDQUOT EROFS",
    "LIST": "EIO ENOMEM",
    "FREE_BYTES": "EIO",
    "MAP": "ENOMEM EMFILE",
    "POPULATE": "EFAULT ENOMEM",
    "LOCK": "ENOLCK",
    "MEMORY": "ENOMEM",
}
SYNCS = ("SYNC", "SYNC_MAP", "SYNC_DIRECTORY", "WRITE")
WORKLOADS = {
    "logs": "aabsmpbbbbtpbbcpbsazxb",
    "groups": "aqgADkoObgRcSgEgAxSgaD",
}
DURABILITY = ("os", "sync")
RUNS_FLOOR = 10_000
STATES_FLOOR = 600_000


def failing(
    workload: str, durability: str, call: str, errors: str, *, forever: bool, images: int = 0
) -> Iterator[power.Report]:
    """Fails call 1, 2, ... of its kind until there are no more of them; the errors take turns."""
    names = errors.split()
    k = 1
    while True:
        report = power.run(
            "endure",
            workload,
            durability=durability,
            images=images,
            fault_call=getattr(lib, f"SIM_{call}"),
            fault_error=getattr(errno, names[k % len(names)]),
            fault_at=k,
            fault_forever=int(forever),
        )
        yield power.sound(report)
        if report.hits == 0:
            return
        k += 1


@pytest.mark.slow
@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("call", ERRORS)
def test_whatever_call_fails_nothing_is_lost_and_the_store_goes_on(
    call: str, *, forever: bool
) -> None:
    hits = 0
    durability = "sync" if call == "WRITE_ZEROS" else "os"  # only there it is called
    for workload in WORKLOADS.values():
        for report in failing(workload, durability, call, ERRORS[call], forever=forever):
            hits += report.hits
    assert hits > 0, f"no workload calls {call}"


@pytest.mark.slow
@pytest.mark.parametrize("call", SYNCS)
def test_what_a_failed_sync_took_is_not_believed_to_be_on_the_disk(call: str) -> None:
    states = 0
    for workload in WORKLOADS.values():
        for report in failing(workload, "sync", call, "EIO", forever=False, images=3):
            states += report.states
    assert states > 1_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_call_fails_with_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    runs = hits = 0
    for call, errors in ERRORS.items():
        for error in errors.split():
            for durability in DURABILITY:
                for workload in WORKLOADS.values():
                    for forever in (False, True):
                        for report in failing(workload, durability, call, error, forever=forever):
                            runs += 1
                            hits += report.hits
    with capsys.disabled():
        print(f"\nfaults: {runs:,} runs, {hits:,} calls failed, 0 violations")
    assert runs >= RUNS_FLOOR


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_power_cuts_after_every_failed_sync(capsys: pytest.CaptureFixture[str]) -> None:
    runs = states = 0
    for call in SYNCS:
        for durability in DURABILITY:
            for workload in WORKLOADS.values():
                for forever in (False, True):
                    for report in failing(
                        workload, durability, call, "EIO", forever=forever, images=24
                    ):
                        runs += 1
                        states += report.states
    with capsys.disabled():
        print(f"\nfailed syncs: {runs:,} runs, {states:,} states, 0 violations")
    assert states >= STATES_FLOOR
