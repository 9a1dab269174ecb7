"""Reasons why a payment is not settled yet, although it was final: for retention and for keys."""

from __future__ import annotations

from uuid import UUID

from tests.integration.conftest import Store


async def needs_review(store: Store, payment_id: UUID) -> None:
    await store.update(payment_id, "needs_review = true")


async def is_due(store: Store, payment_id: UUID) -> None:
    await store.update(payment_id, "next_step = 'query', next_step_at = now() + interval '1 day'")


async def is_not_final(store: Store, payment_id: UUID) -> None:
    await store.update(
        payment_id,
        "stage = 'in_doubt', finalized_at = NULL, receipt = NULL, next_step = 'watch',"
        " next_step_at = now() + interval '1 day'",
    )
