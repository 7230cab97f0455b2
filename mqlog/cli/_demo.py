"""`mqlog demo`: orders through three processes and two streams, one killed part-way, none lost."""

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
from mqlog.cli._demo_orders import Totals, bundled, read_orders
from mqlog.cli._demo_pipeline import (
    LOOK_EVERY,
    Kill,
    Outcome,
    Pipeline,
    Plan,
    Progress,
    Replay,
    replay_offline,
)
from mqlog.cli._errors import CommandError, UsageError
from mqlog.cli._screen import Screen, plural

PACE_SECONDS = 6.0  # how long the day of the orders takes, unless --fast

SUMMARY = "run the order pipeline: three processes, a kill -9 part-way, nothing lost"
ABOUT = """\
Order intake appends each order to the stream `orders`. Payment reads it as consumer group
"payment", charges, and appends to the stream `payments`. Notification reads that as group
"notification" and writes what it sends to a file, once an order. Part-way the payment process is
killed with SIGKILL and started again: it goes on from its committed offset, so some payments are
made twice and none is missed. In the end the store is closed, replayed from the start, and compared
with the input. The exit code is 0 only if nothing was lost and the replay agrees."""
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
        help="kill payment after so many payments: a number, N%%, or never (default 50%%)",
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
        replay = replay_offline(plan)
        passed = report(args, screen, plan, outcome, replay)
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
    with screen.progress("reading orders") as step:
        for order in read_orders(path, screen, name):
            count += 1
            expected.add(order.id, order.document)
            if order.placed_at is not None:
                first, last = min(first, order.placed_at), max(last, order.placed_at)
            if count % 1000 == 0:
                step(count)
    if not count:
        raise CommandError(f"there is no order in {name}: an order is a JSON object on one line")
    screen.say(f"{plural(count, 'order')} from {name}; the store is {directory / 'store'}")
    return Plan(
        directory=directory,
        orders=path,
        count=count,
        expected=expected,
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
    """What hears and sees the pipeline: three bars on a terminal, a line an event elsewhere."""
    console = screen.console(screen.err)
    if console is None:
        yield screen.say, lambda progress: None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description:<14}"),
        progress.BarColumn(40),
        progress.TextColumn("{task.completed:>9,.0f}"),
        progress.TextColumn("[dim]{task.fields[waiting]}[/dim]"),
    )
    with progress.Progress(*columns, console=console) as bars:
        roles = ("orders", "payments", "notifications")
        tasks = {role: bars.add_task(role, total=plan.count, waiting="") for role in roles}

        def watch(now: Progress) -> None:
            upstream = now.orders
            for role in roles:
                done = getattr(now, role)
                new = done - now.again if role == "payments" else done
                waiting = f"{upstream - new:,} waiting" if upstream > new else ""
                bars.update(tasks[role], completed=done, waiting=waiting)
                upstream = new

        def say(text: str) -> None:
            bars.console.print(text, style="yellow" if "kill" in text else None)

        yield say, watch


# ── the end ─────────────────────────────────────────────────────────────────────────────────────


def judge(plan: Plan, outcome: Outcome, replay: Replay) -> dict[str, Any]:
    """Everything that is known at the end, as `--json` prints it."""
    expected, notified = plan.expected, outcome.notified
    appended = outcome.progress.orders + outcome.progress.payments
    lost = len(expected.ids - notified.ids)
    agrees = replay.orders == expected and replay.payments == expected and notified == expected
    return {
        "orders": outcome.progress.orders,
        "orders_repeated_in_input": plan.count - len(expected.ids),
        "payments": outcome.progress.payments,
        "notifications": outcome.sent,
        "duplicates": replay.duplicates,
        "lost": lost,
        "invented": len(notified.ids - expected.ids),
        "records": appended,
        "seconds": round(outcome.seconds, 3),
        "records_per_second": round(appended / max(outcome.seconds, LOOK_EVERY)),
        "restarts": outcome.restarts,
        "kill": outcome.kill and asdict(outcome.kill),
        "replay": {
            "agrees": agrees,
            "records": replay.records,
            "seconds": round(replay.seconds, 3),
            "orders": len(replay.orders.ids),
            "cities": len({city for city, _ in replay.orders.revenue}),
            "revenue_cents": replay.orders.sums(),
            "revenue_cents_by_city": {
                f"{city} {currency}": cents
                for (city, currency), cents in sorted(replay.orders.revenue.items())
            },
        },
        "passed": agrees and lost == 0 and outcome.sent == len(expected.ids),
    }


def report(
    args: argparse.Namespace, screen: Screen, plan: Plan, outcome: Outcome, replay: Replay
) -> bool:
    """Prints what came of it; True if nothing was lost and the replay agrees."""
    result = judge(plan, outcome, replay)
    if args.json:
        screen.json(result)
    else:
        screen.print()
        rows = [*count_rows(result, fast=args.fast), *kill_rows(outcome.kill), replay_row(result)]
        good = {"lost": result["lost"] == 0, "offline replay": result["replay"]["agrees"]}
        styles = {
            at: "bold green" if good[name] else "bold red"
            for at, (name, *_) in enumerate(rows)
            if name in good
        }
        screen.table(("", ">", ""), rows, heading=False, styles=styles)
    return bool(result["passed"])


Row = tuple[str, str, str]


def count_rows(result: dict[str, Any], *, fast: bool) -> list[Row]:
    appended = f"{result['records']:,} records appended in {result['seconds']:.2f} s"
    if not fast:
        appended += "; --fast runs flat out"
    again = "paid again after the kill, notified once" if result["duplicates"] else ""
    rows = [
        ("orders in", f"{result['orders']:,}", ""),
        ("payments", f"{result['payments']:,}", ""),
        ("notifications", f"{result['notifications']:,}", ""),
        ("duplicates", f"{result['duplicates']:,}", again),
        ("lost", f"{result['lost']:,}", ""),
        ("records per second", f"{result['records_per_second']:,}", appended),
    ]
    if repeated := result["orders_repeated_in_input"]:
        rows.insert(1, ("  repeated", f"{repeated:,}", "the input names an order twice"))
    if result["restarts"]:
        rows.append(("other restarts", f"{result['restarts']:,}", "of processes that died unasked"))
    return rows


def kill_rows(kill: Kill | None) -> list[Row]:
    if kill is None:
        return []
    killed = f"process {kill.pid}, by SIGKILL, after {kill.payments:,} payments"
    rows = [("killed at", f"{kill.at:.2f} s", f"payment: {killed}")]
    if kill.recovered_after is not None:
        back = f"process {kill.back_pid}, from the committed offset {kill.committed:,}"
        rows.append(("recovered after", f"{kill.recovered_after:.2f} s", f"payment: {back}"))
    return rows


def replay_row(result: dict[str, Any]) -> Row:
    replay = result["replay"]
    cities = "1 city" if replay["cities"] == 1 else f"{replay['cities']:,} cities"
    revenue = [f"{cents / 100:,.2f} {unit}" for unit, cents in replay["revenue_cents"].items()]
    sums = ", ".join(revenue) if len(revenue) <= 3 else f"{len(revenue)} currencies"
    orders = plural(replay["orders"], "order")
    what = f"{orders} from {cities}, {sums}, read in {replay['seconds']:.2f} s"
    return ("offline replay", "agrees" if replay["agrees"] else "DIFFERS", what)
