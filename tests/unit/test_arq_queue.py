"""The job loop ends when it is cancelled, and no process starts with an untested arq."""

from __future__ import annotations

import asyncio
import re
import tomllib
from pathlib import Path

import pytest

from domain.adapters.redis import arq_queue
from domain.adapters.redis.arq_queue import require_tested_arq
from domain.adapters.redis.cancelling import end_task
from domain.adapters.redis.connection import connect
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.errors import SettingsError


class Stubborn:
    """Its task swallows the first `swallows` cancellations."""

    def __init__(self, swallows: int) -> None:
        self.swallowed = 0
        self._swallows = swallows

    async def work(self) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if self.swallowed == self._swallows:
                    raise
                self.swallowed += 1


async def test_a_loop_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """On Python 3.11, redis-py swallows a cancellation that arrives when a send completes."""
    stubborn = Stubborn(2)
    task = asyncio.create_task(stubborn.work())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
    assert stubborn.swallowed == 2


async def test_the_loop_ends_even_if_the_caller_of_end_task_is_cancelled() -> None:
    """A loop that runs on would keep the process alive."""
    task = asyncio.create_task(Stubborn(2).work())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end_task(task))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert task.cancelled()


async def test_end_task_does_not_raise_the_error_of_a_failed_loop() -> None:
    async def work() -> None:
        raise LookupError

    task = asyncio.create_task(work())
    await asyncio.wait({task})
    await end_task(task)
    assert isinstance(task.exception(), LookupError)


@pytest.mark.parametrize("version", ["0.27.9", "0.29.0", "0.280.1", "1.0", "0.28"])
def test_an_untested_version_of_arq_is_rejected(version: str) -> None:
    with pytest.raises(
        SettingsError,
        match=f"^cannot start; arq {re.escape(version)} is installed, but only 0.28 is tested",
    ):
        require_tested_arq(version)


def test_an_arq_with_another_name_for_its_fixed_key_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """arq's key must be in the slot of our keys, because arq uses both in one transaction."""
    monkeypatch.setattr(arq_queue, "abort_jobs_ss", "arq:aborted")
    with pytest.raises(SettingsError, match="arq:aborted"):
        require_tested_arq()


async def test_redis_wakeups_check_the_version_of_arq(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of the three processes creates `RedisWakeups` before the process is ready."""

    def refuse() -> None:
        raise RuntimeError("not tested")

    monkeypatch.setattr(arq_queue, "require_tested_arq", refuse)
    with pytest.raises(RuntimeError, match="not tested"):
        RedisWakeups(connect("redis://localhost:1", client_name="mkwanja-test"))


def test_the_bound_in_pyproject_is_the_tested_version() -> None:
    root = Path(__file__).resolve().parent.parent.parent
    dependencies = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [text for text in dependencies if text.startswith("arq")] == ["arq>=0.28,<0.29"]
    for version in ("0.28.0", "0.28.1", "0.28.11"):
        require_tested_arq(version)
