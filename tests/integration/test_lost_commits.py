"""If the database loses commits, for example in a failover, Daraja's answers are still stored."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from domain.adapters.postgres.loading import load_changes
from domain.adapters.postgres.statements import sql
from domain.attempts import IdKind, Outcome, ProviderIds
from domain.changes import Exchange
from domain.errors import OutcomeUnknown
from domain.kinds import Kind
from domain.lifecycle.record_answer import answer_change
from domain.stages import Stage, Step
from tests.builders import ACCOUNTS, AN_ACCOUNT, TIMES, an_open_attempt
from tests.integration.conftest import Store, acknowledgement, failure, new_id
from tests.stack.databases import connection

# Removes the rows that the new server did not get before the failover.
_LOSE_CLAIM = """
ALTER TABLE mkwanja.payment_history DISABLE TRIGGER USER;
DELETE FROM mkwanja.payment_history WHERE payment_id = '{0}' AND attempt_id IS NOT NULL;
ALTER TABLE mkwanja.payment_history ENABLE TRIGGER USER;
DELETE FROM mkwanja.attempts WHERE payment_id = '{0}';
UPDATE mkwanja.payments SET stage = 'accepted', attempt_id = NULL, lease_until = NULL,
    next_step = 'submit', sequence = 1
WHERE id = '{0}';
"""


async def with_lost_claim(store: Store, kind: Kind) -> tuple[UUID, UUID]:
    """Create a payment that a worker sent, and whose claim the database lost."""
    payment_id, attempt_id = await store.claimed(kind)
    await store.execute(_LOSE_CLAIM.format(payment_id))
    return payment_id, attempt_id


def ids_of(payment_id: UUID, kind: Kind) -> ProviderIds:
    """Return Daraja's ids of the payment."""
    if kind is Kind.DEPOSIT:
        return frozenset(
            {
                (IdKind.CHECKOUT_REQUEST, f"ws_CO_{payment_id.hex}"),
                (IdKind.MERCHANT_REQUEST, payment_id.hex),
            }
        )
    own = str(payment_id) if kind is Kind.WITHDRAWAL else f"9d20-{payment_id.hex}"
    return frozenset(
        {(IdKind.ORIGINATOR_CONVERSATION, own), (IdKind.CONVERSATION, f"AG_{payment_id.hex}")}
    )


@pytest.mark.parametrize("kind", Kind)
async def test_an_acknowledgement_without_its_claim_puts_the_payment_in_doubt(
    store: Store, kind: Kind
) -> None:
    """The attempt is stored with account and ids, so we can inquire. No worker sends again."""
    payment_id, attempt_id = await with_lost_claim(store, kind)
    ids = ids_of(payment_id, kind)
    await store.change(acknowledgement(payment_id, attempt_id, ids=ids))
    payment = await store.payment(payment_id)
    assert (payment.stage, payment.needs_review) == (Stage.IN_DOUBT, False)
    assert payment.next_step is (Step.QUERY if kind is Kind.DEPOSIT else Step.STATUS)
    [attempt] = payment.attempts
    assert (attempt.id, attempt.outcome, attempt.account) == (
        attempt_id,
        Outcome.ACKNOWLEDGED,
        AN_ACCOUNT,
    )
    assert (attempt.provider_ids, attempt.ended_at is not None) == (ids, True)
    assert await store.claim(payment_id) is None
    assert [entry["what"] for entry in await store.history(payment_id)] == [
        "accepted",
        "claim_lost",
    ]


async def test_a_second_send_that_began_before_the_answer_needs_review(store: Store) -> None:
    """Daraja may have acted on both sends, and each send has its own answer."""
    kind = Kind.BILL_PAYMENT
    payment_id, first = await with_lost_claim(store, kind)
    second = new_id()
    assert await store.claim(payment_id, second) is not None
    await store.change(acknowledgement(payment_id, first, ids=ids_of(payment_id, kind)))
    payment = await store.payment(payment_id)
    assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, second)
    assert {attempt.id for attempt in payment.attempts} == {first, second}
    assert payment.needs_review


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
async def test_the_worker_inquires_by_ids_from_a_message_before_the_answer(
    store: Store, kind: Kind
) -> None:
    """A result arrived for a payment that is stored as unsent. The send's answer has no id."""
    payment_id, attempt_id = await with_lost_claim(store, kind)
    ids = ids_of(payment_id, kind)
    await store.change(failure(payment_id, kind, ids=ids))
    await store.change(acknowledgement(payment_id, attempt_id, error=OutcomeUnknown()))
    payment = await store.payment(payment_id)
    assert (payment.stage, payment.provider_ids) == (Stage.IN_DOUBT, ids)
    assert payment.needs_review
    assert payment.inquiry_step is not None


async def test_an_answer_for_a_lost_payment_stores_its_exchange(
    store: Store,
) -> None:
    """The payment's row is lost, but a person can find Daraja's answer."""
    payment_id, attempt_id = new_id(), new_id()
    exchange = Exchange(
        id=new_id(), attempt_id=attempt_id, api="b2b", request={}, was_written=True,
        http_status=200, answer="{}", outcome="acknowledged",
    )  # fmt: skip
    open_attempt = replace(an_open_attempt(), attempt_id=attempt_id, exchanges=[exchange])
    ids = ids_of(payment_id, Kind.BILL_PAYMENT)
    result = await store.change(answer_change(payment_id, open_attempt, ids, None, TIMES, ACCOUNTS))
    assert result.decided.payment is None
    rows = await store.rows(
        "SELECT * FROM mkwanja.daraja_exchanges WHERE payment_id = $1", payment_id
    )
    assert [row["attempt_id"] for row in rows] == [attempt_id]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
async def test_every_transaction_waits_until_its_commit_is_on_disk(
    fresh: Store, setting: str, expected: str
) -> None:
    """The transaction overrides a weaker default of the database, but no stronger setting.

    The transaction of a batch of changes does so too.
    """
    async with connection(fresh.url) as raw:
        name = await raw.fetchval("SELECT current_database()")
        await raw.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
    async with Store(fresh.url) as own, own.database.transaction() as transaction:
        [row] = await transaction.rows(sql("SHOW synchronous_commit"))
    assert row.synchronous_commit == expected
    async with Store(fresh.url) as own, own.database.calls() as changes:
        await load_changes(changes, [])
        [row] = await changes.rows(sql("SHOW synchronous_commit"))
    assert row.synchronous_commit == expected


async def test_each_claim_stores_the_account_of_the_send(store: Store) -> None:
    """The claim's commit stores the account, so no crash leaves a send without its account."""
    payment_id, attempt_id = await store.claimed(Kind.WITHDRAWAL)
    sql = "SELECT account FROM mkwanja.attempts WHERE payment_id = $1"
    assert await store.one(sql, payment_id) == AN_ACCOUNT.as_text()
    await store.change(acknowledgement(payment_id, attempt_id))
    [attempt] = (await store.payment(payment_id)).attempts
    assert attempt.account == AN_ACCOUNT
