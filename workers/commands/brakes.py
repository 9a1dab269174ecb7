"""`payouts` and `operations`: stop and start payouts, show and release held operations."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brake, Brakes
from domain.operations import Operation
from domain.views import timestamp
from workers.commands.arguments import add_json, add_operator, add_reason, operator_name
from workers.commands.command import DONE, Call, Command
from workers.commands.output import Output

_POLL_SECONDS = 0.25


def _add_payouts(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    stop = actions.add_parser(
        "stop", help="stop payouts, wait for those that are being sent now, and print each of them"
    )
    add_reason(stop)
    add_operator(stop)
    start = actions.add_parser(
        "start", help="release the kill switch; the breaker closes by itself, or with --breaker"
    )
    add_reason(start)
    add_operator(start)
    start.add_argument(
        "--breaker",
        action="store_true",
        help="also close the breaker, because the credential is repaired",
    )
    status = actions.add_parser("status", help="print both brakes")
    for action in (stop, start, status):
        add_json(action)


async def _run_payouts(call: Call) -> int:
    brakes, arguments = Brakes(call.database), call.arguments
    if arguments.action == "stop":
        return await _stop(brakes, _decision(arguments), call.output)
    released: list[str] = []
    if arguments.action == "start":
        names = (KILL_SWITCH, BREAKER) if arguments.breaker else (KILL_SWITCH,)
        released = list(await brakes.set(*names, is_engaged=False, **_decision(arguments)))
        for name in released:
            call.output.print_line(f"{name}: released")
    return await _print_brakes(brakes, released, call.output)


def _decision(arguments: argparse.Namespace) -> dict[str, str]:
    """The reason and the operator's name, which the history of the brakes records."""
    return {"reason": arguments.reason, "operator": operator_name(arguments)}


async def _stop(brakes: Brakes, decision: dict[str, str], output: Output) -> int:
    changed = await brakes.set(KILL_SWITCH, is_engaged=True, **decision)
    sent = {row.id: row for row in await brakes.payouts_on_the_wire()}
    output.print_line(
        "payouts are stopped: no more payouts are claimed"
        if changed
        else "payouts were stopped already"
    )
    while await brakes.payouts_on_the_wire():  # noqa: ASYNC110 - only PostgreSQL knows
        await asyncio.sleep(_POLL_SECONDS)
    stages = await brakes.stages(list(sent))
    for payment_id, row in sent.items():
        output.print_line(
            f"was being sent: {row.kind} {payment_id} of KES {row.amount_kes}, now"
            f" {stages[payment_id]}"
        )
    was_or_were = "was" if len(sent) == 1 else "were"
    output.print_line(
        f"no payout is being sent now; {len(sent)} {was_or_were} when this command began"
    )
    if output.is_json:
        items = [
            {
                "id": str(payment_id),
                "kind": row.kind,
                "amount": row.amount_kes,
                "stage": str(stages[payment_id]),
            }
            for payment_id, row in sent.items()
        ]
        output.print_json({"was_stopped_already": not changed, "were_being_sent": items})
    return DONE


async def _print_brakes(brakes: Brakes, released: list[str], output: Output) -> int:
    rows = await brakes.read()
    for brake in rows:
        state = f"ENGAGED, {brake.reason}" if brake.is_engaged else "released"
        output.print_line(f"{brake.name}: {state} (since {brake.changed_at:%Y-%m-%d %H:%M:%S %Z})")
    if output.is_json:
        output.print_json({"released": released, "brakes": [_brake_view(brake) for brake in rows]})
    return DONE


def _brake_view(brake: Brake) -> dict[str, Any]:
    return {
        "name": str(brake.name),
        "is_engaged": brake.is_engaged,
        "reason": brake.reason,
        "since": timestamp(brake.changed_at),
    }


def _add_operations(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    status = actions.add_parser(
        "status",
        help="print each operation: whether and why it is held, since when, how many payments wait",
    )
    release = actions.add_parser(
        "release", help="release the operation, so that the payments that wait for it go on"
    )
    release.add_argument("name", choices=[operation.value for operation in Operation])
    add_reason(release, "what was repaired")
    add_operator(release)
    for action in (status, release):
        add_json(action)


async def _run_operations(call: Call) -> int:
    brakes, arguments, output = Brakes(call.database), call.arguments, call.output
    released: list[str] = []
    if arguments.action == "release":
        if await brakes.set(arguments.name, is_engaged=False, **_decision(arguments)):
            released = [arguments.name]
            output.print_line(
                f"{arguments.name}: released; a payment that waits for nothing else goes on"
                " within seconds"
            )
        else:
            output.print_line(f"{arguments.name}: was not held")
    operations = await brakes.operations()
    for operation in operations:
        brake = operation.brake
        state = "free"
        if brake.is_engaged:
            state = f"HELD, {brake.reason} (since {brake.changed_at:%Y-%m-%d %H:%M:%S %Z})"
            state += f", next probe {operation.probe_at:%Y-%m-%d %H:%M:%S %Z}"
            state += f", probed {operation.probes} times"
        output.print_line(f"{brake.name}: {state}, {operation.waiting} waiting")
    if output.is_json:
        items = [
            _brake_view(operation.brake)
            | {
                "next_probe_at": timestamp(operation.probe_at) if operation.probe_at else None,
                "probes": operation.probes,
                "waiting": operation.waiting,
            }
            for operation in operations
        ]
        output.print_json({"released": released, "operations": items})
    return DONE


PAYOUTS = Command(
    "payouts", "stop or start payouts; deposits are not affected", _add_payouts, _run_payouts
)
OPERATIONS = Command(
    "operations",
    "show or release the operations that are held because Daraja refuses them",
    _add_operations,
    _run_operations,
)
