"""Codecs: what they give is bytes, what comes back is equal, and a topic keeps their name."""

import datetime
import importlib.util
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import mqlog
from mqlog import codecs

VALUES: list[Any] = [
    None,
    True,
    0,
    2**70,
    1.5,
    "",
    "münchen",
    [1, [2]],
    {"order": 17, "ok": [None]},
]


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as store:
        yield store


class Rot:
    """Somebody's own codec."""

    name = "rot"

    def encode(self, value: str, /) -> bytes:
        return value[::-1].encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()[::-1]


@pytest.mark.parametrize("codec", [codecs.json, codecs.pickle], ids=lambda codec: codec.name)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back(codec: codecs.Codec[Any], value: Any) -> None:
    data = codec.encode(value)
    assert type(data) is bytes
    assert codec.decode(data) == value


def test_json_is_compact_utf8() -> None:
    assert codecs.json.encode({"city": "münchen", "n": [1, 2]}) == (
        '{"city":"münchen","n":[1,2]}'.encode()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_other_readers_could_not_read(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        codecs.json.encode(value)


def test_json_refuses_what_it_cannot_say() -> None:
    with pytest.raises(TypeError, match="datetime"):
        codecs.json.encode(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a":1} x'])
def test_json_that_is_none_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        codecs.json.decode(data)


@pytest.mark.parametrize("name", ["json", "pickle", "msgspec"])
def test_a_codec_pickles_as_itself(name: str) -> None:
    codec = getattr(codecs, name)
    assert codec.name == name
    assert pickle.loads(pickle.dumps(codec)) is codec


def test_a_typed_codec_pickles_with_its_type() -> None:
    again = pickle.loads(pickle.dumps(codecs.Msgspec(int)))
    assert (type(again), again._type) == (codecs.Msgspec, int)


@pytest.mark.skipif(importlib.util.find_spec("msgspec") is not None, reason="msgspec is here")
def test_msgspec_says_how_to_get_it() -> None:
    with pytest.raises(ImportError, match=r'pip install "mqlog\[msgspec\]"'):
        codecs.msgspec.encode(1)


def test_msgspec_gives_json_and_checks_the_type() -> None:
    msgspec = pytest.importorskip("msgspec")
    assert codecs.msgspec.encode({"order": 17}) == b'{"order":17}'
    assert codecs.msgspec.decode(b'{"order":17}') == {"order": 17}
    with pytest.raises(msgspec.ValidationError):
        codecs.Msgspec(int).decode(b'"seventeen"')


@pytest.mark.parametrize("codec", [codecs.json, codecs.msgspec, codecs.pickle, Rot()])
def test_whoever_has_a_name_and_two_methods_is_a_codec(codec: object) -> None:
    assert isinstance(codec, codecs.Codec)


def test_values_go_through_the_codec_both_ways(store: mqlog.Store) -> None:
    orders = store.stream("orders", codec=codecs.json)
    orders.append({"order": 17})
    orders.append_many([{"order": 18}, None])
    assert [record.value for record in orders] == [{"order": 17}, {"order": 18}, None]
    assert list(orders.values()) == [{"order": 17}, {"order": 18}, None]
    assert list(orders.values(raw=True)) == [b'{"order":17}', b'{"order":18}', None]


def test_a_value_that_does_not_decode_is_in_hand_when_it_fails(store: mqlog.Store) -> None:
    store.stream("orders").append(b"{")
    [record] = store.stream("orders", codec=codecs.json)
    with pytest.raises(ValueError, match="Expecting"):
        _ = record.value
    assert (record.raw, record.id) == (b"{", "orders-0:0")


def test_a_value_that_does_not_encode_is_not_appended(store: mqlog.Store) -> None:
    orders = store.stream("orders", codec=codecs.json)
    with pytest.raises(TypeError):
        orders.append_many([1, object()])
    assert orders.end_offset == 0


def test_a_topic_keeps_the_name_of_its_first_codec(store: mqlog.Store) -> None:
    store.stream("orders", codec=codecs.json)
    [topic] = store.topics()
    assert topic.codec == "json"
    with pytest.raises(mqlog.OptionError, match=r"codec='json', and 'pickle' was given") as caught:
        store.stream("orders", codec=codecs.pickle)
    assert "store.alter('orders', codec='pickle')" in str(caught.value)


def test_a_topic_without_a_codec_takes_the_first_one(store: mqlog.Store) -> None:
    store.stream("orders")
    store.stream("orders", codec=codecs.json)
    assert store.topics()[0].codec == "json"


def test_without_a_codec_a_handle_gives_the_bytes(store: mqlog.Store) -> None:
    store.stream("orders", codec=codecs.json).append({"order": 17})
    assert store.stream("orders")[0].value == b'{"order":17}'


def test_alter_changes_the_name_of_the_codec(store: mqlog.Store) -> None:
    store.stream("orders", codec=codecs.json)
    store.alter("orders", codec=codecs.pickle)
    store.stream("orders", codec=codecs.pickle)
    store.alter("orders", codec=None)
    assert store.topics()[0].codec is None


def test_somebodys_own_codec_works(store: mqlog.Store) -> None:
    names = store.stream("names", codec=Rot())
    names.append("abc")
    assert (names[0].raw, names[0].value) == (b"cba", "abc")


def test_a_name_is_no_codec(store: mqlog.Store) -> None:
    with pytest.raises(TypeError, match=r"mqlog\.codecs\.json, not str"):
        store.stream("orders", codec="json")  # type: ignore[call-overload]
    assert "orders" not in store
