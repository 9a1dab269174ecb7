"""Checks the limits, in the function that accepts the payments.

The function locks each limit's key before it sums the payments. Two requests therefore never count
the same remaining allowance. For a caller or a phone number with many payments, a meter holds the
sum (`meters.py`).

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
from domain.adapters.postgres.meters import BUSY_ROWS, changes_of, meter_of, sum_of_day
from domain.errors import RequestRefused
from domain.kinds import kinds_that
from domain.lifecycle.accept import NewPayment
from domain.policy import MINUTE, Allowances, LimitName, Usage

# The parameters of the function that checks the limits. `lock_numbers` name advisory locks. The
# other arrays have one value for each limit of a subject: what the batch costs, and the ceiling
# that the cost and the used amount together must not exceed.
LIMIT_PARAMETERS = {
    "lock_numbers": "int[]",
    "limit_names": "text[]",
    "subjects": "text[]",
    "costs": "bigint[]",
    "ceilings": "bigint[]",
}

# `lock_numbers` is sorted, so that two batches lock in the same order.
LOCK_LIMITS = f"PERFORM {LOCK_LIMIT} FROM unnest(:lock_numbers) AS number;"

_PROMPTS = ", ".join(f"'{kind.value}'" for kind in kinds_that(lambda rules: rules.is_prompt))
_DAYS = (LimitName.CALLER_DAY, LimitName.PHONE_DAY)
_MINUTE_AGO = f"now() - interval '{MINUTE.total_seconds()} seconds'"


def _used(condition: str, query: str, oldest: str = "NULL::timestamptz") -> str:
    """What is used of each limit in `charged` that satisfies `condition`."""
    return f"""
        SELECT charged.position, charged.cost, charged.ceiling,
            coalesce(used.amount, 0) AS amount, {oldest} AS oldest, used.rows_read
        FROM charged, LATERAL ({query}) AS used WHERE {condition}"""


# Finds what is used of each limit, whether a ceiling is exceeded, and the positions of the limits
# for which many rows were read.
FIND_USED = f"""
    WITH charged AS MATERIALIZED (
        SELECT batch.*, CASE WHEN limit_name <> '{LimitName.PHONE_MINUTE}' THEN
            ({meter_of("batch.limit_name", "batch.subject")}) END AS metered
        FROM unnest(:limit_names, :subjects, :costs, :ceilings) WITH ORDINALITY
            AS batch(limit_name, subject, cost, ceiling, position)
    ), used AS ({" UNION ALL ".join((
        *(_used(
            f"charged.limit_name = '{limit_name}' AND charged.metered IS NULL",
            sum_of_day(limit_name, "charged.subject"),
        ) for limit_name in _DAYS),
        _used(
            "charged.metered IS NOT NULL",
            "SELECT charged.metered + coalesce(changes.amount, 0) AS amount, changes.rows_read"
            f" FROM ({changes_of('charged.limit_name', 'charged.subject')}) AS changes",
        ),
        _used(
            f"charged.limit_name = '{LimitName.PHONE_MINUTE}'",
            "SELECT count(*) AS amount, min(created_at) AS oldest, 0 AS rows_read"
            " FROM mkwanja.payments WHERE phone_number = charged.subject"
            f" AND kind IN ({_PROMPTS}) AND created_at > {_MINUTE_AGO}",
            "used.oldest",
        ),
    ))})
    SELECT bool_or(amount + cost > ceiling), array_agg(position), array_agg(amount),
        array_agg(oldest), array_agg(position) FILTER (WHERE rows_read > {BUSY_ROWS})
    INTO is_exceeded, positions, amounts, oldests, busy FROM used;"""  # fmt: skip

# The variables of FIND_USED. `positions`, `amounts` and `oldests` have the same order.
LIMIT_VARIABLES = """
    is_exceeded boolean;
    positions bigint[];
    amounts bigint[];
    oldests timestamptz[];
    busy bigint[];"""

# Returns what is used of each limit, if a ceiling is exceeded, and stores nothing.
RETURN_USED = """
    IF is_exceeded THEN
        RETURN QUERY SELECT NULL::uuid, (:limit_names)[position], (:subjects)[position],
            used.amount, used.oldest, now(), NULL::text, NULL::text
        FROM unnest(positions, amounts, oldests) AS used(position, amount, oldest);
        RETURN;
    END IF;"""


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
        """The batch `allowed` fits the limits if no more is used than `usages` says."""
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
    """What is used of each limit, from the rows of RETURN_USED."""
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
