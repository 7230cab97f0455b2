"""A small store, damaged in every way: what was written, or an error with its place (O11, C1, C2).

A sample by default; all of it with MQLOG_CRASH=full. The programs are tests/fuzz/flips.c, cuts.c.
"""

import pytest
from support import hostile

pytestmark = pytest.mark.crash


def say(capsys: pytest.CaptureFixture[str], what: str) -> None:
    with capsys.disabled():
        print(f"\nhostile: {what}, 0 violations")


#: Where the store is, and of how many flips one is looked at: in `make test`, in `make crash`. What
#: is in memory meets all of the engine but its door to the system.
FLIPS = {"in memory": (101, 1), "in files": (997, 31), "sanitized": (1999, 47)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", FLIPS)
def test_each_flipped_bit_of_a_store_costs_the_batch_that_it_hits_and_no_more(
    capsys: pytest.CaptureFixture[str], where: str
) -> None:
    name = "flips-memory" if where == "in memory" else "flips"
    made = hostile.program(name, sanitize=where == "sanitized")
    stride = FLIPS[where][hostile.FULL]
    states = hostile.run_both(made, stride)
    floor = 1_500_000 // stride
    assert states >= floor, f"{states} flips were looked at, of at least {floor}"
    say(capsys, f"{states} flips, {where}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
def test_each_cut_lost_exchanged_or_planted_file_gives_what_was_written_or_is_told(
    capsys: pytest.CaptureFixture[str], sanitize: bool
) -> None:
    made = hostile.program("cuts", sanitize=sanitize)
    stride = (97 if sanitize else 1) if hostile.FULL else (9973 if sanitize else 499)
    states = hostile.run_both(made, stride)
    floor = 2_500 + 297_000 // stride
    assert states >= floor, f"{states} cuts were looked at, of at least {floor}"
    say(capsys, f"{states} cuts{' under sanitizers' if sanitize else ''}")


@pytest.mark.slow
@pytest.mark.parametrize("target", hostile.TARGETS)
def test_what_a_fuzzer_has_kept_breaks_nothing(
    capsys: pytest.CaptureFixture[str], target: str
) -> None:
    inputs = hostile.replay(target)
    assert inputs >= 50, "the corpus has been lost"
    say(capsys, f"{inputs} inputs of the fuzzer's for {target}")
