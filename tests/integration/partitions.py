"""Steps of a test about partitions and their retention."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from domain.adapters.postgres.partitions import BOUNDS
from tests.integration.conftest import Store, new_id

TABLES = ("callbacks", "daraja_exchanges")


def month(months_from_now: int) -> datetime:
    """The first moment of a month, in UTC."""
    now = datetime.now(UTC)
    years, index = divmod(now.month - 1 + months_from_now, 12)
    return datetime(now.year + years, index + 1, 1, tzinfo=UTC)


def name_of(table: str, months_from_now: int) -> str:
    return f"{table}_{month(months_from_now):%Y_%m}"


def id_of(moment: datetime) -> UUID:
    """A new id that was made at `moment`, as far as its time says."""
    return UUID(f"{int(moment.timestamp() * 1000):012x}{new_id().hex[12:]}")


async def partitions(store: Store, table: str) -> set[str]:
    rows = await store.rows(f"SELECT partition FROM ({BOUNDS}) AS b WHERE parent = $1", table)  # noqa: S608
    return {row["partition"] for row in rows}


async def add_past_months(store: Store, months: int) -> None:
    """Give each of the last `months` months a partition, as if the service had run since then."""
    for table in TABLES:
        for back in range(months, 0, -1):
            first, end = month(-back), month(1 - back)
            if back == months:
                await store.execute(
                    f"ALTER TABLE mkwanja.{table} DETACH PARTITION mkwanja.{table}_before;"
                )
                await store.execute(
                    f"ALTER TABLE mkwanja.{table} ATTACH PARTITION mkwanja.{table}_before FOR"
                    f" VALUES FROM (MINVALUE) TO ('{first_id(first)}')"
                )
            name = name_of(table, -back)
            await store.execute(
                f"CREATE TABLE mkwanja.{name} PARTITION OF mkwanja.{table}"
                f" FOR VALUES FROM ('{first_id(first)}') TO ('{first_id(end)}')"
            )
            await store.execute(f"SELECT mkwanja.protect_partition('{name}')")


def first_id(moment: datetime) -> UUID:
    return UUID(f"{int(moment.timestamp() * 1000):012x}{'0' * 20}")


async def insert_callback(
    store: Store, payment_id: UUID, *, callback_id: UUID | None = None
) -> UUID:
    """Store a message about the payment by SQL, and return the message's id."""
    own_id = callback_id or new_id()
    await store.execute(
        "INSERT INTO mkwanja.callbacks (id, payment_id, operation, received_at, source_address,"
        " source_allowed, body, body_sha256, disposition, is_flagged)"
        " VALUES ($1, $2, 'deposit', now(), '196.201.214.200', true, 'x', 'y', 'finalized', false)",
        own_id,
        payment_id,
    )
    return own_id


async def where(store: Store, table: str, row_id: UUID) -> str:
    """The name of the partition that has the row."""
    found = f"SELECT tableoid::regclass::text FROM mkwanja.{table} WHERE id = $1"  # noqa: S608
    return str(await store.one(found, row_id)).removeprefix("mkwanja.")
