"""The hourly upkeep of a worker: one failing job stops no other, and what failed is tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from domain.adapters.observability import metrics_text
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.expired_keys import delete_expired_keys
from domain.errors import StoreUnavailable
from tests.integration.conftest import PATIENCE_SECONDS, Store
from tests.integration.partitions import id_of, insert_callback, month, name_of, partitions
from workers import upkeep


async def test_missing_partitions_are_made_and_shown(fresh: Store) -> None:
    """If a month stays without partition, the job is not done, and a metric shows it."""
    await fresh.execute(f"DROP TABLE mkwanja.{name_of('callbacks', 2)}")
    assert await upkeep.make_missing_partitions(fresh.database)
    assert name_of("callbacks", 2) in await partitions(fresh, "callbacks")
    assert metric('mkwanja_partitions_missing{table="callbacks"}') == 0
    await fresh.execute(f"DROP TABLE mkwanja.{name_of('callbacks', 2)}")
    await insert_callback(fresh, id_of(month(2)))
    assert not await upkeep.make_missing_partitions(fresh.database)
    assert metric('mkwanja_partitions_missing{table="callbacks"}') == 1
    assert metric('mkwanja_partition_other_rows{table="callbacks"}') == 1


def metric(name: str) -> float:
    text = metrics_text()[0].decode()
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])


async def test_a_job_that_fails_stops_no_other_and_is_tried_again(
    fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(upkeep, "_RETRY_SECONDS", 0)
    calls: list[str] = []
    errors: list[Exception] = [StoreUnavailable(), RuntimeError("a bug")]
    finished = asyncio.Event()
    real = delete_expired_keys

    async def fail_twice(_: Database) -> Any:
        calls.append("make")
        if errors:
            raise errors.pop()
        finished.set()
        return []

    async def delete(database: Database, **arguments: Any) -> Any:
        calls.append("delete")
        return await real(database, **arguments)

    monkeypatch.setattr(upkeep, "make_partitions", fail_twice)
    monkeypatch.setattr(upkeep, "delete_expired_keys", delete)
    task = asyncio.create_task(upkeep.keep_tables(fresh.database))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await finished.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert calls[:5] == ["make", "delete", "make", "delete", "make"]
