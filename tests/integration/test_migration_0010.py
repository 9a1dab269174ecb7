"""From 0009 to 0010 and back, with a record in use: what kinds mean is written down with each
open payment.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.changes import Change
from domain.kinds import RULES, Kind
from domain.lifecycle.record_callback import callback_change
from domain.lifecycle.resolve import inquiry_request_change
from domain.stages import Stage, Step
from tests.builders import EXPIRES_AFTER, a_report
from tests.integration.conftest import Store, a_callback, failure, new_id
from tests.integration.migrating import (
    OLDER_KINDS,
    a_record_in_use,
    differences,
    migrate,
    steps_on_record,
)
from tests.stack.databases import alembic

_MEANING = "SELECT kind, next_step_at, moves_money_out, expires_at - created_at AS lives FROM mkwanja.payments"

# As a web process of the release before inserts a payment.
_OLDER_INSERT = """
INSERT INTO mkwanja.payments (id, kind, stage, caller_key, owner, amount_kes, phone_number, paybill, till,
    account_reference, description, remarks, purpose, metadata, idempotency_key, created_at, updated_at, sequence,
    next_step_at, next_step)
SELECT $1, kind, 'accepted', caller_key, owner, amount_kes, phone_number, paybill, till, account_reference, description,
    remarks, purpose, metadata, 'older-' || idempotency_key, now(), now(), 1, now(), 'submit'
FROM mkwanja.payments WHERE id = $2
"""


def means_its_kind(row: dict[str, Any]) -> bool:
    kind = Kind(row["kind"])
    return (
        row["moves_money_out"] is RULES[kind].moves_money_out
        and row["lives"] == EXPIRES_AFTER[kind]
    )


async def test_open_payments_of_every_kind_and_stage_learn_what_their_kind_means(
    fresh: Store,
) -> None:
    """What is due stays due, on the way up and on the way back.

    What was over before is not rewritten.
    """
    expected = await a_record_in_use(fresh)
    await migrate(fresh.url, "downgrade", "0009")
    assert await steps_on_record(fresh) == expected
    await migrate(fresh.url, "upgrade", "head")
    assert await steps_on_record(fresh) == expected
    rows = await fresh.rows(_MEANING)
    is_open = [row["next_step_at"] is not None for row in rows]
    assert [means_its_kind(row) for row in rows] == is_open
    assert set(is_open) == {True, False}
    assert await differences(fresh.url) == []


async def test_a_release_that_holds_pochi_payments_is_not_taken_back(fresh: Store) -> None:
    """An older process could neither read them nor end them. The refusal changes nothing."""
    payment_id = await fresh.accepted(Kind.POCHI_PAYMENT)
    status, said = await alembic("downgrade", "0010", url=fresh.url)
    assert status != 0
    assert "kind_is_known" in said
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
    assert await differences(fresh.url) == []


async def test_a_payment_that_was_over_before_can_still_be_read(fresh: Store) -> None:
    payment_id = await fresh.finalized()
    await migrate(fresh.url, "downgrade", "0009")
    await migrate(fresh.url, "upgrade", "head")
    async with Store(fresh.url) as after:
        assert (await after.payment(payment_id)).stage is Stage.SUCCEEDED


@pytest.mark.parametrize(
    "what", ["confirm", "no receipt", "wrong source", "asked by a person", "corrected"]
)
async def test_a_payment_that_failed_before_can_still_be_asked_about_and_corrected(
    fresh: Store, what: str
) -> None:
    """It has neither of the new columns, and needs none: it is never sent."""
    payment_id, _ = await fresh.claimed(Kind.WITHDRAWAL)
    await fresh.changing.change(failure(payment_id, Kind.WITHDRAWAL))
    await migrate(fresh.url, "downgrade", "0009")
    await migrate(fresh.url, "upgrade", "head")
    assert await fresh.one("SELECT moves_money_out IS NULL FROM mkwanja.payments")
    async with Store(fresh.url) as after:
        await after.changing.change(_later_word(payment_id, what))
        payment = await after.payment(payment_id)
    if what == "corrected":
        assert payment.stage is Stage.SUCCEEDED
    else:
        assert (payment.stage, payment.next_step) == (Stage.FAILED, Step.STATUS)


def _later_word(payment_id: UUID, what: str) -> Change:
    if what == "asked by a person":
        return inquiry_request_change(payment_id, reason="a test", operator="amina")
    report = a_report(receipt=None, has_amount=False) if what == "no receipt" else a_report()
    callback = replace(a_callback("withdrawal"), source_allowed=what != "wrong source")
    return callback_change(
        payment_id, callback, report, confirm_above_kes=0 if what == "confirm" else None
    )


@pytest.mark.parametrize("kind", OLDER_KINDS)
async def test_a_payment_that_an_older_web_process_inserts_means_its_kind(
    fresh: Store, kind: Kind
) -> None:
    """The release is rolled out process by process: the new schema serves both."""
    model, older = await fresh.accepted(kind), new_id()
    await fresh.execute(_OLDER_INSERT, older, model)
    [row] = await fresh.rows(f"{_MEANING} WHERE id = $1", older)
    assert means_its_kind(row)


async def test_what_a_web_process_writes_itself_is_kept(fresh: Store) -> None:
    """The trigger fills in only what is missing."""
    payment_id: UUID = await fresh.accepted(Kind.WITHDRAWAL)
    await fresh.execute(
        "UPDATE mkwanja.payments SET expires_at = created_at + interval '1 s' WHERE id = $1",
        payment_id,
    )
    copy = _OLDER_INSERT.replace(
        "next_step)", "next_step, moves_money_out, expires_at)", 1
    ).replace("now(), 'submit'", "now(), 'submit', moves_money_out, now() + interval '7 s'")
    again = new_id()
    await fresh.execute(copy, again, payment_id)
    [row] = await fresh.rows(f"{_MEANING} WHERE id = $1", again)
    assert (row["moves_money_out"], row["lives"]) == (True, timedelta(seconds=7))
