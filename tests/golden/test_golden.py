"""Stores written by earlier versions are read exactly, and written on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from golden.contents import BASE, COMMITTED, OPTIONS, RECORDS, SPREAD, TRIMMED_TO, Expected

import mqlog
from mqlog import EARLIEST

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.glob("v*"))

pytestmark = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def path(tmp_path: Path, version: str) -> Path:
    return Path(shutil.copytree(HERE / version, tmp_path / "store"))


@pytest.fixture(params=["r", "rw"])
def store(path: Path, request: pytest.FixtureRequest) -> Any:
    with mqlog.open(path, request.param, create=False) as store:
        yield store


def seen(records: Any) -> list[Expected]:
    return [Expected(r.offset, r.timestamp, r.key, r.value, r.headers) for r in records]


@pytest.mark.parametrize("topic", [topic for topic in RECORDS if topic != "trimmed"])
def test_every_record_is_as_it_was_appended(store: mqlog.Store, topic: str) -> None:
    stream = store.stream(topic, create=False)
    assert seen(stream) == RECORDS[topic]
    assert list(stream.values()) == [one.value for one in RECORDS[topic]]
    assert (stream.start_offset, stream.end_offset) == (0, len(RECORDS[topic]))
    for one in RECORDS[topic]:
        assert stream[one.offset].value == one.value


def test_what_was_trimmed_is_gone_and_the_rest_is_there(store: mqlog.Store) -> None:
    stream = store.stream("trimmed", create=False)
    assert seen(stream.read(EARLIEST)) == RECORDS["trimmed"][TRIMMED_TO:]
    assert stream.start_offset == TRIMMED_TO
    with pytest.raises(mqlog.OffsetOutOfRangeError):
        stream[TRIMMED_TO - 1]


def test_a_moment_finds_its_record(store: mqlog.Store) -> None:
    for n in range(60):
        assert store.stream("plain", create=False).offset_at(BASE + n) == n


def test_keys_are_still_sent_where_they_were(store: mqlog.Store) -> None:
    stream = store.stream("spread", create=False)
    for partition, users in SPREAD.items():
        assert [one.key for one in stream.read(partition=partition)] == [
            b"user-%d" % user for user in users
        ]
        assert all(stream.partition_for(b"user-%d" % user) == partition for user in users)


def test_every_option_is_as_it_was_given(store: mqlog.Store) -> None:
    assert sorted(info.name for info in store.topics()) == sorted(OPTIONS)
    for topic, options in OPTIONS.items():
        assert store.stream(topic, create=False, **options).name == topic
    with pytest.raises(mqlog.OptionError):
        store.stream("plain", create=False, segment_bytes=8192)


def test_every_group_is_where_it_was(store: mqlog.Store) -> None:
    found = {
        (group.topic, group.name): dict(group.committed)
        for topic in OPTIONS
        for group in store.groups(topic)
    }
    assert found == COMMITTED


def test_a_consumer_goes_on_from_the_committed_offset(path: Path) -> None:
    with mqlog.open(path) as store, store.stream("plain").consumer("billing") as consumer:
        assert seen(consumer.poll(timeout=0)) == RECORDS["plain"][17:]


@pytest.mark.parametrize("topic", ["plain", "rich", "gzip", "lz4", "synced", "empty"])
def test_the_store_is_written_on_and_nothing_is_recovered(path: Path, topic: str) -> None:
    end = len(RECORDS[topic])
    with mqlog.open(path) as store:
        assert store.stream(topic).append(b"new") == end
        assert not store.recovered
    with mqlog.open(path) as store:
        assert seen(store.stream(topic))[:end] == RECORDS[topic]
        assert store.stream(topic)[end].value == b"new"


def test_the_store_verifies(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mqlog.cli import main

    assert main(["verify", str(path)]) in (0, None), capsys.readouterr()
