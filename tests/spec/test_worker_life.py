"""A worker's life: killed, frozen, without Redis, without PostgreSQL, with stale jobs.

Every payment still ends as the ledger says.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from tests.spec.conftest import a_system
from tests.spec.playing import begin
from tests.spec.recovering import nothing_restarted, pay_until_accepted
from tests.spec.system import System

# Payments go into doubt soon, and the inquiries come soon.
_BRISK: dict[str, str | None] = {
    "SUBMITTING_LEASE_SECONDS": "3",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "2",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
    "DEPOSIT_EXPIRES_AFTER_SECONDS": "3600",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "10",  # a worker may be frozen before a deposit's first byte
}
_PAYMENTS = 30

_QUEUE = "arq:queue:{arq:abort}"

# The worker with a clock that is wrong by the seconds in the first argument.
_WRONG_CLOCK = (
    "import time, sys; right, wrong = time.time, float(sys.argv.pop(1));"
    " time.time = lambda: right() + wrong; import workers.__main__ as it; it.main()"
)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(env=_BRISK, workers=2) as system:
        yield system


async def _make_payments(system: System, count: int = _PAYMENTS) -> list[str]:
    """Makes `count` payments at once, two withdrawals for each deposit; their ids."""
    pays = [(system.withdrawal, system.deposit, system.withdrawal)[n % 3]() for n in range(count)]
    return list(await asyncio.gather(*pays))


async def _assert_all_end_as_the_ledger_says(system: System, payment_ids: list[str]) -> None:
    """Waits until each payment is final, and compares it with the money that moved."""
    for payment_id in payment_ids:
        await system.settled(payment_id)
    await system.assert_money_agrees(payment_ids)


async def _queue_job(
    redis: Redis, *arguments: Any, function: str = "take_next_step", late_ms: int = 0
) -> None:
    """Puts a job into Redis, in the form that arq reads."""
    now_ms, job_id = int(time.time() * 1000), uuid4().hex
    job: dict[str, Any] = {
        "t": None,
        "f": function,
        "a": list(arguments),
        "k": {},
        "et": now_ms - late_ms,
    }
    await redis.set(f"arq:job:{job_id}", json.dumps(job), ex=600)
    await redis.zadd(_QUEUE, {job_id: now_ms - late_ms})


async def _snapshot(system: System, payment_ids: list[str]) -> Any:
    rows = await system.rows(
        "SELECT * FROM mkwanja.payments WHERE id = ANY($1::uuid[]) ORDER BY id", payment_ids
    )
    history = [await system.backend.history(payment_id) for payment_id in payment_ids]
    return rows, history, [await system.provider_requests(payment_id) for payment_id in payment_ids]


async def test_stale_jobs_change_nothing(system: System) -> None:
    """Repeated, hours late or malformed jobs, for final, awaited and unknown payments."""
    final = [await begin(system, "b2c", "approve"), await begin(system, "stk", "cancel")]
    for payment_id in final:
        await system.settled(payment_id)
    awaited = await begin(system, "b2c", "slow_result", seconds=600)
    await system.in_stage(awaited, "awaiting_result")
    rest = (
        "UPDATE mkwanja.payments SET next_step_at = now() + interval '1 hour' WHERE id = $1::uuid"
    )
    await system.execute(rest, awaited)
    before = await _snapshot(system, [*final, awaited])
    redis: Redis = Redis.from_url(system.stack.redis_url)
    for payment_id in [*final, awaited, str(uuid4())] * 10:
        await _queue_job(redis, payment_id)
        await _queue_job(redis, payment_id, late_ms=7_200_000)
    for arguments in ((), ("INV00042",), (None,), (17,), (final[0], final[1])):
        await _queue_job(redis, *arguments)
    await _queue_job(redis, final[0], function="pay_again")
    await system.eventually(lambda: redis.zcard(_QUEUE), lambda length: length == 0)
    await system.eventually(lambda: redis.keys("arq:in-progress:*"), lambda keys: not keys)
    await redis.aclose()
    assert await _snapshot(system, [*final, awaited]) == before
    with nothing_restarted(system):
        later = await system.withdrawal()
        await _assert_all_end_as_the_ledger_says(system, [later])


async def test_many_jobs_for_one_payment_pay_it_once(system: System) -> None:
    """Two workers find twenty jobs for each payment at once."""
    workers = [system.stack.process(name) for name in ("worker.1", "worker.2")]
    for worker in workers:
        worker.freeze()
    redis: Redis = Redis.from_url(system.stack.redis_url)
    try:
        payment_ids = await _make_payments(system, 6)
        for payment_id in payment_ids * 20:
            await _queue_job(redis, payment_id)
    finally:
        for worker in workers:
            worker.thaw()
    await _assert_all_end_as_the_ledger_says(system, payment_ids)
    await redis.aclose()
    attempts = (
        "SELECT count(*) AS claims FROM mkwanja.attempts WHERE payment_id = ANY($1::uuid[])"
        " AND outcome <> 'not_acted'"
    )
    assert await system.rows(attempts, payment_ids) == [{"claims": 6}]


async def test_payments_end_well_although_workers_are_killed(system: System) -> None:
    """Payments are in every state. The other worker and the next one finish them."""
    payment_ids = await _make_payments(system)
    for name in ("worker.1", "worker.2", "worker.1"):
        await system.stack.process(name).kill()
        payment_ids += await _make_payments(system, 6)
        await system.stack.start_process(name, wait=False)
    await _assert_all_end_as_the_ledger_says(system, payment_ids)


async def test_payments_end_well_although_a_worker_is_frozen_past_its_lease(system: System) -> None:
    """The other worker continues its payments. Thawed, it pays nothing a second time."""
    frozen = system.stack.process("worker.1")
    await system.scenario("slow", api="b2c", times=10, params={"seconds": 0.5})
    payment_ids = await _make_payments(system)
    await system.eventually(
        lambda: system.stage_counts(payment_ids), lambda counts: counts["submitting"]
    )
    frozen.freeze()
    try:
        payment_ids += await _make_payments(system, 6)
        await _assert_all_end_as_the_ledger_says(system, payment_ids)
    finally:
        frozen.thaw()
    payment_ids += await _make_payments(system, 6)
    await _assert_all_end_as_the_ledger_says(system, payment_ids)


async def test_payments_end_well_although_redis_stops_and_postgres_restarts(system: System) -> None:
    """PostgreSQL restarts while Redis is away. No process needs a restart."""
    stack = system.stack
    if not (stack.redis.can_be_stopped and stack.postgres.can_be_stopped):
        pytest.skip("the servers were given; they are not ours to stop")
    with nothing_restarted(system):
        payment_ids = await _make_payments(system)
        await stack.redis.stop()
        payment_ids += await _make_payments(system, 6)
        await stack.postgres.kill()
        await stack.postgres.start()
        payment_ids += await _withdraw_until_accepted(system, 6)
        await stack.redis.start()
        payment_ids += await _withdraw_until_accepted(system, 6)
        await _assert_all_end_as_the_ledger_says(system, payment_ids)


async def _withdraw_until_accepted(system: System, count: int) -> list[str]:
    """Makes withdrawals whose callers retry while the service is unavailable; their ids."""
    body = {"amount": 1200, "phone_number": "0722000222"}
    pays = (pay_until_accepted(system, "/v1/withdrawals", body) for _ in range(count))
    return list(await asyncio.gather(*pays))


@pytest.mark.parametrize("wrong_by", [3600, -3600])
@pytest.mark.sampled(1)
async def test_a_lease_ends_by_the_databases_clock(system: System, wrong_by: int) -> None:
    """A worker whose clock is an hour wrong ends only leases that are over, and still pays."""
    # A payment of an unknown account is not sent again. The claims below are by the account of this
    # withdrawal.
    example = await system.withdrawal()
    await system.settled(example)
    for name in ("worker.1", "worker.2"):
        await system.stack.process(name).kill()
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
    await _assert_all_end_as_the_ledger_says(system, [await system.withdrawal(), over])
    assert (await system.stages(over))[1] == "in_doubt"
    row = (
        "SELECT stage, next_step_at > now() AS is_looked_at_later FROM mkwanja.payments"
        " WHERE id = $1::uuid"
    )
    assert (await system.rows(row, live))[0]["stage"] == "submitting"
    await system.execute(
        "UPDATE mkwanja.payments SET lease_until = now(), next_step_at = now() WHERE id = $1::uuid",
        live,
    )
    await _assert_all_end_as_the_ledger_says(system, [live])
    await system.stack.process("worker.3").kill()
    for name in ("worker.1", "worker.2"):
        await system.stack.start_process(name, wait=False)
