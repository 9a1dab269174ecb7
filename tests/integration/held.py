"""Steps of a test about held operations: send, hold, cool down, and read the brake's row."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from domain.attempts import IdKind, ProviderId
from domain.errors import (
    ProductRefused,
    ProviderError,
)
from domain.kinds import Kind
from domain.operations import Operation
from tests.integration.conftest import Store, acknowledgement, new_id

B2C = Operation.B2C


async def claimed(store: Store, kind: Kind = Kind.WITHDRAWAL) -> tuple[UUID, UUID]:
    payment_id, attempt_id = await store.accepted(kind), new_id()
    assert await store.claim(payment_id, attempt_id) is not None
    return payment_id, attempt_id


async def record_answer(store: Store, sent: tuple[UUID, UUID], error: ProviderError | None) -> None:
    ids = (
        frozenset[ProviderId]()
        if error
        else frozenset({(IdKind.CONVERSATION, f"AG_{sent[1].hex}")})
    )
    await store.changing.change(acknowledgement(*sent, ids=ids, error=error))


async def hold(store: Store, kind: Kind = Kind.WITHDRAWAL) -> None:
    await record_answer(store, await claimed(store, kind), ProductRefused(code="401.002.01"))


async def brake_row(store: Store, operation: Operation = B2C) -> dict[str, Any]:
    [found] = await store.rows("SELECT * FROM mkwanja.brakes WHERE name = $1", operation.value)
    return found


async def is_held(store: Store, operation: Operation = B2C) -> bool:
    return bool((await brake_row(store, operation))["is_engaged"])


async def end_cool_down(store: Store, operation: Operation = B2C) -> None:
    """Make the cool-down end now."""
    await store.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() WHERE name = $1", operation.value
    )
