"""Steps of the scenarios in `protections`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg

from tests.paths import ROOT
from tests.proof.crash.ordering import PaymentOrder, ask, clients, ordinary_order
from tests.proof.crash.table import Kind
from tests.proof.crash.waiting import stage_of, wait_until
from tests.spec.system import System


async def begin(
    system: System,
    kind: Kind,
    scenario: str = "approve",
    *,
    times: int | None = None,
    **params: Any,
) -> PaymentOrder:
    """Ask for a payment that meets `scenario`."""
    order = await ordinary_order(system, kind, scenario, params, times=times)
    answer = await ask(clients(system), order)
    assert answer is not None
    order.note_acceptance(answer)
    return order


async def wait_for_stage(system: System, order: PaymentOrder, *stages: str) -> None:
    await wait_until(
        partial(stage_of, system, order), lambda seen: seen in stages, " or ".join(stages)
    )


async def wait_for_claimed_sends(system: System) -> None:
    """Wait for every send under way, because a worker that ends gives back what it has not sent."""
    sending = "SELECT id FROM mkwanja.payments WHERE stage = 'submitting'"
    await wait_until(lambda: system.rows(sending), lambda rows: not rows, "the end of every send")


async def row_of(system: System, order: PaymentOrder) -> Any:
    [row] = await system.rows(
        "SELECT * FROM mkwanja.payments WHERE id = $1::uuid", order.payment_id
    )
    return row


@asynccontextmanager
async def hold_row(system: System, order: PaymentOrder) -> AsyncIterator[None]:
    """Lock the row of the payment."""
    connection = await asyncpg.connect(system.stack.database_url, statement_cache_size=0)
    try:
        async with connection.transaction():
            await connection.fetch(
                "SELECT FROM mkwanja.payments WHERE id = $1::uuid FOR UPDATE", order.payment_id
            )
            yield
    finally:
        await connection.close()


async def held_result(system: System, order: PaymentOrder) -> Any:
    """The result of a payment, once the simulator holds it."""

    async def held() -> list[Any]:
        items = (await system.control("GET", "/callbacks"))["held"]
        return [item for item in items if order.payment_id in item["url"]]

    return (await wait_until(held, what="its result"))[0]


async def switch_payouts(system: System, action: str) -> None:
    """`python -m workers payouts stop`, as an operator runs it."""
    options = ("--reason", "a test of the brakes")
    command = [sys.executable, "-m", "workers", "payouts", action, *options]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=system.stack.env("release"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
