"""Power cuts, faults and mixed-up files on simulated disks: the plans, and what came of them.

    cd tests && python -m support.power amskx --depth 2 --states 100000
    cd tests && python -m support.power amskx --seed 7 --only 31.4

`power.h` says what the letters of a workload are.
"""

import argparse
import errno
import sys
from pathlib import Path
from typing import Any, NamedTuple

from support import engine

HERE = Path(__file__).parent
SOURCES = (*sorted(HERE.glob("sim_*.c")), *sorted(HERE.glob("power*.c")))

# A power cut uses up offsets up to the ceiling, and share groups provide for each of them: with the
# real step that is most of the time, and finds nothing that this one does not.
ffi, lib = engine.load(HERE / "mql_os_fault.c", SOURCES, ("MQL_CEILING_STEP=2048",))

DURABILITY = {"os": lib.MQL_DURABILITY_OS, "sync": lib.MQL_DURABILITY_SYNC}
DEFAULTS: dict[str, Any] = {
    "after": "adsx",
    "durability": "os",
    "segment_bytes": 12288,
    "seed": 1,
    "states": 1 << 40,
    "images": 32,
    "images_again": 8,
    "depth": 1,
    "one_in": 64,
    "only": "",
    "fault_call": 0,
    "fault_error": 0,
    "fault_at": 0,
    "fault_forever": 0,
}


class Report(NamedTuple):
    """What a run found; `power.h` says what each number is."""

    states: int
    again: int
    same: int
    points: int
    records: int
    lost: int
    hits: int
    refused: int
    memory: int
    held: int
    image_s: float
    recover_s: float
    check_s: float
    failed: int
    text: str
    where: str
    command: str

    @property
    def seconds(self) -> float:
        return self.image_s + self.recover_s + self.check_s


def run(kind: str, workload: str, **changes: Any) -> Report:
    """Runs `power_explore`, `power_endure` or `power_mix`."""
    how = DEFAULTS | changes
    texts = {name: ffi.new("char[]", how[name].encode()) for name in ("after", "only")}
    texts["workload"] = ffi.new("char[]", workload.encode())
    plan = ffi.new("power_plan *", how | texts | {"durability": DURABILITY[how["durability"]]})
    out = ffi.new("power_report *")
    getattr(lib, f"power_{kind}")(plan, out)
    given = {name: getattr(out, name) for name in Report._fields if name != "command"}
    given |= {name: ffi.string(given[name]).decode() for name in ("text", "where")}
    return Report(**given, command=command(kind, workload, changes, given["where"]))


def command(kind: str, workload: str, changes: dict[str, Any], where: str) -> str:
    """What reproduces the state `where` of a run."""
    words = [f"--{name.replace('_', '-')} {value}" for name, value in changes.items()]
    only = [f"--only {where}"] if where else []
    return " ".join([f"python -m support.power {workload} --kind {kind}", *words, *only])


def sound(report: Report) -> Report:
    """The report, if nothing was violated."""
    assert not report.failed, f"{report.text}\n  cd tests && {report.command}"
    return report


def counts(workload: str, **changes: Any) -> dict[str, int]:
    """How often the last letter of the workload called the system, by `SIM_...`."""
    how = DEFAULTS | changes
    texts = {name: ffi.new("char[]", how[name].encode()) for name in ("after", "only")}
    texts["workload"] = ffi.new("char[]", workload.encode())
    plan = ffi.new("power_plan *", how | texts | {"durability": DURABILITY[how["durability"]]})
    out = ffi.new("int64_t[]", lib.SIM_CALLS)
    lib.power_count(plan, out)
    return {name: out[getattr(lib, name)] for name in CALLS}


CALLS = [
    "SIM_OPEN_FILE",
    "SIM_OPEN_DIRECTORY",
    "SIM_STAT",
    "SIM_READ",
    "SIM_WRITE",
    "SIM_ALLOCATE",
    "SIM_WRITE_ZEROS",
    "SIM_TRUNCATE",
    "SIM_SYNC",
    "SIM_SYNC_DIRECTORY",
    "SIM_SYNC_MAP",
    "SIM_RENAME",
    "SIM_UNLINK",
    "SIM_MAKE_DIRECTORY",
    "SIM_LIST",
    "SIM_FREE_BYTES",
    "SIM_MAP",
    "SIM_POPULATE",
    "SIM_LOCK",
    "SIM_MEMORY",
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m support.power")
    parser.add_argument("workload")
    parser.add_argument("--kind", choices=["explore", "endure", "mix"], default="explore")
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    report = run(given.pop("kind"), given.pop("workload"), **given)
    for name, value in report._asdict().items():
        print(f"{name:10} {value}")
    if report.hits:
        print(f"{'error':10} {errno.errorcode.get(given['fault_error'], '')}")
    if report.seconds > 0:
        print(f"{'per second':10} {report.states / report.seconds:,.0f}")
    return report.failed


if __name__ == "__main__":
    sys.exit(main())
