"""Migrate a used database from 0009 to 0010 and back: open payments get new columns."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.kinds import RULES, Kind
from domain.lifecycle.record_callback import callback_change
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

pytestmark = pytest.mark.whole  # a released migration never changes

_KIND_COLUMNS = """
SELECT kind, next_step_at, moves_money_out, expires_at - created_at AS lives FROM mkwanja.payments
"""

# The insert of a web process of the previous release.
_OLDER_INSERT = """
INSERT INTO mkwanja.payments (id, kind, stage, caller_key, owner, amount_kes, phone_number,
    paybill, till, account_reference, description, remarks, purpose, metadata, idempotency_key,
    created_at, updated_at, sequence, next_step_at, next_step)
SELECT $1, kind, 'accepted', caller_key, owner, amount_kes, phone_number,
    paybill, till, account_reference, description, remarks, purpose, metadata,
    'older-' || idempotency_key, now(), now(), 1, now(), 'submit'
FROM mkwanja.payments WHERE id = $2
"""


def fits_its_kind(row: dict[str, Any]) -> bool:
    kind = Kind(row["kind"])
    return (
        row["moves_money_out"] is RULES[kind].moves_money_out
        and row["lives"] == EXPIRES_AFTER[kind]
    )


async def test_the_migration_fills_the_columns_of_the_kind_for_open_payments(
    fresh: Store,
) -> None:
    """No due step changes, up or down. Final payments are not rewritten, and can be read."""
    expected = await a_record_in_use(fresh)
    await migrate(fresh.url, "downgrade", "0009")
    assert await steps_on_record(fresh) == expected
    await migrate(fresh.url)
    assert await steps_on_record(fresh) == expected
    rows = await fresh.rows(_KIND_COLUMNS)
    is_open = [row["next_step_at"] is not None for row in rows]
    assert [fits_its_kind(row) for row in rows] == is_open
    assert set(is_open) == {True, False}
    async with Store(fresh.url) as after:
        stages = {(await after.payment(payment_id)).stage for payment_id in expected}
    assert stages == set(Stage)
    assert await differences(fresh.url) == []


async def test_a_downgrade_is_rejected_if_pochi_payments_exist(fresh: Store) -> None:
    """An older process could not read or finalize them. The rejected downgrade changes nothing."""
    payment_id = await fresh.accepted(Kind.POCHI_PAYMENT)
    status, output = await alembic("downgrade", "0010", url=fresh.url)
    assert status != 0
    assert "kind_is_known" in output
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
    assert await differences(fresh.url) == []


@pytest.mark.parametrize("confirm_above_kes", [None, 0], ids=["at once", "after confirmation"])
async def test_a_payment_that_failed_before_the_migration_can_be_corrected(
    fresh: Store, confirm_above_kes: int | None
) -> None:
    """The new columns are NULL, because the payment is never sent again. Inquiries also work."""
    payment_id, _ = await fresh.claimed(Kind.WITHDRAWAL)
    await fresh.change(failure(payment_id, Kind.WITHDRAWAL))
    await migrate(fresh.url, "downgrade", "0009")
    await migrate(fresh.url)
    assert await fresh.one("SELECT moves_money_out IS NULL FROM mkwanja.payments")
    change = callback_change(
        payment_id, a_callback("withdrawal"), a_report(), confirm_above_kes=confirm_above_kes
    )
    async with Store(fresh.url) as after:
        await after.change(change)
        payment = await after.payment(payment_id)
    assert (payment.stage, payment.next_step) == (
        (Stage.SUCCEEDED, None) if confirm_above_kes is None else (Stage.FAILED, Step.STATUS)
    )


@pytest.mark.parametrize("kind", OLDER_KINDS)
async def test_a_payment_of_an_older_web_process_gets_the_columns_of_its_kind(
    fresh: Store, kind: Kind
) -> None:
    """During a rollout, processes of both releases use the new schema."""
    model, older = await fresh.accepted(kind), new_id()
    await fresh.execute(_OLDER_INSERT, older, model)
    [row] = await fresh.rows(f"{_KIND_COLUMNS} WHERE id = $1", older)
    assert fits_its_kind(row)


async def test_the_trigger_overwrites_no_column_of_a_web_process(fresh: Store) -> None:
    """The trigger fills only missing columns."""
    payment_id: UUID = await fresh.accepted(Kind.WITHDRAWAL)
    await fresh.update(payment_id, "expires_at = created_at + interval '1 s'")
    copy = _OLDER_INSERT.replace(
        "next_step)", "next_step, moves_money_out, expires_at)", 1
    ).replace("now(), 'submit'", "now(), 'submit', moves_money_out, now() + interval '7 s'")
    again = new_id()
    await fresh.execute(copy, again, payment_id)
    [row] = await fresh.rows(f"{_KIND_COLUMNS} WHERE id = $1", again)
    assert (row["moves_money_out"], row["lives"]) == (True, timedelta(seconds=7))
