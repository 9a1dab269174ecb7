"""The evidence of a decision: the inquiries, stored messages and brakes of this payment only."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from domain.adapters.postgres.brakes import Brakes
from domain.attempts import IdKind
from domain.evidence import Evidence, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.record_callback import raw_callback_change
from domain.operations import Operation
from domain.report import Report, ReportedOutcome
from tests.builders import TIMES
from tests.integration.conftest import (
    Store,
    a_callback,
    acknowledgement,
    new_id,
    stored_callbacks,
    success,
)
from tests.integration.held import B2C, hold
from tests.integration.inquiries import (
    an_answer,
    in_doubt,
    make_due,
    read_evidence,
    record_callback,
    record_query_answer,
    resendable,
    store_inquiry,
)

TIMEOUT = Report(outcome=ReportedOutcome.TIMEOUT)
PAID = Report(outcome=ReportedOutcome.SUCCESS, code="0")  # without amount and receipt
UNREADABLE = Report(outcome=ReportedOutcome.UNREADABLE)


async def test_a_payment_without_messages_has_no_evidence(fresh: Store) -> None:
    """An unknown payment has no evidence either."""
    for payment_id in (await in_doubt(fresh), new_id()):
        for is_claim in (False, True):
            assert await read_evidence(fresh, payment_id, is_claim=is_claim) == Evidence()


async def test_the_evidence_lists_inquiries_by_number_with_their_first_answers(
    store: Store,
) -> None:
    """The list marks the probes of the breaker."""
    payment_id = await in_doubt(store)
    for number in (1, 2, 3):
        await store_inquiry(store, payment_id, is_probe=number == 1)
        await make_due(store, payment_id)
    not_found = an_answer(InquiryOutcome.NOT_FOUND, code="SFC_IC0003")
    await record_query_answer(store, payment_id, 2, not_found)
    found = (await read_evidence(store, payment_id)).inquiries
    assert [(each.number, each.outcome, each.code, each.is_probe) for each in found] == [
        (1, None, None, True),
        (2, InquiryOutcome.NOT_FOUND, "SFC_IC0003", False),
        (3, None, None, False),
    ]
    on_record = await store.rows(
        "SELECT asked_at FROM mkwanja.inquiries WHERE payment_id = $1 ORDER BY asked_at", payment_id
    )
    assert [each.asked_at for each in found] == [row["asked_at"] for row in on_record]


@pytest.mark.parametrize(
    ("kind", "operation", "expected"),
    [
        (Kind.WITHDRAWAL, "withdrawal", True),
        (Kind.WITHDRAWAL, "withdrawal-timeout", True),
        (Kind.BILL_PAYMENT, "bill-payment", True),
        (Kind.DEPOSIT, "deposit", True),
        # answers to our own inquiries are not messages about the payment
        (Kind.WITHDRAWAL, "status-1", False),
        (Kind.WITHDRAWAL, "status-1-timeout", False),
    ],
)
async def test_any_message_at_the_payments_own_address_counts_as_a_message(
    store: Store, kind: Kind, operation: str, expected: bool
) -> None:
    """An unreadable message, or one from a wrong source, also shows that Daraja had the payment."""
    undecided = Report(outcome=ReportedOutcome.UNDECIDED, code="26")
    for report, source_allowed in ((TIMEOUT, True), (UNREADABLE, True), (undecided, False)):
        payment_id = await in_doubt(store, kind)
        await record_callback(store, payment_id, operation, report, source_allowed=source_allowed)
        known = await read_evidence(store, payment_id)
        assert (known.has_message, known.claims_success) == (expected, False)


async def test_a_stored_success_counts_as_a_claim_only_from_an_allowed_source(
    store: Store,
) -> None:
    """A peer that only knows the address must not be able to keep a payment open.

    A success from an allowed source counts even among many other messages.
    """
    for source_allowed in (True, False):
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        for report in (UNREADABLE, PAID, UNREADABLE):
            await record_callback(
                store, payment_id, "deposit", report, source_allowed=source_allowed
            )
        known = await read_evidence(store, payment_id)
        assert (known.has_message, known.claims_success) == (True, source_allowed)


async def test_a_success_that_could_not_be_processed_counts_as_a_claim(
    store: Store,
) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    await store.change(raw_callback_change(payment_id, replace(a_callback(), outcome="success")))
    assert (await read_evidence(store, payment_id)).claims_success


async def test_a_message_stored_without_an_outcome_is_a_message_and_claims_nothing(
    store: Store,
) -> None:
    """Older releases stored messages without an outcome."""
    payment_id = await in_doubt(store)
    await store.execute(
        "INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address,"
        " source_allowed, body, body_sha256, disposition, is_flagged)"
        " VALUES ($1, $2, 'withdrawal', now(), '', true, '', '', 'duplicate', false)",
        new_id(), payment_id,
    )  # fmt: skip
    known = await read_evidence(store, payment_id)
    assert (known.has_message, known.claims_success) == (True, False)


@pytest.mark.parametrize(
    ("engaged", "stopped", "open_breaker", "held"),
    [
        ((), False, False, frozenset()),
        (("kill_switch",), True, False, frozenset()),
        (("breaker",), True, True, frozenset()),
        (("kill_switch", "breaker"), True, True, frozenset()),
        # A held operation stops no payouts of other operations.
        ((), False, False, frozenset({B2C})),
    ],
)
async def test_the_evidence_and_the_plan_of_a_sweep_show_the_engaged_brakes(
    fresh: Store,
    engaged: tuple[str, ...],
    stopped: bool,
    open_breaker: bool,
    held: frozenset[Operation],
) -> None:
    payment_id = await in_doubt(fresh)
    await Brakes(fresh.database).set(*engaged, is_engaged=True, reason="a test")
    if held:
        await hold(fresh)
    for is_claim in (True, False):
        known = await read_evidence(fresh, payment_id, is_claim=is_claim)
        assert (known.payouts_are_stopped, known.breaker_is_open) == (stopped, open_breaker)
        assert (known.held_operations, known.probes_due) == (held, frozenset())
    plan = await fresh.sweeping.plan_sweep(limit=10, overdue_by=TIMES.lease)
    assert (plan.payouts_are_stopped, plan.held_operations) == (stopped, held)
    assert plan.probes_due == frozenset()


async def test_payments_that_share_a_batch_share_no_evidence(store: Store) -> None:
    """Each decision gets only its own payment's evidence, even if decisions share a commit."""
    known_well, silent = await resendable(store), await in_doubt(store)
    claimed = await in_doubt(store, Kind.DEPOSIT)
    await record_callback(store, claimed, "deposit", PAID)
    seen = await asyncio.gather(
        *(read_evidence(store, payment_id) for payment_id in (known_well, silent, claimed))
    )
    assert [len(known.inquiries) for known in seen] == [2, 0, 0]
    assert [known.has_message for known in seen] == [False, False, True]
    assert [known.claims_success for known in seen] == [False, False, True]


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
        await store.change(acknowledgement(payment_id, attempt_id, ids=ours))
        ids = frozenset({conversation, (IdKind.ORIGINATOR_CONVERSATION, named)})
        await store.change(success(payment_id, Kind.WITHDRAWAL, ids=ids))
        assert await stored_callbacks(store, payment_id) == [expected]
        assert (await store.payment(payment_id)).provider_ids == ours
