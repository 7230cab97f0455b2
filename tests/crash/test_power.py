"""Power cuts everywhere: of a workload, of the recovery from one, and of the recovery from that.

Each workload is recorded on a disk in memory. At every point at which the power may go, images are
made of what the disk may hold: names and lengths there or not, each page in any version that it had
since it was synced, or 512 bytes of one and 512 of another. The engine's own recovery runs on each,
and what it makes of it is compared with what was promised. A part runs here; `make crash` runs a
million. docs/reliability.md says more, and what was found.
"""

import pytest
from support import power

# What the letters are: support/power.h. Each as it is, and where durability is "sync".
LOGS = {
    "appends": "aambzsaamzak",
    "rolls": "abbbbkpbbbskpbbbbbcbbb",
    "kills": "abbbxbbxaazxabb",
    "dead writers": "amysaaykaayxbyb",
    "trims": "ammmtmmmtmbbtxmmtcb",
    "trims of segments": "abbbbbbbbbbbbtbbbbbbtx",
    "strangers": "anbbxbsbctb",
}
# An s after what is put: an accept that is lost with its record shows nothing.
GROUPS = {
    "commits": "OaOoaOocbaoaxoOaoO",
    "shares": "qaaamgADRJSgEGcgA",
    "backlogs": "qbbbbgAAADDGSkgggRRAAkDDD",
    "all": "qabzmgADkoObbsxbygRDctgES",
    "deaths": "qaaamsgAxSgDxasgARxkgAJxcasgAxDSgJxSgD",
    "chunks": "qZasQFSZZsQLxSgDSaQLc",
    "pages": "qZsQLSAPZsQLSAxSPZsQFxPSagDc",
}
WORKLOADS = LOGS | GROUPS
DURABILITY = ("os", "sync")
PART = 1_500
ALL = {**dict.fromkeys(LOGS, 65_000), **dict.fromkeys(GROUPS, 16_000)}
FLOOR = 1_100_000

HOW = {"depth": 3, "images_again": 6, "one_in": 32}
AFTER = "aOqgDbbgAsxSagD"


def cut(name: str, durability: str, **how: object) -> power.Report:
    after = AFTER if name in GROUPS else "abdzbbsxm"
    given = HOW | {"durability": durability, "after": after} | how
    return power.sound(power.run("explore", WORKLOADS[name], **given))


@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITY)
@pytest.mark.parametrize("name", WORKLOADS)
def test_whatever_a_power_cut_leaves_is_what_was_promised(name: str, durability: str) -> None:
    report = cut(name, durability, states=PART, images=32)
    assert report.states >= PART * 9 // 10
    assert report.again > 0, "no recovery was cut in its turn"
    assert report.lost > 0, "no cut ever took anything: the images are all alike"
    assert report.held == report.memory == 0


def test_a_state_is_found_again_by_its_place() -> None:
    whole = cut("kills", "os", states=400, images=32)
    again = cut("kills", "os", images=32, only="20.3")
    assert whole.states > 300
    assert again.states == 1


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_power_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    total = again = cuts = 0
    seconds = 0.0
    for name, states in ALL.items():
        for durability in DURABILITY:
            seed, left = 1, states
            while left > 0:  # a seed has so many different states, and no more
                report = cut(name, durability, states=left, images=200, seed=seed)
                left -= report.states
                total += report.states
                again += report.again
                cuts += report.points
                seconds += report.seconds
                seed += 1
    with capsys.disabled():
        print(
            f"\npower: {total:,} states, 0 violations ({again:,} of a recovery that was cut, "
            f"{cuts:,} crash points, {total / seconds:,.0f} states a second)"
        )
    assert total >= FLOOR
