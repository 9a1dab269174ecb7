"""Helps tests about outages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.spec.system import System


@contextmanager
def nothing_restarted(system: System) -> Iterator[None]:
    """Check that no process ends or restarts during the block."""
    processes = [system.stack.process(name) for name in system.stack.names]
    before = {process.name: process.pid for process in processes if process.is_running}
    yield
    assert {process.name: process.pid for process in processes if process.is_running} == before
