"""Fixtures of every folder."""

import signal
from collections.abc import Iterator

import pytest
from support.processes import Zygote

# A shell that starts this in its background has it ignore Ctrl-C, and all that tests start would
# do so too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts the processes of support/workers.py."""
    with Zygote() as started:
        yield started
