"""O16: how often each operation syncs, to the number: none is missing, and none is superfluous."""

import pytest
from support import power

# The last letter of a workload is what is counted: (files, ranges of a mapping, directories).
BUDGET = {
    "an append": ("aa", "os", (0, 0, 0)),
    "an append in a sync topic": ("aa", "sync", (0, 1, 0)),
    "a durable append": ("aad", "os", (0, 1, 0)),
    "a durable append behind others that were not": ("aabbd", "os", (0, 1, 0)),
    "a sync": ("aas", "os", (0, 1, 0)),
    "a sync of what is synced": ("aass", "os", (0, 0, 0)),
    "a round of the sync thread": ("aak", "os", (0, 1, 0)),
    "a round with nothing to do": ("aakk", "os", (0, 0, 0)),
    "a durable append after a kill": ("aasxd", "os", (0, 1, 0)),
    "the store's first append: its directories, and the ceiling": ("a", "os", (1, 0, 4)),
    "a roll: the old segment, its name, the new one, the watermark": (
        "assabbbbbs",
        "os",
        (2, 1, 1),
    ),
    "another roll, which leaves alone what is sealed": (
        "assabbbbbsbbbs",
        "os",
        (2, 1, 1),
    ),
    "a close: the exact length, and that it was clean": ("aasc", "os", (2, 0, 1)),
    "a close with nothing done": ("aacc", "os", (0, 0, 0)),
    "a trim: what came before, and the new start": ("aat", "os", (1, 1, 0)),
    "a commit": ("aoo", "os", (0, 0, 0)),
    "a durable commit, and the name of its file": ("aOaO", "os", (0, 1, 2)),
    "the first acquisition of a boot, and the group's name": ("aqG", "os", (1, 0, 2)),
    "another acquisition": ("aaqGG", "os", (0, 0, 0)),
    "an accept": ("aaqGA", "os", (0, 0, 0)),
    "a durable accept": ("aaqGD", "os", (1, 0, 0)),
    "an accept in a sync topic": ("aaqGA", "sync", (1, 0, 0)),
}


@pytest.mark.parametrize("what", BUDGET)
def test_an_operation_syncs_as_often_as_the_design_says(what: str) -> None:
    workload, durability, expected = BUDGET[what]
    counts = power.counts(workload, durability=durability)
    found = counts["SIM_SYNC"], counts["SIM_SYNC_MAP"], counts["SIM_SYNC_DIRECTORY"]
    assert found == expected, counts
