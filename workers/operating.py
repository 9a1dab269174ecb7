"""The operator's commands: stop and start payouts, release operations, settle a payment.

`python -m workers payouts stop|start|status`, `operations status|release`, `accounts`, `ask`,
`resolve`. They need only DATABASE_URL, so that they work even if the worker's settings are wrong.
`resolve` also reads three time settings of the worker, if they are set (`OperatorSettings`).
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from domain.adapters.postgres.accounts import Accounts
from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.adapters.postgres.changing import PostgresChangingStore
from domain.adapters.postgres.engine import Database
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import OperatorSettings
from domain.errors import ResolutionRefused, StoreUnavailable
from domain.lifecycle.resolve import (
    OperatorDecision,
    Resolution,
    inquiry_request_change,
    resolution_change,
)
from domain.operations import Operation
from domain.times import DEFAULT_TIMES, Times
from domain.values import is_receipt
from workers.accounts import account_fields

_POLL_SECONDS = 0.25


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds these commands to the command line of `python -m workers`."""
    payouts = commands.add_parser(
        "payouts", help="stop or start payouts; deposits are not affected"
    )
    payout_actions = payouts.add_subparsers(dest="action", required=True)
    stop = payout_actions.add_parser(
        "stop", help="stop payouts, wait for those that are being sent now, and print each of them"
    )
    stop.add_argument("--reason", required=True, type=_reason)
    start = payout_actions.add_parser(
        "start", help="release the kill switch; the breaker closes by itself, or with --breaker"
    )
    start.add_argument("--reason", required=True, type=_reason)
    start.add_argument(
        "--breaker",
        action="store_true",
        help="also close the breaker, because the credential is repaired",
    )
    payout_actions.add_parser("status", help="print both brakes")
    operations = commands.add_parser(
        "operations",
        help="show or release the operations that are held because Daraja refuses them",
    )
    operation_actions = operations.add_subparsers(dest="action", required=True)
    operation_actions.add_parser(
        "status",
        help="print each operation: whether and why it is held, since when, how many payments wait",
    )
    release = operation_actions.add_parser(
        "release", help="release the operation, so that the payments that wait for it go on"
    )
    release.add_argument("name", choices=[operation.value for operation in Operation])
    release.add_argument("--reason", required=True, type=_reason, help="what was repaired")
    commands.add_parser("accounts", help="print how many open payments each account has sent")
    ask = commands.add_parser("ask", help="inquire about a payment once more, even if it is final")
    ask.add_argument("payment_id", type=UUID)
    ask.add_argument("--reason", required=True, type=_reason)
    ask.add_argument("--operator", default=None, help="your name (default: your login name)")
    resolve = commands.add_parser("resolve", help="settle a payment by M-PESA's own statement")
    resolve.add_argument("payment_id", type=UUID)
    resolve.add_argument("decision", choices=[decision.value for decision in OperatorDecision])
    resolve.add_argument("--reason", required=True, type=_reason, help="what you saw, and where")
    resolve.add_argument(
        "--receipt", type=_receipt, help="M-PESA's receipt number; needed for 'paid'"
    )
    resolve.add_argument(
        "--amount",
        type=_amount,
        help="for 'paid': the amount on the statement, if it is not the payment's own",
    )
    resolve.add_argument("--operator", default=None, help="your name (default: your login name)")


def operate(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code. Raises SettingsError."""
    try:
        return asyncio.run(_operate(arguments))
    except ResolutionRefused as refusal:
        print(f"refused: {refusal.message}")
        return 1
    except StoreUnavailable:
        print("PostgreSQL cannot be reached. The change may or may not be stored. Run it again.")
        return 2


async def _operate(arguments: argparse.Namespace) -> int:
    settings = read_settings(MigrationSettings)
    async with _database(settings.database_url) as database:
        if arguments.command == "accounts":
            return await _print_accounts(Accounts(database))
        if arguments.command == "ask":
            return await _ask(PostgresChangingStore(database), arguments)
        if arguments.command == "resolve":
            return await _resolve(PostgresChangingStore(database), arguments)
        brakes = Brakes(database)
        if arguments.command == "operations":
            if arguments.action == "release":
                await _release(brakes, arguments.name, arguments.reason)
            return await _print_operations(brakes)
        if arguments.action == "stop":
            return await _stop(brakes, arguments.reason)
        if arguments.action == "start":
            return await _start(brakes, arguments.reason, with_breaker=arguments.breaker)
        return await _print_status(brakes)


async def _stop(brakes: Brakes, reason: str) -> int:
    changed = await brakes.set(KILL_SWITCH, is_engaged=True, reason=reason)
    print(
        "payouts are stopped: no more payouts are claimed"
        if changed
        else "payouts were stopped already"
    )
    sent = {row.id: row for row in await brakes.payouts_on_the_wire()}
    while await brakes.payouts_on_the_wire():  # noqa: ASYNC110 - only PostgreSQL knows
        await asyncio.sleep(_POLL_SECONDS)
    stages = await brakes.stages(list(sent))
    for payment_id, row in sent.items():
        print(
            f"was being sent: {row.kind} {payment_id} of KES {row.amount_kes}, now"
            f" {stages[payment_id]}"
        )
    was_or_were = "was" if len(sent) == 1 else "were"
    print(f"no payout is being sent now; {len(sent)} {was_or_were} when this command began")
    return 0


async def _start(brakes: Brakes, reason: str, *, with_breaker: bool) -> int:
    names = (KILL_SWITCH, BREAKER) if with_breaker else (KILL_SWITCH,)
    for name in await brakes.set(*names, is_engaged=False, reason=reason):
        print(f"{name}: released")
    return await _print_status(brakes)


async def _print_status(brakes: Brakes) -> int:
    for brake in await brakes.read():
        state = f"ENGAGED, {brake.reason}" if brake.is_engaged else "released"
        print(f"{brake.name}: {state} (since {brake.changed_at:%Y-%m-%d %H:%M:%S %Z})")
    return 0


async def _release(brakes: Brakes, name: str, reason: str) -> None:
    changed = await brakes.set(name, is_engaged=False, reason=reason)
    print(
        f"{name}: released; the payments that wait for it go on within seconds"
        if changed
        else f"{name}: was not held"
    )


async def _print_operations(brakes: Brakes) -> int:
    for operation in await brakes.operations():
        brake = operation.brake
        state = "free"
        if brake.is_engaged:
            state = f"HELD, {brake.reason} (since {brake.changed_at:%Y-%m-%d %H:%M:%S %Z})"
            state += f", next probe {operation.probe_at:%Y-%m-%d %H:%M:%S %Z}"
            state += f", probed {operation.probes} times"
        print(f"{brake.name}: {state}, {operation.waiting} waiting")
    return 0


async def _print_accounts(accounts: Accounts) -> int:
    open_payments = await accounts.open_payments()
    for account, payments in open_payments.items():
        fields = account_fields(account) if account is not None else {}
        sent_by = ", ".join(f"{name} {value}" for name, value in fields.items())
        print(f"{payments} open: {sent_by or 'sent before accounts were recorded'}")
    if not open_payments:
        print("no sent payment is open")
    return 0


async def _ask(changes: PostgresChangingStore, arguments: argparse.Namespace) -> int:
    operator = arguments.operator or _login_name()
    await changes.change(
        inquiry_request_change(arguments.payment_id, reason=arguments.reason, operator=operator)
    )
    print(
        "a worker inquires as soon as the inquiry budget allows; the answer counts like any other"
    )
    return 0


async def _resolve(changes: PostgresChangingStore, arguments: argparse.Namespace) -> int:
    resolution = Resolution(
        decision=OperatorDecision(arguments.decision),
        reason=arguments.reason,
        operator=arguments.operator or _login_name(),
        receipt=arguments.receipt,
        amount_kes=arguments.amount,
    )
    result = await changes.change(resolution_change(arguments.payment_id, resolution, _times()))
    payment = result.decided.payment
    assert payment is not None  # noqa: S101 - `change` raises if there is no such payment
    settled = f" with KES {payment.amount_settled_kes}" if payment.amount_settled_kes else ""
    print(f"{payment.kind} {payment.id}: {payment.stage}{settled}, no longer flagged for review")
    return 0


def _times() -> Times:
    """The worker's times, or the default times if a setting in the environment is not valid.

    `resolve` must work even if the worker's settings are wrong.
    """
    try:
        settings = read_settings(OperatorSettings)
    except SettingsError:
        return DEFAULT_TIMES
    return replace(
        DEFAULT_TIMES,
        result_window=timedelta(seconds=settings.deposit_result_window_seconds),
        not_found_trusted_after=timedelta(seconds=settings.not_found_trusted_after_seconds),
        inquiry_interval_max=timedelta(seconds=settings.inquiry_interval_max_seconds),
    )


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=1, application_name="mkwanja-operator")
    try:
        yield database
    finally:
        await database.close()


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _reason(text: str) -> str:
    text = text.strip()
    if not 3 <= len(text) <= 500 or not text.isprintable():
        raise argparse.ArgumentTypeError("give the reason in 3 to 500 printable characters")
    return text


def _amount(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError("not an amount in whole shillings, such as 400")
    return int(text)


def _receipt(text: str) -> str:
    text = text.strip().upper()
    if not is_receipt(text):
        raise argparse.ArgumentTypeError("not an M-PESA receipt number, such as UC14KD82QZ")
    return text
