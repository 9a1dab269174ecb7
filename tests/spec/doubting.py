"""Payments whose outcome has to be asked for: what Daraja answers to the questions about each,
and how often it was asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.spec.delivering import OPERATIONS, Awaited
from tests.spec.playing import Api, Seen, look
from tests.spec.system import System

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What Daraja does with the questions about one payment: `scenario`, so many times."""

    scenario: str
    params: dict[str, Any] = field(default_factory=dict)
    times: int | None = None


async def doubtful(
    system: System,
    api: Api,
    scenario: str,
    *answers: Answer,
    times: int | None = None,
    **params: Any,
) -> str:
    """A payment that meets `scenario` when it is sent, and `answers`, in this order, when Daraja
    is asked about it; its id.
    """
    number = next(_numbers)
    phone_number, amount = f"2547{41_000_000 + number}", 20_000 + number
    if api == "b2b":
        paybill = str(700_000 + number)
        await system.scenario(scenario, times=times, params=params, api=api, party=paybill)
        payment_id = await system.bill_payment(
            amount=amount, paybill=paybill, account_reference=f"DBT{number}"
        )
        await _answer(system, answers, api="status", url_contains=payment_id)
        return payment_id
    await system.scenario(scenario, times=times, params=params, api=api, phone_number=phone_number)
    if api == "stk":
        await _answer(system, answers, api="stk_query", phone_number=phone_number)
        return await system.deposit(amount=amount, phone_number=phone_number)
    payment_id = await system.withdrawal(amount=amount, phone_number=phone_number)
    await _answer(system, answers, api="status", url_contains=payment_id)
    return payment_id


async def _answer(system: System, answers: Sequence[Answer], **match: Any) -> None:
    for answer in reversed(answers):  # the newest rule is met first
        await system.scenario(answer.scenario, times=answer.times, params=answer.params, **match)


async def seen(system: System, payment_id: str) -> Seen:
    """What is seen of one payment now."""
    return (await look(system, {"it": payment_id}))["it"]


async def eventually_seen(
    system: System, expected: dict[str, Seen], ids: dict[str, str], *, flagged_or_not: bool = False
) -> None:
    """Waits until each payment is seen as expected, by label; `flagged_or_not`: whether it needs
    review does not count.
    """

    async def differences() -> list[tuple[str, Seen, Seen]]:
        now = await look(system, ids)
        if flagged_or_not:
            now = {
                label: replace(one, needs_review=expected[label].needs_review)
                for label, one in now.items()
            }
        return [
            (label, now[label], expected[label]) for label in ids if now[label] != expected[label]
        ]

    await system.eventually(differences, lambda found: not found)


async def inquiries(system: System, payment_id: str) -> list[Any]:
    """Every question about the payment, by number."""
    return await system.rows(
        "SELECT * FROM mkwanja.inquiries WHERE payment_id = $1::uuid ORDER BY number", payment_id
    )


async def asked(
    system: System, payment_id: str, times: int, *, after_window: bool = False
) -> list[Any]:
    """The questions about the payment, once there were so many; `after_window`: so many since
    its result window ended.
    """
    sql = (
        "SELECT inquiry.* FROM mkwanja.inquiries AS inquiry WHERE payment_id = $1::uuid AND asked_at >= ("
        "SELECT coalesce(max(attempt.ended_at), 'infinity') FROM mkwanja.attempts AS attempt"
        " WHERE attempt.payment_id = $1::uuid) + interval '3 seconds'"
        if after_window
        else "SELECT * FROM mkwanja.inquiries WHERE payment_id = $1::uuid"
    )
    found: list[Any] = await system.eventually(
        lambda: system.rows(f"{sql} ORDER BY number", payment_id),
        lambda rows: len(rows) >= times,
        f"{times} questions",
    )
    return found


async def told_by_test(system: System, payment_id: str, api: Api) -> Awaited:
    """The payment as one whose result is ours to tell, without ids: by its address, whether
    Daraja's answer came or not.
    """
    payment = await system.payment(payment_id)
    url = await system.callback_url(payment_id, OPERATIONS[api])
    return Awaited(payment_id, api, payment["amount"], url, {})


async def receipt_of(system: System, payment_id: str) -> str:
    """The receipt of the one movement of money, by the simulator's ledger."""
    [movement] = await system.movements(payment_id)
    return str(movement["receipt"])


async def events(system: System, payment_id: str) -> list[str]:
    """The types of what subscribers were told, in order, without their common beginning."""
    sql = "SELECT event_type FROM mkwanja.payment_history WHERE payment_id = $1::uuid AND event_type IS NOT NULL"
    rows = await system.rows(f"{sql} ORDER BY sequence", payment_id)
    return [row["event_type"].removeprefix("mkwanja.payment.") for row in rows]


async def stored_as(system: System, disposition: str) -> float:
    """How many callbacks the receiver counts as having led to `disposition`, by its /metrics."""
    wanted = f'mkwanja_callbacks_stored_total{{disposition="{disposition}"}} '
    async with system.http.get(f"{system.stack.callbacks_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(
        (float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0
    )
