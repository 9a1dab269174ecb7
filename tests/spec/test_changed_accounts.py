"""The worker's account at Daraja changes while payments of the old account are still open.

The account is the base address, app, short code and initiator by which a payment was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.app import Simulator
from tests.spec.conftest import INQUIRE_SOON, a_system
from tests.spec.delivering import deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    inquiries,
    observe_one,
    wait_for_inquiries,
    wait_until_observed,
)
from tests.spec.operating import operate, start
from tests.spec.playing import AWAITED, IN_DOUBT, PAID, Api
from tests.spec.system import System
from tests.stack.backups import back_up

_OLD, _NEW = "600111", "600222"

# The simulated organisation has two accounts, each with its short code, app and initiator. Both are
# valid. Only the stored attempt shows which account sent a payment.
_SIMULATOR: dict[str, str | None] = {
    "DARAJA_SHORTCODE": _OLD,
    "DARAJA_PAYOUT_SHORTCODE": _OLD,
    "SIMULATOR_OTHER_SHORTCODES": _NEW,
    "SIMULATOR_OTHER_CONSUMER_KEYS": "the-key-of-another-app",
    "SIMULATOR_OTHER_INITIATORS": "another",
}
_NEW_SHORTCODES = {"DARAJA_SHORTCODE": _NEW, "DARAJA_PAYOUT_SHORTCODE": _NEW}
_NO_ANSWER: dict[Api, InquiryRule] = {
    "stk": InquiryRule("html_503"),
    "b2c": InquiryRule("lost_callback"),
    "b2b": InquiryRule("lost_callback"),
}


@pytest.fixture(scope="module")
async def running_system() -> AsyncIterator[System]:
    async with a_system(env=INQUIRE_SOON, process_env={"simulator": _SIMULATOR}) as system:
        yield system


@pytest.fixture
async def system(running_system: System) -> AsyncIterator[System]:
    """The system. When a test begins, the worker uses the old account."""
    yield running_system
    await running_system.control("DELETE", "/scenarios")
    await running_system.stack.restart_process("worker")


async def _begin_open(
    system: System, api: Api, scenario: str = "lost_callback", **params: Any
) -> str:
    """Make a payment that is sent and stays open; return its id.

    Until `_restart_worker`, Daraja answers no inquiry about it.
    """
    payment_id = await begin_in_doubt(system, api, scenario, _NO_ANSWER[api], **params)
    expected = "awaiting_result" if scenario == "lost_callback" else "in_doubt"
    await system.in_stage(payment_id, expected)
    return payment_id


async def _restart_worker(system: System, settings: Mapping[str, str | None]) -> None:
    """Restart the worker with these settings; from then on Daraja answers inquiries."""
    await system.stack.stop_process("worker")
    await system.control("DELETE", "/scenarios")
    await system.control("DELETE", "/requests")
    await system.stack.start_process("worker", env=settings)


async def _inquiring_shortcodes(system: System, payment_id: str) -> set[str]:
    """The short codes that inquired about the payment since the restart."""
    requests = (await system.control("GET", "/requests"))["items"]
    checkout_ids = (await system.payment(payment_id))["provider_ids"].get("checkout_request_id", [])
    return {
        str(request["body"].get("PartyA") or request["body"]["BusinessShortCode"])
        for request in requests
        if "query" in request["path"]
        and any(name in str(request["body"]) for name in (payment_id, *checkout_ids))
    }


async def test_the_worker_inquires_about_a_payment_by_the_short_code_that_sent_it(
    system: System,
) -> None:
    """Daraja finds a withdrawal only if the short code that sent it inquires about it."""
    ids = {
        "withdrawal": await _begin_open(system, "b2c", "answer_and_callback_lost"),
        "deposit": await _begin_open(system, "stk"),
        "bill payment": await _begin_open(system, "b2b"),
    }
    await _restart_worker(system, _NEW_SHORTCODES)
    paid = dict.fromkeys(ids, replace(PAID, sent=0))
    await wait_until_observed(system, paid, ids, flagged_or_not=True)
    for payment_id in ids.values():
        assert await _inquiring_shortcodes(system, payment_id) == {_OLD}
    await system.assert_money_agrees(list(ids.values()))


@pytest.mark.whole
async def test_a_restored_withdrawal_is_inquired_about_by_the_short_code_that_sent_it(
    system: System,
) -> None:
    """The restore adds a send of an unknown account, and no worker sends the withdrawal again."""
    payment_id = await _begin_open(system, "b2c", "answer_and_callback_lost")
    (await back_up("protect", "a test", url=system.stack.database_url)).expect(0)
    await start(system)
    await _restart_worker(system, _NEW_SHORTCODES)
    await wait_until_observed(
        system, {"it": replace(PAID, sent=0)}, {"it": payment_id}, flagged_or_not=True
    )
    assert await _inquiring_shortcodes(system, payment_id) == {_OLD}
    await system.assert_money_agrees([payment_id])


async def test_only_the_account_that_sent_a_lost_withdrawal_resends_it(
    system: System,
) -> None:
    """Another short code must not resend it, even if Daraja answered "not found" twice."""
    payment_id = await _begin_open(system, "b2c", "cut_before_acting", times=1)
    await _restart_worker(system, {"DARAJA_PAYOUT_SHORTCODE": _NEW})
    before = len(await inquiries(system, payment_id))
    answered = await wait_for_inquiries(system, payment_id, before + 6)
    assert [one["verdict"] for one in answered].count("not_found") >= 4
    assert await observe_one(system, payment_id) == replace(IN_DOUBT, sent=0)
    assert await _inquiring_shortcodes(system, payment_id) == {_OLD}
    await _restart_worker(system, {})
    await wait_until_observed(system, {"it": PAID}, {"it": payment_id})
    await system.assert_money_agrees([payment_id])


_GONE: dict[str, dict[str, str | None]] = {
    "app": {"DARAJA_CONSUMER_KEY": "the-key-of-another-app"},
    "initiator": {"DARAJA_INITIATOR_NAME": "another"},
    "base_url": {},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("part", _GONE)
async def test_payments_that_a_former_account_sent_are_flagged(
    system: System, part: str, tmp_path: Path
) -> None:
    """The worker is no longer configured for the account that sent a payment.

    It does not use another account to inquire about the payment or to resend it. It flags the
    payment. When the worker starts, it logs that there are such payments. A callback still settles
    the payment.
    """
    lost = await _begin_open(system, "b2c", "cut_before_acting", times=1)
    paid = await _begin_open(system, "b2b")
    ids = {"lost": lost, "paid": paid}
    certificate = tmp_path / "daraja.pem"
    environment = {**system.stack.env("worker"), **_SIMULATOR}
    settings_of_simulator = {
        name: value for name, value in environment.items() if value is not None
    }
    async with Simulator(
        time_scale=0.02, environment=settings_of_simulator, certificate_file=certificate
    ) as elsewhere:
        settings = _GONE[part]
        if part == "base_url":
            settings = {
                "DARAJA_BASE_URL": elsewhere.base_url,
                "DARAJA_CERTIFICATE_FILE": str(certificate),
            }
        await _restart_worker(system, settings)
        flagged = {
            "lost": replace(IN_DOUBT, needs_review=True, sent=0),
            "paid": replace(AWAITED, needs_review=True, moved=1, sent=0),
        }
        await wait_until_observed(system, flagged, ids)
        for payment_id in ids.values():
            history = await system.backend.history(payment_id)
            [entry] = [entry for entry in history if entry["what"] == "account_not_configured"]
            assert entry["detail"] == {"differs": part, "shortcode": _OLD}
        fresh = await system.withdrawal()  # the new account sends it
        assert (await system.settled(fresh))["status"] == "success"
        for payment_id in ids.values():
            assert not await _inquiring_shortcodes(system, payment_id)
            assert elsewhere.traffic.to_json(contains=payment_id)["items"] == []
    log = system.stack.logs()["worker.1"]
    assert '"payments_of_former_account"' in log
    await _deliver_result_of_bill(system, paid)
    assert await observe_one(system, lost) == flagged["lost"]


async def _deliver_result_of_bill(system: System, payment_id: str) -> None:
    [movement] = await system.movements(payment_id)
    payment = await system.payment(payment_id)
    ids = {name: values[0] for name, values in payment["provider_ids"].items()}
    body = {
        "Result": {
            "ResultType": 0,
            "ResultCode": 0,
            "ResultDesc": "Sent by a test.",
            "OriginatorConversationID": ids["originator_conversation_id"],
            "ConversationID": ids["conversation_id"],
            "TransactionID": movement["receipt"],
            "ResultParameters": {
                "ResultParameter": [{"Key": "Amount", "Value": payment["amount"]}]
            },
        }
    }
    assert (await deliver(system, str(movement["result_url"]), body)).status == 200
    assert (await system.settled(payment_id))["status"] == "success"


async def test_the_accounts_command_prints_the_accounts_of_open_payments(system: System) -> None:
    await _begin_open(system, "b2c", "cut_before_acting", times=1)
    result = (await operate(system, "accounts")).expect(0)
    [line] = [
        line for line in result.lines if f"shortcode {_OLD}, initiator " in line and "app " in line
    ][:1]
    assert system.stack.env("worker")["DARAJA_CONSUMER_KEY"] not in line
    assert system.stack.simulator_url in line
