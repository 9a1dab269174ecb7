"""Payments that count against limits, the sums that must equal the meters, and busy callers."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from uuid import UUID

from domain.adapters.postgres.meters import BUSY_ROWS
from domain.changes import Change
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.accept import NewPayment
from domain.lifecycle.record_callback import callback_change
from domain.policy import Charge, LimitName
from domain.report import ReportedOutcome
from domain.values import Caller, Role
from tests import builders
from tests.integration.conftest import Store, a_callback, a_new_payment

_CALLERS = itertools.count()
_PHONES = itertools.count(254_700_000_000)

_POSSIBLY_PAID = Failure(FailureReason.NO_RESPONSE, safe_to_retry=False, provider_code="1037")

# What each limit of a day has used, summed over the payments. It is written here once more, so that
# the product's own SQL is not its own judge.
USED_OF_DAY = """
    SELECT coalesce(sum(amount_kes), 0) FROM mkwanja.payments
    WHERE {subject} = $1 AND (created_at AT TIME ZONE 'Africa/Nairobi')::date = $2
      AND (stage <> 'failed' OR failure_safe_to_retry IS NOT TRUE)
"""
SUBJECTS = {LimitName.CALLER_DAY: "caller_key", LimitName.PHONE_DAY: "phone_number"}
TODAY = "SELECT (now() AT TIME ZONE 'Africa/Nairobi')::date"

# Writes payments as any process of any release may, without our code.
FILL = """
    INSERT INTO mkwanja.payments (id, kind, stage, caller_key, amount_kes, phone_number, metadata,
        idempotency_key, created_at, updated_at, sequence, next_step_at, next_step, expires_at,
        moves_money_out)
    SELECT gen_random_uuid(), 'withdrawal', 'accepted', $1, 1, $2, '{}', gen_random_uuid()::text,
        now(), now(), 1, now() + interval '1 day', 'submit', now() + interval '1 day', true
    FROM generate_series(1, $3)
"""


def a_caller() -> Caller:
    return Caller("https://project.example/auth/v1", f"caller-{next(_CALLERS)}", Role.BACKEND)


def a_phone() -> str:
    return str(next(_PHONES))


def charged(
    caller: Caller | None = None,
    kind: Kind = Kind.DEPOSIT,
    *,
    per_day: int | None = None,
    phone_per_day: int | None = None,
    per_minute: int | None = None,
    key: str | None = None,
    **changes: Any,
) -> NewPayment:
    """Return a new payment that is charged to the given limits."""
    caller = caller or a_caller()
    if kind is not Kind.BILL_PAYMENT:
        changes.setdefault("phone_number", a_phone())
    new = replace(a_new_payment(kind, key=key, **changes), caller=caller)
    amount, phone = new.request.amount_kes, new.request.phone_number or ""
    charges = [
        (LimitName.CALLER_DAY, caller.key, amount, per_day),
        (LimitName.PHONE_DAY, phone, amount, phone_per_day),
        (LimitName.PHONE_MINUTE, phone, 1, per_minute),
    ]
    return replace(
        new,
        charges=tuple(
            Charge(name, subject, cost, limit)
            for name, subject, cost, limit in charges
            if limit is not None
        ),
    )


async def fill(store: Store, caller: Caller, phone: str, count: int = BUSY_ROWS + 1) -> None:
    """Write `count` payments of one shilling each, by SQL."""
    await store.execute(FILL, caller.key, phone, count)


async def busy_caller(store: Store, *, amount_per_day: int = 1_000_000) -> Caller:
    """Return a caller whose meter is counted."""
    caller = a_caller()
    await fill(store, caller, a_phone())
    for _ in range(3):
        await store.accept(charged(caller, per_day=amount_per_day, amount_kes=1))
    assert await metered(store, caller) is not None
    return caller


async def metered(store: Store, caller: Caller) -> int | None:
    """Return what the meter of the caller's day says. None: it is not counted, or not open."""
    rows = await store.rows(
        "SELECT amount + coalesce((SELECT sum(amount) FROM mkwanja.limit_changes"
        f" WHERE subject = $1 AND day = ({TODAY})), 0)::bigint AS amount"
        f" FROM mkwanja.limit_meters WHERE subject = $1 AND day = ({TODAY})",
        caller.key,
    )
    return rows[0]["amount"] if rows else None


async def used(store: Store, limit_name: LimitName, subject: str) -> int:
    """Return what is used of a limit today, summed over the payments."""
    sql = USED_OF_DAY.format(subject=SUBJECTS[limit_name])
    return int(await store.one(sql, subject, await store.one(TODAY)))


async def wrong_meters(store: Store) -> list[tuple[str, str, int, int]]:
    """Return the counted meters of all days that differ from their sums. Nothing else may run."""
    rows = await store.rows("""
        SELECT day, limit_name, subject, (amount + coalesce((
            SELECT sum(amount) FROM mkwanja.limit_changes AS change
            WHERE (change.day, change.limit_name, change.subject)
                = (meter.day, meter.limit_name, meter.subject)), 0))::bigint AS amount
        FROM mkwanja.limit_meters AS meter WHERE amount IS NOT NULL
    """)
    wrong = []
    for row in rows:
        sql = USED_OF_DAY.format(subject=SUBJECTS[LimitName(row["limit_name"])])
        expected = await store.one(sql, row["subject"], row["day"])
        if row["amount"] != expected:
            wrong.append((row["limit_name"], row["subject"], row["amount"], expected))
    return wrong


def failure_in_doubt(payment_id: UUID) -> Change:
    """Return the change of a callback with a failure after which money may still have moved."""
    report = builders.a_report(ReportedOutcome.FAILURE, code="1037", failure=_POSSIBLY_PAID)
    return callback_change(payment_id, a_callback(), report)


async def move_to_yesterday(store: Store, payment_id: UUID) -> None:
    await store.update(payment_id, "created_at = created_at - interval '1 day'")
