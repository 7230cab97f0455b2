"""Groups: what a store tells of them, and how they are deleted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.damage import python

import mqlog


@pytest.fixture
def store(tmp_path: Path) -> Iterator[mqlog.Store]:
    with mqlog.open(tmp_path / "shop-data") as store:
        yield store


def test_groups_tells_place_lag_members_and_owners(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append_many([b"a", b"b", b"c"])
    assert store.groups("orders") == []
    with orders.consumer("billing") as consumer:
        consumer.poll(2)
        consumer.commit()
        [group] = store.groups("orders")
        assert (group.topic, group.name, group.kind) == ("orders", "billing", "consumer")
        assert (dict(group.committed), group.lag) == ({0: 2}, 1)
        [member] = group.members
        assert dict(group.owners) == {0: member}
    [group] = store.groups("orders")
    assert (group.members, dict(group.owners)) == ((), {})


def test_a_deleted_group_starts_anew(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(b"a")
    with orders.consumer("billing") as consumer:
        consumer.poll()
        consumer.commit()
    store.delete_group("orders", "billing")
    assert store.groups("orders") == []
    with orders.consumer("billing") as consumer:
        assert [record.value for record in consumer.poll()] == [b"a"]


def test_a_group_with_live_consumers_is_not_deleted(store: mqlog.Store) -> None:
    orders = store.stream("orders", partitions=2)
    with orders.consumer("billing"), orders.consumer("billing"), orders.consumer("billing"):
        first, second, third = store.groups("orders")[0].members
        with pytest.raises(
            mqlog.Error, match=r"held by live consumers.*nothing was delete"
        ) as caught:
            store.delete_group("orders", "billing")
        assert f"member {first} of this process (partition 0, 1)" in str(caught.value)
        for member in (second, third):
            assert f"member {member} of this process (no partition)" in str(caught.value)
    assert [group.name for group in store.groups("orders")] == ["billing"]


def test_a_group_is_deleted_in_all_partitions_or_in_none(store: mqlog.Store) -> None:
    orders = store.stream("orders", partitions=2)
    orders.append_many([b"a", b"b"], partition=0)
    with orders.consumer("billing") as consumer:
        consumer.poll()
        consumer.commit()
    place = store._logs(store._existing("orders"))[1].group("billing", False)
    member = place.join()  # of partition 1 alone, as no consumer does
    place.claim(member)
    with pytest.raises(mqlog.Error, match=rf"member {member} \(partition 1\)"):
        store.delete_group("orders", "billing")
    assert dict(store.groups("orders")[0].committed) == {0: 2, 1: 0}


def test_a_group_whose_consumers_died_is_deleted(store: mqlog.Store) -> None:
    store.stream("orders")
    code = """
        import mqlog, os, sys
        consumer = mqlog.open(sys.argv[1]).stream("orders").consumer("billing")
        os._exit(17)
    """
    assert python(code, store.path).returncode == 17
    store.delete_group("orders", "billing")
    assert store.groups("orders") == []


def test_a_consumer_that_meets_a_group_being_deleted_makes_it_anew(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(b"a")
    orders.consumer("billing").close()
    with orders.consumer("billing") as consumer:
        place = consumer._groups[0]
        consumer.close()
        again = orders.consumer("billing")
        again._groups[0].drop(again._member)
        again._groups[0].leave(again._member)
        assert place.delete()
        assert [record.value for record in again.poll()] == [b"a"]


def test_deleting_a_group_that_is_not_there_names_the_nearest(store: mqlog.Store) -> None:
    store.stream("orders").consumer("billing").close()
    with pytest.raises(mqlog.NotFoundError, match="no group 'biling'; did you mean 'billing'"):
        store.delete_group("orders", "biling")
    with pytest.raises(mqlog.NotFoundError, match="no topic 'clicks'"):
        store.groups("clicks")


def test_other_files_among_the_groups_are_nobodys(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.consumer("billing").close()
    for name in ("not a name.offset", ".offset", "billing.offset~", "README"):
        (store.path / "orders-0" / "groups" / name).write_bytes(b"mine")
    assert [group.name for group in store.groups("orders")] == ["billing"]
    store.delete_group("orders", "billing")
    assert len(list((store.path / "orders-0" / "groups").iterdir())) == 4


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """A closed store: two partitions, two groups of each kind, of which consumers are behind."""
    with mqlog.open(tmp_path / "shop-data") as store:
        orders = store.stream("orders", partitions=2)
        for number in range(2):
            orders.append_many([b"value"] * 4, partition=number)
        for name in ("audit", "billing"):
            with orders.consumer(name) as consumer:
                given = [*consumer.poll(8), *consumer.poll(8)]
                for record in given:
                    if record.offset == 2:
                        consumer.commit(record)
        for name in ("default", "mails"):
            queue = store.queue("orders", group=name)
            queue.accept(queue.get_many(8))
    return tmp_path / "shop-data"


@pytest.mark.parametrize("mode", ["r", "rw"])
@pytest.mark.parametrize(
    ("file", "name", "why"),
    [
        ("groups/billing.offset", "billing", "not a consumer group's file"),
        ("shares/default.state", "default", "not a share group's file"),
    ],
)
def test_a_damaged_group_is_told_of_and_the_others_too(
    four: Path, mode: str, file: str, name: str, why: str
) -> None:
    path = four / "orders-1" / file
    path.write_bytes(b"\xff" * path.stat().st_size)
    with mqlog.open(four, mode) as store:
        found = {group.name: group for group in store.groups("orders")}
    assert list(found) == ["audit", "billing", "default", "mails"]
    damaged = found.pop(name)
    assert damaged.damage is not None and why in damaged.damage and str(path) in damaged.damage
    place = 3 if damaged.kind == "consumer" else 4
    assert dict(damaged.committed) == {0: place}
    assert damaged.lag == 4 - place + 4  # nothing is known to be finished there
    assert damaged.pinned_segments >= 1
    for group in found.values():
        assert group.damage is None
        assert dict(group.committed) == {0: place, 1: place} or group.kind != damaged.kind


def test_of_a_group_damaged_everywhere_each_file_is_named(four: Path) -> None:
    for number in range(2):
        (four / f"orders-{number}" / "shares" / "mails.state").write_bytes(b"\xff" * 16384)
    with mqlog.open(four, "r") as store:
        mails = store.groups("orders")[-1]
    assert mails.name == "mails" and mails.damage is not None
    assert mails.damage.count("mails.state") == 2
    assert (dict(mails.committed), mails.lag) == ({}, 8)
