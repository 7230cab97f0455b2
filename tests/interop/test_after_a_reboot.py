"""What recovery writes into a log is Kafka's too: its empty batch is skipped by everybody."""

import subprocess
import sys
from pathlib import Path

import pytest
from interop.peers import BATCHES, NAMES, logs, read

import mqlog

WRITER = """
import sys, mqlog
stream = mqlog.open(sys.argv[1]).stream("topic")
for n in range(50):
    stream.append(b"before-%d" % n)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rebooted(tmp_path: Path) -> Path:
    """A store whose writer was killed, without its shared memory: as after a reboot."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.kill()
    (tmp_path / "store" / "topic-0" / "control").unlink()
    return tmp_path / "store"


@pytest.mark.parametrize("reader", NAMES)
def test_the_offsets_that_recovery_uses_up_are_an_empty_batch(rebooted: Path, reader: str) -> None:
    with mqlog.open(rebooted) as store:
        stream = store.stream("topic")
        first = stream.append(b"after")
        assert stream.append_many([b"more"] * 3) == range(first + 1, first + 4)
        assert first > 50, "no offset that may have been seen is given again"
        ours = [(record.offset, record.value) for record in stream]
    data = logs(rebooted / "topic-0")
    batches = list(BATCHES[reader](data))
    assert all(batch.validate_crc() for batch in batches)
    [empty] = [batch for batch in batches if not list(batch)]
    assert (empty.base_offset, empty.next_offset) == (50, first)
    assert (empty.first_timestamp, empty.max_timestamp) == (-1, -1)
    assert [(one.offset, one.value) for one in read(reader, data)] == ours
    assert [value for _, value in ours] == [
        *(b"before-%d" % n for n in range(50)),
        b"after",
        *[b"more"] * 3,
    ]


def test_reading_across_the_empty_batch_needs_no_care(rebooted: Path) -> None:
    with mqlog.open(rebooted) as store:
        stream = store.stream("topic")
        first = stream.append(b"after")
        assert [record.offset for record in stream.read(49)] == [49, first]
        assert [record.offset for record in stream.read(51)] == [first]
        assert list(stream.values(50)) == [b"after"]
        with pytest.raises(mqlog.OffsetOutOfRangeError):
            stream[50]
        with stream.consumer("group") as consumer:
            assert len(consumer.poll(1000, timeout=0)) == 51
            consumer.commit()
            assert consumer.lag == 0


def test_a_second_reboot_leaves_a_second_gap_and_no_offset_comes_back(rebooted: Path) -> None:
    with mqlog.open(rebooted) as store:
        first = store.stream("topic").append(b"after")
    with mqlog.open(rebooted) as store:
        stream = store.stream("topic")
        assert stream.append(b"clean") == first + 1
        assert [record.offset for record in stream.read(49)] == [49, first, first + 1]


def test_the_epoch_goes_up_in_the_batches_and_in_kafkas_checkpoint(rebooted: Path) -> None:
    with mqlog.open(rebooted) as store:
        store.stream("topic").append(b"after")
    epochs = [batch.leader_epoch for batch in BATCHES["kafka-python"](logs(rebooted / "topic-0"))]
    assert epochs == [0] * 50 + [1] * 2
    text = (rebooted / "topic-0" / "leader-epoch-checkpoint").read_text()
    assert text.split("\n") == ["0", "2", "0 0", "1 50", ""]
