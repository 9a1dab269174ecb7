"""The person at the end, who settles open payments by M-PESA's statement, as in the runbook.

The statement is the simulator's ledger. The person runs the real commands (`python -m workers ask`,
`resolve`). A command is refused if evidence contradicts it.
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
