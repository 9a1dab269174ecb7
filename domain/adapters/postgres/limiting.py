"""Checks the limits, in the function that accepts the payments.

The function locks each limit's key before it sums the payments. Two requests therefore never count
the same remaining allowance. The sums are always computed from the payments themselves, so there
is no stored count that could be wrong.

The database only compares sums with ceilings, for all payments of a batch together. If a ceiling is
exceeded, it stores nothing, and returns what is used. The policy then decides which of the payments
are refused, and the rest is tried again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.adapters.postgres.locks import LOCK_LIMIT
from domain.errors import RequestRefused
from domain.kinds import kinds_that
from domain.lifecycle.accept import NewPayment
from domain.policy import MINUTE, Allowances, LimitName, Usage
from domain.stages import Stage
from domain.values import NAIROBI

# The parameters of the function that checks the limits. A number is that of a lock. The other
# arrays have one value for each limit of a subject: what the batch costs, and the ceiling that the
# cost and the used amount together must not exceed.
LIMIT_PARAMETERS = {
    "lock_numbers": "int[]",
    "limit_names": "text[]",
    "subjects": "text[]",
    "costs": "bigint[]",
    "ceilings": "bigint[]",
}

# `lock_numbers` is sorted, so that two batches lock in the same order.
LOCK_LIMITS = f"PERFORM {LOCK_LIMIT} FROM unnest(:lock_numbers) AS number;"

# Every payment counts against the limits of a day, unless it certainly moved no money.
_COUNTS = f"(stage <> '{Stage.FAILED}' OR NOT coalesce(failure_safe_to_retry, false))"
_OFFSET = f"interval '{NAIROBI.utcoffset(None)}'"
_DAY_BEGAN_AT = f"(date_trunc('day', now() AT TIME ZONE {_OFFSET}) AT TIME ZONE {_OFFSET})"
_PROMPTS = ", ".join(f"'{kind.value}'" for kind in kinds_that(lambda rules: rules.is_prompt))


def _sum_of(limit_name: LimitName, amount: str, condition: str) -> str:
    """What each subject of `charged` has used of a limit."""
    return f"""
        SELECT charged.limit_name, charged.subject, used.amount, used.oldest FROM charged,
        LATERAL (SELECT {amount} AS amount, min(created_at) AS oldest
            FROM mkwanja.payments WHERE {condition}) AS used
        WHERE charged.limit_name = '{limit_name}'"""


# Selects what is used of each limit, if a ceiling is exceeded, and else nothing.
USED_IF_EXCEEDED = f"""
    WITH charged AS MATERIALIZED (
        SELECT * FROM unnest(:limit_names, :subjects, :costs, :ceilings)
            AS batch(limit_name, subject, cost, ceiling)
    ), used AS MATERIALIZED ({" UNION ALL ".join((
        _sum_of(LimitName.CALLER_DAY, "sum(amount_kes)",
            f"caller_key = charged.subject AND created_at >= {_DAY_BEGAN_AT} AND {_COUNTS}"),
        _sum_of(LimitName.PHONE_DAY, "sum(amount_kes)",
            f"phone_number = charged.subject AND created_at >= {_DAY_BEGAN_AT} AND {_COUNTS}"),
        _sum_of(LimitName.PHONE_MINUTE, "count(*)",
            "phone_number = charged.subject AND kind IN (" + _PROMPTS + ")"
            f" AND created_at > now() - interval '{MINUTE.total_seconds()} seconds'"),
    ))})
    SELECT NULL::uuid, used.limit_name, used.subject, coalesce(used.amount, 0)::bigint,
        used.oldest, now(), NULL::text, NULL::text
    FROM used WHERE EXISTS (
        SELECT FROM charged JOIN used AS of_limit USING (limit_name, subject)
        WHERE coalesce(of_limit.amount, 0) + charged.cost > charged.ceiling)"""  # fmt: skip


class AllowanceContended(Exception):
    """Another transaction locks the same limit for longer than we wait, or changes what is used."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a batch costs of each limit, and the ceiling of each."""

    of_limits: Mapping[tuple[LimitName, str], tuple[int, int]]

    @classmethod
    def of_policy(cls, batch: Sequence[NewPayment]) -> Ceilings:
        """All payments of `batch` together must fit the limits of the policy."""
        ceilings: dict[tuple[LimitName, str], int] = {}
        for new in batch:
            for charge in new.charges:
                known = ceilings.get(charge.counter_key, charge.maximum)
                ceilings[charge.counter_key] = min(known, charge.maximum)
        costs = _add_costs(batch)
        return cls({key: (costs[key], ceiling) for key, ceiling in ceilings.items()})

    @classmethod
    def above(
        cls, usages: Mapping[tuple[LimitName, str], Usage], allowed: Sequence[NewPayment]
    ) -> Ceilings:
        """`allowed` fit the limits, if no more is used than `usages`."""
        costs = _add_costs(allowed)
        return cls({key: (cost, usages[key].amount + cost) for key, cost in costs.items()})

    def parameters(self) -> dict[str, list[Any]]:
        """The values of LIMIT_PARAMETERS."""
        return {
            "lock_numbers": sorted({_lock_number(name, of) for name, of in self.of_limits}),
            "limit_names": [limit_name.value for limit_name, _ in self.of_limits],
            "subjects": [subject for _, subject in self.of_limits],
            "costs": [cost for cost, _ in self.of_limits.values()],
            "ceilings": [ceiling for _, ceiling in self.of_limits.values()],
        }


def usages_from(rows: Iterable[Any]) -> dict[tuple[LimitName, str], Usage]:
    """What is used of each limit, from the rows of USED_IF_EXCEEDED."""
    return {(LimitName(row.limit_name), row.subject): Usage(row.amount, row.oldest) for row in rows}


def find_refusals(
    batch: Sequence[NewPayment],
    usages: Mapping[tuple[LimitName, str], Usage],
    replayed_ids: Collection[UUID],
    now: datetime,
) -> dict[UUID, RequestRefused]:
    """The refusals for those payments of `batch` that a limit does not allow, by payment id.

    The other payments together fit the limits, if they are counted in the given order. A request in
    `replayed_ids` creates no payment, because its key already has one.
    """
    allowances = Allowances(usages, now)
    refusals = {
        new.id: allowances.deduct(new.charges) for new in batch if new.id not in replayed_ids
    }
    return {id_: refusal for id_, refusal in refusals.items() if refusal is not None}


def _add_costs(batch: Sequence[NewPayment]) -> dict[tuple[LimitName, str], int]:
    costs: dict[tuple[LimitName, str], int] = defaultdict(int)
    for new in batch:
        for charge in new.charges:
            costs[charge.counter_key] += charge.cost
    return costs


def _lock_number(limit_name: LimitName, subject: str) -> int:
    """The number of the lock for a caller or a phone number.

    If two callers or phone numbers get the same number, their requests only wait for each other.
    """
    scope = "caller" if limit_name is LimitName.CALLER_DAY else "phone"
    return int.from_bytes(hashlib.sha256(f"{scope}:{subject}".encode()).digest()[:4], signed=True)
