"""Plays the person who settles open payments at the end, by M-PESA's statement, as in the runbook.

The statement is the simulator's ledger. The person runs the real commands (`python -m workers ask`,
`resolve`). The service refuses a command that the evidence contradicts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.spec.operating import operate_all
from tests.spec.system import System

_TO_SETTLE = """
SELECT id::text AS id, kind, stage, failure_reason FROM mkwanja.payments
WHERE (stage NOT IN ('succeeded', 'failed') AND needs_review) OR stage = 'failed' ORDER BY id
"""
# Settings of the worker that the commands need, because `unpaid` is refused before these times.
_TIMES = (
    "DEPOSIT_RESULT_WINDOW_SECONDS",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS",
    "INQUIRY_INTERVAL_MAX_SECONDS",
)
_CONCLUDED = ("no_result_confirmed", "resolved_by_operator")
_REASON = ("--reason", "the statement at the end of the soak", "--operator", "soak")


@dataclass(slots=True)
class Settled:
    """The payments that were left for a person, and the commands that were done or refused."""

    left: Counter[str] = field(default_factory=Counter)
    done: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


async def settle_by_statement(system: System) -> Settled:
    """Compare open and failed payments with the statement, and settle them by commands."""
    items = (await system.control("GET", "/ledger"))["items"]
    moved = {item["result_url"].split("/results/", 1)[1].split("/", 1)[0]: item for item in items}
    settled = Settled()
    commands: list[list[str]] = []
    for row in await system.rows(_TO_SETTLE):
        decision = ["unpaid"]
        if movement := moved.get(row["id"]):
            amount = str(movement["amount"])
            decision = ["paid", "--receipt", movement["receipt"], "--amount", amount]
        elif row["stage"] == "failed":
            continue
        if row["stage"] != "failed" or row["failure_reason"] in _CONCLUDED:
            commands.append(["resolve", row["id"], *decision, *_REASON])
        else:
            commands.append(["ask", row["id"], *_REASON])
        settled.left[f"{row['kind']} {row['stage']} ({row['failure_reason'] or 'no reason'})"] += 1
    settings = system.stack.env("worker")
    results = await operate_all(system, commands, env={name: settings[name] for name in _TIMES})
    for command, result in zip(commands, results, strict=True):
        line = f"{' '.join(command[:3])}: {' '.join(result.lines)}"
        (settled.done if result.code == 0 else settled.refused).append(line)
    return settled
