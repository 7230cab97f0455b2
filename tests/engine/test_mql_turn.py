"""mql_turn: who comes back from a durable append waits for the turn, and never for long."""

from collections.abc import Iterator

import pytest
from support import fault
from support.fault import lib

UNTRIED = 64


class Yields:
    """How often somebody who waits for the turn has given way, and what happens then."""

    def __init__(self) -> None:
        self.count, self.gives = 0, False

    def __call__(self, call: int, name: str) -> int:
        if call == lib.MQL_FAULT_YIELD:
            self.count += 1
            if self.gives:
                lib.mql_give_turn()
        return 0

    def of_taking(self) -> int:
        """How often who takes the turn gives way."""
        self.count = 0
        lib.mql_take_turn()
        return self.count


@pytest.fixture
def yields() -> Iterator[Yields]:
    found = Yields()
    lib.mql_give_turn()
    with fault.hooked(found):
        yield found
        for _ in range(UNTRIED):
            lib.mql_give_turn()
            lib.mql_take_turn()
        lib.mql_give_turn()


def test_a_turn_that_nobody_has_is_taken_at_once(yields: Yields):
    assert yields.of_taking() == 0
    lib.mql_give_turn()
    assert yields.of_taking() == 0


def test_whoever_comes_next_has_it_when_it_is_given(yields: Yields):
    yields.of_taking()
    yields.gives = True
    assert yields.of_taking() == 1
    assert yields.of_taking() == 1, "the one before it has it"


def test_a_turn_that_is_not_given_is_not_waited_for_again_at_once(yields: Yields):
    yields.of_taking()
    assert yields.of_taking() > 0
    assert [yields.of_taking() for _ in range(UNTRIED)] == [0] * UNTRIED
    assert yields.of_taking() > 0


def test_a_turn_may_be_given_by_who_has_not_got_it(yields: Yields):
    lib.mql_give_turn()
    lib.mql_give_turn()
    assert yields.of_taking() == 0
    yields.gives = True
    assert yields.of_taking() == 1
