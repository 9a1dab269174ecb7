"""A Postgres that answers and cannot: read-only after a failover or with a full disk, or not
migrated yet.
"""

from __future__ import annotations

import pytest
from sqlalchemy import text

from domain.adapters.masking import redact_exception
from domain.adapters.postgres.engine import is_about_rows
from domain.errors import StoreUnavailable
from domain.lifecycle.record_callback import raw_callback_change
from tests.integration.conftest import Store, a_callback, a_new_payment


async def test_a_read_only_server_is_unavailable_and_its_waiters_may_come_again(
    fresh: Store,
) -> None:
    """The receiver then tries again and answers 503; taken for the rows' fault, the callback
    would be lost with a 500.
    """
    payment_id = await fresh.accepted()
    database = await fresh.one("SELECT current_database()")
    await fresh.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    async with Store(fresh.url) as reader:
        with pytest.raises(StoreUnavailable):
            await reader.changing.change(raw_callback_change(payment_id, a_callback()))
        with pytest.raises(StoreUnavailable):
            await reader.accepting.accept(a_new_payment())


async def test_a_database_without_our_schema_is_unavailable(fresh: Store) -> None:
    """A web process that is up before its release accepts nothing, and says 503."""
    await fresh.execute("DROP SCHEMA mkwanja CASCADE")
    with pytest.raises(StoreUnavailable):
        await fresh.accepting.accept(a_new_payment())


async def test_an_error_about_a_row_is_logged_without_the_row(fresh: Store) -> None:
    """Rows hold phone numbers and keys, and Postgres quotes the row that it refuses."""
    payment_id = await fresh.accepted()
    break_it = text(
        "UPDATE mkwanja.payments SET phone_number = :number, next_step_at = NULL, next_step = NULL WHERE id = :id"
    )
    number = "2547" + "99000111"  # put together, because a traceback shows the lines of this file
    with pytest.raises(Exception, match="nothing_waits_for_nobody") as caught:
        async with fresh.database.transaction() as transaction:
            await transaction.run(break_it, {"number": number, "id": payment_id})
    assert is_about_rows(caught.value)
    event = redact_exception(None, "exception", {"event": "failed", "exc_info": caught.value})
    assert event["sqlstate"] == "23514"
    assert number not in str(event)
    assert "test_servers_that_cannot" in event["traceback"]
