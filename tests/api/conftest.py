"""Fixtures of the API's tests."""

from collections.abc import Iterator

import pytest

import mqlog


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    """An empty store in memory."""
    with mqlog.temporary() as opened:
        yield opened
