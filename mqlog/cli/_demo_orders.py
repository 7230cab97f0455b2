"""Orders as the demo sees them: read from NDJSON, and added up.

Any NDJSON file works. An order is a JSON object; `order_id` (or `id`) names it, and one without
gets a name made from its bytes. `placed_at`, `customer`, `city`, `currency` and `total_cents` are
used where they are there.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from mqlog.cli import _arguments
from mqlog.cli._errors import CommandError
from mqlog.cli._lines import BadLine, LineTooLongError, json_object, line_groups, open_source
from mqlog.cli._screen import Screen

ORDER_BYTES = 1_000_000  # with key and id: goes into a batch of the default max_message_bytes
TOO_LONG = f"an order of over {ORDER_BYTES} bytes"
MOST_CENTS = 10**15


def bundled() -> str:
    """The sample's path: one Saturday of a delivery kitchen, made by examples/make_orders.py."""
    return str(files("mqlog").joinpath("data", "orders.ndjson.gz"))


@dataclass(frozen=True, slots=True)
class Order:
    """One line of the input; `line` is what goes into the log."""

    id: str
    line: bytes
    document: dict[str, Any]
    key: bytes
    placed_at: float | None


@dataclass
class Totals:
    """What a set of orders adds up to. Equal, if the same orders went in, in any order."""

    ids: set[str] = field(default_factory=set)
    revenue: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, order_id: str, document: dict[str, Any], cents: str = "total_cents") -> bool:
        """Adds the order, whose amount is in the field `cents`; False if it is in already."""
        if order_id in self.ids:
            return False
        self.ids.add(order_id)
        self.revenue[_place(document)] += _amount(document.get(cents))
        return True

    def without(self, order_id: str, document: dict[str, Any]) -> "Totals":
        """The same less one order."""
        revenue = Counter(self.revenue)
        revenue[_place(document)] -= _amount(document.get("total_cents"))
        return Totals(self.ids - {order_id}, revenue)


@dataclass
class Sales:
    """What a run of records adds up to: each counts, also where two name one order.

    It goes on from where it was: `position` is the offset of the next record to be added.
    """

    position: int = 0
    records: int = 0
    revenue: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, offset: int, document: dict[str, Any]) -> None:
        """Adds the record at `offset`, unless it is in already."""
        if offset >= self.position:
            self.position = offset + 1
            self.records += 1
            self.revenue[_place(document)] += _amount(document.get("total_cents"))

    def save(self, path: Path) -> None:
        """Position and sums together, or nothing."""
        rows = [[*place, cents] for place, cents in self.revenue.items()]
        state = {"position": self.position, "records": self.records, "revenue": rows}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Sales":
        """What was saved last; nothing yet if nothing was."""
        try:
            state = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        revenue = Counter({(city, unit): cents for city, unit, cents in state["revenue"]})
        return cls(state["position"], state["records"], revenue)

    def sums(self) -> dict[str, int]:
        """Cents by currency."""
        sums: Counter[str] = Counter()
        for (_, currency), cents in self.revenue.items():
            sums[currency] += cents
        return dict(sums)

    def by_city(self) -> dict[str, int]:
        """Cents by city and currency."""
        return {f"{city} {unit}": cents for (city, unit), cents in sorted(self.revenue.items())}

    def cities(self) -> list[str]:
        """The cities that are known, the one where most was sold first."""
        sums: Counter[str] = Counter()
        for (city, _), cents in self.revenue.items():
            sums[city] += cents
        return [city for city, _ in sums.most_common() if city != "-"]


def money(sums: dict[str, int]) -> str:
    """Cents by currency, as people read them: `254,123.00 EUR`."""
    texts = [f"{cents / 100:,.2f} {shown(unit)}".removesuffix(" -") for unit, cents in sums.items()]
    return " + ".join(texts) if len(texts) <= 2 else f"{len(texts)} currencies"


def shown(name: str) -> str:
    """A name from the input as it can be shown on any terminal, in few columns."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 16 else f"{text[:15]}…"


def read_orders(path: str, screen: Screen, name: str = "") -> Iterator[Order]:
    """The orders of a file, one after the other; errors call it `name`.

    Raises:
        CommandError: A line is no order; the message names file and line.
        OSError: The file is not there or cannot be read.
    """
    unnamed: Counter[str] = Counter()
    number = 0
    with open_source(path, screen) as source:
        try:
            for lines in line_groups(source.file, b"\n", ORDER_BYTES):
                for line in lines:
                    number += 1
                    if line.strip():
                        yield _order(line, unnamed)
        except (BadLine, LineTooLongError) as error:
            if isinstance(error, LineTooLongError):
                number, error = error.line, BadLine(TOO_LONG)
            what_next = "nothing was started; correct the line or leave it out"
            raise CommandError(f"{name or path}:{number}: {error}; {what_next}") from None


def _order(line: bytes, unnamed: Counter[str]) -> Order:
    document = json_object(line)
    customer = document.get("customer")
    if isinstance(customer, dict):
        customer = customer.get("id", customer.get("name"))
    order_id = _name(document.get("order_id", document.get("id"))) or _unnamed(line, unnamed)
    key = (_name(customer) or order_id).encode("utf-8", "surrogatepass")
    if len(line) + len(key) + 4 * len(order_id) > ORDER_BYTES:
        raise BadLine(TOO_LONG)
    return Order(order_id, line, document, key, _moment(document.get("placed_at")))


def _place(document: dict[str, Any]) -> tuple[str, str]:
    return (_name(document.get("city")) or "-", _name(document.get("currency")) or "-")


def _name(value: Any) -> str:
    """A string or whole number as a name; "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return str(value)


def _amount(value: Any) -> int:
    """Cents; 0 for what is no number of them."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_CENTS:
        return 0
    return value


def _unnamed(line: bytes, unnamed: Counter[str]) -> str:
    """The same for the same line; equal lines are told apart by counting."""
    digest = hashlib.sha256(line).hexdigest()[:16]
    unnamed[digest] += 1
    return f"sha-{digest}-{unnamed[digest]}"


def _moment(value: Any) -> float | None:
    """Epoch seconds of an ISO 8601 time or a number; None for what is neither."""
    try:
        moment = _arguments.iso_moment(value) if isinstance(value, str) else value
        seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < 1e11 else None
