"""docs/FORMAT.md says what csrc/mql_format.h says: every table of bytes is compared with it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import engine

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "FORMAT.md").read_text()
HEADER = (ROOT / "csrc" / "mql_format.h").read_text()

ffi, lib = engine.load()


class Row(NamedTuple):
    at: int
    size: int
    type: str
    field: str
    meaning: str


def rows(text: str) -> list[list[str]]:
    """The cells of the first table in the text."""
    table = text[text.index("|") :].split("\n\n", maxsplit=1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def marked(kind: str) -> dict[str, list[list[str]]]:
    """The tables behind `<!-- kind: name -->`."""
    found = re.findall(rf"<!-- {kind}: (\w+) -->\n(.*?)(?=<!--|\n#|\Z)", TEXT, re.DOTALL)
    return {name: rows(table) for name, table in found}


def places(cells: list[list[str]]) -> list[Row]:
    return [Row(int(at, 0), int(size), *rest) for at, size, *rest in cells]


STRUCTS = {name: places(cells) for name, cells in marked("struct").items()}
TABLES = marked("table")

# How many bytes one of a type has; what is not here is an array of one that is, or a struct.
SIZES = {"i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8, "lock": 64}
STRUCT_OF_TYPE = {
    "latch": "latch",
    "waiters": "waiters",
    "slot": "end",
    "commit": "commit",
    "window": "share_window",
    "timer": "timer",
    "live_page": "live_page",
}


def fields_of(name: str) -> dict[str, Any]:
    struct = ffi.typeof(f"mql_format_{name}")
    return {
        field: place
        for field, place in struct.fields
        if not re.match(r"pad\d*$|reserved\d*$", field)
    }


def test_every_struct_of_the_header_has_a_table() -> None:
    structs = set(re.findall(r"^} mql_format_(\w+);", HEADER, re.MULTILINE))
    assert structs == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_a_table_has_every_field_at_its_place_with_its_size(name: str) -> None:
    fields = fields_of(name)
    said = [(row.field, row.at, row.size) for row in STRUCTS[name]]
    assert said == [
        (field, place.offset, ffi.sizeof(place.type)) for field, place in fields.items()
    ]


@pytest.mark.parametrize("name", STRUCTS)
def test_a_type_has_the_size_that_its_row_says(name: str) -> None:
    for row in STRUCTS[name]:
        kind, _, count = row.type.partition("[")
        one = SIZES.get(kind)
        if kind in STRUCT_OF_TYPE:
            one = ffi.sizeof(f"mql_format_{STRUCT_OF_TYPE[kind]}")
        if kind == "bytes":
            one = row.size
        assert one is not None, row
        assert one * int(count.rstrip("]") or 1) == row.size, row


@pytest.mark.parametrize("name", STRUCTS)
def test_signs_are_those_of_the_header(name: str) -> None:
    for row in STRUCTS[name]:
        kind = fields_of(name)[row.field].type
        element = kind.item if kind.kind == "array" else kind
        if element.kind == "primitive" and row.type != "bytes":
            signed = int(ffi.cast(element, -1)) < 0
            assert row.type.startswith("i" if signed else "u"), row


@pytest.mark.parametrize("name", [*STRUCTS, *TABLES])
def test_no_two_fields_share_a_byte(name: str) -> None:
    table = STRUCTS.get(name)
    if table is None and name == "attributes":
        return
    end = 0
    for row in table or places(TABLES[name]):
        assert row.at >= end
        end = row.at + row.size


def test_volatile_in_the_header_is_volatile_on_the_page() -> None:
    for name in ("control", "doorbell", "group"):
        body = re.search(rf"typedef struct mql_format_{name} {{(.*?)\n}}", HEADER, re.DOTALL)
        assert body is not None
        fields = re.findall(r"^ +[\w ]*?(\w+)(?:\[\w+\])?;.*\bvolatile\b", body[1], re.MULTILINE)
        assert fields
        by_field = {row.field: row.meaning for row in STRUCTS[name]}
        for field in fields:
            assert by_field[field].startswith("volatile"), field


BATCH = {
    "base offset": "BASE_OFFSET",
    "length": "LENGTH",
    "epoch": "EPOCH",
    "magic": "MAGIC",
    "CRC": "CRC",
    "attributes": "ATTRIBUTES",
    "last offset delta": "LAST_DELTA",
    "base timestamp": "BASE_TIMESTAMP",
    "max timestamp": "MAX_TIMESTAMP",
    "producer id": "PRODUCER_ID",
    "producer epoch": "PRODUCER_EPOCH",
    "base sequence": "BASE_SEQUENCE",
    "count": "COUNT",
}


def test_the_batch_header_is_the_one_of_the_header_file() -> None:
    table = places(TABLES["batch"])
    assert [row.field for row in table] == list(BATCH)
    for row in table:
        assert row.at == getattr(lib, f"MQL_BATCH_{BATCH[row.field]}"), row
        assert row.size == SIZES[row.type], row
    ends = [row.at + row.size for row in table]
    assert ends == [*(row.at for row in table[1:]), lib.MQL_BATCH_HEADER]


def test_the_attributes_are_those_of_the_header_file() -> None:
    compression = TABLES["attributes"][0][1]
    named = dict(re.findall(r"(\d) (\w+)", compression))
    assert {int(code): name for code, name in named.items()} == {
        lib.MQL_NONE: "none",
        lib.MQL_GZIP: "gzip",
        lib.MQL_SNAPPY: "snappy",
        lib.MQL_LZ4: "lz4",
        lib.MQL_ZSTD: "zstd",
    }
    bits = {cells[0]: cells[1] for cells in TABLES["attributes"]}
    assert lib.MQL_BATCH_LOG_APPEND_TIME == 1 << 3
    assert "append time" in bits["3"]
    assert lib.MQL_BATCH_CONTROL == 1 << 5
    assert bits["5"].startswith("a control batch")


@pytest.mark.parametrize(
    ("name", "constant"), [("index", "MQL_INDEX_ENTRY"), ("timeindex", "MQL_TIME_ENTRY")]
)
def test_an_index_entry_has_its_fields_back_to_back(name: str, constant: str) -> None:
    table = places(TABLES[name])
    assert [row.at for row in table] == [0, table[0].size]
    assert [row.size for row in table] == [SIZES[row.type] for row in table]
    assert sum(row.size for row in table) == getattr(lib, constant)


def test_the_example_is_what_the_engine_writes() -> None:
    dump = re.search(r"### An example\n.*?```\n(.*?)```", TEXT, re.DOTALL)
    assert dump is not None
    kept = [
        ffi.from_buffer("uint8_t[]", data) for data in (b"k1", b"hello", bytes.fromhex("02680278"))
    ]
    record = ffi.new("mql_record *")
    for field, data in zip((record.key, record.value, record.headers), kept, strict=True):
        field.data, field.length = data, len(data)
    record.header_count = 1
    record.timestamp = 1_700_000_000_000
    size = ffi.new("int64_t *")
    assert lib.mql_batch_fit_records(record, 1, 0, 1000, size) == 1
    out = ffi.new("uint8_t[]", size[0])
    lib.mql_batch_write_records(out, size[0], record, 1, 0, 5, 0)
    assert bytes.fromhex(dump[1]) == bytes(ffi.buffer(out))


def varint(n: int, bits: int = 64) -> bytes:
    u = (n << 1) ^ (n >> (bits - 1))
    out = bytearray()
    while u >= 0x80:
        out.append(u & 0x7F | 0x80)
        u >>= 7
    return bytes([*out, u])


def test_the_examples_of_varints_are_right() -> None:
    sentence = re.search(r"So 0 is `00`.*?\.\n", TEXT, re.DOTALL)
    assert sentence is not None
    examples = re.findall(r"([−\d]+) is\s+`([^`]+)`", sentence[0])
    assert len(examples) == 5
    for number, coded in examples:
        n = int(number.replace("−", "-"))
        assert varint(n) == varint(n, 32) == bytes.fromhex(coded)


def test_the_crc_of_the_page_is_the_one_of_the_engine() -> None:
    said = re.search(r"of `123456789` it is (0x\w+)", TEXT)
    assert said is not None
    assert lib.mql_crc32c(0, b"123456789", 9) == int(said[1], 16)


@pytest.mark.parametrize(
    "magic", ["CONTROL", "CHECKPOINT", "GROUP", "DOORBELL", "SHARE", "LIVE", "DEDUPE"]
)
def test_the_page_names_every_magic(magic: str) -> None:
    said = re.search(rf'#define MQL_{magic}_MAGIC "(\w+)"', HEADER)
    assert said is not None
    assert f"`{said[1]}`" in TEXT
    assert len(said[1]) == 7


def test_the_limits_of_the_page_are_those_of_the_engine() -> None:
    assert lib.MQL_LAYOUT == lib.MQL_OLDEST_WRITER == 1
    assert lib.MQL_SEGMENT_BYTES_MAX == 2**31 - 1
    assert lib.MQL_BATCH_BYTES_MAX == 2**30
    assert lib.MQL_INDEX_INTERVAL == 4096
    assert lib.MQL_TOPIC_MAX == 245
    assert (lib.MQL_LOCK_GATE, lib.MQL_LOCK_ALIVE, lib.MQL_LOCK_MEMBER) == (0, 1, 16)
    assert lib.MQL_MEMBERS_MAX == 448
    assert lib.MQL_MEMBER_SHIFT == 54
    assert lib.MQL_CHECKPOINT_SLOT == ffi.sizeof("mql_format_checkpoint") == 512
    assert lib.MQL_SHARE_SLOTS == 256
    assert lib.MQL_SHARE_REGION_PAGES == 512
    assert lib.MQL_SHARE_DONE_CHUNKS == 24_576
    assert lib.MQL_SHARE_DONE == 2**47
    assert lib.MQL_CLOCK_KIND == 16


# -- recovery --------------------------------------------------------------------------------------

RULES = rows(TEXT[TEXT.index("| rule |") :])


def test_the_decision_table_has_each_rule_once() -> None:
    assert [cells[0] for cells in RULES] == [f"R{n}" for n in range(1, 12)]
    assert all(len(cells) == 4 and all(cells) for cells in RULES)


@pytest.mark.parametrize("rule", [cells[0] for cells in RULES])
def test_each_rule_has_its_label_in_the_code_and_in_the_tests(rule: str) -> None:
    label = re.compile(rf"\b{rule}\b")
    assert any(label.search(path.read_text()) for path in (ROOT / "csrc").glob("mql_*.[ch]"))
    tests = (ROOT / "tests").rglob("test_*.py")
    assert any(f"def test_{rule.lower()}_" in path.read_text() for path in tests)
