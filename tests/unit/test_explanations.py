"""Every failure is explained in English and in Swahili, to the customer and to the operator."""

from __future__ import annotations

from domain.adapters.daraja import deposit
from domain.adapters.daraja.result_codes import PAYOUT_FAILURES
from domain.explanations import explain_code, explain_failure, explain_reason, explanation_view
from domain.explanations.codes import DEPOSIT_CODES, PAYOUT_CODES
from domain.explanations.words import Words
from domain.failures import Failure, FailureReason
from domain.kinds import Kind


def test_each_reason_of_each_kind_says_what_the_customer_and_the_operator_can_do() -> None:
    for kind in Kind:
        for reason in FailureReason:
            view = explanation_view(explain_reason(reason, kind))
            assert set(view) == {"meaning", "customer", "operator"}
            for part, words in view.items():
                assert set(words) == {"en", "sw"}
                assert words["en"].endswith("."), (kind, reason, part)
                assert words["sw"].endswith("."), (kind, reason, part)
                assert words["en"] != words["sw"], (kind, reason, part)


def test_each_code_that_ends_a_payment_is_explained() -> None:
    assert set(deposit.FAILURES) <= set(DEPOSIT_CODES)
    assert set(PAYOUT_FAILURES) <= set(PAYOUT_CODES)
    for code, words in (*DEPOSIT_CODES.items(), *PAYOUT_CODES.items()):
        assert isinstance(words, Words)
        assert words.english.endswith(".") and words.swahili.endswith("."), code  # noqa: PT018


def test_a_code_of_a_deposit_is_about_the_customer_and_of_a_payout_about_us() -> None:
    of_customer, of_us = explain_code("2001", Kind.DEPOSIT), explain_code("2001", Kind.WITHDRAWAL)
    assert of_customer is not None
    assert "PIN" in of_customer.english
    assert of_us is not None
    assert "initiator" in of_us.english


def test_the_code_of_a_failure_says_more_than_its_reason() -> None:
    reason = FailureReason.REJECTED_BY_PROVIDER
    coded = explain_failure(
        Failure(reason, safe_to_retry=True, provider_code="E3008"), Kind.DEPOSIT
    )
    plain = explain_failure(Failure(reason, safe_to_retry=True), Kind.DEPOSIT)
    unknown = explain_failure(Failure(reason, safe_to_retry=True, provider_code="77"), Kind.DEPOSIT)
    assert "debt" in coded.meaning.english
    assert coded.customer == plain.customer
    assert unknown == plain
