"""The connections and services that both processes of the gateway use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from domain.adapters.postgres.changing import PostgresChangingStore
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.outbox import PostgresOutbox
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.adapters.redis.address import require_one_shard
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.connection import connect, record_use
from domain.adapters.redis.faults import EXPLANATIONS, Scope, classify_error
from domain.adapters.redis.names import PREFIX
from domain.adapters.settings.common import SharedSettings
from domain.adapters.settings.errors import raise_as_settings_error
from domain.adapters.tracing import TracedBell, TracedChanges, start_tracing
from domain.changes import ChangingStore
from domain.errors import QueueUnavailable
from domain.lifecycle.announce import Announcer, Bell

# After a failure of Redis, the process does not use it for this long. Otherwise every request would
# wait for another failure.
_REDIS_REST_SECONDS = 1.0
_REDIS_PATIENCE_SECONDS = 0.5

_PROBE_KEPT_MS = 10_000

# The platform requests these routes, and must get an answer even if the process is overloaded.
HEALTH_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})


class Resources:
    """The connections of a process, and the services that use them.

    A connection opens at its first use, so the process starts even if no server is up.
    """

    def __init__(self, settings: SharedSettings, *, process: str) -> None:
        name = f"mkwanja-{process}"
        self.database = Database(
            settings.database_url, pool_size=settings.database_pool_size, application_name=name
        )
        self.redis = connect(
            settings.redis_url,
            client_name=name,
            ca_file=settings.redis_ca_file,
            verify=settings.redis_tls_verify,
        )
        self.tracer = tracer = start_tracing(settings, process)
        self._changes = PostgresChangingStore(self.database)
        self.changes: ChangingStore = (
            self._changes if tracer is None else TracedChanges(self._changes, tracer)
        )
        self.reading = PostgresReadingStore(self.database)
        bell: Bell = RedisBell(self.redis)
        if tracer is not None:
            bell = TracedBell(bell, tracer)
        self.announcer = Announcer(PostgresOutbox(self.database), bell)
        self._redis_rests_until = 0.0
        self._first_look: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Checks the setup of Redis if Redis is up. Raises SettingsError if it cannot work."""
        with raise_as_settings_error("REDIS_URL"):
            require_one_shard(await self.redis.count_shards())
        self._first_look = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Uses both servers once, so that the log says at once why one of them cannot be used."""
        with suppress(Exception):
            await asyncio.gather(self.redis_report(), self.reading.is_writable())

    async def close(self) -> None:
        """Finishes the work under way, then disconnects."""
        if self._first_look is not None:
            self._first_look.cancel()
        await self._changes.drain()
        await self.announcer.drain()
        if self.tracer is not None:
            self.tracer.begin_close()
        await self.redis.aclose(close_connection_pool=True)
        await self.database.close()
        if self.tracer is not None:
            await self.tracer.wait_closed()

    async def if_redis_answers(self, ask: Callable[[], Awaitable[object]]) -> object | None:
        """The result of `ask`, or None if Redis refuses it or is away.

        Every promise to callers must hold even if this method returns None.
        """
        if time.monotonic() < self._redis_rests_until:
            return None
        try:
            async with asyncio.timeout(_REDIS_PATIENCE_SECONDS):
                return await ask()
        except TimeoutError as error:
            self.redis.faults.record_outage(error)
        except QueueUnavailable as error:
            kind = classify_error(error)
            if kind is not None and EXPLANATIONS[kind].scope is not Scope.SERVER:
                return None  # Redis still answers, and can accept other commands
        self._redis_rests_until = time.monotonic() + _REDIS_REST_SECONDS
        return None

    async def redis_report(self) -> str:
        """The state of Redis for `/readyz`: `ok`, `away`, or the present faults.

        The probe writes a key, because a full or read-only Redis still answers reads.
        """

        async def probe() -> None:
            async with record_use(self.redis, "probe"):
                await self.redis.set(f"{PREFIX}probe", 1, px=_PROBE_KEPT_MS)

        await self.if_redis_answers(probe)
        return self.redis.faults.report
