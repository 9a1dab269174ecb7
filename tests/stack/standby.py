"""A second PostgreSQL that replicates the first one, and can replace it."""

import asyncio

from tests.stack import databases
from tests.stack.servers import PostgresServer

_FOLLOWS_SECONDS = 30.0
_COPY = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")


class StandbyServer(PostgresServer):
    """A copy of `primary`, made by pg_basebackup, that follows it by streaming replication."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary
        self._password = primary._password
        self._has_role = True  # copied from the primary

    async def wait_synchronous(self) -> None:
        """Makes replication synchronous: a COMMIT returns only after this standby wrote it."""
        async with databases.connection(self._primary.admin_url) as server:
            await server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            await server.execute("SELECT pg_reload_conf()")
            async with asyncio.timeout(_FOLLOWS_SECONDS):
                while not await server.fetchval(  # noqa: ASYNC110 - another process's state
                    "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                ):
                    await asyncio.sleep(0.05)

    async def promote(self) -> None:
        """Makes it a primary, which accepts writes."""
        async with databases.connection(self.admin_url) as server:
            assert await server.fetchval("SELECT pg_promote(wait => true)")

    async def _make_data(self) -> None:
        await self._run("pg_basebackup", f"--dbname={self._primary.admin_url}", *_COPY)


def url_of_both(one: PostgresServer, other: PostgresServer, database_url: str) -> str:
    """Returns the `database_url` of one of them, with both as hosts."""
    both = f"127.0.0.1:{one.port},127.0.0.1:{other.port}"
    return (
        database_url.replace(f"127.0.0.1:{one.port}", both, 1) + "?target_session_attrs=read-write"
    )
