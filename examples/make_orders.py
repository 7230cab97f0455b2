"""Makes the sample that `mqlog demo` runs on: one Saturday of a delivery kitchen, as NDJSON.

    python examples/make_orders.py                 writes mqlog/data/orders.ndjson.gz
    python examples/make_orders.py -               writes the lines to standard output
    python examples/make_orders.py --orders 50000 big.ndjson

Every number comes from one seeded generator through integer arithmetic alone, so the same
arguments give the same bytes on every machine; a test holds the bundled file to that.
`total_cents` is the sum of qty * unit_cents over the items, plus delivery_cents.
"""

import argparse
import gzip
import json
import random
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Order = dict[str, Any]

SEED = 20260314
ORDERS = 12_500
BUNDLED = Path(__file__).resolve().parent.parent / "mqlog" / "data" / "orders.ndjson.gz"
MIDNIGHT = datetime(2026, 3, 14, tzinfo=timezone(timedelta(hours=1)))

# How busy each half hour is, from midnight on: a quiet morning, lunch, a lull, a long evening.
BUSY = [
    *(14, 9, 5, 3, 1, 1, 0, 0, 0, 0, 1, 2),
    *(3, 4, 6, 8, 10, 12, 13, 14, 16, 20, 30, 52),
    *(88, 96, 82, 50, 27, 20, 17, 15, 16, 20, 28, 45),
    *(72, 101, 118, 121, 104, 80, 60, 45, 36, 30, 24, 18),
]
CITIES = [
    *[("Berlin", 30), ("Hamburg", 19), ("München", 17), ("Köln", 13), ("Leipzig", 8)],
    *[("Zürich", 7), ("Wien", 10), ("Łódź", 4), ("Málaga", 3), ("Århus", 2)],
]
CHANNELS = [("app", 52), ("web", 27), ("phone", 12), ("counter", 9)]
PAYMENTS = [("card", 48), ("wallet", 26), ("cash", 15), ("invoice", 7), ("voucher", 4)]
FIRST_NAMES = """
    Zoë Łukasz Søren Ana José Ingrid Mehmet Olga Αθηνά 怡君 Fatima Björn Chloé Dmitri Élodie Farid
    Greta Hüseyin Iñaki Jürgen Katarzyna Lütfi Māra Niamh Øystein Paweł Quentin Rosa Şirin Tomáš
    Ursula Vít Wanda Xavi Yıldız Željko Samir Priya Naoko Mary-Jane
""".split()
LAST_NAMES = """
    Müller O'Brien García Nowak Sørensen Yılmaz Иванова Papadopoulos 陳 Dvořák Öztürk Schmidt
    Kowalczyk Lefèvre D'Angelo Ní_Dhomhnaill van_der_Berg Åkesson Nguyễn Weiß Horváth Fernández
    Jansen Ķēniņš Smith Keller Haddad Tanaka Rossi Novák
""".split()
MENU = [
    ("SOU-01", "Tomato soup", 490),
    ("SOU-02", "Lentil soup", 520),
    ("SOU-03", "Borscht", 560),
    ("SAL-01", "Green salad", 620),
    ("SAL-02", "Caesar salad", 890),
    ("SAL-03", "Tabbouleh", 720),
    ("PIZ-01", "Margherita", 890),
    ("PIZ-02", "Diavola", 1090),
    ("PIZ-03", "Funghi", 1020),
    ("PIZ-04", "Quattro formaggi", 1150),
    ("PIZ-05", "Marinara", 790),
    ("BUR-01", "Cheeseburger", 990),
    ("BUR-02", "Bean burger", 940),
    ("BUR-03", "Double", 1290),
    ("CUR-01", "Dal", 850),
    ("CUR-02", "Butter chicken", 1190),
    ("CUR-03", "Palak paneer", 1090),
    ("NOO-01", "Pad Thai", 1090),
    ("NOO-02", "Ramen", 1240),
    ("NOO-03", "Dan dan", 1150),
    ("SID-01", "Fries", 350),
    ("SID-02", "Garlic bread", 390),
    ("SID-03", "Rice", 280),
    ("SID-04", "Pickled chillies", 190),
    ("SID-05", "Jalapeño poppers", 540),
    ("DES-01", "Crème brûlée", 590),
    ("DES-02", "Apple pie", 480),
    ("DES-03", "Baklava", 450),
    ("DRI-01", "Still water", 220),
    ("DRI-02", "Lemonade", 320),
    ("DRI-03", "Mango lassi", 390),
    ("DRI-04", "Filter coffee", 260),
    ("DRI-05", "Iced tea", 310),
    ("DRI-06", "Ginger beer", 340),
]
NOTES = [
    'ring "twice", please',
    "the bell says Müller & Söhne",
    'write "Happy 40th, Zoë!" on the box \N{BIRTHDAY CAKE}',
    "side door: C:\\yard\\left, then up",
    "no coriander\nno peanuts",
    "ça m'est égal",
    '5/8" cable on the stairs, mind your step',
    "gate code #4711*",
]


class Dice:
    """Whole numbers from one seed; `random()` and its relatives would round by platform."""

    def __init__(self, seed: int) -> None:
        self._bits = random.Random(seed).getrandbits

    def below(self, bound: int) -> int:
        return self._bits(32) * bound >> 32

    def one_in(self, n: int) -> bool:
        return self.below(n) == 0

    def pick(self, values: list[T]) -> T:
        return values[self.below(len(values))]

    def weigh(self, weights: list[int]) -> int:
        """An index, as often as its weight says."""
        left = self.below(sum(weights))
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        raise AssertionError("the weights add up to more than their sum")

    def choose(self, weighted: list[tuple[str, int]]) -> str:
        return weighted[self.weigh([weight for _, weight in weighted])][0]


def make_customers(dice: Dice, count: int) -> list[tuple[dict[str, str], str]]:
    """Who orders, and the city they live in."""
    customers = []
    for number in range(count):
        name = f"{dice.pick(FIRST_NAMES)} {dice.pick(LAST_NAMES)}".replace("_", " ")
        customers.append(({"id": f"c-{number:05}", "name": name}, dice.choose(CITIES)))
    return customers


def make_items(dice: Dice) -> list[dict[str, Any]]:
    """A basket: one to five dishes, now and then a whole office's, sometimes a gift of none."""
    dishes = 20 + dice.below(60) if dice.one_in(600) else 1 + dice.weigh([34, 30, 20, 11, 5])
    items = []
    for _ in range(dishes):
        sku, name, cents = dice.pick(MENU)
        qty = 1 + dice.weigh([70, 20, 6, 3, 1])
        items.append({"sku": sku, "name": name, "qty": qty, "unit_cents": cents})
    if dice.one_in(250):
        items.append({"sku": "GIF-01", "name": "Gift: fortune cookie", "qty": 0, "unit_cents": 90})
    return items


def total(order: Order) -> int:
    items = sum(item["qty"] * item["unit_cents"] for item in order["items"])
    return int(items + order["delivery_cents"])


def make_refund(dice: Dice, order: Order) -> Order:
    """One dish of an earlier order, given back: a negative quantity, a negative total."""
    item = dice.pick([item for item in order["items"] if item["qty"] > 0])
    refund = {**order, "items": [{**item, "qty": -1}], "delivery_cents": 0}
    return {**refund, "refund_of": order["order_id"], "note": 'arrived cold, "again"'}


def placed_moments(dice: Dice, count: int) -> list[int]:
    """Milliseconds since midnight, in order: the day's two peaks."""
    half_hour = 30 * 60 * 1000
    return sorted(dice.weigh(BUSY) * half_hour + dice.below(half_hour) for _ in range(count))


def make_orders(count: int = ORDERS, seed: int = SEED) -> Iterator[Order]:
    """`count` orders in the order they were placed."""
    dice = Dice(seed)
    customers = make_customers(dice, max(1, count // 4))
    earlier: list[Order] = []
    for number, moment in enumerate(placed_moments(dice, count), start=1):
        regular = dice.below(len(customers)) * (1 + dice.below(1000)) // 1000
        customer, city = customers[regular]
        channel = dice.choose(CHANNELS)
        order: Order = {
            "order_id": f"{MIDNIGHT:%y%m%d}-{number:06}",
            "placed_at": (MIDNIGHT + timedelta(milliseconds=moment)).isoformat("T", "milliseconds"),
            "customer": customer,
            "city": city,
            "channel": channel,
            "payment": dice.choose(PAYMENTS),
            "currency": "EUR",
            "items": make_items(dice),
            "delivery_cents": 0 if channel == "counter" else dice.pick([0, 0, 190, 250, 390]),
        }
        if earlier and dice.one_in(120):
            refund = make_refund(dice, dice.pick(earlier))
            order = {**refund, "order_id": order["order_id"], "placed_at": order["placed_at"]}
        elif dice.one_in(25):
            order["note"] = dice.pick(NOTES)
        order["total_cents"] = total(order)
        if "refund_of" not in order:
            earlier = [*earlier[-49:], order]
        yield order


def ndjson(orders: Iterator[Order]) -> bytes:
    lines = (json.dumps(order, ensure_ascii=False, separators=(",", ":")) for order in orders)
    return "".join(f"{line}\n" for line in lines).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", default=str(BUNDLED), help="- is standard output")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    data = ndjson(make_orders(args.orders, args.seed))
    if args.out == "-":
        sys.stdout.buffer.write(data)
        return
    if args.out.endswith(".gz"):
        data = gzip.compress(data, compresslevel=9, mtime=0)
    Path(args.out).write_bytes(data)
    print(f"{args.out}: {args.orders:,} orders, {len(data):,} bytes")


if __name__ == "__main__":
    main()
