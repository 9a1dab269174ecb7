"""Steps of a test about brakes and held operations."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from domain.attempts import IdKind, ProviderId
from domain.errors import ProductRefused, ProviderError
from domain.kinds import Kind
from domain.operations import Operation
from tests.integration.conftest import Store, acknowledgement

B2C = Operation.B2C


async def brake_row(store: Store, name: str = B2C) -> dict[str, Any]:
    [found] = await store.rows("SELECT * FROM mkwanja.brakes WHERE name = $1", str(name))
    return found


async def is_engaged(store: Store, name: str = B2C) -> bool:
    return bool((await brake_row(store, name))["is_engaged"])


async def brake_changes(store: Store) -> list[tuple[str, bool]]:
    """Return every change of a brake, oldest first."""
    rows = await store.rows(
        "SELECT name, is_engaged FROM mkwanja.brake_history ORDER BY changed_at"
    )
    return [(row["name"], row["is_engaged"]) for row in rows]


async def record_answer(store: Store, sent: tuple[UUID, UUID], error: ProviderError | None) -> None:
    """Record Daraja's answer. `sent` has the payment's id and the attempt's id."""
    ids = (
        frozenset[ProviderId]()
        if error
        else frozenset({(IdKind.CONVERSATION, f"AG_{sent[1].hex}")})
    )
    await store.change(acknowledgement(*sent, ids=ids, error=error))


async def hold(store: Store, kind: Kind = Kind.WITHDRAWAL) -> None:
    await record_answer(store, await store.claimed(kind), ProductRefused(code="401.002.01"))


async def end_cool_down(store: Store, operation: Operation = B2C) -> None:
    """Make the cool-down end now."""
    await store.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() WHERE name = $1", operation.value
    )
