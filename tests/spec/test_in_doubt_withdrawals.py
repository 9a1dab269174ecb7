"""Withdrawals in doubt: the service inquires about them, and may send them again.

It resends a withdrawal after two answers "not found", or if Daraja was busy at every send. It
trusts a "not found" only if the inquiry was sent long enough after the last send. Every send has
the payment's one id.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.spec.delivering import deliver
from tests.spec.in_doubt import (
    InquiryRule,
    begin_each,
    begin_in_doubt,
    inquiries,
    wait_for_inquiries_about_each,
    wait_until_observed,
)
from tests.spec.playing import (
    IN_DOUBT,
    PAID,
    PAID_LATER,
    Observed,
    failed,
    observe,
)
from tests.spec.system import System

_SILENCE = InquiryRule("lost_callback")


@pytest.fixture
async def system(inquiring_system: System) -> System:
    """A system that inquires about open payments soon."""
    return inquiring_system


async def test_a_withdrawal_whose_answer_was_lost_is_settled_once(system: System) -> None:
    """The withdrawal is sent once. A callback settles it, or an inquiry if there is no callback."""
    scenarios = ("answer_lost_after_acting", "answer_and_callback_lost")
    ids = {scenario: await begin_in_doubt(system, "b2c", scenario) for scenario in scenarios}
    await wait_until_observed(system, dict.fromkeys(ids, PAID), ids)
    await system.assert_money_agrees(list(ids.values()))
    answers = [
        inquiry["verdict"] for inquiry in await inquiries(system, ids["answer_and_callback_lost"])
    ]
    assert answers[-1] == "paid"
    for payment_id in ids.values():
        [movement] = await system.movements(payment_id)
        assert (await system.payment(payment_id))["receipt"] == movement["receipt"]


_NEVER_ACTED = {
    "cut_before_acting": {},
    "internal_error_without_acting": {},
    "redirect_without_acting": {},
    "html_503": {},
    "html_200": {"act": False},
    "empty_200": {"act": False},
    "error_envelope_200": {},
}


async def test_a_withdrawal_on_which_daraja_never_acted_is_resent_under_its_id(
    system: System,
) -> None:
    """Two trusted answers "not found" permit the resend. The withdrawal is paid once."""
    ids = await begin_each(
        {
            name: begin_in_doubt(system, "b2c", name, times=1, **params)
            for name, params in _NEVER_ACTED.items()
        }
    )
    await wait_until_observed(system, dict.fromkeys(ids, PAID_LATER), ids)
    await system.assert_money_agrees(list(ids.values()))
    for payment_id in ids.values():
        [first, second] = await system.rows(
            "SELECT * FROM mkwanja.attempts WHERE payment_id = $1::uuid ORDER BY number", payment_id
        )
        not_found = [
            inquiry
            for inquiry in await inquiries(system, payment_id)
            if inquiry["verdict"] == "not_found" and inquiry["asked_at"] < second["claimed_at"]
        ]
        trusted = [
            one for one in not_found if (one["asked_at"] - first["ended_at"]).total_seconds() >= 1
        ]
        assert len(trusted) >= 2
        sent = [r for r in await system.provider_requests(payment_id) if "/b2c/" in r["path"]]
        assert {request["body"]["OriginatorConversationID"] for request in sent} == {payment_id}
        stages = await system.stages(payment_id)
        assert (stages[:4], stages[-1]) == (
            ["accepted", "submitting", "in_doubt", "submitting"],
            "succeeded",
        )


# For the cases with exactly one trusted answer. The first two inquiries may come too soon
# after the send to be trusted, so Daraja sends its first result for the third inquiry.
_SILENT_AT_FIRST = InquiryRule("lost_callback", times=2)
# The keys say why the service may not resend the withdrawal. The values are Daraja's answers to
# the inquiries about it.
_NOT_PERMITTED = {
    "only one answer is a trusted not found": (
        _SILENT_AT_FIRST,
        InquiryRule("not_found", times=1),
        _SILENCE,
    ),
    "three answers belong to one inquiry": (
        _SILENT_AT_FIRST,
        InquiryRule("duplicate_callbacks", times=1),
        _SILENCE,
    ),
    "a not-found code with another text": (InquiryRule("status_receiver_invalid"),),
    "a not-found text about an operator": (
        InquiryRule("not_found", {"desc": "The operator does not exist."}),
    ),
    "a not-found text with another code": (
        InquiryRule("result_code", {"code": 17, "desc": "The transaction does not exist"}),
    ),
    "result code 25, an invalid parameter": (InquiryRule("result_code", {"code": 25}),),
}


async def test_a_withdrawal_without_two_trusted_not_found_answers_is_not_resent(
    system: System,
) -> None:
    """The withdrawal stays in doubt, and the service only inquires about it."""
    ids = await begin_each(
        {
            label: begin_in_doubt(system, "b2c", "cut_before_acting", *answers, times=1)
            for label, answers in _NOT_PERMITTED.items()
        }
    )
    await wait_for_inquiries_about_each(system, ids.values(), 6)
    assert await observe(system, ids) == dict.fromkeys(ids, IN_DOUBT)
    answered_thrice = ids["three answers belong to one inquiry"]
    assert [row["operation"] for row in await system.callbacks(answered_thrice)] == ["status-3"] * 3
    answers = [inquiry["verdict"] for inquiry in await inquiries(system, answered_thrice)]
    assert answers[:4] == [None, None, "not_found", None]


async def test_a_withdrawal_is_never_resent_after_a_sign_that_daraja_has_it(system: System) -> None:
    """A sign that Daraja has the withdrawal outweighs all later answers "not found".

    The sign is an answer "Duplicate", a status "Pending", or a message about the withdrawal.
    """
    lost = "answer_and_callback_lost"
    pending_once = (InquiryRule("status_value", times=1), InquiryRule("not_found"))
    messages = {
        "Daraja sent a timeout message": "withdrawal-timeout",
        "Daraja sent an unreadable message": "withdrawal",
    }
    ids = await begin_each(
        {
            "Daraja answered Duplicate": begin_in_doubt(system, "b2c", "duplicate_ocid", times=1),
            "one inquiry found Pending": begin_in_doubt(system, "b2c", lost, *pending_once),
            **{
                label: begin_in_doubt(system, "b2c", "cut_before_acting", times=1)
                for label in messages
            },
        }
    )
    for label, operation in messages.items():
        url = await system.callback_url(ids[label], operation)
        assert (await deliver(system, url, b"{}")).status == 200
    await wait_for_inquiries_about_each(system, ids.values(), 6)
    expected = dict.fromkeys(ids, IN_DOUBT) | {
        "one inquiry found Pending": replace(IN_DOUBT, moved=1)
    }
    assert await observe(system, ids) == expected
    for payment_id in ids.values():
        found = [inquiry["verdict"] for inquiry in await inquiries(system, payment_id)]
        assert found.count("not_found") >= 2


async def test_a_withdrawal_is_resent_without_an_inquiry_if_daraja_was_busy(system: System) -> None:
    """The answers "busy" and "maintenance" permit a resend under the same id after a wait."""
    table = {("system_busy", 1): 2, ("maintenance", 1): 2, ("system_busy", 3): 4}
    ids = {str(row): await begin_in_doubt(system, "b2c", row[0], times=row[1]) for row in table}
    expected = {str(row): replace(PAID, sent=sent) for row, sent in table.items()}
    await wait_until_observed(system, expected, ids)
    await system.assert_money_agrees(list(ids.values()))
    for row, payment_id in zip(table, ids.values(), strict=True):
        # The first resend and an inquiry are due at the same time, and the worker prefers the
        # resend. A later resend waits longer, so an inquiry may come before it.
        if row[1] == 1:
            assert await inquiries(system, payment_id) == []


_STATUSES = {
    "Completed": PAID,
    "Failed": failed("rejected_by_provider", "Failed"),
    "Cancelled": failed("rejected_by_provider", "Cancelled"),
    "Declined": failed("rejected_by_provider", "Declined"),
    "Expired": failed("expired", "Expired", safe=False),
    "Reversed": failed("reversed", "Reversed", safe=False),
    "Pending": IN_DOUBT,
    "COMPLETED": IN_DOUBT,
    "Paid": IN_DOUBT,
}


async def test_the_status_in_the_answer_decides_and_not_its_result_code(
    system: System,
) -> None:
    """Completed is a success, and five statuses are failures. Other statuses decide nothing."""
    ids = await begin_each(
        {
            status: begin_in_doubt(
                system,
                "b2c",
                "answer_and_callback_lost",
                InquiryRule("status_value", {"status": status}),
                moves_money=expected is PAID,
            )
            for status, expected in _STATUSES.items()
        }
    )
    in_doubt = [ids[status] for status, expected in _STATUSES.items() if expected is IN_DOUBT]
    await wait_for_inquiries_about_each(system, in_doubt, 3)
    await wait_until_observed(system, _STATUSES, ids)
    await system.assert_money_agrees([one for one in ids.values() if one not in in_doubt])


_REVIEWED = replace(PAID, needs_review=True)

# Daraja answers an inquiry by a response, and later sends the result in a message. The keys say
# what is odd about one of the two. The values are Daraja's behaviour, and what the payment becomes.
# If `times` is 1, only the first inquiry gets the odd answer.
_ODD_ANSWERS: dict[str, tuple[InquiryRule, Observed]] = {
    "two statuses that contradict each other": (InquiryRule("status_conflicting", times=1), PAID),
    # No inquiry gets a good result here: the service has to understand the odd one.
    "ids whose names have spaces": (InquiryRule("spaced_keys"), PAID),
    "no receipt": (InquiryRule("status_missing_receipt", times=1), PAID),
    "no status": (InquiryRule("status_missing_parameters", times=1), PAID),
    "another amount": (InquiryRule("status_wrong_amount", times=1), _REVIEWED),
    "the ids of another payment": (InquiryRule("status_foreign_ids", times=1), _REVIEWED),
    "a timeout message alone": (InquiryRule("timeout_message_only", times=1), PAID),
    "a response of HTML": (InquiryRule("html_503", times=1), PAID),
    "a response that asks us to wait": (
        InquiryRule("spike_arrest_apigee", times=1),
        PAID,
    ),
    "a response that the token is not valid": (InquiryRule("token_expired", times=1), PAID),
    "a result after the next inquiry": (InquiryRule("slow_result", {"seconds": 2}, 1), PAID),
    "a result before the response": (InquiryRule("callback_before_answer", times=1), PAID),
    "the same result several times": (InquiryRule("duplicate_callbacks", times=1), PAID),
    "no result": (InquiryRule("lost_callback", times=1), PAID),
    "a result without a response": (
        InquiryRule("answer_lost_after_acting", times=1),
        PAID,
    ),
}


async def test_a_withdrawal_is_paid_once_after_an_odd_answer_to_an_inquiry(system: System) -> None:
    """If the result names another amount or another payment's ids, the payment is also flagged."""
    ids = await begin_each(
        {
            label: begin_in_doubt(system, "b2c", "answer_and_callback_lost", answer)
            for label, (answer, _) in _ODD_ANSWERS.items()
        }
    )
    expected = {label: seen for label, (_, seen) in _ODD_ANSWERS.items()}
    await wait_until_observed(system, expected, ids)
    await system.assert_money_agrees(list(ids.values()))
