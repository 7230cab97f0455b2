"""For worker processes: time passes between taking a message and beginning to work at it."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import mqlog
from mqlog._worker import Crew
from support import jobs


def work(home: str, message: mqlog.Message[Any]) -> None:
    """What the value says."""
    jobs.handle(home, message)


def _late(crew: Crew, message: mqlog.Message[Any]) -> bool:
    time.sleep(0.5)
    return _admits(crew, message)


_admits = Crew._admits
if multiprocessing.parent_process() is not None:
    Crew._admits = _late  # type: ignore[method-assign]
