"""A payment's page in the console: its story, its masked numbers, and the operator's decisions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.spec.console import (
    RECORDED_AS,
    Visitor,
    a_console_system,
    an_operator,
    payment_in_doubt,
)
from tests.spec.delivering import deliver
from tests.spec.playing import stopped_payouts
from tests.spec.system import System

_HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
_REASON = "statement of 1 March, page 2"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_console_system() as system:
        yield system


@pytest.fixture
async def operator(system: System) -> AsyncIterator[Visitor]:
    async with an_operator(system) as operator:
        yield operator


async def _last_entry(system: System, payment_id: str) -> Any:
    return (await system.backend.history(payment_id))[-1]


class TestStory:
    async def test_a_page_tells_the_story_of_a_success_and_shows_the_evidence(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.deposit(amount=375, phone_number="0712000601")
        payment = await system.settled(payment_id)
        page = await operator.get(f"/console/payments/{payment_id}")
        for text in (
            "KES 375 deposit",
            f"it succeeded ({payment['receipt']})",
            "The caller asked for the payment, and the service stored it.",
            "Daraja acknowledged the payment.",
            "Daraja reported that the payment succeeded.",
            "1 callback, as received",
            "1 request to Daraja, with its answers",
            '"ResultCode"',
        ):
            assert text in page.text, text

    async def test_a_result_code_is_explained_in_english_and_swahili(
        self, system: System, operator: Visitor
    ) -> None:
        await system.scenario("cancel", api="stk", times=1, phone_number="254712000602")
        payment_id = await system.deposit(phone_number="0712000602")
        await system.settled(payment_id)
        page = await operator.get(f"/console/payments/{payment_id}")
        assert "Result code 1032, explained" in page.text
        assert "The customer cancelled the request on the phone." in page.text
        assert "Mteja alighairi ombi kwenye simu." in page.text

    async def test_texts_of_callers_and_of_daraja_are_shown_as_text(
        self, system: System, operator: Visitor
    ) -> None:
        metadata = {_HOSTILE: _HOSTILE, "note": "{{ 7 * 7 }}"}
        payment_id = await system.withdrawal(remarks=_HOSTILE[:90], metadata=metadata)
        await system.settled(payment_id)
        url = await system.callback_url(payment_id, "withdrawal")
        await deliver(system, url, body=_HOSTILE.encode())
        page = await operator.get(f"/console/payments/{payment_id}")
        assert page.source.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
        assert "<script>alert" not in page.source
        assert "<img src=x" not in page.source
        assert "{{ 7 * 7 }}" in page.text

    async def test_an_unknown_payment_has_a_plain_page(self, operator: Visitor) -> None:
        for name in ("01890000-0000-7000-8000-000000000000", "nonsense"):
            page = await operator.get(f"/console/payments/{name}")
            assert page.status == 404
            assert "No such payment" in page.text


class TestDisclosure:
    async def test_numbers_are_masked_until_an_operator_gives_a_reason_that_is_recorded(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.withdrawal(phone_number="0722000603", owner="0722000603")
        payment = await system.settled(payment_id)
        path = f"/console/payments/{payment_id}"
        page = await operator.get(path)
        assert "722000603" not in page.source
        assert payment["recipient_name"] not in page.source
        assert "2547******03" in page.text
        page = await operator.post(f"{path}/reveal", {"reason": "the customer calls"})
        assert page.status == 200
        assert "254722000603" in page.text
        assert "0722000603" in page.text
        assert payment["recipient_name"] in page.text
        page = await operator.get(path)
        assert "722000603" not in page.source
        assert f"{RECORDED_AS}: the customer calls" in page.text
        [row] = await system.rows(
            "SELECT operator, reason FROM mkwanja.console_disclosures WHERE payment_id = $1::uuid",
            payment_id,
        )
        assert row == {"operator": RECORDED_AS, "reason": "the customer calls"}

    async def test_without_a_reason_nothing_is_shown_or_recorded(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.withdrawal(phone_number="0722000604")
        for reason in ("", "  x ", "x" * 501, "two\nlines"):
            page = await operator.post(f"/console/payments/{payment_id}/reveal", {"reason": reason})
            assert page.status == 422
            assert "Reason: must be" in page.text
            assert "722000604" not in page.source
        recorded = "SELECT * FROM mkwanja.console_disclosures WHERE payment_id = $1::uuid"
        assert await system.rows(recorded, payment_id) == []


class TestDecisions:
    async def test_an_operator_resolves_a_payment_in_doubt_as_paid(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await payment_in_doubt(system)
        form = {"decision": "paid", "receipt": "uk17console", "amount": "", "reason": _REASON}
        page = await operator.post(f"/console/payments/{payment_id}/resolve", form)
        assert page.status == 200
        assert "Your decision is recorded." in page.text
        payment = await system.payment(payment_id)
        assert (payment["status"], payment["receipt"]) == ("success", "UK17CONSOLE")
        entry = await _last_entry(system, payment_id)
        assert entry["what"] == "resolved_paid"
        assert entry["detail"] == {"reason": _REASON, "operator": RECORDED_AS}
        assert f"· {RECORDED_AS}" in page.text
        assert _REASON in page.text
        review = await operator.get("/console/review")
        assert f"{RECORDED_AS} decided: paid" in review.text

    async def test_evidence_outranks_an_operator_and_the_form_keeps_what_was_written(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.deposit()
        await system.settled(payment_id)
        form = {"decision": "unpaid", "reason": _REASON}
        page = await operator.post(f"/console/payments/{payment_id}/resolve", form)
        assert page.status == 409
        assert "Nothing was done. The payment is final: success." in page.text
        assert f'value="{_REASON}"' in page.source
        assert (await system.payment(payment_id))["status"] == "success"

    @pytest.mark.parametrize(
        ("fields", "status", "fault"),
        [
            ({"decision": "odd"}, 422, "Decision: choose one. You gave odd"),
            ({"decision": "", "reason": ""}, 422, "Decision: choose one. Reason: must be"),
            ({"receipt": "no receipt"}, 422, "Receipt: is not an M-PESA receipt number"),
            ({"amount": "1.5"}, 422, "Amount: is not whole shillings in digits, such as 1200"),
            ({"amount": "0"}, 422, "Amount: is not whole shillings"),
            ({"amount": "1,200"}, 422, "no comma, no cents. You gave 1,200"),
            ({"amount": "٤٠٠"}, 422, "Amount: is not whole shillings"),
            ({"reason": "x"}, 422, "Reason: must be 3 to 500 characters"),
            ({"receipt": ""}, 409, "Give M-PESA's receipt number from the statement."),
            ({"decision": "unpaid"}, 422, 'Receipt: is allowed only with the decision "Paid"; '),
            (
                {"decision": "reviewed", "amount": "7"},
                422,
                'UK17CONSO1 . Amount: is allowed only with the decision "Paid"; leave it out',
            ),
        ],
        ids=str,
    )
    async def test_a_wrong_field_is_named_and_nothing_is_recorded(
        self, system: System, operator: Visitor, fields: dict[str, str], status: int, fault: str
    ) -> None:
        payment_id = await payment_in_doubt(system)
        form = {"decision": "paid", "receipt": "UK17CONSO1", "reason": _REASON, **fields}
        page = await operator.post(f"/console/payments/{payment_id}/resolve", form)
        assert page.status == status
        assert fault in page.text
        assert "Nothing was done." in page.text
        for name, value in form.items():
            assert name == "decision" or f'name="{name}" type="text"' in page.source
            assert name == "decision" or f'value="{value}"' in page.source
        assert (await system.payment(payment_id))["status"] == "pending"

    async def test_an_operator_asks_daraja_about_a_payment_now(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.withdrawal()
        await system.settled(payment_id)
        page = await operator.post(f"/console/payments/{payment_id}/ask", {"reason": _REASON})
        assert re.search("The inquiry (is due now. A worker does|was due at once)", page.text)
        history = await system.backend.history(payment_id)
        [entry] = [each for each in history if each["what"] == "inquiry_asked_for"]
        assert entry["detail"] == {"reason": _REASON, "operator": RECORDED_AS}

    async def test_an_operator_cancels_a_payment_that_was_not_sent(
        self, system: System, operator: Visitor
    ) -> None:
        """A user of an app does not see the operator's name and reason."""
        await system.stack.stop_workers()
        try:
            payment_id = await system.deposit()
            path = f"/console/payments/{payment_id}"
            assert "Cancel for the caller" in (await operator.get(path)).text
            page = await operator.post(f"{path}/cancel", {"reason": _REASON})
            assert "The payment is cancelled." in page.text
        finally:
            await system.stack.start_workers()
        assert (await system.payment(payment_id))["failure"]["reason"] == "cancelled_by_caller"
        entry = await _last_entry(system, payment_id)
        assert entry["detail"] == {"reason": _REASON, "operator": RECORDED_AS}
        assert (await system.user.history(payment_id))[-1]["detail"] == {}

    async def test_a_payment_that_was_sent_cannot_be_cancelled(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.deposit()
        await system.settled(payment_id)
        page = await operator.post(f"/console/payments/{payment_id}/cancel", {"reason": _REASON})
        assert page.status == 409
        assert "Nothing was done. The payment is final: success." in page.text
        assert f'value="{_REASON}"' in page.source

    async def test_a_second_cancellation_says_that_nothing_was_done(
        self, system: System, operator: Visitor
    ) -> None:
        await system.stack.stop_workers()
        try:
            payment_id = await system.deposit()
            for text in ("The payment is cancelled. It was not sent.", "cancelled before. Nothing"):
                form = {"reason": _REASON}
                page = await operator.post(f"/console/payments/{payment_id}/cancel", form)
                assert text in page.text
        finally:
            await system.stack.start_workers()
        assert [each["what"] for each in await system.backend.history(payment_id)] == [
            "accepted",
            "cancelled_by_caller",
        ]

    @pytest.mark.parametrize(
        ("action", "fields", "text"),
        [
            ("cancel", {}, "It has ended, so there is nothing to cancel."),
            ("requeue", {}, 'no step is planned. To inquire once more, use "Ask Daraja now".'),
            ("resolve", {"decision": "unpaid"}, "A decision cannot undo a success."),
            (
                "resolve",
                {"decision": "paid", "receipt": "UK17CONSO2"},
                'The payment has already succeeded. To clear a flag, use "Only clear the flag".',
            ),
            ("resolve", {"decision": "reviewed"}, "The payment is not flagged for review."),
        ],
        ids=str,
    )
    async def test_a_decision_about_a_final_payment_says_its_state_and_does_nothing(
        self, system: System, operator: Visitor, action: str, fields: dict[str, str], text: str
    ) -> None:
        payment_id = await system.deposit()
        await system.settled(payment_id)
        history = await system.backend.history(payment_id)
        page = await operator.post(
            f"/console/payments/{payment_id}/{action}", {"reason": _REASON, **fields}
        )
        assert page.status == 409
        assert "Nothing was done. The payment is final: success." in page.text
        assert text in page.text
        assert f'value="{_REASON}"' in page.source
        assert await system.backend.history(payment_id) == history

    async def test_an_operator_gives_a_waiting_payment_its_next_step_now(
        self, system: System, operator: Visitor
    ) -> None:
        """A worker then does the step. The history records the operator and the reason."""
        await system.stack.stop_workers()
        try:
            payment_id = await system.deposit()
            await system.execute(
                "UPDATE mkwanja.payments SET next_step_at = now() + interval '1 day',"
                " expires_at = now() + interval '2 days' WHERE id = $1::uuid",
                payment_id,
            )
            # No worker runs yet. It would find the wake-up of the deposit in the queue.
            path = f"/console/payments/{payment_id}"
            assert "Do the next step now It is planned for" in (await operator.get(path)).text
            page = await operator.post(f"{path}/requeue", {"reason": _REASON})
            assert "The next step is due now. A worker does it within seconds." in page.text
        finally:
            await system.stack.start_workers()
        assert (await system.settled(payment_id))["status"] == "success"
        [entry] = [
            each for each in await system.backend.history(payment_id) if each["what"] == "requeued"
        ]
        assert entry["detail"] == {
            "reason": _REASON,
            "operator": RECORDED_AS,
            "step": "submit",
        }
        assert "Do the next step now" not in (await operator.get(path)).text

    async def test_an_operator_who_gives_a_held_payment_its_next_step_reads_what_holds_it(
        self, system: System, operator: Visitor
    ) -> None:
        await system.stack.stop_workers()
        try:
            async with stopped_payouts(system):
                path = f"/console/payments/{await system.withdrawal()}"
                page = await operator.post(f"{path}/requeue", {"reason": _REASON})
                held = "It waits, because of the kill switch."
                assert f"The next step is due now. {held}" in page.text
                assert f"A worker claims and sends the payment later. {held}" in page.text
                assert "within seconds" not in page.text
        finally:
            await system.stack.start_workers()

    async def test_the_queue_of_reviews_shows_flagged_payments(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await payment_in_doubt(system)
        await system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE id = $1::uuid", payment_id
        )
        assert payment_id in (await operator.get("/console/review")).source
        form = {"decision": "unpaid", "reason": _REASON}
        await operator.post(f"/console/payments/{payment_id}/resolve", form)
        page = await operator.get("/console/review")
        assert f"/console/payments/{payment_id}" not in page.source.partition('id="decided"')[0]
        assert f"{RECORDED_AS} decided: not paid" in page.text
