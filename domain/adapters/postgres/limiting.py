"""Checks the limits, in the transaction that accepts the payments.

A request locks the limit's key before it sums the payments. Two requests therefore never count the
same remaining allowance. The sums are always computed from the payments themselves, so there
is no stored count that could be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from domain.adapters.postgres.engine import CONTENDED, Transaction, sqlstate
from domain.adapters.postgres.locks import LOCK_LIMIT
from domain.adapters.postgres.statements import sql
from domain.errors import RequestRefused
from domain.kinds import kinds_that
from domain.lifecycle.accept import NewPayment
from domain.policy import MINUTE, Allowances, LimitName, Usage, day_began_at
from domain.stages import Stage

_LOCK = sql(f"SELECT {LOCK_LIMIT} FROM unnest(CAST(:numbers AS int[])) AS number ORDER BY number")

# Every payment counts against the limits of a day, unless it certainly moved no money.
_COUNTS = f"(stage <> '{Stage.FAILED}' OR NOT coalesce(failure_safe_to_retry, false))"

_USED = sql(f"""
SELECT '{LimitName.CALLER_DAY}' AS limit_name, caller_key AS subject,
    sum(amount_kes) AS amount, min(created_at) AS oldest
FROM mkwanja.payments
WHERE caller_key = ANY(CAST(:callers AS text[])) AND created_at >= :day AND {_COUNTS}
GROUP BY caller_key
UNION ALL
SELECT '{LimitName.PHONE_DAY}', phone_number, sum(amount_kes), min(created_at)
FROM mkwanja.payments
WHERE phone_number = ANY(CAST(:phones AS text[])) AND created_at >= :day AND {_COUNTS}
GROUP BY phone_number
UNION ALL
SELECT '{LimitName.PHONE_MINUTE}', phone_number, count(*), min(created_at)
FROM mkwanja.payments
WHERE phone_number = ANY(CAST(:prompted AS text[])) AND created_at > :minute
    AND kind = ANY(CAST(:prompts AS text[]))
GROUP BY phone_number
""")


class AllowanceContended(Exception):
    """Another transaction locks the same limit for longer than we wait."""


async def find_refusals(
    transaction: Transaction,
    batch: Sequence[NewPayment],
    find_ids_with_used_key: Callable[[], Awaitable[set[UUID]]],
) -> dict[UUID, RequestRefused]:
    """The refusals for those payments of `batch` that a limit does not allow, by payment id.

    The other payments together fit the limits, if they are counted in the given order.
    `find_ids_with_used_key` returns the ids of requests that create no payment, because their key
    already has one. The function is called only if a limit would refuse a request.
    """
    if not any(new.charges for new in batch):
        return {}
    counted = sorted({charge.counter_key for new in batch for charge in new.charges})
    numbers = sorted({_lock_number(limit_name, subject) for limit_name, subject in counted})
    try:
        await transaction.run(_LOCK, {"numbers": numbers})
    except Exception as error:
        if sqlstate(error) in CONTENDED:
            raise AllowanceContended from error
        raise
    now = transaction.now
    rows = await transaction.rows(
        _USED,
        {
            "callers": [
                subject for limit_name, subject in counted if limit_name is LimitName.CALLER_DAY
            ],
            "phones": [
                subject for limit_name, subject in counted if limit_name is LimitName.PHONE_DAY
            ],
            "prompted": [
                subject for limit_name, subject in counted if limit_name is LimitName.PHONE_MINUTE
            ],
            "day": day_began_at(now),
            "minute": now - MINUTE,
            "prompts": [kind.value for kind in kinds_that(lambda rules: rules.is_prompt)],
        },
    )
    used = {
        (LimitName(row.limit_name), row.subject): Usage(int(row.amount), row.oldest) for row in rows
    }

    def deduct_all(payments: Sequence[NewPayment]) -> dict[UUID, RequestRefused]:
        """The refusals, if the payments are deducted from the allowances one after the other."""
        allowances = Allowances(used, now)
        refusals = {new.id: allowances.deduct(new.charges) for new in payments}
        return {id_: refusal for id_, refusal in refusals.items() if refusal is not None}

    if not deduct_all(batch):
        return {}
    replayed_ids = await find_ids_with_used_key()
    return deduct_all([new for new in batch if new.id not in replayed_ids])


def _lock_number(limit_name: LimitName, subject: str) -> int:
    """The number of the lock for a caller or a phone number.

    If two callers or phone numbers get the same number, their requests only wait for each other.
    """
    scope = "caller" if limit_name is LimitName.CALLER_DAY else "phone"
    return int.from_bytes(hashlib.sha256(f"{scope}:{subject}".encode()).digest()[:4], signed=True)
