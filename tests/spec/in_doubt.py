"""Payments in doubt: scripts Daraja's answers to the inquiries, and reads what was stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.spec.delivering import OPERATIONS, AwaitedPayment
from tests.spec.playing import Api, Observed, observe
from tests.spec.system import System

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class InquiryRule:
    """The simulator's scenario for the next `times` inquiries (None: all) about one payment."""

    scenario: str
    params: dict[str, Any] = field(default_factory=dict)
    times: int | None = None


async def begin_in_doubt(
    system: System,
    api: Api,
    scenario: str,
    *answers: InquiryRule,
    times: int | None = None,
    **params: Any,
) -> str:
    """Make a payment for whose send the simulator plays `scenario`, and return its id.

    For inquiries about the payment, the simulator plays `answers`, in this order.
    """
    number = next(_numbers)
    phone_number, amount = f"2547{41_000_000 + number}", 20_000 + number
    if api == "b2b":
        paybill = str(700_000 + number)
        await system.scenario(scenario, times=times, params=params, api=api, party=paybill)
        payment_id = await system.bill_payment(
            amount=amount, paybill=paybill, account_reference=f"DBT{number}"
        )
        await _script_answers(system, answers, api="status", url_contains=payment_id)
        return payment_id
    await system.scenario(scenario, times=times, params=params, api=api, phone_number=phone_number)
    if api == "stk":
        await _script_answers(system, answers, api="stk_query", phone_number=phone_number)
        return await system.deposit(amount=amount, phone_number=phone_number)
    payment_id = await system.withdrawal(amount=amount, phone_number=phone_number)
    await _script_answers(system, answers, api="status", url_contains=payment_id)
    return payment_id


async def begin_each(begun: Mapping[str, Awaitable[str]]) -> dict[str, str]:
    """Make all these payments at once, and return their ids by label."""
    return dict(zip(begun, await asyncio.gather(*begun.values()), strict=True))


async def _script_answers(system: System, answers: Sequence[InquiryRule], **match: Any) -> None:
    for answer in reversed(answers):  # the simulator applies the newest rule first
        await system.scenario(answer.scenario, times=answer.times, params=answer.params, **match)


async def observe_one(system: System, payment_id: str) -> Observed:
    """The state of one payment now."""
    return (await observe(system, {"it": payment_id}))["it"]


async def wait_until_observed(
    system: System,
    expected: dict[str, Observed],
    ids: dict[str, str],
    *,
    flagged_or_not: bool = False,
) -> None:
    """Wait until each payment is as expected under its label.

    With `flagged_or_not`, the comparison ignores `needs_review`.
    """

    async def differences() -> list[tuple[str, Observed, Observed]]:
        now = await observe(system, ids)
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
    """All inquiries about the payment, by number."""
    return await system.rows(
        "SELECT * FROM mkwanja.inquiries WHERE payment_id = $1::uuid ORDER BY number", payment_id
    )


async def wait_for_inquiries(
    system: System, payment_id: str, times: int, *, after_window: bool = False
) -> list[Any]:
    """Wait for `times` inquiries about the payment, and return them.

    With `after_window`, only inquiries after the payment's result window count.
    """
    sql = (
        "SELECT inquiry.* FROM mkwanja.inquiries AS inquiry"
        " WHERE payment_id = $1::uuid AND asked_at >= ("
        "SELECT coalesce(max(attempt.ended_at), 'infinity') FROM mkwanja.attempts AS attempt"
        " WHERE attempt.payment_id = $1::uuid) + interval '3 seconds'"
        if after_window
        else "SELECT * FROM mkwanja.inquiries WHERE payment_id = $1::uuid"
    )
    found: list[Any] = await system.eventually(
        lambda: system.rows(f"{sql} ORDER BY number", payment_id),
        lambda rows: len(rows) >= times,
        f"{times} inquiries",
    )
    return found


async def wait_for_inquiries_about_each(
    system: System, payment_ids: Iterable[str], times: int, *, after_window: bool = False
) -> None:
    """Wait for `times` inquiries about each payment (see `wait_for_inquiries`)."""
    for payment_id in payment_ids:
        await wait_for_inquiries(system, payment_id, times, after_window=after_window)


async def load_awaited(system: System, payment_id: str, api: Api) -> AwaitedPayment:
    """Load a payment for which the test then delivers results. These results name no ids."""
    payment = await system.payment(payment_id)
    url = await system.callback_url(payment_id, OPERATIONS[api])
    return AwaitedPayment(payment_id, api, payment["amount"], url, {})


async def receipt_of(system: System, payment_id: str) -> str:
    """Wait until the payment's money moved once, and return the receipt in the ledger."""
    [movement] = await system.eventually(lambda: system.movements(payment_id))
    return str(movement["receipt"])


async def event_types(system: System, payment_id: str) -> list[str]:
    """The types of the payment's events in their order, without the common prefix."""
    sql = (
        "SELECT event_type FROM mkwanja.payment_history"
        " WHERE payment_id = $1::uuid AND event_type IS NOT NULL ORDER BY sequence"
    )
    rows = await system.rows(sql, payment_id)
    return [row["event_type"].removeprefix("mkwanja.payment.") for row in rows]


async def history_facts(system: System, payment_id: str) -> list[str]:
    """The `what` of the payment's history entries, in order."""
    return [entry["what"] for entry in await system.backend.history(payment_id)]


async def count_stored(system: System, disposition: str) -> float:
    """How many callbacks with `disposition` the receiver's /metrics count."""
    return await receiver_metric(
        system, f'mkwanja_callbacks_stored_total{{disposition="{disposition}"}}'
    )


async def receiver_metric(system: System, series: str) -> float:
    """The value of `series` in the receiver's /metrics; 0 if it is not there."""
    async with system.http.get(f"{system.stack.callbacks_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    values = (line.removeprefix(f"{series} ") for line in lines if line.startswith(f"{series} "))
    return float(next(values, 0.0))
