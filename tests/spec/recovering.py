"""Helpers of tests about outages: no process restarts, and callers retry until they succeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from tests.spec.system import System


@contextmanager
def nothing_restarted(system: System) -> Iterator[None]:
    """Check that the processes that run now still run at the end."""
    processes = [system.stack.process(name) for name in system.stack.names]
    before = {process.name: process.pid for process in processes if process.is_running}
    yield
    assert {process.name: process.pid for process in processes if process.is_running} == before


async def pay_until_accepted(system: System, path: str, body: dict[str, Any]) -> str:
    """Repeat a request, with one key, until the service is available; the payment's id."""
    key = str(uuid4())
    answer = await system.eventually(
        lambda: system.backend.pay(path, body, key=key), lambda answer: answer.status != 503
    )
    return str(answer.expect(202).json()["id"])
