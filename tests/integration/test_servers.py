"""The servers of the stack are real and belong to one program.

They end with that program, whatever ends the program.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.own_servers import LONG_SECONDS, folder, one, postgres, python, redis
from tests.stack import family, install
from tests.stack.install import postgres_installation, temporary_folder
from tests.stack.processes import Process, until
from tests.stack.servers import PostgresServer, RedisServer

__all__ = ["folder", "postgres", "redis"]

ON_LINUX = sys.platform == "linux"
only_linux = pytest.mark.skipif(not ON_LINUX, reason="only Linux ends a process with its parent")


def existing(paths: list[str]) -> list[str]:
    """Return the paths that exist."""
    return [path for path in paths if Path(path).exists()]


def shared_memory_of(pid: int) -> list[str]:
    """Return the System V shared memory segments of a process."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:] if ON_LINUX else []
    return [line for line in lines if line.split()[4] == str(pid)]


@pytest.mark.whole  # about the harness: if it fails, every other test with a server fails too
class TestPostgres:
    """PostgreSQL from its wheel."""

    async def test_only_a_fast_server_has_fsync_off(self) -> None:
        """A benchmark with `fsync` off would measure another system."""
        async with PostgresServer(fast=False) as durable, PostgresServer() as fast:
            assert await one(durable.url, "SHOW fsync") == "on"
            assert await one(fast.url, "SHOW fsync") == "off"
            assert await one(fast.url, "SHOW synchronous_commit") == "on"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root borrows another user")
    async def test_programs_that_the_borrowed_user_may_not_read_are_copied(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkout in root's home is private. No permission outside the folder is changed."""
        monkeypatch.setattr(install, "_readable_by_all", lambda _tree: False)
        own = temporary_folder()
        async with PostgresServer(own.path) as server:
            assert await one(server.url, "SELECT 1") == 1
        assert own.path.joinpath("install").is_dir()
        own.remove()
        monkeypatch.undo()
        assert postgres_installation(own.path).user is not None


@pytest.mark.whole
class TestCleanup:
    """However a program ends, its servers end. Only after SIGKILL, their folders remain."""

    async def test_servers_and_folders_are_gone_after_an_exception(self) -> None:
        """A failing test ends with an exception, perhaps while a server is frozen."""
        postgres, redis = PostgresServer(), RedisServer()
        members: list[int] = []
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the servers must be up by then
            async with postgres, redis:
                members = family.members_of(postgres.pid) + family.members_of(redis.pid)
                postgres.freeze()
                raise ZeroDivisionError
        assert existing([str(postgres.folder), str(redis.folder)]) == []
        assert family.alive(members) == []

    @pytest.mark.parametrize("name", ["SIGINT asyncio", "SIGTERM uvloop"])
    async def test_servers_and_folders_are_gone_after_a_signal(
        self, name: str, folder: Path
    ) -> None:
        """The signals are those of Ctrl-C and of `kill`, on both event loops."""
        number, loop = name.split()
        program, started = await _program_with_servers(folder, loop)
        program.send(signal.Signals[number])
        await program.wait(within_seconds=LONG_SECONDS)
        assert family.alive(started["members"]) == []
        assert existing(started["folders"]) == []
        assert shared_memory_of(started["members"][0]) == []

    @only_linux
    async def test_after_sigkill_only_the_folders_remain(self, folder: Path) -> None:
        """No code of ours runs after SIGKILL, but the servers end with their parent."""
        program, started = await _program_with_servers(folder, "asyncio")
        await program.kill()
        members = started["members"]
        assert await until(lambda: family.alive(members) == [], within_seconds=LONG_SECONDS)
        assert await until(lambda: shared_memory_of(members[0]) == [], within_seconds=LONG_SECONDS)
        for path in started["folders"]:
            shutil.rmtree(path)


async def _program_with_servers(folder: Path, loop: str) -> tuple[Process, Any]:
    """Start a program that starts both servers, prints their processes and folders, and waits."""
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
