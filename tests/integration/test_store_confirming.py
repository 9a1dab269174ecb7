"""Successes that wait for confirmation by an inquiry, and stored copies of one message."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from domain.attempts import ProviderIds
from domain.changes import ChangeResult
from domain.errors import Refused
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.record_callback import callback_change
from domain.report import Report, ReportedOutcome
from tests.builders import a_report
from tests.decisions import event_of
from tests.integration.conftest import (
    Store,
    a_callback,
    a_receipt,
    acknowledgement,
    failure,
    new_id,
    success,
)
from tests.integration.inquiries import (
    an_answer,
    askable_ids,
    in_doubt,
    read_evidence,
    record_callback,
    record_query_answer,
    store_inquiry,
)

COPIES_MAX = 200
BUSY = Refused(
    Failure(FailureReason.SUBSCRIBER_BUSY, safe_to_retry=True, provider_code="500.001.1001")
)
PAID = an_answer(InquiryOutcome.PAID, code="0", outcome=ReportedOutcome.SUCCESS)


async def record_claimed_success(
    store: Store,
    payment_id: UUID,
    receipt: str,
    *,
    source_allowed: bool = True,
    ids: ProviderIds = frozenset(),
) -> ChangeResult:
    """Record a callback that claims success, under a policy that requires confirmation."""
    report = a_report(receipt=receipt, ids=ids)
    callback = replace(
        a_callback("deposit"), outcome="success", receipt=receipt, source_allowed=source_allowed
    )
    return await store.change(callback_change(payment_id, callback, report, confirm_above_kes=0))


async def payment_outcome(store: Store, payment_id: UUID) -> tuple[str, str | None, bool]:
    [row] = await store.rows("SELECT * FROM mkwanja.payments WHERE id = $1", payment_id)
    return row["stage"], row["receipt"], row["needs_review"]


async def count_stored(store: Store, payment_id: UUID) -> int:
    return int(
        await store.one("SELECT count(*) FROM mkwanja.callbacks WHERE payment_id = $1", payment_id)
    )


async def test_the_evidence_has_the_receipts_and_the_time_of_unconfirmed_successes(
    store: Store,
) -> None:
    """Messages from a wrong source, or about another payment, do not count."""
    one, other = await in_doubt(store, Kind.DEPOSIT), await in_doubt(store, Kind.DEPOSIT)
    assert (await read_evidence(store, one)).unconfirmed_since is None
    first, second, unused = a_receipt(), a_receipt(), a_receipt()
    await record_claimed_success(store, one, first)
    await record_claimed_success(store, one, unused, source_allowed=False)
    await record_claimed_success(store, one, second)
    await record_claimed_success(store, one, first)
    known = await read_evidence(store, one)
    assert (known.unconfirmed_receipts, known.claims_success) == (frozenset({first, second}), True)
    rows = await store.rows(
        "SELECT * FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY received_at", one
    )
    assert known.unconfirmed_since == rows[-1]["received_at"]
    assert [(row["disposition"], row["receipt"]) for row in rows] == [
        ("awaits_confirmation", first),
        ("wrong_source", unused),
        ("awaits_confirmation", second),
        ("awaits_confirmation", first),
    ]
    assert (await read_evidence(store, other)).unconfirmed_receipts == frozenset()
    entries = [entry["what"] for entry in await store.history(one)]
    assert entries.count("awaits_confirmation") == 1


async def confirm(store: Store, payment_id: UUID) -> None:
    """Inquire about the payment, and record the answer "paid"."""
    question = await store_inquiry(store, payment_id)
    assert question is not None
    await record_query_answer(store, payment_id, question.number, PAID)


async def test_a_confirmed_success_does_not_take_the_receipt_of_another_payment(
    store: Store,
) -> None:
    """The receipt was free when the callback arrived.

    The payment is certainly paid. A person decides which payment has the receipt.
    """
    payment_id, other = [await in_doubt(store, Kind.DEPOSIT) for _ in range(2)]
    receipt = a_receipt()
    await record_claimed_success(store, payment_id, receipt)
    assert await payment_outcome(store, payment_id) == ("in_doubt", None, False)
    await store.change(success(other, receipt=receipt))
    await confirm(store, payment_id)
    assert await payment_outcome(store, payment_id) == ("succeeded", None, True)
    assert await payment_outcome(store, other) == ("succeeded", receipt, False)


async def test_payments_confirmed_at_once_do_not_share_a_receipt(
    store: Store,
) -> None:
    receipt = a_receipt()
    ids = [await in_doubt(store, Kind.DEPOSIT) for _ in range(4)]
    for payment_id in ids:
        await record_claimed_success(store, payment_id, receipt)
        assert await store_inquiry(store, payment_id) is not None
    await asyncio.gather(*(record_query_answer(store, payment_id, 1, PAID) for payment_id in ids))
    outcomes = sorted([await payment_outcome(store, payment_id) for payment_id in ids], key=str)
    assert outcomes == [("succeeded", receipt, False), *[("succeeded", None, True)] * 3]


async def test_a_refusal_does_not_fail_a_payment_with_an_unconfirmed_success(store: Store) -> None:
    """A caller that saw the payment as failed and safe to retry would pay twice."""
    payment_id, attempt_id = await store.claimed(Kind.DEPOSIT)
    receipt = a_receipt()
    await record_claimed_success(store, payment_id, receipt, ids=askable_ids(Kind.DEPOSIT))
    result = await store.change(acknowledgement(payment_id, attempt_id, error=BUSY))
    assert event_of(result.decided) is None
    assert await payment_outcome(store, payment_id) == ("in_doubt", None, True)
    await confirm(store, payment_id)
    assert await payment_outcome(store, payment_id) == ("succeeded", receipt, True)


async def test_a_success_stays_unconfirmed_under_a_receiver_without_the_policy(
    store: Store,
) -> None:
    """A failure callback does not end the payment, even at a receiver without the policy."""
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    await record_claimed_success(store, payment_id, a_receipt())
    await store.change(failure(payment_id))
    assert await payment_outcome(store, payment_id) == ("in_doubt", None, True)


async def test_messages_that_bring_an_inquiry_forward_are_counted(store: Store) -> None:
    """Messages from any source count. Each such message makes the next wait longer."""
    payment_id = await in_doubt(store)
    for report, source_allowed in (
        (Report(outcome=ReportedOutcome.TIMEOUT), True),
        (Report(outcome=ReportedOutcome.UNREADABLE), True),  # brings nothing forward
        (Report(outcome=ReportedOutcome.UNDECIDED, code="26"), True),
        (Report(outcome=ReportedOutcome.UNDECIDED, code="26"), False),
    ):
        await record_callback(
            store, payment_id, "withdrawal", report, source_allowed=source_allowed
        )
    assert (await read_evidence(store, payment_id)).reminder_count == 3


# --- copies ---------------------------------------------------------------------------------------


async def repeat(
    store: Store, payment_id: UUID, body: bytes, times: int, **fields: Any
) -> list[ChangeResult]:
    """Record the same bytes `times` times at once."""
    unreadable = Report(outcome=ReportedOutcome.UNREADABLE)
    changes = (
        callback_change(payment_id, replace(a_callback(body=body), **fields), unreadable)
        for _ in range(times)
    )
    return await asyncio.gather(*map(store.change, changes))


async def test_a_limited_number_of_copies_is_stored(store: Store) -> None:
    """All copies get the same answer. A copy beyond the limit is only counted."""
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    results = await repeat(store, payment_id, b"again", COPIES_MAX + 15)
    assert await count_stored(store, payment_id) == COPIES_MAX
    assert sum(result.is_callback_repeated for result in results) == 15
    assert {result.decided.disposition for result in results} == {"unreadable"}


async def test_a_message_that_differs_is_stored_after_any_number_of_copies(store: Store) -> None:
    """The message differs in one byte, or in source, operation or payment.

    Bodies that differ only in a masked credential have different digests.
    """
    one, other = await in_doubt(store, Kind.DEPOSIT), await in_doubt(store, Kind.DEPOSIT)
    await repeat(store, one, b"again", COPIES_MAX + 1)
    await repeat(store, one, b"again.", 1)
    await repeat(store, one, b"again", 1, source_allowed=False)
    await repeat(store, one, b"again", 1, operation="withdrawal")
    await repeat(store, one, b"again", 1, body_sha256=sha256(b"secret").digest())
    await repeat(store, other, b"again", 1)
    assert await count_stored(store, one) == COPIES_MAX + 4
    assert await count_stored(store, other) == 1


@pytest.mark.whole
async def test_copies_at_several_processes_are_stored_up_to_the_limit(
    store: Store, other: Store
) -> None:
    """The payment's lock orders the processes, so each process counts all earlier copies.

    An unknown payment has no row to lock, but the number stays limited.
    """
    payment_id, unknown_id = await in_doubt(store, Kind.DEPOSIT), new_id()
    await asyncio.gather(
        *(repeat(process, payment_id, b"both", COPIES_MAX) for process in (store, other))
    )
    for _ in range(3):
        await repeat(store, unknown_id, b"unknown", COPIES_MAX)
    assert await count_stored(store, payment_id) == COPIES_MAX
    assert await count_stored(store, unknown_id) == COPIES_MAX
