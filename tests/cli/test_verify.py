"""`mqlog verify`."""

from pathlib import Path

import pytest

from .conftest import Run, snapshot

SEGMENT = "00000000000000000000.log"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


@pytest.fixture
def numbers(ok: Run, store: Path) -> Path:
    """Two topics of 5,000 numbers each, long enough to have index entries."""
    lines = b"".join(b"number %060d\n" % number for number in range(5000))
    ok("put", store, "first", stdin=lines)
    ok("put", store, "second", stdin=lines)
    return store


def test_a_whole_store_is_whole(ok: Run, numbers: Path) -> None:
    heading, first, second = ok("verify", numbers).lines
    assert heading.split()[:2] == ["TOPIC", "SEGMENTS"]
    for name, row in (("first", first), ("second", second)):
        topic, segments, batches, records, size, index, problems = row.split()
        assert (topic, segments, records, problems) == (name, "1", "5000", "0")
        assert int(batches) > 1
        assert int(index) > 1
        assert int(size) == (numbers / f"{name}-0" / SEGMENT).stat().st_size


def test_one_topic_can_be_verified_alone(run: Run, numbers: Path) -> None:
    flip(numbers / "first-0" / SEGMENT, 5000)
    assert run("verify", numbers, "second").code == 0
    assert run("verify", numbers, "first").code == 1


def test_a_flipped_byte_is_found_and_its_place_named(run: Run, numbers: Path) -> None:
    flip(numbers / "first-0" / SEGMENT, 200_000)
    result = run("verify", numbers)
    assert result.code == 1
    assert result.lines[0].startswith(f"{numbers}/first-0/{SEGMENT} at byte ")
    assert "CRC" in result.lines[0]
    assert result.lines[-1].split()[-1] == "0"  # the second topic's
    assert "found; what is whole stays readable" in result.err
    assert "--skip-corrupt" in result.err


def test_json_has_the_problems_with_path_and_position(run: Run, numbers: Path) -> None:
    flip(numbers / "first-0" / SEGMENT, 200_000)
    result = run("verify", numbers, "--json")
    assert result.code == 1
    assert result.json["ok"] is False
    problem = result.json["problems"][0]
    assert problem["path"] == f"{numbers}/first-0/{SEGMENT}"
    assert 0 < problem["position"] <= 200_000
    assert problem["what"]
    assert [topic["topic"] for topic in result.json["topics"]] == ["first", "second"]


def test_a_wrong_index_entry_is_found(run: Run, numbers: Path) -> None:
    flip(numbers / "first-0" / SEGMENT.replace(".log", ".index"), 7)
    result = run("verify", numbers)
    assert result.code == 1
    assert ".index" in result.lines[0]


def test_a_truncated_segment_is_found(run: Run, numbers: Path) -> None:
    segment = numbers / "first-0" / SEGMENT
    segment.write_bytes(segment.read_bytes()[:-10])
    assert run("verify", numbers).code == 1


def test_verifying_changes_no_byte_and_no_time_of_any_file(run: Run, numbers: Path) -> None:
    flip(numbers / "first-0" / SEGMENT, 200_000)
    before = snapshot(numbers)
    run("verify", numbers)
    assert snapshot(numbers) == before
