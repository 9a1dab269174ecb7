"""Which account may inquire about a payment or resend it, by the account of each of its sends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.account import Account
from domain.attempts import Attempt, Outcome
from domain.changes import Decided, HistoryEntry
from domain.evidence import Evidence, InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.inquiry import may_be_resent, no_result_is_confirmed
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_change
from domain.lifecycle.record_callback import callback_change
from domain.lifecycle.submit import resend_claim_change
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    AN_ACCOUNT,
    INQUIRY_IDS,
    NOW,
    PAYMENT_ID,
    TIMES,
    a_callback,
    a_context,
    a_due_payment,
    a_report,
    a_send,
    an_attempt_id,
    an_inquiry,
    evidence_of,
)
from tests.case_tables import for_each
from tests.decisions import (
    breaker_reason_of,
    credential_accepted_at,
    detail_of,
    entry_of,
    inquiry_of,
)

OTHERS: dict[str, Account] = {
    "base_url": replace(AN_ACCOUNT, base_url="https://other.example"),
    "app": replace(AN_ACCOUNT, app="77"),
    "initiator": replace(AN_ACCOUNT, initiator="another"),
    "shortcode": replace(AN_ACCOUNT, shortcode="600222"),
}
PARTS_WITH_CREDENTIALS = [part for part in OTHERS if part != "shortcode"]
SENT_AT = NOW - timedelta(minutes=20)


def sent_by(
    *accounts: Account | None, outcome: Outcome = Outcome.UNKNOWN, kind: Kind = Kind.WITHDRAWAL
) -> Any:
    """One attempt by each of these accounts, in this order."""
    return tuple(
        replace(a_send(outcome, number=number, at=SENT_AT, **INQUIRY_IDS[kind]), account=account)
        for number, account in enumerate(accounts, 1)
    )


def not_found_twice(**fields: Any) -> Evidence:
    inquiries = [
        replace(an_inquiry(n, InquiryOutcome.NOT_FOUND, at=NOW - timedelta(seconds=n)), **fields)
        for n in (1, 2)
    ]
    return evidence_of(*inquiries)


NOT_ACTED: Attempt = replace(
    sent_by(OTHERS["app"], outcome=Outcome.NOT_ACTED)[0], id=an_attempt_id(9), number=9
)


@for_each(
    ("attempts", "is_permitted"),
    [
        (sent_by(AN_ACCOUNT), True),
        (sent_by(AN_ACCOUNT, AN_ACCOUNT), True),
        ((*sent_by(AN_ACCOUNT), NOT_ACTED), True),  # the other account is proved to have no payment
        (sent_by(None), False),  # sent before attempts stored their account
        (sent_by(AN_ACCOUNT, None), False),
        *[(sent_by(other), False) for other in OTHERS.values()],
        *[(sent_by(other, AN_ACCOUNT), False) for other in OTHERS.values()],
        *[(sent_by(AN_ACCOUNT, other), False) for other in OTHERS.values()],
    ],
)
@for_each("is_busy", [False, True])
def test_only_the_account_that_made_every_send_may_resend(
    attempts: tuple[Attempt, ...], is_permitted: bool, is_busy: bool
) -> None:
    """The claim judges the stored attempts under its lock, after two "not found" or a "busy"."""
    if is_busy:
        attempts = tuple(
            replace(a, outcome=Outcome.RESENDABLE) if a.outcome is Outcome.UNKNOWN else a
            for a in attempts
        )
    payment = a_due_payment(attempts=attempts)
    evidence = Evidence() if is_busy else not_found_twice()
    assert may_be_resent(payment, evidence, NOW, TIMES, ACCOUNTS) is is_permitted
    claimed = resend_claim_change(PAYMENT_ID, an_attempt_id(50), TIMES, ACCOUNTS)
    after = claimed.decide(payment, a_context(evidence=evidence)).payment
    assert after is not None
    assert (after.stage is Stage.SUBMITTING) is is_permitted
    if is_permitted:
        assert after.attempts[-1].account == AN_ACCOUNT


def test_a_worker_without_account_settings_resends_nothing() -> None:
    assert not may_be_resent(
        a_due_payment(attempts=sent_by(AN_ACCOUNT)), not_found_twice(), NOW, TIMES, accounts={}
    )


def test_a_not_found_for_another_account_permits_no_resend() -> None:
    """A setting was changed and changed back. The other account's inquiries prove nothing."""
    evidence = not_found_twice(is_of_former_account=True)
    assert not may_be_resent(
        a_due_payment(attempts=sent_by(AN_ACCOUNT)), evidence, NOW, TIMES, ACCOUNTS
    )


def decide_inquiry(payment: Payment, *, is_probe: bool = False) -> Decided:
    return inquiry_change(PAYMENT_ID, TIMES, ACCOUNTS, is_breaker_probe=is_probe).decide(
        payment, a_context()
    )


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("account", "is_former"), [(AN_ACCOUNT, False), (None, False), (OTHERS["shortcode"], True)]
)
def test_an_inquiry_stores_whether_it_is_of_a_former_account(
    kind: Kind, account: Account | None, is_former: bool
) -> None:
    decided = decide_inquiry(a_due_payment(kind, attempts=sent_by(account, kind=kind)))
    stored = inquiry_of(decided)
    assert stored is not None
    assert (stored.is_of_former_account, entry_of(decided)) == (is_former, None)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("part", PARTS_WITH_CREDENTIALS)
def test_a_payment_of_an_account_without_credentials_gets_no_inquiry(kind: Kind, part: str) -> None:
    """It is flagged once with the reason.

    The worker still checks it, ever more rarely, because the setting may come back.
    """
    payment = a_due_payment(kind, attempts=sent_by(OTHERS[part], kind=kind))
    decided = decide_inquiry(payment)
    after = decided.payment
    assert after is not None
    assert inquiry_of(decided) is None
    assert (entry_of(decided), after.needs_review) == (HistoryEntry.ACCOUNT_NOT_CONFIGURED, True)
    assert detail_of(decided) == {"differs": part, "shortcode": "600111"}
    assert after.next_step_at == NOW + timedelta(minutes=20)
    again = decide_inquiry(replace(after, next_step_at=NOW))
    assert (inquiry_of(again), entry_of(again)) == (None, None)


def test_a_deposit_that_failed_for_silence_under_a_former_account_needs_a_person() -> None:
    silent = Failure(FailureReason.NO_RESULT_CONFIRMED, safe_to_retry=False)
    attempts = sent_by(OTHERS["app"], kind=Kind.DEPOSIT)
    decided = decide_inquiry(
        a_due_payment(
            Kind.DEPOSIT, Stage.FAILED, attempts=attempts, failure=silent, finalized_at=NOW
        )
    )
    assert decided.payment is not None
    assert inquiry_of(decided) is None
    assert (decided.payment.stage, decided.payment.needs_review) == (Stage.FAILED, True)


@pytest.mark.parametrize("account", OTHERS.values())
def test_a_probe_never_inquires_about_a_send_of_another_account(account: Account) -> None:
    """Its answer would not show whether Daraja accepts the credential in use."""
    for sender, expected in ((account, False), (AN_ACCOUNT, True)):
        decided = decide_inquiry(a_due_payment(attempts=sent_by(sender)), is_probe=True)
        assert (inquiry_of(decided) is not None) is expected


@pytest.mark.parametrize("account", OTHERS.values())
def test_a_probe_may_inquire_about_an_unsent_payment_of_another_account(
    account: Account,
) -> None:
    """Otherwise the breaker would stay open after a change of account, before the first send."""
    unsent = a_due_payment(
        stage=Stage.ACCEPTED, attempts=sent_by(account, outcome=Outcome.NOT_ACTED)
    )
    stored = inquiry_of(decide_inquiry(unsent, is_probe=True))
    assert stored is not None
    assert not stored.is_of_former_account
    assert [attempt.inquiry_account for attempt in unsent.attempts] == [None]


def test_only_inquiries_by_a_deposit_s_own_account_count_as_silence() -> None:
    """Daraja refuses another passkey as "wrong credentials": no proof about the deposit."""
    payment = a_due_payment(
        Kind.DEPOSIT, Stage.AWAITING_RESULT, attempts=sent_by(AN_ACCOUNT, kind=Kind.DEPOSIT)
    )
    times = [NOW - timedelta(minutes=n) for n in range(1, 7)]
    silent = [an_inquiry(n, InquiryOutcome.VAGUE, at=at) for n, at in enumerate(times, 1)]
    assert no_result_is_confirmed(payment, evidence_of(*silent), NOW, TIMES)
    former = [replace(one, is_of_former_account=True) for one in silent]
    assert not no_result_is_confirmed(payment, evidence_of(*former), NOW, TIMES)


@pytest.mark.parametrize("is_former", [False, True])
def test_a_refused_credential_of_a_former_account_opens_no_breaker(is_former: bool) -> None:
    inquiry = replace(an_inquiry(3), is_of_former_account=is_former)
    report = a_report(
        ReportedOutcome.UNDECIDED,
        code="2001",
        inquiry_outcome=InquiryOutcome.NO_ANSWER,
        refuses_credential=True,
    )
    change = callback_change(PAYMENT_ID, a_callback(operation="status-3"), report)
    decided = change.decide(a_due_payment(), a_context(evidence=evidence_of(inquiry)))
    assert decided.payment is not None
    assert (breaker_reason_of(decided) is None) is is_former
    assert decided.payment.needs_review is is_former


@pytest.mark.parametrize("is_former", [False, True])
def test_a_good_answer_for_a_former_account_closes_no_breaker(is_former: bool) -> None:
    inquiry = replace(an_inquiry(3), is_of_former_account=is_former)
    report = a_report(ReportedOutcome.UNDECIDED, code="0", inquiry_outcome=InquiryOutcome.NOT_FOUND)
    change = callback_change(PAYMENT_ID, a_callback(operation="status-3"), report)
    decided = change.decide(a_due_payment(), a_context(evidence=evidence_of(inquiry)))
    assert (credential_accepted_at(decided) is None) is is_former


def test_a_failed_send_of_one_account_does_not_account_for_a_send_of_another() -> None:
    """Both accounts sent under the payment's one id."""
    own = frozenset({("originator_conversation_id", str(PAYMENT_ID))})
    report = a_report(ReportedOutcome.FAILURE, code="1", ids=own)
    change = callback_change(PAYMENT_ID, a_callback(operation="withdrawal"), report)
    of_one_account, of_two_accounts = (
        change.decide(a_due_payment(attempts=sent_by(*accounts)), a_context()).payment
        for accounts in ((AN_ACCOUNT, AN_ACCOUNT), (AN_ACCOUNT, OTHERS["shortcode"]))
    )
    assert of_one_account is not None
    assert of_two_accounts is not None
    assert (of_one_account.stage, of_two_accounts.stage) == (Stage.FAILED, Stage.IN_DOUBT)
