"""Above the amount that the policy file names, a success is believed only once Daraja has
confirmed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.spec.conftest import TIME_SCALE, a_system
from tests.spec.delivering import ACCEPTED, OPERATIONS, AwaitedPayment, deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    event_types,
    inquiries,
    load_awaited,
    receipt_of,
)
from tests.spec.playing import Api, begin, wait_for_callbacks
from tests.spec.system import System

CONFIRM_ABOVE = 20_000  # `begin` makes payments below it, `doubtful` above
_APIS: list[Api] = ["stk", "b2c", "b2b"]
_QUESTIONS = ("/mpesa/stkpushquery/v1/query", "/mpesa/transactionstatus/v1/query")
_FAILURE = {"stk": 1032, "b2c": 1, "b2b": 1}


@pytest.fixture(scope="module")
async def confirming(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(f"[payment]\nconfirm_above = {CONFIRM_ABOVE}\n")
    async with a_system(env={"POLICY_FILE": str(policy)}) as system:
        yield system


@pytest.fixture
async def system(confirming: System) -> System:
    """A system that asks by itself only after half a minute: what is asked sooner was asked
    because a callback came.
    """
    await confirming.control("POST", "/reset", {})
    await confirming.control("POST", "/switches", {"time_scale": TIME_SCALE})
    return confirming


async def _questions(system: System, payment_id: str) -> list[Any]:
    """What reached Daraja about the payment: a query names its CheckoutRequestID, a status
    question its address.
    """
    ids = (await system.payment(payment_id))["provider_ids"].get(
        "checkout_request_id", [payment_id]
    )
    requests = (await system.control("GET", "/requests"))["items"]
    return [
        item
        for item in requests
        if item["path"] in _QUESTIONS and any(one in str(item["body"]) for one in ids)
    ]


async def _whats(system: System, payment_id: str) -> list[str]:
    return [entry["what"] for entry in await system.backend.history(payment_id)]


async def _deliver_result(system: System, one: AwaitedPayment, **result: Any) -> None:
    assert (await deliver(system, one.url, one.result(**result))).json() == ACCEPTED


async def _counted(system: System) -> float:
    """How many successes Daraja was asked to confirm, by the receiver's /metrics."""
    name = "mkwanja_callbacks_awaiting_confirmation_total "
    async with system.http.get(f"{system.stack.callbacks_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return float(next(line.removeprefix(name) for line in lines if line.startswith(name)))


async def _asked_until(system: System, payment_id: str, stage: str) -> Any:
    """The payment once it is in `stage`; its next question does not wait for its time."""
    overdue = "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = $1::uuid AND next_step_at > now()"

    async def look() -> Any:
        await system.execute(overdue, payment_id)
        return await system.payment(payment_id)

    return await system.eventually(look, lambda payment: payment["stage"] == stage, poll_seconds=1)


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_large_payment_succeeds_once_daraja_confirms_it(system: System, api: Api) -> None:
    """Its callback is noted, Daraja is asked at once, and its receipt is that of the money that
    moved.
    """
    before = await _counted(system)
    payment_id = await begin_in_doubt(system, api, "approve")
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["needs_review"]) == ("success", False)
    assert payment["receipt"] == await receipt_of(system, payment_id)
    assert len(await _questions(system, payment_id)) == 1
    whats = await _whats(system, payment_id)
    assert whats.index("awaits_confirmation") < whats.index("success_reported")
    [callback] = [
        row for row in await system.callbacks(payment_id) if row["operation"] == OPERATIONS[api]
    ]
    assert (callback["disposition"], callback["is_flagged"]) == ("awaits_confirmation", False)
    assert callback["receipt"] == payment["receipt"]
    assert await _counted(system) == before + 1
    assert await event_types(system, payment_id) == ["succeeded"]
    await system.assert_money_agrees([payment_id])


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_callback_before_the_acknowledgement_is_confirmed_after_it(
    system: System, api: Api
) -> None:
    """While it is being sent there is nothing to ask by; Daraja's own answer has it asked at
    once.
    """
    payment_id = await begin_in_doubt(system, api, "callback_before_answer")
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["needs_review"]) == ("success", False)
    assert payment["receipt"] == await receipt_of(system, payment_id)
    whats = await _whats(system, payment_id)
    assert (
        whats.index("awaits_confirmation")
        < whats.index("acknowledged")
        < whats.index("success_reported")
    )


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_repeated_callback_causes_one_inquiry_and_one_history_entry(
    system: System, api: Api
) -> None:
    payment_id = await begin_in_doubt(system, api, "duplicate_callbacks", count=5)
    assert (await system.settled(payment_id))["receipt"] == await receipt_of(system, payment_id)
    await wait_for_callbacks(system)
    assert len(await _questions(system, payment_id)) == 1
    assert (await _whats(system, payment_id)).count("awaits_confirmation") == 1
    assert await event_types(system, payment_id) == ["succeeded"]


@pytest.mark.parametrize("api", _APIS)
async def test_a_small_payment_succeeds_by_its_callback(system: System, api: Api) -> None:
    payment_id = await begin(system, api, "approve")
    assert (await system.settled(payment_id))["status"] == "success"
    assert await _questions(system, payment_id) == []


async def test_only_an_amount_above_the_limit_needs_a_confirmation(
    system: System,
) -> None:
    at, above = (
        await system.deposit(amount=CONFIRM_ABOVE),
        await system.deposit(amount=CONFIRM_ABOVE + 1),
    )
    for payment_id, questions in ((at, 0), (above, 1)):
        payment = await system.settled(payment_id)
        assert (payment["status"], payment["receipt"]) == (
            "success",
            await receipt_of(system, payment_id),
        )
        assert len(await _questions(system, payment_id)) == questions


@pytest.mark.parametrize("api", _APIS)
async def test_a_forged_success_never_settles_a_payment_that_failed(
    system: System, api: Api
) -> None:
    """Whoever learned its address tells of a success before Daraja tells of the failure, and
    goes on telling.
    """
    payment_id = await begin_in_doubt(system, api, "held_callback", code=_FAILURE[api])
    await system.in_stage(payment_id, "awaiting_result")
    await system.eventually(
        lambda: system.control("GET", "/callbacks"), lambda found: found["held"]
    )
    forged = await load_awaited(system, payment_id, api)
    await _deliver_result(system, forged, receipt="UKN7FORGED")
    await system.eventually(
        lambda: inquiries(system, payment_id), lambda found: found and found[0]["verdict"]
    )
    await asyncio.gather(
        *(_deliver_result(system, forged, receipt=f"UKN7FORG{n:02}") for n in range(20))
    )
    await system.control("POST", "/callbacks/release", {"url_contains": payment_id})
    payment = await system.payment(payment_id)
    assert (payment["stage"], payment["receipt"], payment["needs_review"]) == (
        "awaiting_result",
        None,
        True,
    )
    assert await system.movements(payment_id) == []
    assert await event_types(system, payment_id) == []
    assert (await _whats(system, payment_id)).count("awaits_confirmation") == 1
    assert len(await _questions(system, payment_id)) == 1  # each more makes the next wait longer


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_forged_correction_flags_the_failed_payment(system: System, api: Api) -> None:
    """A failure that Daraja told stays one, however often somebody says otherwise, and somebody
    sees it.
    """
    payment_id = await begin_in_doubt(system, api, "result_code", code=_FAILURE[api])
    assert (await system.settled(payment_id))["status"] == "failed"
    forged = await load_awaited(system, payment_id, api)
    await _deliver_result(system, forged, receipt="UKN7FORGED")
    await system.eventually(
        lambda: inquiries(system, payment_id), lambda found: found and found[0]["verdict"]
    )
    payment = await system.payment(payment_id)
    assert (payment["status"], payment["receipt"], payment["needs_review"]) == (
        "failed",
        None,
        True,
    )
    assert await event_types(system, payment_id) == ["failed"]


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_true_correction_is_confirmed_and_published(system: System, api: Api) -> None:
    """Money moved after Daraja had told of a failure: the late success is asked about before it
    is believed.
    """
    payment_id = await begin_in_doubt(
        system, api, "failure_then_success", InquiryRule("cut_before_acting", times=1)
    )
    payment = await _asked_until(system, payment_id, "succeeded")
    assert (payment["receipt"], payment["needs_review"]) == (
        await receipt_of(system, payment_id),
        True,
    )
    assert await event_types(system, payment_id) == ["failed", "corrected"]
    await system.assert_money_agrees([payment_id])


async def test_a_deposit_gets_no_receipt_if_two_callbacks_name_different_ones(
    system: System,
) -> None:
    """STK query names none: where two messages disagree, the deposit ends as paid, without one,
    and a person is told.
    """
    payment_id = await begin_in_doubt(
        system, "stk", "held_callback", InquiryRule("in_flight_a", times=1)
    )
    await system.in_stage(payment_id, "awaiting_result")
    await system.eventually(
        lambda: system.control("GET", "/callbacks"), lambda found: found["held"]
    )
    await _deliver_result(
        system, await load_awaited(system, payment_id, "stk"), receipt="UKN7FORGED"
    )
    await system.eventually(
        lambda: inquiries(system, payment_id), lambda found: found and found[0]["verdict"]
    )
    await system.control("POST", "/callbacks/release", {"url_contains": payment_id})
    payment = await _asked_until(system, payment_id, "succeeded")
    assert (payment["receipt"], payment["needs_review"]) == (None, True)
    await system.assert_money_agrees([payment_id])
