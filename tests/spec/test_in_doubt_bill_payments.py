"""Bill payments in doubt: no key, so never sent again; asked about where Daraja gave an id, else
a person's.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.spec.delivering import deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_in_doubt,
    inquiries,
    load_awaited,
    receipt_of,
    wait_for_inquiries,
    wait_until_observed,
)
from tests.spec.playing import AWAITED, IN_DOUBT, PAID, failed, observe
from tests.spec.system import System


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that asks soon."""
    return inquiring_system


async def test_a_bill_with_an_id_is_found_by_asking(system: System) -> None:
    """Transaction Status by the id that Daraja gave ends a bill payment whose result was lost,
    paid or not.
    """
    ids = {
        "paid": await begin_in_doubt(system, "b2b", "lost_callback"),
        "not paid": await begin_in_doubt(system, "b2b", "lost_callback", code=1),
        "declined": await begin_in_doubt(
            system,
            "b2b",
            "lost_callback",
            InquiryRule("status_value", {"status": "Declined"}),
            moves_money=False,
        ),
    }
    expected = {
        "paid": PAID,
        "not paid": failed("rejected_by_provider", "Failed"),
        "declined": failed("rejected_by_provider", "Declined"),
    }
    await wait_until_observed(system, expected, ids)
    await system.assert_money_agrees(list(ids.values()))
    assert (await system.payment(ids["paid"]))["receipt"] == await receipt_of(system, ids["paid"])


async def test_a_bill_that_daraja_does_not_know_is_not_sent_again(system: System) -> None:
    """However often Transaction Status finds nothing, a bill payment is not sent again; then a
    person is called.
    """
    payment_id = await begin_in_doubt(
        system, "b2b", "slow_result", InquiryRule("not_found"), seconds=600
    )
    await wait_for_inquiries(system, payment_id, 11)
    assert await observe(system, {"it": payment_id}) == {"it": replace(AWAITED, needs_review=True)}


_WITHOUT_ID = (
    "answer_and_callback_lost",
    "cut_before_acting",
    "system_busy",
    "maintenance",
    "html_503",
)


async def test_a_bill_without_an_id_waits_and_is_then_a_persons(system: System) -> None:
    """Nothing to ask by, and no result: it is flagged, never asked about, never sent again; its
    result may come still.
    """
    ids = dict(
        zip(
            _WITHOUT_ID,
            await asyncio.gather(*(begin_in_doubt(system, "b2b", n) for n in _WITHOUT_ID)),
            strict=True,
        )
    )
    flagged = replace(IN_DOUBT, needs_review=True)
    expected = dict.fromkeys(ids, flagged) | {"answer_and_callback_lost": replace(flagged, moved=1)}
    await wait_until_observed(system, expected, ids)
    for payment_id in ids.values():
        assert "needs_a_person" in [
            entry["what"] for entry in await system.backend.history(payment_id)
        ]
        due = "SELECT FROM mkwanja.payments WHERE id = $1::uuid AND next_step = 'watch' AND next_step_at IS NOT NULL"
        assert await system.rows(due, payment_id)
        assert await inquiries(system, payment_id) == []
    one = await load_awaited(system, ids["answer_and_callback_lost"], "b2b")
    receipt = await receipt_of(system, one.id)
    await deliver(system, one.url, one.result(receipt=receipt))
    assert (await system.payment(one.id))["receipt"] == receipt
    await system.assert_money_agrees([one.id])


async def test_a_result_by_its_address_gives_a_bill_the_id_to_ask_by(system: System) -> None:
    """A bill in doubt without an id learns it from a result that decides nothing, and is then
    asked about and found.
    """
    payment_id = await begin_in_doubt(
        system, "b2b", "answer_lost_after_acting", code=17, moves_money=True
    )
    await wait_until_observed(system, {"it": PAID}, {"it": payment_id})
    assert (await inquiries(system, payment_id))[-1]["verdict"] == "paid"
    await system.assert_money_agrees([payment_id])
