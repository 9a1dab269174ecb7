"""The person at the end, who settles open payments by M-PESA's statement, as in the runbook.

The statement is the simulator's ledger. The person runs the real commands (`python -m workers ask`,
`resolve`). A command is refused if evidence contradicts it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import asyncpg

from tests.spec.operating import operate_all
from tests.stack.stack import Stack

_TO_SETTLE = """
SELECT id::text AS id, kind, stage, failure_reason, needs_review FROM mkwanja.payments
WHERE (stage NOT IN ('succeeded', 'failed') AND needs_review) OR stage = 'failed' ORDER BY id
"""
# The worker's settings: before these times `unpaid` is refused.
_TIMES = (
    "DEPOSIT_RESULT_WINDOW_SECONDS",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS",
    "INQUIRY_INTERVAL_MAX_SECONDS",
)
_CONCLUDED = ("no_result_confirmed", "resolved_by_operator")
_REASON = ("--reason", "the statement at the end of the soak", "--operator", "soak")


@dataclass(slots=True)
class Settled:
    """What was left for a person, by kind and reason, and the commands for each."""

    left: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Here:
    stack: Stack


async def settle_by_statement(stack: Stack) -> Settled:
    """Compare open and failed payments with the statement, and settle them by commands."""
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        http.get(f"{stack.control_url}/ledger") as answer,
    ):
        items = (await answer.json())["items"]
    moved = {item["result_url"].split("/results/", 1)[1].split("/", 1)[0]: item for item in items}
    connection = await asyncpg.connect(stack.database_url, statement_cache_size=0)
    try:
        rows = await connection.fetch(_TO_SETTLE)
    finally:
        await connection.close()
    settled = Settled()
    commands: list[list[str]] = []
    for row in rows:
        movement = moved.get(row["id"])
        paid = (
            ["paid", "--receipt", movement["receipt"], "--amount", str(movement["amount"])]
            if movement
            else None
        )
        if row["stage"] != "failed":
            commands.append(["resolve", row["id"], *(paid or ["unpaid"]), *_REASON])
        elif paid and row["failure_reason"] in _CONCLUDED:
            commands.append(["resolve", row["id"], *paid, *_REASON])
        elif paid:
            commands.append(["ask", row["id"], *_REASON])
        else:
            continue
        settled.left[f"{row['kind']} {row['stage']} ({row['failure_reason'] or 'no reason'})"] += 1
    times = {name: value for name, value in stack.env("worker").items() if name in _TIMES}
    for command, result in zip(
        commands, await operate_all(_Here(stack), commands, env=times), strict=True
    ):
        line = f"{' '.join(command[:3])}: {' '.join(result.lines)}"
        (settled.done if result.code == 0 else settled.refused).append(line)
    return settled
