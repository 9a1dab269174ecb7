"""The evidence of a decision: the inquiries, stored messages and brakes of this payment only."""

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
    engage_brake,
    in_doubt,
    read_evidence,
    record_callback,
    record_query_answer,
    resendable,
    store_inquiry,
)

TIMEOUT = Report(outcome=ReportedOutcome.TIMEOUT)
PAID = Report(outcome=ReportedOutcome.SUCCESS, code="0")  # without amount and receipt
UNREADABLE = Report(outcome=ReportedOutcome.UNREADABLE)


async def stored_outcomes(store: Store, payment_id: UUID) -> list[tuple[str, str | None]]:
    sql = (
        "SELECT operation, word FROM mkwanja.callbacks WHERE payment_id = $1"
        " ORDER BY received_at, id"
    )
    return [(row["operation"], row["word"]) for row in await store.rows(sql, payment_id)]


async def test_a_payment_without_messages_has_no_evidence(fresh: Store) -> None:
    """The same holds for an unknown payment."""
    for payment_id in (await in_doubt(fresh), a_callback().id):
        assert await read_evidence(fresh, payment_id) == Evidence()
        assert await read_evidence(fresh, payment_id, is_claim=True) == Evidence()


async def test_the_evidence_marks_the_probes_of_the_breaker(store: Store) -> None:
    payment_id = await in_doubt(store)
    await store_inquiry(store, payment_id, is_probe=True)
    await store.execute("UPDATE mkwanja.inquiries SET asked_at = asked_at - interval '1 minute'")
    await store_inquiry(store, payment_id)
    known = await read_evidence(store, payment_id)
    assert [inquiry.is_probe for inquiry in known.inquiries] == [True, False]


async def test_the_evidence_lists_inquiries_by_number_with_their_first_answers(
    store: Store,
) -> None:
    payment_id = await in_doubt(store)
    for _ in range(3):
        await store_inquiry(store, payment_id)
        await store.execute(
            "UPDATE mkwanja.payments SET next_step_at = now() WHERE id = $1", payment_id
        )
    await record_query_answer(
        store, payment_id, 2, an_answer(InquiryOutcome.NOT_FOUND, code="SFC_IC0003")
    )
    known = await read_evidence(store, payment_id)
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
        # answers to our own inquiries are not messages about the payment
        (Kind.WITHDRAWAL, "status-1", False),
        (Kind.WITHDRAWAL, "status-1-timeout", False),
    ],
)
async def test_any_message_at_the_payments_own_address_counts_as_a_message(
    store: Store, kind: Kind, operation: str, expected: bool
) -> None:
    """It shows that Daraja had the payment, also if it is unreadable or from a wrong source."""
    for report in (TIMEOUT, UNREADABLE, Report(outcome=ReportedOutcome.UNDECIDED, code="26")):
        for source_allowed in (True, False):
            payment_id = await in_doubt(store, kind)
            await record_callback(
                store, payment_id, operation, report, source_allowed=source_allowed
            )
            known = await read_evidence(store, payment_id)
            assert (known.has_message, known.claims_success) == (expected, False)


async def test_a_stored_success_counts_as_a_claim_only_from_an_allowed_source(
    store: Store,
) -> None:
    """Otherwise anyone with the address could keep a payment open."""
    for source_allowed in (True, False):
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await record_callback(store, payment_id, "deposit", PAID, source_allowed=source_allowed)
        known = await read_evidence(store, payment_id)
        assert (known.has_message, known.claims_success) == (True, source_allowed)


async def test_one_claimed_success_among_many_messages_is_enough(store: Store) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    for report in (UNREADABLE, PAID, UNREADABLE):
        await record_callback(store, payment_id, "deposit", report)
    assert (await read_evidence(store, payment_id)).claims_success


async def test_a_success_that_could_not_be_processed_counts_as_a_claim(
    store: Store,
) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    await store.changing.change(
        raw_callback_change(payment_id, replace(a_callback(), outcome="success"))
    )
    assert (await read_evidence(store, payment_id)).claims_success


async def test_a_message_stored_without_an_outcome_is_a_message_and_claims_nothing(
    store: Store,
) -> None:
    """Older releases stored messages without it."""
    payment_id = await in_doubt(store)
    await store.execute(
        "INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address,"
        " source_allowed, body, body_sha256, disposition, is_flagged)"
        " VALUES ($1, $2, 'withdrawal', now(), '', true, '', '', 'duplicate', false)",
        a_callback().id, payment_id,
    )  # fmt: skip
    known = await read_evidence(store, payment_id)
    assert (known.has_message, known.claims_success) == (True, False)


async def test_each_stored_message_has_its_parsed_outcome(store: Store) -> None:
    payment_id = await in_doubt(store)
    for operation, report in (
        ("withdrawal-timeout", TIMEOUT),
        ("withdrawal", UNREADABLE),
        ("status-1", an_answer(InquiryOutcome.NOT_FOUND)),
        ("withdrawal", PAID),
    ):
        await record_callback(store, payment_id, operation, report)
    assert await stored_outcomes(store, payment_id) == [
        ("withdrawal-timeout", "timeout"),
        ("withdrawal", "unreadable"),
        ("status-1", "undecided"),
        ("withdrawal", "success"),
    ]


@pytest.mark.parametrize(
    ("engaged", "stopped", "open_breaker"),
    [
        ((), False, False),
        (("kill_switch",), True, False),
        (("breaker",), True, True),
        (("kill_switch", "breaker"), True, True),
    ],
)
async def test_the_evidence_shows_stopped_payouts_and_an_open_breaker(
    fresh: Store, engaged: tuple[str, ...], stopped: bool, open_breaker: bool
) -> None:
    payment_id = await in_doubt(fresh)
    for name in engaged:
        await engage_brake(fresh, name)
    for is_claim in (True, False):
        known = await read_evidence(fresh, payment_id, is_claim=is_claim)
        assert (known.payouts_are_stopped, known.breaker_is_open) == (stopped, open_breaker)


async def test_payments_that_share_a_batch_share_no_evidence(store: Store) -> None:
    """Each decision gets its own, also in one commit."""
    known_well, silent, claimed = (
        await resendable(store),
        await in_doubt(store),
        await in_doubt(store, Kind.DEPOSIT),
    )
    await record_callback(store, claimed, "deposit", PAID)
    seen = await asyncio.gather(
        *(read_evidence(store, payment_id) for payment_id in (known_well, silent, claimed))
    )
    assert [len(known.inquiries) for known in seen] == [2, 0, 0]
    assert [known.has_message for known in seen] == [False, False, True]
    assert [known.claims_success for known in seen] == [False, False, True]


async def test_a_change_that_reads_no_evidence_gets_none(store: Store) -> None:
    """A plain callback does not pay for reads that it does not need."""
    payment_id = await resendable(store)
    seen: list[Evidence] = []

    def decide(payment: Payment | None, context: Context) -> Decided:
        seen.append(context.evidence)
        return Decided(payment=payment)

    await store.changing.change(Change(payment_id=payment_id, decide=decide))
    assert seen == [Evidence()]


async def test_the_id_of_an_unacknowledged_payment_is_flagged_at_another_payment(
    store: Store,
) -> None:
    """Daraja knows a withdrawal by its payment's id.

    An id that no payment has contradicts nothing.
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
        ids = frozenset({conversation, (IdKind.ORIGINATOR_CONVERSATION, named)})
        await store.changing.change(success(payment_id, Kind.WITHDRAWAL, ids=ids))
        assert await stored_callbacks(store, payment_id) == [expected]
        assert (await store.payment(payment_id)).provider_ids == ours
