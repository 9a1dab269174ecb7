"""Replacements of functions and constants, without a protection. Only armed processes load them.

Each function returns the replacement of an original. If a condition of the claim is no longer in
its SQL, the function raises FailpointError. Otherwise a scenario would run with the protection.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from domain.adapters.postgres.brakes import PAYOUTS_ARE_FREE
from domain.adapters.postgres.functions import Function
from domain.adapters.postgres.payment_columns import payment_from
from domain.adapters.postgres.reading import ATTEMPTS
from domain.adapters.postgres.rows import attempts_from
from domain.adapters.postgres.statements import sql
from domain.changes import Change, Context, Decided
from domain.payment import Payment
from domain.stages import FactName, Stage, Transition
from tests.proof.failpoints.points import FailpointError
from tests.stack.databases import connection

_PAYMENT = sql("SELECT * FROM mkwanja.payments WHERE id = :id AND stage = 'accepted'")


def the_stage(claim: Function) -> Function:
    return _without(claim, f"payment.stage = '{Stage.ACCEPTED}'", times=2)


def the_brakes(claim: Function) -> Function:
    return _without(claim, PAYOUTS_ARE_FREE)


def the_operation(claim: Function) -> Function:
    allowed = "allowed.operation NOT IN (SELECT name FROM mkwanja.brakes WHERE is_engaged)"
    return _without(claim, allowed)


def the_age(claim: Function) -> Function:
    return _without(claim, "payment.expires_at > now()")


def _without(function: Function, condition: str, *, times: int = 1) -> Function:
    """The function without `condition`, which `install` creates under a name of its own."""
    found = function.body.count(condition)
    if found != times:
        raise FailpointError(f"{condition!r} is {found} times in the function, not {times}")
    return replace(function, body=function.body.replace(condition, "true"))


async def install(function: Function, url: str) -> None:
    """Creates the function in the database, as `alembic upgrade head` does."""
    async with connection(url) as database:
        await database.execute(function.definition)


def a_check(check: Callable[..., None]) -> Callable[..., None]:
    """A check that never raises."""

    @functools.wraps(check)
    def passes(_self: Any) -> None:
        return None

    return passes


def fencing_by_attempt(answer_change: Callable[..., Change]) -> Callable[..., Change]:
    """An `answer_change` that takes every answer for an answer to the payment's present attempt."""

    @functools.wraps(answer_change)
    def unfenced(payment_id: UUID, open_attempt: Any, *arguments: Any) -> Change:
        change = answer_change(payment_id, open_attempt, *arguments)

        def decide(payment: Payment | None, context: Context) -> Decided:
            if payment is None:
                return change.decide(payment, context)
            decided = change.decide(replace(payment, attempt_id=open_attempt.attempt_id), context)
            after = decided.payment
            assert after is not None
            return replace(decided, payment=replace(after, attempt_id=payment.attempt_id))

        return replace(change, decide=decide)

    return unfenced


def a_committed_claim(claim: Callable[..., Any]) -> Callable[..., Any]:
    """A claim that exists only in the memory of this process."""

    @functools.wraps(claim)
    async def claim_in_memory(
        self: Any, payment_id: UUID, attempt_id: UUID, **_how: Any
    ) -> Payment | None:
        async with self._database.transaction() as transaction:
            rows = await transaction.rows(_PAYMENT, {"id": payment_id})
            attempts = attempts_from(await transaction.rows(ATTEMPTS, {"ids": [payment_id]}), [])
        return payment_from(rows[0], attempts.get(payment_id, ())) if rows else None

    return claim_in_memory


def a_step_of_the_sweep(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of the sweep that does nothing."""

    @functools.wraps(step)
    async def nothing(_self: Any) -> int:
        return 0

    return nothing


def doubt(
    transitions: Mapping[Stage, Mapping[FactName, Transition]],
) -> Mapping[Stage, Mapping[FactName, Transition]]:
    """A stage table in which a payment is accepted again, as if unsent, when its lease expires."""
    unsent = {FactName.LEASE_EXPIRED: Transition(Stage.ACCEPTED)}
    return {**transitions, Stage.SUBMITTING: {**transitions[Stage.SUBMITTING], **unsent}}


def keys_of_a_lane(make: Callable[..., None]) -> Callable[..., None]:
    """A lane that never finds two items with the same key."""

    @functools.wraps(make)
    def keyless(self: Any, run: Any, *, key: Any, **options: Any) -> None:
        make(self, run, key=lambda _item: object(), **options)

    return keyless
