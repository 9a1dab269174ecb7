"""Whose the ids of a message are, as the record knows it."""

from __future__ import annotations

from domain.attempts import IdKind
from domain.kinds import Kind
from tests.integration.conftest import Store, acknowledgement, new_id, stored_callbacks, success


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
