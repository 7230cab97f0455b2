"""Bugs that `make mutants` plants still have their places in the sources."""

import pytest
from mutants.bugs import BUGS, Bug
from support.engine import ROOT


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_planted_bug_has_one_place(bug: Bug) -> None:
    assert bug.places(ROOT) == 1
    assert bug.old != bug.new


def test_a_planted_bug_has_a_name_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
