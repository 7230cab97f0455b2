"""Fixtures of every folder."""

from collections.abc import Iterator

import pytest
from support.processes import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts the processes of support/workers.py."""
    with Zygote() as started:
        yield started
