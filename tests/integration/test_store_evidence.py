"""What a decision knows besides the payment's row: inquiries, stored messages, brakes; of this
payment and of no other.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from domain.attempts import IdKind
from domain.changes import Change, Context, Decided
from domain.evidence import Evidence, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.record_callback import raw_callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from tests.integration.conftest import (
    Store,
    a_callback,
    acknowledgement,
    new_id,
    stored_callbacks,
    success,
)
from tests.integration.inquiries import (
    an_answer,
    answered,
    asked,
    called_back,
    engage,
    evidence,
    in_doubt,
    resendable,
)

TIMEOUT = Report(outcome=ReportedOutcome.TIMEOUT)
PAID = Report(outcome=ReportedOutcome.SUCCESS, code="0")  # says no amount and no receipt
UNREADABLE = Report(outcome=ReportedOutcome.UNREADABLE)


async def words(store: Store, payment_id: UUID) -> list[tuple[str, str | None]]:
    sql = "SELECT operation, word FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY received_at, id"
    return [(row["operation"], row["word"]) for row in await store.rows(sql, payment_id)]


async def test_a_payment_of_which_nothing_came_has_no_evidence(fresh: Store) -> None:
    """Nor one that is not there."""
    for payment_id in (await in_doubt(fresh), a_callback().id):
        assert await evidence(fresh, payment_id) == Evidence()
        assert await evidence(fresh, payment_id, is_claim=True) == Evidence()


async def test_a_probe_of_the_breaker_is_known_from_a_question(store: Store) -> None:
    payment_id = await in_doubt(store)
    await asked(store, payment_id, is_probe=True)
    await store.execute("UPDATE mkwanja.inquiries SET asked_at = asked_at - interval '1 minute'")
    await asked(store, payment_id)
    known = await evidence(store, payment_id)
    assert [inquiry.is_probe for inquiry in known.inquiries] == [True, False]


async def test_inquiries_come_in_the_order_of_their_numbers_with_their_first_answers(
    store: Store,
) -> None:
    payment_id = await in_doubt(store)
    for _ in range(3):
        await asked(store, payment_id)
        await store.execute(
            "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = $1", payment_id
        )
    await answered(store, payment_id, 2, an_answer(InquiryOutcome.NOT_FOUND, code="SFC_IC0003"))
    known = await evidence(store, payment_id)
    assert [(inquiry.number, inquiry.outcome, inquiry.code) for inquiry in known.inquiries] == [
        (1, None, None),
        (2, InquiryOutcome.NOT_FOUND, "SFC_IC0003"),
        (3, None, None),
    ]
    times = [inquiry.asked_at for inquiry in known.inquiries]
    assert times == sorted(times)
    on_record = await store.rows(
        "SELECT asked_at FROM mkwanja.inquiries WHERE payment_id = $1 ORDER BY number", payment_id
    )
    assert times == [row["asked_at"] for row in on_record]


@pytest.mark.parametrize(
    ("kind", "operation", "expected"),
    [
        (Kind.WITHDRAWAL, "withdrawal", True),
        (Kind.WITHDRAWAL, "withdrawal-timeout", True),
        (Kind.BILL_PAYMENT, "bill-payment", True),
        (Kind.BILL_PAYMENT, "bill-payment-timeout", True),
        (Kind.DEPOSIT, "deposit", True),
        # answers to our own questions are not messages about the payment
        (Kind.WITHDRAWAL, "status-1", False),
        (Kind.WITHDRAWAL, "status-1-timeout", False),
    ],
)
async def test_a_message_at_the_payment_s_own_address_is_one_whatever_it_said(
    store: Store, kind: Kind, operation: str, expected: bool
) -> None:
    """It shows that Daraja had the payment: readable or not, from an allowed address or not."""
    for report in (TIMEOUT, UNREADABLE, Report(outcome=ReportedOutcome.UNDECIDED, code="26")):
        for source_allowed in (True, False):
            payment_id = await in_doubt(store, kind)
            await called_back(store, payment_id, operation, report, source_allowed=source_allowed)
            known = await evidence(store, payment_id)
            assert (known.has_message, known.claims_success) == (expected, False)


async def test_a_stored_message_that_says_paid_claims_success_unless_it_came_from_a_wrong_source(
    store: Store,
) -> None:
    """Anybody who knew the address could else hold a payment open."""
    for source_allowed in (True, False):
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await called_back(store, payment_id, "deposit", PAID, source_allowed=source_allowed)
        known = await evidence(store, payment_id)
        assert (known.has_message, known.claims_success) == (True, source_allowed)


async def test_one_claim_among_many_messages_is_enough(store: Store) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    for report in (UNREADABLE, PAID, UNREADABLE):
        await called_back(store, payment_id, "deposit", report)
    assert (await evidence(store, payment_id)).claims_success


async def test_a_message_that_could_not_be_processed_claims_what_it_was_read_to_say(
    store: Store,
) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    await store.changing.change(
        raw_callback_change(payment_id, replace(a_callback(), outcome="success"))
    )
    assert (await evidence(store, payment_id)).claims_success


async def test_a_message_from_before_words_were_kept_claims_nothing_but_is_one(
    store: Store,
) -> None:
    payment_id = await in_doubt(store)
    await store.execute(
        "INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address, source_allowed, body,"
        " body_sha256, disposition, is_flagged) VALUES ($1, $2, 'withdrawal', now(), '', true, '', '', 'duplicate', false)",
        a_callback().id, payment_id,
    )  # fmt: skip
    known = await evidence(store, payment_id)
    assert (known.has_message, known.claims_success) == (True, False)


async def test_each_stored_message_keeps_the_word_that_it_was_read_to_say(store: Store) -> None:
    payment_id = await in_doubt(store)
    for operation, report in (
        ("withdrawal-timeout", TIMEOUT),
        ("withdrawal", UNREADABLE),
        ("status-1", an_answer(InquiryOutcome.NOT_FOUND)),
        ("withdrawal", PAID),
    ):
        await called_back(store, payment_id, operation, report)
    assert await words(store, payment_id) == [
        ("withdrawal-timeout", "timeout"),
        ("withdrawal", "unreadable"),
        ("status-1", "undecided"),
        ("withdrawal", "success"),
    ]


@pytest.mark.parametrize(
    ("engaged", "stopped", "open_breaker"),
    [((), False, False), (("kill_switch",), True, False), (("breaker",), True, True), (("kill_switch", "breaker"), True, True)],
)  # fmt: skip
async def test_either_brake_stops_payouts_and_one_of_them_is_the_breaker(
    fresh: Store, engaged: tuple[str, ...], stopped: bool, open_breaker: bool
) -> None:
    payment_id = await in_doubt(fresh)
    for name in engaged:
        await engage(fresh, name)
    for is_claim in (True, False):
        known = await evidence(fresh, payment_id, is_claim=is_claim)
        assert (known.payouts_are_stopped, known.breaker_is_open) == (stopped, open_breaker)


async def test_payments_that_share_a_batch_share_no_evidence(store: Store) -> None:
    """Each knows its own, however many are decided in one commit."""
    known_well, silent, claimed = (
        await resendable(store),
        await in_doubt(store),
        await in_doubt(store, Kind.DEPOSIT),
    )
    await called_back(store, claimed, "deposit", PAID)
    seen = await asyncio.gather(
        *(evidence(store, payment_id) for payment_id in (known_well, silent, claimed))
    )
    assert [len(known.inquiries) for known in seen] == [2, 0, 0]
    assert [known.has_message for known in seen] == [False, False, True]
    assert [known.claims_success for known in seen] == [False, False, True]


async def test_a_change_that_wants_no_evidence_gets_none(store: Store) -> None:
    """A plain callback costs no look at what it needs not."""
    payment_id = await resendable(store)
    seen: list[Evidence] = []

    def decide(payment: Payment | None, context: Context) -> Decided:
        seen.append(context.evidence)
        return Decided(payment=payment)

    await store.changing.change(Change(payment_id=payment_id, decide=decide))
    assert seen == [Evidence()]


async def test_another_payment_s_own_id_is_flagged_before_daraja_acknowledged_it(
    store: Store,
) -> None:
    """A withdrawal is known to Daraja by its payment's id.

    One that no payment has contradicts nothing.
    """
    other = await store.accepted(Kind.WITHDRAWAL)
    for named, expected in (
        (str(other), "ids_differ"),
        (str(new_id()), "finalized"),
        ("9a1e-1", "finalized"),
    ):
        payment_id, attempt_id = await store.claimed(Kind.WITHDRAWAL)
        conversation = (IdKind.CONVERSATION, f"AG_{payment_id.hex}")
        ours = frozenset({conversation, (IdKind.ORIGINATOR_CONVERSATION, str(payment_id))})
        await store.changing.change(acknowledgement(payment_id, attempt_id, ids=ours))
        told = frozenset({conversation, (IdKind.ORIGINATOR_CONVERSATION, named)})
        await store.changing.change(success(payment_id, Kind.WITHDRAWAL, ids=told))
        assert await stored_callbacks(store, payment_id) == [expected]
        assert (await store.payment(payment_id)).provider_ids == ours
