"""The local stack: processes, given servers, and all parts together.

`test_servers` tests the stack's own servers.
"""

import shutil
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.integration.own_servers import folder, one, postgres, python, redis
from tests.stack import stack as stack_module
from tests.stack.databases import connection, database_name
from tests.stack.external import (
    GivenPostgres,
    GivenRedis,
    NotOursError,
    postgres_server,
    redis_server,
)
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import ProcessError
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.stack import Stack

__all__ = ["folder", "postgres", "redis"]


class TestGivenServers:
    """DATABASE_URL and REDIS_URL replace the servers from the wheels."""

    async def test_a_stack_creates_and_drops_its_own_database(
        self, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        """A stack changes no other database on that server."""
        monkeypatch.setenv("DATABASE_URL", f"{postgres.url}?sslmode=disable")
        async with postgres_server(folder) as given:
            assert isinstance(given, GivenPostgres)
            url = await given.create_database()
            assert url.endswith("?sslmode=disable")
            assert await one(url, "SELECT current_database()") == database_name(url) != "postgres"
            assert not given.can_be_stopped
            with pytest.raises(NotOursError, match="DATABASE_URL"):
                await given.kill()
        async with connection(postgres.url) as server:
            names = [
                row["datname"] for row in await server.fetch("SELECT datname FROM pg_database")
            ]
        assert database_name(url) not in names

    async def test_the_given_database_is_used_if_the_role_may_create_none(
        self, postgres: PostgresServer
    ) -> None:
        """Hosts often permit no new database. The server's note shows this."""
        async with connection(postgres.admin_url) as admin:
            await admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        url = f"postgresql://guest:guest@127.0.0.1:{postgres.port}/postgres"
        async with GivenPostgres(url) as given:
            assert await given.create_database() == url
            assert "does not let this role create databases" in given.note
            await given.drop_database(url)
        assert await one(url, "SELECT 1") == 1

    async def test_a_stack_reserves_an_empty_redis_number(
        self, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        """Two stacks get two numbers. A number with keys is neither used nor flushed."""
        async with Redis.from_url(redis.url) as stranger:
            await stranger.set("theirs", "1")
            monkeypatch.setenv("REDIS_URL", redis.url)
            async with redis_server(folder) as first, redis_server(folder) as second:
                assert isinstance(first, GivenRedis)
                assert len({redis.url, first.url, second.url}) == 3
                async with Redis.from_url(first.url) as ours:
                    await ours.set("ours", "1")
                    await first.flush()
                    assert await ours.get("ours") is None
            assert await stranger.get("theirs") == b"1"
            assert set(await stranger.info("keyspace")) == {"db0"}

    async def test_redis_without_an_empty_number_is_not_flushed(self, redis: RedisServer) -> None:
        """The keys may be another application's cache, so the test fails instead."""
        for number in range(16):
            async with Redis.from_url(redis.url.replace("/0", f"/{number}")) as stranger:
                await stranger.set("theirs", "1")
        async with GivenRedis(redis.url) as given:
            assert given.url == redis.url
            assert "does not flush it" in given.note
            with pytest.raises(NotOursError):
                await given.flush()
        await redis.flush()


class TestProcess:
    """A command that runs beside the tests."""

    async def test_a_process_that_ignores_sigterm_is_killed_and_reported(
        self, folder: Path
    ) -> None:
        """A drain without end must not look like a complete one. A frozen process is killed too."""
        stubborn = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "print('up'); time.sleep(3600)"
        )
        process = python(stubborn, folder)
        await process.start()
        await process.wait_logged("up")
        process.freeze()
        with pytest.raises(ProcessError, match=r"did not end within 0.2 s[\s\S]*up"):
            await process.terminate(within_seconds=0.2)
        assert process.returncode == -signal.SIGKILL

    async def test_the_error_of_a_process_that_never_gets_ready_has_its_last_log_lines(
        self, folder: Path
    ) -> None:
        """A developer reads the error first, so it has the reason."""
        port = reserve_port()
        process = python("raise SystemExit('DATABASE_URL is missing')", folder)
        await process.start()
        with pytest.raises(ProcessError, match=r"exit status 1[\s\S]*DATABASE_URL is missing"):
            await process.wait_ready(f"http://127.0.0.1:{port}/readyz")
        release_port(port)


@pytest.mark.whole
class TestStack:
    """All parts run together. `tests/spec` tests payments on such a stack."""

    @pytest.mark.whole
    async def test_two_stacks_at_once_share_nothing(self) -> None:
        """Two checkouts may run tests at once, or a demo may run beside the tests."""
        async with (
            Stack(processes=(), release=False) as one_stack,
            Stack(processes=(), release=False) as other,
        ):
            for name in ("database_url", "redis_url", "simulator_url", "web_url", "folder"):
                assert getattr(one_stack, name) != getattr(other, name)
            assert one_stack.env("worker")["DARAJA_BASE_URL"] == one_stack.simulator_url
            folder = one_stack.folder
        assert not folder.exists()

    async def test_a_stack_that_cannot_start_leaves_only_its_logs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The exception has the last lines of the logs. The folder has the logs, but no data."""
        monkeypatch.setattr(
            stack_module,
            "procfile_commands",
            lambda _path: {"web": "python -c 'exit(\"no settings\")'"},
        )
        stack = Stack(processes=("web",), release=False)
        with pytest.raises(ProcessError, match=r"web.1 [\s\S]*no settings") as caught:
            await stack.__aenter__()
        assert str(stack.folder) in caught.value.__notes__[0]
        assert "no settings" in stack.logs()["web.1"]
        assert [
            path for path in stack.folder.iterdir() if path.suffix not in {".log", ".pem"}
        ] == []
        shutil.rmtree(stack.folder)
