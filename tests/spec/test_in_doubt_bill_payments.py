"""Bill payments in doubt: they are never sent again, because they have no resend key.

If Daraja gave a bill payment an id, the service inquires about the payment. If not, the service
flags the payment for a person.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.spec.delivering import deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_each,
    begin_in_doubt,
    history_facts,
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
    """A system that inquires about open payments soon."""
    return inquiring_system


async def test_an_inquiry_settles_a_bill_payment_that_has_an_id(system: System) -> None:
    """The result was lost. Transaction Status by Daraja's id shows whether the money moved."""
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


async def test_a_bill_payment_that_daraja_does_not_know_is_not_sent_again(system: System) -> None:
    """After many answers "not found", the service flags the payment for a person."""
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


async def test_a_bill_payment_without_an_id_is_flagged_for_a_person(system: System) -> None:
    """Without an id no inquiry is possible. A late result still settles the payment."""
    ids = await begin_each({name: begin_in_doubt(system, "b2b", name) for name in _WITHOUT_ID})
    flagged = replace(IN_DOUBT, needs_review=True)
    expected = dict.fromkeys(ids, flagged) | {"answer_and_callback_lost": replace(flagged, moved=1)}
    await wait_until_observed(system, expected, ids)
    for payment_id in ids.values():
        assert "needs_a_person" in await history_facts(system, payment_id)
        due = (
            "SELECT FROM mkwanja.payments WHERE id = $1::uuid AND next_step = 'watch' AND"
            " next_step_at IS NOT NULL"
        )
        assert await system.rows(due, payment_id)
        assert await inquiries(system, payment_id) == []
    one = await load_awaited(system, ids["answer_and_callback_lost"], "b2b")
    receipt = await receipt_of(system, one.id)
    await deliver(system, one.url, one.result(receipt=receipt))
    assert (await system.payment(one.id))["receipt"] == receipt
    await system.assert_money_agrees([one.id])
