"""Above the policy's `confirm_above`, a reported success counts only after Daraja confirms it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.spec.conftest import TIME_SCALE, a_system
from tests.spec.delivering import OPERATIONS, deliver_result
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    event_types,
    history_facts,
    inquiries,
    load_awaited,
    receipt_of,
    receiver_metric,
)
from tests.spec.playing import Api
from tests.spec.system import System

CONFIRM_ABOVE = 20_000  # `begin_in_doubt` makes larger payments
_APIS: list[Api] = ["stk", "b2c", "b2b"]
_INQUIRIES = ("/mpesa/stkpushquery/v1/query", "/mpesa/transactionstatus/v1/query")
_FAILURE = {"stk": 1032, "b2c": 1, "b2b": 1}


@pytest.fixture(scope="module")
async def confirming(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(f"[payment]\nconfirm_above = {CONFIRM_ABOVE}\n")
    async with a_system(env={"POLICY_FILE": str(policy)}) as system:
        yield system


@pytest.fixture
async def system(confirming: System) -> System:
    """A system whose first scheduled inquiry comes half a minute after the send.

    Inquiries before that time are caused by a callback.
    """
    await confirming.control("POST", "/reset", {})
    await confirming.control("POST", "/switches", {"time_scale": TIME_SCALE})
    return confirming


async def _inquiries_at_daraja(system: System, payment_id: str) -> list[Any]:
    """The inquiries about the payment that reached Daraja.

    An STK query contains the CheckoutRequestID. The callback address of a Transaction Status
    request contains the payment's id.
    """
    ids = (await system.payment(payment_id))["provider_ids"].get(
        "checkout_request_id", [payment_id]
    )
    requests = (await system.control("GET", "/requests"))["items"]
    return [
        item
        for item in requests
        if item["path"] in _INQUIRIES and any(one in str(item["body"]) for one in ids)
    ]


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_large_payment_succeeds_once_daraja_confirms_it(system: System, api: Api) -> None:
    """The service stores the callback and inquires at once.

    The payment then shows the receipt of the moved money.
    """
    counted = "mkwanja_callbacks_awaiting_confirmation_total"
    before = await receiver_metric(system, counted)
    payment_id = await begin_in_doubt(system, api, "approve")
    payment = await system.settled(payment_id)
    assert (payment["status"], payment["needs_review"]) == ("success", False)
    assert payment["receipt"] == await receipt_of(system, payment_id)
    assert len(await _inquiries_at_daraja(system, payment_id)) == 1
    facts = await history_facts(system, payment_id)
    assert facts.index("awaits_confirmation") < facts.index("success_reported")
    [callback] = [
        row for row in await system.callbacks(payment_id) if row["operation"] == OPERATIONS[api]
    ]
    assert (callback["disposition"], callback["is_flagged"]) == ("awaits_confirmation", False)
    assert callback["receipt"] == payment["receipt"]
    assert await receiver_metric(system, counted) == before + 1
    assert await event_types(system, payment_id) == ["succeeded"]
    await system.assert_money_agrees([payment_id])


@pytest.mark.parametrize("api", _APIS)
async def test_a_forged_success_never_settles_a_payment_that_failed(
    system: System, api: Api
) -> None:
    """An attacker at the callback address reports successes before Daraja reports the failure."""
    payment_id = await begin_in_doubt(system, api, "held_callback", code=_FAILURE[api])
    await system.in_stage(payment_id, "awaiting_result")
    await system.eventually(
        lambda: system.control("GET", "/callbacks"), lambda found: found["held"]
    )
    forged = await load_awaited(system, payment_id, api)
    await deliver_result(system, forged, receipt="UKN7FORGED")
    await system.eventually(
        lambda: inquiries(system, payment_id), lambda found: found and found[0]["verdict"]
    )
    await asyncio.gather(
        *(deliver_result(system, forged, receipt=f"UKN7FORG{n:02}") for n in range(20))
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
    assert (await history_facts(system, payment_id)).count("awaits_confirmation") == 1
    # The later forged messages cause no inquiry. Each inquiry makes the wait for the next longer.
    assert len(await _inquiries_at_daraja(system, payment_id)) == 1


@pytest.mark.parametrize("api", _APIS)
@pytest.mark.sampled(1)
async def test_a_forged_correction_flags_the_failed_payment(system: System, api: Api) -> None:
    """The payment stays failed, because Daraja does not confirm the forged success."""
    payment_id = await begin_in_doubt(system, api, "result_code", code=_FAILURE[api])
    assert (await system.settled(payment_id))["status"] == "failed"
    forged = await load_awaited(system, payment_id, api)
    await deliver_result(system, forged, receipt="UKN7FORGED")
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
    """Daraja reports a failure, and later a success. The success counts once it is confirmed."""
    payment_id = await begin_in_doubt(
        system, api, "failure_then_success", InquiryRule("cut_before_acting", times=1)
    )
    overdue = (
        "UPDATE mkwanja.payments SET next_step_at = now()"
        " WHERE id = $1::uuid AND next_step_at > now()"
    )

    async def inquire_again() -> Any:
        await system.execute(overdue, payment_id)
        return await system.payment(payment_id)

    payment = await system.eventually(
        inquire_again, lambda seen: seen["stage"] == "succeeded", poll_seconds=1
    )
    assert (payment["receipt"], payment["needs_review"]) == (
        await receipt_of(system, payment_id),
        True,
    )
    assert await event_types(system, payment_id) == ["failed", "corrected"]
    await system.assert_money_agrees([payment_id])
