"""Real servers for the adapters' tests, with a migrated database for each module."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any, Self
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
import uuid_utils.compat as uuid_utils

from domain.account import Account
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.postgres import engine
from domain.adapters.postgres.accepting import PostgresAcceptingStore
from domain.adapters.postgres.changing import PostgresChangingStore
from domain.adapters.postgres.claiming import PostgresClaimingStore
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.outbox import PostgresOutbox
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.adapters.postgres.statements import sql
from domain.adapters.postgres.sweeping import PostgresSweepingStore
from domain.adapters.redis.connection import RedisClient, connect
from domain.attempts import ProviderIds
from domain.changes import Change, ChangeResult, StoredCallback
from domain.errors import ProviderError
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.lifecycle.record_answer import answer_change
from domain.lifecycle.record_callback import callback_change
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.values import Caller, PaymentRequest, Role
from domain.views import public_payment
from tests import builders
from tests.builders import ACCOUNTS, EXPIRES_AFTER, TIMES
from tests.integration.proxy import Proxy
from tests.simulator.probe import Probe, probing
from tests.stack.databases import connection
from tests.stack.databases_to_borrow import DatabasesToBorrow
from tests.stack.servers import RedisServer

PATIENCE_SECONDS = 30.0  # a wait that lasts longer fails the test
CALLER = Caller("https://project.example/auth/v1", "shop", Role.BACKEND)
INSUFFICIENT_FUNDS = Failure(
    FailureReason.INSUFFICIENT_FUNDS, safe_to_retry=True, provider_code="1"
)
_RECEIPTS = itertools.count(1)


# --- PostgreSQL -----------------------------------------------------------------------------------


class Store:
    """The pool and the adapters of one process, and direct SQL on the same database."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        self.database = Database(url, pool_size=pool_size, application_name="mkwanja-test")
        self.accepting = PostgresAcceptingStore(self.database)
        self.claiming = PostgresClaimingStore(self.database)
        self.changing = PostgresChangingStore(self.database)
        self.sweeping = PostgresSweepingStore(self.database)
        self.outbox = PostgresOutbox(self.database)
        self._reading = PostgresReadingStore(self.database)

    async def __aenter__(self) -> Self:
        self._raw = await asyncpg.create_pool(
            self.url, min_size=0, max_size=4, statement_cache_size=0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()
        self._raw.terminate()

    async def rows(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        """Read rows by SQL, without the product's code."""
        return [dict(row) for row in await self._raw.fetch(sql, *arguments)]

    async def one(self, sql: str, *arguments: Any) -> Any:
        """Read the first value of the result's only row."""
        (row,) = await self.rows(sql, *arguments)
        return next(iter(row.values()))

    async def execute(self, sql: str, *arguments: Any) -> None:
        """Change rows by SQL, for example to simulate that hours have passed."""
        await self._raw.execute(sql, *arguments)

    async def update(self, payment_id: UUID, assignments: str, *arguments: Any) -> None:
        """Change columns of a payment by SQL. The first argument is `$2`."""
        sql = f"UPDATE mkwanja.payments SET {assignments} WHERE id = $1"  # noqa: S608
        await self.execute(sql, payment_id, *arguments)

    async def deadlocks(self) -> int:
        """Count the deadlocks of this database.

        A connection may report its counts only at its end, so this first closes the pool.
        """
        await self.database.close()
        return int(
            await self.one(
                "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            )
        )

    async def payment(self, payment_id: UUID) -> Payment:
        """Read the payment with its attempts."""
        payment = await self.find(payment_id)
        assert payment is not None
        return payment

    async def find(self, payment_id: UUID) -> Payment | None:
        return await self._reading.payment(payment_id)

    async def event_lag_seconds(self) -> float:
        """Read how long the oldest unpublished event has waited, as /metrics shows it."""
        return (await self._reading.situation()).event_lag_seconds

    async def history(self, payment_id: UUID) -> list[dict[str, Any]]:
        """Read the payment's history, oldest entry first."""
        sql = "SELECT * FROM mkwanja.payment_history WHERE payment_id = $1 ORDER BY sequence"
        return await self.rows(sql, payment_id)

    async def accepted(self, kind: Kind = Kind.DEPOSIT, **changes: Any) -> UUID:
        """Accept a new payment, and return its id."""
        new = a_new_payment(kind, **changes)
        await self.accepting.accept(new)
        return new.id

    async def accept(self, new: NewPayment) -> Acceptance:
        return await self.accepting.accept(new)

    async def change(self, change: Change) -> ChangeResult:
        return await self.changing.change(change)

    async def claim(
        self, payment_id: UUID, attempt_id: UUID | None = None, account: Account | None = None
    ) -> Payment | None:
        """Claim a payment for its first send."""
        return await self.claiming.claim(
            payment_id, attempt_id or new_id(), lease=TIMES.lease, account=account
        )

    async def claimed(self, kind: Kind = Kind.DEPOSIT) -> tuple[UUID, UUID]:
        """Accept and claim a payment, and return its id and the attempt's id."""
        payment_id, attempt_id = await self.accepted(kind), new_id()
        assert await self.claim(payment_id, attempt_id, ACCOUNTS[kind]) is not None
        return payment_id, attempt_id

    async def count_unpublished(self) -> int:
        """Count the events that are not recorded as published."""
        return len(await self.rows(builders.UNPUBLISHED_EVENTS))

    async def finalized(self, kind: Kind = Kind.DEPOSIT) -> UUID:
        """Create a payment that succeeded, and return its id."""
        payment_id, _ = await self.claimed(kind)
        await self.changing.change(success(payment_id, kind))
        return payment_id


@pytest.fixture(scope="module")
async def database_url(databases_to_borrow: DatabasesToBorrow) -> AsyncIterator[str]:
    """A migrated database for this module."""
    async with databases_to_borrow.borrow() as url:
        yield url


@pytest.fixture(scope="module")
async def store(database_url: str) -> AsyncIterator[Store]:
    """The module's database as one process sees it."""
    async with Store(database_url) as own:
        yield own


@pytest.fixture(scope="module")
async def other(database_url: str) -> AsyncIterator[Store]:
    """The same database as another process sees it."""
    async with Store(database_url) as own:
        yield own


@pytest.fixture
async def fresh(databases_to_borrow: DatabasesToBorrow) -> AsyncIterator[Store]:
    """An empty migrated database, for a test that reads all rows of a table."""
    async with databases_to_borrow.borrow() as url, Store(url) as own:
        yield own


@pytest.fixture
async def second_worker(fresh: Store) -> AsyncIterator[Store]:
    """The database of `fresh` as another worker sees it."""
    async with Store(fresh.url) as store:
        yield store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the lock timeout from two seconds to 200 ms, so that the tests run fast."""
    text = engine._OPEN.text
    assert "'2s'" in text
    monkeypatch.setattr(engine, "_OPEN", sql(text.replace("'2s'", "'200ms'")))
    monkeypatch.setattr(engine, "LOCK_TIMEOUT", "200ms")


@asynccontextmanager
async def locked(store: Store, payment_id: UUID) -> AsyncIterator[None]:
    """Lock the payment's row in another transaction during the block."""
    async with connection(store.url) as raw, raw.transaction():
        await raw.execute("SELECT FROM mkwanja.payments WHERE id = $1 FOR UPDATE", payment_id)
        yield


# --- Daraja ---------------------------------------------------------------------------------------


@pytest.fixture
def session() -> DarajaSession:
    """What sends requests to Daraja."""
    return DarajaSession()


# --- Redis ----------------------------------------------------------------------------------------


@pytest.fixture
async def redis(
    redis_of_run: RedisServer, request: pytest.FixtureRequest
) -> AsyncIterator[RedisClient]:
    """A client of an empty Redis, named after the test. A warning about it then names the test."""
    await redis_of_run.flush()
    client = connect(redis_of_run.url, client_name=re.sub(r"\W", "-", request.node.name))
    yield client
    await client.aclose(close_connection_pool=True)


# --- builders -------------------------------------------------------------------------------------


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """Call `look` until its result is true, and return the result."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (seen := await look()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)
    return seen


def new_id() -> UUID:
    return UUID(int=uuid_utils.uuid7().int)


def a_receipt() -> str:
    return f"UJ2A{next(_RECEIPTS):06}"


def an_answer(payment: Payment) -> bytes:
    return orjson.dumps(public_payment(payment))


def a_request(kind: Kind = Kind.DEPOSIT, **changes: Any) -> PaymentRequest:
    """Return a valid request."""
    return builders.a_payment(kind=kind, **{"owner": None, **changes}).request


def a_new_payment(
    kind: Kind = Kind.DEPOSIT,
    *,
    key: str | None = None,
    fingerprint: bytes = b"\x01same",
    **changes: Any,
) -> NewPayment:
    """Build a payment that is not accepted yet. By default its idempotency key is new."""
    return NewPayment(
        id=new_id(),
        request=a_request(kind, **changes),
        caller=CALLER,
        idempotency_key=key or uuid4().hex,
        fingerprint=fingerprint,
        answer=an_answer,
        expires_after=EXPIRES_AFTER[kind],
    )


def a_callback(operation: str = "deposit", body: bytes = b'{"Body": {}}') -> StoredCallback:
    return builders.a_callback(
        id=new_id(),
        operation=operation,
        outcome="unreadable",
        body=body,
        body_sha256=sha256(body).digest(),
    )


def success(
    payment_id: UUID,
    kind: Kind = Kind.DEPOSIT,
    *,
    receipt: str | None = None,
    ids: ProviderIds = frozenset(),
) -> Change:
    """Return the change of a callback that reports success."""
    report = builders.a_report(receipt=receipt or a_receipt(), ids=ids)
    return callback_change(payment_id, a_callback(RULES[kind].result_operation), report)


def failure(
    payment_id: UUID, kind: Kind = Kind.DEPOSIT, *, ids: ProviderIds = frozenset()
) -> Change:
    """Return the change of a callback that reports failure."""
    report = builders.a_report(
        ReportedOutcome.FAILURE, code="1", failure=INSUFFICIENT_FUNDS, ids=ids
    )
    return callback_change(payment_id, a_callback(RULES[kind].result_operation), report)


def acknowledgement(
    payment_id: UUID,
    attempt_id: UUID,
    *,
    ids: ProviderIds = frozenset(),
    error: ProviderError | None = None,
) -> Change:
    """Return the change of Daraja's synchronous answer to one attempt."""
    open_attempt = replace(builders.an_open_attempt(), attempt_id=attempt_id)
    return answer_change(payment_id, open_attempt, ids, error, TIMES, ACCOUNTS)


# --- connections that break -----------------------------------------------------------------------


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """The module's database behind a proxy."""
    async with Proxy(database_url) as own:
        yield own


@pytest.fixture
async def proxied(proxy: Proxy) -> AsyncIterator[Store]:
    """The module's database as a process behind the proxy sees it."""
    async with Store(proxy.url) as own:
        yield own


async def stored_callbacks(store: Store, payment_id: UUID) -> list[str]:
    """Return the dispositions of a payment's stored callbacks, oldest first."""
    sql = "SELECT disposition FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY received_at, id"
    return [row["disposition"] for row in await store.rows(sql, payment_id)]


@pytest.fixture(scope="module")
async def running_probe() -> AsyncIterator[Probe]:
    """One simulator for a file of tests, because creating its key pair is slow."""
    async with probing() as probe:
        yield probe


@pytest.fixture
async def probe(running_probe: Probe) -> Probe:
    """The file's simulator, reset to the state of a new one."""
    await running_probe.begin_anew()
    return running_probe
