"""At run time the package needs the standard library and lz4, and nothing else."""

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

EVERYTHING = """
    import sys

    class OnlyWhatIsNeeded:
        \"\"\"Lets nothing else be imported, whatever is installed.\"\"\"

        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names | {"mqlog", "lz4"}:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, OnlyWhatIsNeeded())

    import importlib, io, pickle, pkgutil
    import mqlog

    for module in pkgutil.walk_packages(mqlog.__path__, "mqlog."):
        if module.name != "mqlog.__main__":
            importlib.import_module(module.name)

    path = sys.argv[1]
    with mqlog.open(path) as store:
        clicks = store.stream("clicks", codec=mqlog.codecs.json, compression="lz4", partitions=2)
        clicks.append({"page": "/cart"}, key=b"user-7", headers={"trace": b"1f"})
        clicks.append_many([{"page": "/pay"}] * 9, keys=[b"%d" % n for n in range(9)])
        with clicks.consumer("billing") as consumer:
            mqlog.wait([consumer], 1.0)
            records = list(consumer.records(timeout=0))
        assert len(records) == 10
        assert pickle.loads(pickle.dumps(records))[3].value == records[3].value
        assert mqlog.Stream[bytes, bytes].__origin__ is mqlog.Stream
    assert len(list(mqlog.replay(path))) == 10

    from mqlog.cli import main

    for words in (["ls"], ["info"], ["verify"], ["cat", "clicks"], ["groups"]):
        verb, *topic = words
        assert main([verb, path, *topic]) == 0, verb
"""


def test_it_imports_and_runs_with_nothing_but_lz4(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(EVERYTHING)]
    done = subprocess.run(
        [*command, str(tmp_path / "s")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_package_asks_for_what_it_needs_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [name.partition(">=")[0] for name in project["dependencies"]] == ["lz4"]
