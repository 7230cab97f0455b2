"""`mqlog demo`: orders through seven processes, one killed part-way, none lost."""

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqlog.cli import _arguments
from mqlog.cli._arguments import Verbs
from mqlog.cli._demo_ledger import Replay, Sent, read_outbox, replay_offline
from mqlog.cli._demo_orders import Order, Totals, bundled, money, read_orders, shown
from mqlog.cli._demo_pipeline import (
    LOOK_EVERY,
    PAYERS,
    RETRY_DELAYS,
    VICTIM,
    Kill,
    Outcome,
    Pipeline,
    Plan,
    Progress,
)
from mqlog.cli._demo_worker import LATER
from mqlog.cli._errors import CommandError, UsageError
from mqlog.cli._screen import Screen, plural

PACE_SECONDS = 6.0  # how long the day of the orders takes, unless --fast
POISON_AT = 100  # the order that nobody can charge is the hundredth, or the last of fewer
DELIVERIES = 1 + len(RETRY_DELAYS)

SUMMARY = "run the order pipeline: seven processes, a kill -9 part-way, nothing lost"
ABOUT = """\
Order intake puts each order once into the queue `orders`. Four payment workers compete for them,
charge, and put a receipt into the queue `payments`. Notification takes those by priority, some of
them after a delay, and writes what it sends to a file, once an order. Statistics reads the same
orders as a stream and adds up the sales. One order cannot be charged: after five deliveries it lies
among the dead letters. Part-way one payment worker is killed with SIGKILL while it holds orders:
they are delivered to the others, so one may be charged twice and none is missed. In the end the
store is closed, replayed from the start, and compared with the input. The exit code is 0 only if
nothing was lost and everything adds up."""
EXAMPLES = """
mqlog demo                                           a Saturday, 12,500 orders, in six seconds
mqlog demo --fast                                    the same, flat out
mqlog demo --dir demo && mqlog info demo/store       keep everything, and look around
mqlog demo --orders my-orders.ndjson --kill-after 10%
gunzip -c orders.gz | mqlog demo --orders - --fast --json
"""


def add_to(verbs: Verbs) -> None:
    parser = _arguments.add_verb(verbs, "demo", run, SUMMARY, about=ABOUT, examples=EXAMPLES)
    parser.add_argument(
        "--orders",
        metavar="FILE",
        help="NDJSON, an order a line, gzipped or not; - is standard input, read to its end first "
        "(default: the bundled sample)",
    )
    parser.add_argument("--dir", metavar="DIR", help="work here, and keep it; new or empty")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory")
    parser.add_argument(
        "--kill-after",
        type=kill_point,
        default="50%",
        metavar="POINT",
        help="kill a payment worker after so many payments: a number, N%%, or never (default 50%%)",
    )
    parser.add_argument("--fast", action="store_true", help="flat out, not at the orders' own pace")
    _arguments.add_json(parser)


def kill_point(text: str) -> str:
    if not re.fullmatch(r"never|\d+|(\d{1,2}|100)%", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a count, nor 0% to 100%, nor never")
    return text


def run(args: argparse.Namespace, screen: Screen) -> int:
    with workspace(args, screen) as work:
        plan = make_plan(args, work.directory, screen)
        work.keep = True  # what went wrong from here on can be looked at
        with live(plan, screen) as (say, watch):
            outcome = Pipeline(plan, say, watch).run()
        result = judge(plan, outcome, read_outbox(plan), replay_offline(plan))
        passed = report(args, screen, result)
        work.keep = args.keep or not passed
        return 0 if passed else 1


@dataclass
class Workspace:
    """The directory to work in, and whether it stays."""

    directory: Path
    keep: bool = False


@contextmanager
def workspace(args: argparse.Namespace, screen: Screen) -> Iterator[Workspace]:
    """A directory that was asked for and stays, or a temporary one."""
    if args.dir is not None:
        directory = Path(args.dir)
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"{args.dir} is not empty: the demo wants a new directory")
        yield Workspace(directory)
        return
    work = Workspace(Path(tempfile.mkdtemp(prefix="mqlog-demo-")))
    try:
        yield work
    except (KeyboardInterrupt, BrokenPipeError):
        work.keep = args.keep
        raise
    finally:
        if work.keep:
            store = work.directory / "store"
            screen.say(f"everything is in {work.directory}; look around: mqlog info {store}")
        else:
            shutil.rmtree(work.directory, ignore_errors=True)


# ── the plan ────────────────────────────────────────────────────────────────────────────────────


def make_plan(args: argparse.Namespace, directory: Path, screen: Screen) -> Plan:
    """Reads the whole input: what must come out is known before the log sees a byte."""
    path = args.orders or bundled()
    name = "standard input" if path == "-" else args.orders or "the bundled sample"
    if path == "-" or (os.path.exists(path) and not os.path.isfile(path)):
        path = keep_copy(path, directory, screen)
    count, expected, first, last = 0, Totals(), float("inf"), float("-inf")
    poison: Order | None = None
    with screen.progress("reading orders") as step:
        for order in read_orders(path, screen, name):
            count += 1
            is_new = expected.add(order.id, order.document)
            if 1 < count <= POISON_AT:
                poison = order if is_new else None
            elif poison is not None and poison.id == order.id:
                poison = None  # repeated: it would be two dead letters
            if order.placed_at is not None:
                first, last = min(first, order.placed_at), max(last, order.placed_at)
            if count % 1000 == 0:
                step(count)
    if not count:
        raise CommandError(f"there is no order in {name}: an order is a JSON object on one line")
    screen.say(f"{plural(count, 'order')} from {name} into {directory / 'store'}")
    return Plan(
        directory=directory,
        orders=path,
        count=count,
        expected=expected,
        payable=expected.without(poison.id, poison.document) if poison else expected,
        poison=poison.id if poison else None,
        span=(first, last) if first <= last else (0.0, 0.0),
        seconds=0.0 if args.fast else PACE_SECONDS,
        kill_after=kill_after(args.kill_after, count),
    )


def keep_copy(path: str, directory: Path, screen: Screen) -> str:
    """Standard input or a pipe as a file, since it is read twice: here and by intake."""
    copy = directory / "orders.ndjson"
    with open(copy, "wb") as file:
        if path == "-":
            shutil.copyfileobj(screen.bytes_in, file)
        else:
            with open(path, "rb") as pipe:
                shutil.copyfileobj(pipe, file)
    return str(copy)


def kill_after(text: str, count: int) -> int | None:
    """How many payments to wait for; at least one, at most all."""
    if text == "never":
        return None
    wanted = count * int(text[:-1]) // 100 if text.endswith("%") else int(text)
    return max(1, min(wanted, count))


# ── while it runs ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def live(plan: Plan, screen: Screen) -> Iterator[Any]:
    """What hears and sees the pipeline: bars on a terminal, a line an event elsewhere."""
    console = screen.console(screen.err)
    if console is None:
        yield screen.say, lambda progress: None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description:<14}"),
        progress.BarColumn(26),
        progress.TextColumn("{task.completed:>9,.0f}"),
        progress.TextColumn("[dim]{task.fields[note]}[/dim]"),
    )
    with progress.Progress(*columns, console=console) as bars:
        paid = plan.count - (plan.poison is not None)
        totals = {"orders": plan.count, "payments": paid, "notifications": paid}
        totals["statistics"] = plan.count
        tasks = {name: bars.add_task(name, total=n, note="") for name, n in totals.items()}

        def watch(now: Progress) -> None:
            done = (now.orders, now.accepted, now.notifications, now.sales.records)
            for task, completed, note in zip(tasks.values(), done, notes(now), strict=True):
                bars.update(task, completed=completed, note=note)

        def say(text: str) -> None:
            bars.console.print(text, style="yellow" if "kill" in text else None)

        yield say, watch


def notes(now: Progress) -> tuple[str, str, str, str]:
    """What stands beside each bar."""
    waiting = now.orders - now.accepted - now.dead
    unsent = now.accepted - now.notifications - now.delayed
    payments = [f"{waiting:,} waiting"] if waiting > 0 else []
    payments += [f"{now.dead:,} dead"] if now.dead else []
    later = [f"{unsent:,} waiting"] if unsent > 0 else []
    later += [f"{now.delayed:,} later"] if now.delayed else []
    return "", ", ".join(payments), ", ".join(later), money(now.sales.sums())


# ── the end ─────────────────────────────────────────────────────────────────────────────────────


def judge(plan: Plan, outcome: Outcome, sent: Sent, replay: Replay) -> dict[str, Any]:
    """Everything that is known at the end, as `--json` prints it."""
    now, told = outcome.progress, sent.orders.ids
    lost = len(plan.expected.ids - told - {one.order_id for one in replay.dead})
    agrees = replay.orders == plan.expected and replay.payments == sent.orders == plan.payable
    sums = claims(plan, now, sent, replay)
    return {
        "orders": now.orders,
        "orders_repeated_in_input": plan.count - len(plan.expected.ids),
        "accepted": now.accepted,
        "dead": now.dead,
        "dead_letters": [asdict(one) for one in replay.dead],
        "payments": now.payments,
        "notifications": sent.lines,
        "express": sent.express,
        "delayed": sent.delayed,
        "early": sent.early,
        "duplicates": replay.duplicates,
        "lost": lost,
        "invented": len(told - plan.expected.ids),
        "records": replay.records,
        "seconds": round(outcome.seconds, 3),
        "records_per_second": round(replay.records / max(outcome.seconds, LOOK_EVERY)),
        "restarts": outcome.restarts,
        "kill": outcome.kill and kill_facts(outcome.kill, replay),
        "statistics": {
            "agree": now.sales == replay.sales,
            "orders": now.sales.records,
            "revenue_cents": now.sales.sums(),
            "cities": now.sales.cities(),
        },
        "replay": {
            "agrees": agrees,
            "records": replay.records,
            "seconds": round(replay.seconds, 3),
            "orders": len(replay.orders.ids),
            "cities": len(replay.sales.cities()),
            "revenue_cents": replay.sales.sums(),
            "revenue_cents_by_city": replay.sales.by_city(),
        },
        "sums": sums,
        "passed": agrees and lost == 0 and all(sums.values()),
    }


def claims(plan: Plan, now: Progress, sent: Sent, replay: Replay) -> dict[str, bool]:
    """What must be true besides that nothing is lost, and whether it is."""
    dead = [(one.order_id, one.deliveries) for one in replay.dead]
    poison = [] if plan.poison is None else [(plan.poison, DELIVERIES)]
    return {
        "every order was accepted or is dead": now.orders == now.accepted + now.dead == plan.count,
        "every accepted order was paid": now.payments == now.accepted + replay.duplicates,
        "everybody was told once": sent.lines == len(plan.payable.ids),
        "nobody was told too early": sent.early == 0,
        "the poisonous order alone is dead, after all its deliveries": dead == poison,
        "the statistics are those of the replay": now.sales == replay.sales,
    }


def kill_facts(kill: Kill, replay: Replay) -> dict[str, Any]:
    """The kill, and how long after it the first of what was held was paid by another."""
    again = replay.first_redelivered
    return {
        **asdict(kill),
        "redelivered": replay.redelivered,
        "recovered_after": None if again is None else max(0.0, round(again - kill.moment, 3)),
    }


Row = tuple[str, str, str]


def report(args: argparse.Namespace, screen: Screen, result: dict[str, Any]) -> bool:
    """Prints what came of it; True if nothing was lost and everything adds up."""
    if args.json:
        screen.json(result)
        return bool(result["passed"])
    screen.print()
    rows = [*count_rows(result, fast=args.fast), *kill_rows(result["kill"]), *sum_rows(result)]
    good = {
        "lost": result["lost"] == 0,
        "sales statistics": result["statistics"]["agree"],
        "offline replay": result["replay"]["agrees"],
        "it adds up": all(result["sums"].values()),
    }
    styles = {
        at: "bold green" if good[name] else "bold red"
        for at, (name, *_) in enumerate(rows)
        if name in good
    }
    screen.table(("", ">", ""), rows, heading=False, styles=styles)
    return bool(result["passed"])


def count_rows(result: dict[str, Any], *, fast: bool) -> list[Row]:
    records = f"{result['records']:,} records in {result['seconds']:.2f} s"
    sent = f"{result['express']:,} express; {result['delayed']:,} delayed by {LATER:g} s"
    rows = [
        ("orders in", f"{result['orders']:,}", ""),
        ("payments accepted", f"{result['accepted']:,}", f"by {PAYERS} competing workers"),
        ("dead", f"{result['dead']:,}", ", ".join(map(dead_note, result["dead_letters"][:2]))),
        ("notifications", f"{result['notifications']:,}", sent),
        ("duplicates", f"{result['duplicates']:,}", ""),
        ("lost", f"{result['lost']:,}", ""),
        (
            "records per second",
            f"{result['records_per_second']:,}",
            records if fast else f"{records}; --fast: flat out",
        ),
    ]
    if result["duplicates"]:
        rows[4] = (*rows[4][:2], "charged again after the kill, notified once")
    if repeated := result["orders_repeated_in_input"]:
        rows.insert(1, ("  repeated", f"{repeated:,}", "the input names an order twice"))
    if result["restarts"]:
        rows.append(("other restarts", f"{result['restarts']:,}", "of processes that died unasked"))
    return rows


def dead_note(letter: dict[str, Any]) -> str:
    return f"order {shown(letter['order_id'])}, after {letter['deliveries']} deliveries"


def kill_rows(kill: dict[str, Any] | None) -> list[Row]:
    if kill is None:
        return []
    killed = f"{VICTIM}, SIGKILL, holding {plural(kill['held'], 'order')}"
    rows = [("killed at", f"{kill['at']:.2f} s", killed)]
    if kill["recovered_after"] is not None:
        again = f"{plural(kill['redelivered'], 'order')} delivered again"
        rows.append(("recovered after", f"{kill['recovered_after']:.2f} s", again))
    return rows


def sum_rows(result: dict[str, Any]) -> list[Row]:
    sales, replay = result["statistics"], result["replay"]
    cities = sales["cities"]
    where = f", {len(cities)} cities, most in {shown(cities[0])}" if len(cities) > 1 else ""
    read = f"{replay['records']:,} records, read in {replay['seconds']:.2f} s"
    adds_up = f"{result['orders']:,} in = {result['accepted']:,} accepted + {result['dead']:,} dead"
    wrong = [f"not true: {claim}" for claim, holds in result["sums"].items() if not holds]
    return [
        ("sales statistics", word(sales["agree"], "agree"), money(sales["revenue_cents"]) + where),
        ("offline replay", word(replay["agrees"], "agrees"), read),
        ("it adds up", "NO" if wrong else "yes", "; ".join(wrong) or adds_up),
    ]


def word(agrees: bool, text: str) -> str:
    return text if agrees else "DIFFERS" if text == "agrees" else "DIFFER"
