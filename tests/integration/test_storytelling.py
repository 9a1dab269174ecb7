"""The record of one payment has everything that is stored about it, with phone numbers masked."""

from __future__ import annotations

from uuid import UUID

from domain.adapters.postgres.storytelling import StoryReader
from domain.attempts import IdKind
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.record_callback import raw_callback_change
from domain.operations import Operation
from domain.stages import Stage
from domain.story import PaymentRecord, tell_story
from tests.integration.conftest import (
    Store,
    a_callback,
    acknowledgement,
    new_id,
    success,
)
from tests.integration.held import hold
from tests.integration.inquiries import an_answer, in_doubt, record_query_answer, store_inquiry

PHONE_NUMBER = "254711000111"
CHECKOUT = f"ws_CO_010320261015034{PHONE_NUMBER[3:]}"
BODY = b'{"Body": {"PhoneNumber": 254711000111, "note": "\xff\xfe"}}'


async def read(store: Store, payment_id: UUID, *, unmask: bool = False) -> PaymentRecord:
    record = await StoryReader(store.database).read(payment_id, unmask=unmask)
    assert record is not None
    return record


async def test_there_is_no_record_of_a_payment_that_is_not_stored(store: Store) -> None:
    assert await StoryReader(store.database).read(new_id()) is None


async def test_the_record_has_all_rows_of_its_payment_and_of_no_other(store: Store) -> None:
    payment_id, attempt_id = await store.claimed()
    await store.finalized()
    await store.change(
        acknowledgement(
            payment_id, attempt_id, ids=frozenset({(IdKind.CHECKOUT_REQUEST, CHECKOUT)})
        )
    )
    await store.change(raw_callback_change(payment_id, a_callback(body=BODY)))
    await store.change(success(payment_id, receipt="UJ2AZZ0001"))
    record = await read(store, payment_id, unmask=True)
    assert record.payment == await store.payment(payment_id)
    assert [entry.name for entry in record.history] == [
        "accepted", "claimed", "acknowledged", "success_reported",
    ]  # fmt: skip
    assert record.history[1].attempt_id == attempt_id
    assert [entry.is_published for entry in record.history] == [None, None, None, False]
    assert record.message_count == 2
    assert [(each.disposition, each.is_flagged) for each in record.messages] == [
        ("not_processed", True), ("finalized", False),
    ]  # fmt: skip
    assert record.messages[0].body == BODY
    assert tell_story(record).lines[-1].details["event"].endswith("not published yet")


async def test_the_record_has_inquiries_and_the_brakes_that_are_engaged(fresh: Store) -> None:
    payment_id = await in_doubt(fresh)
    await store_inquiry(fresh, payment_id)
    await record_query_answer(
        fresh, payment_id, 1, an_answer(InquiryOutcome.NOT_FOUND, code="2032")
    )
    await hold(fresh)
    record = await read(fresh, payment_id)
    [inquiry] = record.inquiries
    assert (inquiry.number, inquiry.outcome, inquiry.code) == (1, "not_found", "2032")
    assert inquiry.answered_at is not None
    assert record.brakes == {Operation.B2C}
    assert record.payment.stage is Stage.IN_DOUBT


async def test_phone_numbers_are_masked_in_every_text_unless_asked_for(store: Store) -> None:
    """A callback's body stays bytes, even if it is no valid text."""
    payment_id, attempt_id = await store.claimed()
    await store.update(
        payment_id,
        "account_reference = '0711000111', idempotency_key = 'order-0711000111', metadata = $2,"
        " owner = '254711000111', caller_key = '8:issuer-10711000111'",
        '{"payer": "0711 000 111"}',
    )
    ids = frozenset({(IdKind.CHECKOUT_REQUEST, CHECKOUT)})
    await store.change(acknowledgement(payment_id, attempt_id, ids=ids))
    await store.change(raw_callback_change(payment_id, a_callback(body=BODY)))
    masked, plain = await read(store, payment_id), await read(store, payment_id, unmask=True)
    for digits in ("711000111", "711 000 111"):
        assert digits not in repr(masked)
        assert digits in repr(plain)
    assert masked.payment.request.phone_number == "2547******11"
    details = tell_story(masked).lines[0].details
    assert (details["owner"], details["issuer"]) == ("2547******11", "issuer-1")
    assert details["caller"].endswith("******11")
    assert b"\xff\xfe" in masked.messages[0].body
    assert "2547******11" in tell_story(masked).summary


async def test_an_owner_and_a_caller_that_are_uuids_stay_whole_with_any_digits(
    store: Store,
) -> None:
    """Operators search for users by these ids."""
    user, payment_id = "00000000-0000-4000-8000-254711000111", await store.accepted()
    await store.update(payment_id, "owner = $2, caller_key = '8:issuer-1' || $2", user)
    masked = await read(store, payment_id)
    assert (masked.payment.request.owner, masked.payment.caller_key) == (user, f"8:issuer-1{user}")
    details = tell_story(masked).lines[0].details
    assert (details["owner"], details["caller"]) == (user, user)


async def test_a_story_stays_short_if_a_payment_has_very_many_callbacks(store: Store) -> None:
    payment_id = await store.accepted(Kind.WITHDRAWAL)
    for number in range(103):
        body = str(number).encode()
        await store.change(raw_callback_change(payment_id, a_callback("withdrawal", body)))
    record = await read(store, payment_id)
    assert (len(record.messages), record.message_count) == (100, 103)
    assert record.messages[0].body == b"0"
    assert "3 later callbacks" in repr(tell_story(record).lines)
