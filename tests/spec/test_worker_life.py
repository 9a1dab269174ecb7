"""Workers pay once, even if jobs are stale or repeated, and even if a worker's clock is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.playing import begin
from tests.spec.queueing import queue_job, wait_until_all_jobs_ended
from tests.spec.recovering import nothing_restarted
from tests.spec.system import System

# Leases are short, and the service inquires soon.
_INQUIRE_SOON: dict[str, str | None] = {
    "SUBMITTING_LEASE_SECONDS": "3",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "2",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
}

# The worker with a clock that is wrong by the seconds in the first argument.
_WRONG_CLOCK = (
    "import time, sys; right, wrong = time.time, float(sys.argv.pop(1));"
    " time.time = lambda: right() + wrong; import workers.__main__ as it; it.main()"
)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(env=_INQUIRE_SOON, workers=2) as system:
        yield system


@pytest.fixture
async def redis(system: System) -> AsyncIterator[Redis]:
    async with Redis.from_url(system.stack.redis_url) as redis:
        yield redis


async def _snapshot(system: System, payment_ids: list[str]) -> Any:
    rows = await system.rows(
        "SELECT * FROM mkwanja.payments WHERE id = ANY($1::uuid[]) ORDER BY id", payment_ids
    )
    history = [await system.backend.history(payment_id) for payment_id in payment_ids]
    return rows, history, [await system.provider_requests(payment_id) for payment_id in payment_ids]


async def test_stale_jobs_change_nothing(system: System, redis: Redis) -> None:
    """Jobs are repeated, late or malformed. Their payments are final, wait, or do not exist."""
    final = [await begin(system, "b2c", "approve"), await begin(system, "stk", "cancel")]
    for payment_id in final:
        await system.settled(payment_id)
    awaited = await begin(system, "b2c", "slow_result", seconds=600)
    await system.in_stage(awaited, "awaiting_result")
    await system.forget_open_payments()
    before = await _snapshot(system, [*final, awaited])
    for payment_id in [*final, awaited, str(uuid4())] * 10:
        await queue_job(redis, payment_id)
        await queue_job(redis, payment_id, late_ms=7_200_000)
    for arguments in ((), ("INV00042",), (None,), (17,), (final[0], final[1])):
        await queue_job(redis, *arguments)
    await queue_job(redis, final[0], function="pay_again")
    await wait_until_all_jobs_ended(system, redis)
    assert await _snapshot(system, [*final, awaited]) == before
    with nothing_restarted(system):
        await system.wait_until_paid([await system.withdrawal()])


async def test_many_jobs_for_one_payment_pay_it_once(system: System, redis: Redis) -> None:
    """Two workers find twenty jobs for each payment at once."""
    workers = [system.stack.process(name) for name in ("worker.1", "worker.2")]
    for worker in workers:
        worker.freeze()
    try:
        pays = (pay() for pay in (system.withdrawal, system.deposit) for _ in range(3))
        payment_ids = list(await asyncio.gather(*pays))
        for payment_id in payment_ids * 20:
            await queue_job(redis, payment_id)
    finally:
        for worker in workers:
            worker.thaw()
    await system.wait_until_paid(payment_ids)
    attempts = (
        "SELECT count(*) AS claims FROM mkwanja.attempts WHERE payment_id = ANY($1::uuid[])"
        " AND outcome <> 'not_acted'"
    )
    assert await system.rows(attempts, payment_ids) == [{"claims": 6}]


@pytest.mark.parametrize("wrong_by", [3600, -3600])
@pytest.mark.sampled(1)
async def test_a_lease_ends_by_the_databases_clock(system: System, wrong_by: int) -> None:
    """A worker's clock is an hour wrong.

    The worker leaves a payment alone while its lease runs, and continues with it after the lease.
    It also pays new payments.
    """
    # A worker resends a payment only if its own account sent it. The SQL below therefore copies
    # the account from the attempt of `example`.
    example = await system.withdrawal()
    await system.settled(example)
    await system.stack.kill_workers()
    live, over = [await begin(system, "b2c", "approve") for _ in range(2)]
    claim = (
        "WITH attempt AS ("
        "INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at, account)"
        " SELECT gen_random_uuid(), $1::uuid, 1, now(), account FROM mkwanja.attempts"
        " WHERE payment_id = $3::uuid RETURNING id)"
        " UPDATE mkwanja.payments SET stage = 'submitting',"
        " attempt_id = (SELECT id FROM attempt), next_step = 'end_lease',"
        " lease_until = now() + $2 * interval '1 second', next_step_at = now() WHERE id = $1::uuid"
    )
    await system.execute(claim, live, 1800, example)
    await system.execute(claim, over, 0, example)
    await system.stack.redis.flush()
    command = f'python -c "{_WRONG_CLOCK}" {wrong_by}'
    await system.stack.start_process("worker.3", command=command)
    await system.wait_until_paid([await system.withdrawal(), over])
    assert (await system.stages(over))[1] == "in_doubt"
    assert await system.stage_counts([live]) == {"submitting": 1}
    await system.execute(
        "UPDATE mkwanja.payments SET lease_until = now(), next_step_at = now() WHERE id = $1::uuid",
        live,
    )
    await system.wait_until_paid([live])
    await system.stack.process("worker.3").kill()
    await system.stack.start_workers()
