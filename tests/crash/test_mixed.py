"""Files of different moments beside each other: what a restore, or a careless copy, makes.

Each file of the store is as it was at one of two moments, older or newer than the log: indexes,
checkpoint, offsets, share state. Nothing can be promised of what is missing; but what is read was
put, and at its offset, nobody's offset lies behind the end, and the store can be worked on.
"""

import pytest
from support import power

# The last one commits and closes by turns: only a log that was closed, and needs no recovery, ends
# below the commits of a later moment.
WORKLOADS = ("aabbsbbkbbcbbbxbb", "qaabbgAoOkDbbsaR", "aOmtbboxbbtcOb", "aaOxbbOx")
FLOOR = 130_000


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_files_of_two_moments_invent_nothing(workload: str) -> None:
    assert power.sound(power.run("mix", workload, images=4, states=1_000)).states == 1_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_mixtures(capsys: pytest.CaptureFixture[str]) -> None:
    states = 0
    for seed in range(1, 3):
        for workload in WORKLOADS:
            states += power.sound(
                power.run("mix", workload, images=8, states=17_000, seed=seed)
            ).states
    with capsys.disabled():
        print(f"\nmixed files: {states:,} states, 0 violations")
    assert states >= FLOOR
