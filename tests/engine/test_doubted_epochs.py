"""The table of epochs has no CRC: what is believed of it when others say otherwise."""

from pathlib import Path

import pytest
from support.partition import DIRECTORY, Store, dies, ffi, reboot, take


@pytest.mark.parametrize("died_inside", [False, True])
def test_records_of_an_epoch_that_no_checkpoint_knows_outlive_two_deaths_and_the_power(
    tmp_path: Path, died_inside: bool
) -> None:
    """A first opener that dies while it writes the page anew has taken its epoch away."""

    def first() -> None:
        log = Store(tmp_path / "s").log()
        log.append(b"a", b"b")

        def die() -> None:  # so that the epoch is raised
            take(ffi.addressof(log.control.writer))
            log.control.dirty = log.end[1] + 100
            ffi.memmove(log.c.active.map + log.end[1], b"x" * 50, 50)

        dies(die)
        log.append(b"c", b"d")
        log.sync()
        assert log.control.epoch == 1
        if died_inside:
            log.control.instance = log.control.epoch = 0

    def second() -> None:
        log = Store(tmp_path / "s").log()
        log.append(b"e")
        log.sync()

    dies(first)
    dies(second)
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a", b"b", b"c", b"d", b"e"]


def test_a_damaged_table_of_epochs_costs_no_record_when_the_power_goes_too(tmp_path: Path) -> None:
    def first() -> None:
        log = Store(tmp_path / "s").log()
        log.append(b"a", b"b")
        log.sync()

    def second() -> None:
        assert Store(tmp_path / "s").log().values() == [b"a", b"b"]

    dies(first)
    table = tmp_path / "s" / DIRECTORY / "leader-epoch-checkpoint"
    assert table.read_text() == "0\n1\n0 0\n"
    table.write_text("0\n1\n1 0\n")
    dies(second)
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a", b"b"]
