"""The servers of the stack: real, ours alone, and gone afterwards, whatever ended the program
that started them.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.own_servers import LONG_SECONDS, folder, one, postgres, python, redis
from tests.stack import family, install
from tests.stack.databases import connection
from tests.stack.install import postgres_installation, temporary_folder
from tests.stack.processes import Process, until
from tests.stack.servers import PostgresServer, RedisServer

__all__ = ["folder", "postgres", "redis"]

ON_LINUX = sys.platform == "linux"
only_linux = pytest.mark.skipif(not ON_LINUX, reason="only Linux ends a process with its parent")


def existing(paths: list[str]) -> list[str]:
    """Those that are there."""
    return [path for path in paths if Path(path).exists()]


def shared_memory_of(pid: int) -> list[str]:
    """System V shared memory that a process made."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:] if ON_LINUX else []
    return [line for line in lines if line.split()[4] == str(pid)]


@pytest.mark.whole  # of the harness: every other test with a server relies on it, and would be red
class TestPostgres:
    """PostgreSQL from its wheel."""

    async def test_gives_a_role_that_owns_its_database_and_is_no_superuser(
        self, postgres: PostgresServer
    ) -> None:
        """As on Supabase: what the service may do there it may do here, and no more."""
        url = await postgres.create_database()
        async with connection(url) as database:
            await database.execute(
                "CREATE SCHEMA something; CREATE TABLE something.kept AS SELECT 1 AS one"
            )
        assert await one(url, "SELECT usesuper FROM pg_user WHERE usename = current_user") is False
        assert await one(
            postgres.admin_url, "SELECT usesuper FROM pg_user WHERE usename = current_user"
        )

    async def test_clones_a_database(self, postgres: PostgresServer) -> None:
        """A copy has what its template had and goes its own way."""
        template = await postgres.create_database()
        async with connection(template) as database:
            await database.execute("CREATE TABLE kept AS SELECT 7 AS number")
        copy = await postgres.create_database(template=template)
        async with connection(copy) as database:
            await database.execute("UPDATE kept SET number = 8")
        assert await one(template, "SELECT number FROM kept") == 7
        await postgres.drop_database(copy)
        assert (
            await one(postgres.url, "SELECT count(*) FROM pg_database WHERE datname <> 'postgres'")
            >= 1
        )

    @pytest.mark.parametrize("end", ["stop", "kill"])
    async def test_keeps_its_port_and_what_was_committed_when_it_ends_and_starts_again(
        self, postgres: PostgresServer, end: str
    ) -> None:
        """Also killed in the middle of everything: a commit that was confirmed is there
        afterwards.
        """
        url = await postgres.create_database()
        async with connection(url) as database:
            await database.execute("CREATE TABLE kept AS SELECT 42 AS number")
        members = family.members_of(postgres.pid)
        await getattr(postgres, end)()
        assert family.alive(members) == []
        assert shared_memory_of(members[0]) == []
        with pytest.raises(OSError, match=r"refused|Connect"):
            await one(url, "SELECT 1")
        await postgres.start()
        assert await one(url, "SELECT number FROM kept") == 42

    async def test_hangs_while_frozen_and_answers_when_thawed(
        self, postgres: PostgresServer
    ) -> None:
        """Frozen, it is what a stuck machine is: reachable and silent."""
        async with connection(postgres.url) as connected:
            postgres.freeze()
            waiting = asyncio.create_task(connected.fetchval("SELECT 1"))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            postgres.thaw()
            assert await waiting == 1

    async def test_survives_power_cuts_unless_told_to_be_fast(self) -> None:
        """A benchmark with `fsync` off would measure something else; here both are asked."""
        async with (
            PostgresServer(fast=False, settings={"work_mem": "1MB"}) as honest,
            PostgresServer() as fast,
        ):
            assert honest.port != fast.port
            assert await one(honest.url, "SHOW fsync") == "on"
            assert await one(honest.url, "SHOW work_mem") == "1MB"
            assert await one(fast.url, "SHOW fsync") == "off"
            assert await one(fast.url, "SHOW synchronous_commit") == "on"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root borrows another user")
    async def test_copies_its_programs_where_the_borrowed_user_may_not_read_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkout under root's home is private, and stays so: no permission outside is
        changed.
        """
        monkeypatch.setattr(install, "_readable_by_all", lambda _tree: False)
        own = temporary_folder()
        async with PostgresServer(own.path) as server:
            assert await one(server.url, "SELECT 1") == 1
        assert own.path.joinpath("install").is_dir()
        own.remove()
        monkeypatch.undo()
        assert postgres_installation(own.path).user is not None


class TestRedis:
    """Valkey from its wheel."""

    async def test_is_empty_on_the_same_port_after_a_restart(self, redis: RedisServer) -> None:
        """It keeps nothing on disk, so a restart is a flush."""
        for end in (redis.restart, redis.flush, redis.kill):
            async with Redis.from_url(redis.url) as client:
                await client.set("key", "value")
            await end()
            if end == redis.kill:
                await redis.start()
            async with Redis.from_url(redis.url) as client:
                assert await client.dbsize() == 0

    async def test_asks_for_a_password(self, redis: RedisServer) -> None:
        """Other users of the machine have no business there."""
        async with Redis(port=redis.port) as stranger:
            with pytest.raises(Exception, match=r"NOAUTH|Authentication"):
                await stranger.set("key", "value")


@pytest.mark.whole
class TestNothingIsLeft:
    """Whatever way a program ends, its servers end and their folders go."""

    async def test_after_an_exception(self) -> None:
        """The ordinary way out of a failing test."""
        postgres, redis = PostgresServer(), RedisServer()
        members: list[int] = []
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the servers must be up when it happens
            async with postgres, redis:
                members = family.members_of(postgres.pid) + family.members_of(redis.pid)
                raise ZeroDivisionError
        assert postgres.folder is not None
        assert redis.folder is not None
        assert not postgres.folder.exists()
        assert not redis.folder.exists()
        assert family.alive(members) == []

    @pytest.mark.parametrize(
        "name", ["SIGINT asyncio", "SIGTERM asyncio", "SIGTERM uvloop", "SIGHUP uvloop"]
    )
    async def test_after_a_signal(self, name: str, folder: Path) -> None:
        """Ctrl-C, `kill` and a closed terminal, on either event loop."""
        number, loop = name.split()
        program, said = await _program_with_servers(folder, loop)
        program.send(signal.Signals[number])
        await program.wait(within_seconds=LONG_SECONDS)
        assert family.alive(said["members"]) == []
        assert existing(said["folders"]) == []
        assert shared_memory_of(said["members"][0]) == []

    @only_linux
    async def test_but_folders_after_sigkill(self, folder: Path) -> None:
        """Nothing of ours runs then, and still no process outlives its parent."""
        program, said = await _program_with_servers(folder, "asyncio")
        await program.kill()
        assert await until(lambda: family.alive(said["members"]) == [], within_seconds=LONG_SECONDS)
        assert await until(
            lambda: shared_memory_of(said["members"][0]) == [], within_seconds=LONG_SECONDS
        )
        for path in said["folders"]:
            shutil.rmtree(path)

    async def test_when_a_server_is_frozen(self) -> None:
        """A test that failed while its server hung leaves no hung server."""
        async with PostgresServer() as postgres:
            members = family.members_of(postgres.pid)
            postgres.freeze()
        assert family.alive(members) == []


async def _program_with_servers(folder: Path, loop: str) -> tuple[Process, Any]:
    """Another program that starts both servers, says where, and then waits for ever."""
    program = python(
        f"""
import asyncio, json, uvloop
from tests.stack import family
from tests.stack.servers import PostgresServer, RedisServer

async def main():
    async with PostgresServer() as postgres, RedisServer() as redis:
        folders = [str(postgres.folder), str(redis.folder)]
        members = family.members_of(postgres.pid) + family.members_of(redis.pid)
        print(json.dumps({{"members": members, "folders": folders}}))
        await asyncio.sleep(3600)

{loop}.run(main())
""",
        folder,
        PATH=os.environ["PATH"],
    )
    await program.start()
    line = await program.wait_logged(r"\{.*\}\n", within_seconds=LONG_SECONDS)
    return program, json.loads(line.group())
