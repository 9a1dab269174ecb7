"""Makes many payments at once, each under its own simulator scenario, and observes them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.spec.system import System

Api = Literal["stk", "b2c", "b2b", "b2pochi"]

_SUBMITTING = (
    "/mpesa/stkpush/v1/processrequest",
    "/mpesa/b2c/v3/paymentrequest",
    "/mpesa/b2b/v1/paymentrequest",
    "/mpesa/b2pochi/v1/paymentrequest",
)
_FINAL = {"succeeded": "success", "failed": "failed"}  # stage → public status
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Observed:
    """A payment's stored state, and how often the simulator received it and moved its money."""

    stage: str
    reason: str | None = None
    code: str | None = None
    safe_to_retry: bool | None = None
    needs_review: bool = False
    moved: int = 0
    sent: int = 1


@dataclass(frozen=True, slots=True)
class Play:
    """One row of a table: a scenario and the expected state of its payment.

    `times` is the number of requests that meet the scenario.
    """

    scenario: str
    seen: Observed
    params: dict[str, Any] = field(default_factory=dict)
    times: int | None = None

    @property
    def label(self) -> str:
        return " ".join(
            [self.scenario, *(f"{name}={value}" for name, value in self.params.items())]
        )


PAID = Observed("succeeded", moved=1)
PAID_LATER = Observed("succeeded", moved=1, sent=2)
IN_DOUBT = Observed("in_doubt")
AWAITED = Observed("awaiting_result")


def failed(reason: str, code: str | None, *, safe: bool = True) -> Observed:
    """The state of a payment that failed and moved no money."""
    return Observed("failed", reason, code, safe)


async def begin(
    system: System, api: Api, scenario: str, *, times: int | None = None, **params: Any
) -> str:
    """Make a payment that meets `scenario`, and return its id.

    Its phone number, amount and account belong to no other payment.
    """
    number = next(_numbers)
    phone_number, paybill = f"2547{12_000_000 + number}", str(600_000 + number)
    match = {"party": paybill} if api == "b2b" else {"phone_number": phone_number}
    await system.scenario(scenario, times=times, params=params, api=api, **match)
    if api == "b2b":
        party = {"paybill": paybill, "account_reference": f"ACC{number}"}
        return await system.bill_payment(amount=1000 + number, **party)
    make = {"stk": system.deposit, "b2c": system.withdrawal, "b2pochi": system.pochi_payment}
    return await make[api](amount=1000 + number, phone_number=phone_number)


async def play(
    system: System, api: Api, table: Sequence[Play], *, results_after_answers: bool = False
) -> None:
    """Make all payments of the table at once, and compare their states with the table.

    Then make the open payments overdue, so that the worker inquires about them. Check that no
    payment was sent again, that no more money moved, and that the API agrees with the ledger.
    """
    await system.control("POST", "/switches", {"hold_callbacks": results_after_answers})
    started = await asyncio.gather(
        *(begin(system, api, row.scenario, times=row.times, **row.params) for row in table)
    )
    if results_after_answers:
        await _release_results(system, started)
    ids = dict(zip((row.label for row in table), started, strict=True))
    assert len(ids) == len(table), "two rows share a label"
    expected = {row.label: row.seen for row in table}
    await system.eventually(
        lambda: _differences(system, ids, expected), lambda differences: not differences
    )
    # If a payment's result has not arrived yet, the payment may be open only for that reason.
    await wait_for_callbacks(system)
    differences = await _differences(system, ids, expected)
    assert not differences, differences
    await _sweep_open(system, ids)
    await wait_for_callbacks(system)
    for label, seen, wanted in await _differences(system, ids, expected):
        assert (seen.moved, seen.sent) == (wanted.moved, wanted.sent), (label, seen)
        assert wanted.stage not in _FINAL, (label, seen)
    await _assert_callers_view(system, ids, expected)


async def _release_results(system: System, payment_ids: list[str]) -> None:
    """Deliver the results that were held back, once Daraja's answers to the sends are stored."""
    answered = {"awaiting_result", "in_doubt"}
    await system.eventually(
        lambda: system.stage_counts(payment_ids), lambda counts: set(counts) <= answered
    )
    await system.control("POST", "/switches", {"hold_callbacks": False})
    await system.control("POST", "/callbacks/release", {"order": "at_once"})


async def _differences(
    system: System, ids: dict[str, str], expected: dict[str, Observed]
) -> list[tuple[str, Observed, Observed]]:
    seen = await observe(system, ids)
    return [
        (label, seen[label], expected[label]) for label in ids if seen[label] != expected[label]
    ]


async def observe(system: System, ids: dict[str, str]) -> dict[str, Observed]:
    """The state of each payment now."""
    rows = await system.rows(
        "SELECT * FROM mkwanja.payments WHERE id = ANY($1::uuid[])", list(ids.values())
    )
    payments = {str(row["id"]): row for row in rows}
    ledger = (await system.control("GET", "/ledger"))["items"]
    requests = (await system.control("GET", "/requests"))["items"]
    return {
        label: Observed(
            stage=payments[payment_id]["stage"],
            reason=payments[payment_id]["failure_reason"],
            code=payments[payment_id]["failure_code"],
            safe_to_retry=payments[payment_id]["failure_safe_to_retry"],
            needs_review=payments[payment_id]["needs_review"],
            moved=sum(payment_id in item["result_url"] for item in ledger),
            sent=sum(_submits(item, payment_id) for item in requests),
        )
        for label, payment_id in ids.items()
    }


async def wait_for_callbacks(system: System) -> None:
    """Wait until the simulator has delivered every result and received an answer to each."""
    await system.eventually(lambda: system.control("GET", ""), lambda state: state["pending"] == 0)


async def count_sends(system: System, payment_id: str) -> int:
    """How many sends of this payment reached the simulator."""
    requests = (await system.control("GET", "/requests"))["items"]
    return sum(_submits(item, payment_id) for item in requests)


def _submits(request: Any, payment_id: str) -> bool:
    return request["path"] in _SUBMITTING and payment_id in str(request["body"])


async def sweep(system: System, payment_ids: list[str]) -> None:
    """Make the open payments overdue, and wait until a sweep has given each a new due time."""
    overdue = (
        "UPDATE mkwanja.payments SET next_step_at = now() - interval '1 hour'"
        " WHERE id = ANY($1::uuid[]) AND next_step_at IS NOT NULL"
    )
    await system.execute(overdue, payment_ids)
    left = "SELECT id FROM mkwanja.payments WHERE id = ANY($1::uuid[]) AND next_step_at <= now()"
    await system.eventually(lambda: system.rows(left, payment_ids), lambda rows: not rows)


async def _sweep_open(system: System, ids: dict[str, str]) -> None:
    seen = await observe(system, ids)
    still_open = [ids[label] for label, one in seen.items() if one.stage not in _FINAL]
    due = "SELECT id FROM mkwanja.payments WHERE id = ANY($1::uuid[]) AND next_step_at IS NOT NULL"
    assert len(await system.rows(due, still_open)) == len(still_open)
    await sweep(system, still_open)


async def _assert_callers_view(
    system: System, ids: dict[str, str], expected: dict[str, Observed]
) -> None:
    """Check that the API shows the expected state, and the receipt of the movement."""
    ledger = (await system.control("GET", "/ledger"))["items"]
    for label, payment_id in ids.items():
        payment, seen = await system.payment(payment_id), expected[label]
        moved = [item for item in ledger if payment_id in item["result_url"]]
        status, failure = payment["status"], payment["failure"]
        assert status == _FINAL.get(seen.stage, status), label
        assert (failure is None) is (status != "failed"), label
        receipts = [item["receipt"] for item in moved] if status == "success" else [None]
        # STK query returns no receipt, so a deposit that an inquiry settled has none.
        if payment["kind"] == "deposit" and seen not in (PAID, PAID_LATER):
            receipts.append(None)
        assert payment["receipt"] in receipts, label
        if status == "success":
            assert [item["amount"] for item in moved] == [payment["amount"]], label
        if failure is not None:
            assert failure["message"], label
            assert not moved, label
        if seen.stage == "failed":
            shown = failure["reason"], failure["provider_code"], failure["safe_to_retry"]
            assert shown == (seen.reason, seen.code, seen.safe_to_retry), label


@asynccontextmanager
async def stopped_payouts(system: System) -> AsyncIterator[None]:
    """Stop payouts for the block: the service accepts payouts and does not send them."""
    change = (
        "UPDATE mkwanja.brakes SET is_engaged = $1, reason = $2, changed_at = now()"
        " WHERE name = 'kill_switch'"
    )
    await system.execute(change, True, "a test")
    try:
        yield
    finally:
        await system.execute(change, False, None)
