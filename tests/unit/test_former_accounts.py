"""Which account may inquire about a payment or resend it, by the account of each of its sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.account import Account
from domain.adapters.observability import payments_of_former_accounts
from domain.attempts import Attempt, Outcome
from domain.changes import HistoryEntry
from domain.errors import StoreUnavailable
from domain.evidence import Evidence, InquiryOutcome
from domain.inquiry import may_be_resent, no_result_is_confirmed
from domain.kinds import Kind
from domain.lifecycle.submit import resend_claim_change
from domain.report import ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    ACCOUNTS,
    AN_ACCOUNT,
    INQUIRY_IDS,
    NOW,
    PAYMENT_ID,
    TIMES,
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
    payment_of,
)
from tests.unit.deciding import (
    OWN_ID,
    SILENCE,
    an_undecided_answer,
    decide,
    decide_callback,
    decide_inquiry,
)
from workers.accounts import watch_former_accounts

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
        ((*sent_by(AN_ACCOUNT), NOT_ACTED), True),  # the other account did not act
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
    """The claim checks the stored attempts after two "not found" answers, or a "busy" answer."""
    if is_busy:
        attempts = tuple(
            replace(a, outcome=Outcome.RESENDABLE) if a.outcome is Outcome.UNKNOWN else a
            for a in attempts
        )
    payment = a_due_payment(attempts=attempts)
    evidence = Evidence() if is_busy else not_found_twice()
    assert may_be_resent(payment, evidence, NOW, TIMES, ACCOUNTS) is is_permitted
    claimed = resend_claim_change(PAYMENT_ID, an_attempt_id(50), TIMES, ACCOUNTS)
    after = payment_of(decide(claimed, payment, evidence=evidence))
    assert (after.stage is Stage.SUBMITTING) is is_permitted
    if is_permitted:
        assert after.attempts[-1].account == AN_ACCOUNT


def test_a_worker_without_account_settings_resends_nothing() -> None:
    payment = a_due_payment(attempts=sent_by(AN_ACCOUNT))
    assert not may_be_resent(payment, not_found_twice(), NOW, TIMES, accounts={})


def test_a_not_found_for_another_account_permits_no_resend() -> None:
    """A setting was changed and changed back. The other account's inquiries prove nothing."""
    payment = a_due_payment(attempts=sent_by(AN_ACCOUNT))
    evidence = not_found_twice(is_of_former_account=True)
    assert not may_be_resent(payment, evidence, NOW, TIMES, ACCOUNTS)


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
    """The payment is flagged once, with the reason.

    The worker still checks it, at growing intervals, because the setting may come back.
    """
    payment = a_due_payment(kind, attempts=sent_by(OTHERS[part], kind=kind))
    decided = decide_inquiry(payment)
    after = payment_of(decided)
    assert inquiry_of(decided) is None
    assert (entry_of(decided), after.needs_review) == (HistoryEntry.ACCOUNT_NOT_CONFIGURED, True)
    assert detail_of(decided) == {"differs": part, "shortcode": "600111"}
    assert after.next_step_at == NOW + timedelta(minutes=20)
    again = decide_inquiry(replace(after, next_step_at=NOW))
    assert (inquiry_of(again), entry_of(again)) == (None, None)


def test_an_inquiry_after_a_restore_is_sent_as_the_account_of_the_newest_known_send() -> None:
    """The restore added a send of an unknown account. No worker sends the withdrawal again."""
    attempts = sent_by(OTHERS["app"], OTHERS["shortcode"], None)
    restored = a_due_payment(attempts=attempts)
    assert restored.inquiry_attempt == attempts[1]
    stored = inquiry_of(decide_inquiry(restored))
    assert stored is not None
    assert stored.is_of_former_account
    of_own_account = a_due_payment(attempts=sent_by(AN_ACCOUNT, None))
    assert not may_be_resent(of_own_account, not_found_twice(), NOW, TIMES, ACCOUNTS)


def test_a_restored_withdrawal_of_an_account_without_credentials_is_flagged() -> None:
    """The operator learns which setting is missing."""
    decided = decide_inquiry(a_due_payment(attempts=sent_by(OTHERS["app"], None)))
    assert inquiry_of(decided) is None
    assert entry_of(decided) is HistoryEntry.ACCOUNT_NOT_CONFIGURED
    assert detail_of(decided) == {"differs": "app", "shortcode": "600111"}


def test_a_payment_whose_sends_all_lack_an_account_is_inquired_about_by_its_newest_send() -> None:
    attempts = (NOT_ACTED, *sent_by(None, None))
    assert a_due_payment(attempts=attempts).inquiry_attempt == attempts[-1]


def test_a_deposit_that_failed_for_silence_under_a_former_account_needs_a_person() -> None:
    attempts = sent_by(OTHERS["app"], kind=Kind.DEPOSIT)
    payment = a_due_payment(
        Kind.DEPOSIT, Stage.FAILED, attempts=attempts, failure=SILENCE, finalized_at=NOW
    )
    decided = decide_inquiry(payment)
    after = payment_of(decided)
    assert inquiry_of(decided) is None
    assert (after.stage, after.needs_review) == (Stage.FAILED, True)


@pytest.mark.parametrize("account", [AN_ACCOUNT, *OTHERS.values()])
def test_a_probe_never_inquires_about_a_send_of_another_account(account: Account) -> None:
    """The answer would not show whether Daraja accepts the credential in use."""
    decided = decide_inquiry(a_due_payment(attempts=sent_by(account)), is_probe=True)
    assert (inquiry_of(decided) is not None) is (account is AN_ACCOUNT)


@pytest.mark.parametrize("account", OTHERS.values())
def test_a_probe_may_inquire_about_an_unsent_payment_of_another_account(
    account: Account,
) -> None:
    """Otherwise no probe could close the breaker before the first send of a new account."""
    unsent = a_due_payment(
        stage=Stage.ACCEPTED, attempts=sent_by(account, outcome=Outcome.NOT_ACTED)
    )
    stored = inquiry_of(decide_inquiry(unsent, is_probe=True))
    assert stored is not None
    assert not stored.is_of_former_account
    assert [attempt.inquiry_account for attempt in unsent.attempts] == [None]


def test_only_inquiries_by_a_deposit_s_own_account_count_as_silence() -> None:
    """Daraja refuses another passkey. This proves nothing about the deposit."""
    payment = a_due_payment(
        Kind.DEPOSIT, Stage.AWAITING_RESULT, attempts=sent_by(AN_ACCOUNT, kind=Kind.DEPOSIT)
    )
    times = [NOW - timedelta(minutes=n) for n in range(1, 7)]
    silent = [an_inquiry(n, InquiryOutcome.VAGUE, at=at) for n, at in enumerate(times, 1)]
    assert no_result_is_confirmed(payment, evidence_of(*silent), NOW, TIMES)
    former = [replace(one, is_of_former_account=True) for one in silent]
    assert not no_result_is_confirmed(payment, evidence_of(*former), NOW, TIMES)


@pytest.mark.parametrize("is_former", [False, True])
def test_an_answer_for_a_former_account_neither_opens_nor_closes_the_breaker(
    is_former: bool,
) -> None:
    """If Daraja refuses the credential of a former account, the payment is flagged."""
    inquiry = replace(an_inquiry(3), is_of_former_account=is_former)
    refused = an_undecided_answer(InquiryOutcome.NO_ANSWER, "2001", refuses_credential=True)
    decided = decide_callback(a_due_payment(), refused, inquiry, operation="status-3")
    assert (breaker_reason_of(decided) is None) is is_former
    assert payment_of(decided).needs_review is is_former
    good = an_undecided_answer(InquiryOutcome.NOT_FOUND)
    decided = decide_callback(a_due_payment(), good, inquiry, operation="status-3")
    assert (credential_accepted_at(decided) is None) is is_former


@pytest.mark.parametrize(
    ("second", "stage"), [(AN_ACCOUNT, Stage.FAILED), (OTHERS["shortcode"], Stage.IN_DOUBT)]
)
def test_a_failed_send_of_one_account_does_not_account_for_a_send_of_another(
    second: Account, stage: Stage
) -> None:
    """Both accounts sent under the payment's one id."""
    payment = a_due_payment(attempts=sent_by(AN_ACCOUNT, second))
    report = a_report(ReportedOutcome.FAILURE, code="1", ids=frozenset({OWN_ID}))
    assert payment_of(decide_callback(payment, report)).stage is stage


async def test_a_worker_reports_former_accounts_after_postgres_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first read fails. The metric shows the payments of all former accounts."""
    monkeypatch.setattr("workers.accounts._FIRST_WAIT_SECONDS", 0.01)
    former, own = OTHERS["app"], ACCOUNTS[Kind.WITHDRAWAL]
    reads: Iterator[Exception | dict[Account | None, int]] = iter(
        [StoreUnavailable(), {former: 3, own: 5, None: 7}]
    )
    is_read = asyncio.Event()

    class OpenPayments:
        async def open_payments(self) -> dict[Account | None, int]:
            answer = next(reads)
            if isinstance(answer, Exception):
                raise answer
            is_read.set()
            return answer

    accounts: Any = OpenPayments()
    watch = asyncio.create_task(watch_former_accounts(accounts, {own}))
    async with asyncio.timeout(10):
        await is_read.wait()
    await asyncio.sleep(0)
    watch.cancel()
    assert payments_of_former_accounts._value.get() == 3
