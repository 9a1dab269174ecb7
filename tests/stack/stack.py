"""The whole system on one machine: servers, simulator, issuer, and the Procfile's own lines.

`async with Stack(workers=2) as stack:` starts it, waits until it accepts payments, and stops it at
the end. Each process gets exactly the environment that the documents name for it. If the documents
forget a variable, it is missing here too. All files are in `stack.folder`. After a failure the logs
stay there.
"""

import asyncio
import secrets
import shlex
import shutil
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.paths import ROOT
from tests.stack import pooler
from tests.stack.environment import Wiring, bare, overridden
from tests.stack.external import GivenPostgres, GivenRedis, postgres_server, redis_server
from tests.stack.identity import Issuer
from tests.stack.install import temporary_folder
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process, ProcessError, describe_end, procfile_commands
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.shape import Shape
from tests.stack.starter import Starter

_WORKER_READY = r'"event":\s*"worker_ready"'
_LISTENING = ("web", "callbacks")
_RELEASE_SECONDS = 60.0


class Stack:
    """Everything a payment needs. The arguments change the default system."""

    def __init__(
        self,
        shape: Shape | None = None,
        *,
        fast: bool = True,
        postgres: PostgresServer | GivenPostgres | None = None,
        database_url: str | None = None,
        template: str | None = None,
        release: bool = True,
        keep: bool = False,
        starter: Starter | None = None,
        root: Path = ROOT,
        **settings: Any,
    ) -> None:
        """`settings` are the fields of a `Shape`, if no shape is given.

        With `fast=False` PostgreSQL survives a power cut, which benchmarks need. `postgres` is a
        server that runs already. The stack creates its own database there, unless `database_url` is
        set. `template` is the URL of a migrated database on that PostgreSQL. The stack copies it
        and then needs no release. With `keep` the folder stays at the end. `starter` starts the
        processes fast. `root` is the tree whose Procfile runs, for example an old commit. The
        simulator is always ours.
        """
        self.keep = keep
        self.starter = starter
        self._root = root
        self.issuer = Issuer()
        self._shape = shape or Shape(**settings)
        self._template = template
        self._release = release and template is None
        self._is_fast = fast
        self._given_postgres = postgres
        self._given_url = database_url
        self._processes: dict[str, Process] = {}
        self._ports: dict[str, int] = {}
        self._wiring: Wiring
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._own_folder = temporary_folder()
        self.folder = self._own_folder.path
        try:
            await self._open()
        except BaseException as error:
            await self.__aexit__(type(error), error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: object = None
    ) -> None:
        try:
            await self._close()
        finally:
            if self.keep:
                self._own_folder.leave()
            elif kind is not None and issubclass(kind, Exception) and error is not None:
                self._leave_logs()
                error.add_note(f"the logs are in {self.folder}")
            else:
                self._own_folder.remove()

    @property
    def web_url(self) -> str:
        """The address of the first ingress. The second one's address is `process("web.2").url`."""
        return self._url("web.1")

    @property
    def callbacks_url(self) -> str:
        """The address of the first callback receiver, to which Daraja sends results."""
        return self._url("callbacks.1")

    @property
    def simulator_url(self) -> str:
        """The address of the simulator of Daraja: DARAJA_BASE_URL."""
        return self._url("simulator")

    @property
    def control_url(self) -> str:
        """The simulator's control API: `/ledger`, `/scenarios`, `/requests`, `/settings`."""
        return f"{self._url('control')}/_control"

    @property
    def names(self) -> list[str]:
        """The started processes of the Procfile, for example `worker.1`."""
        return [name for name in self._processes if name != "simulator"]

    def process(self, name: str) -> Process:
        """Returns a process by its name; `worker` is the first worker."""
        return self._processes[name if name in self._processes else f"{name}.1"]

    def env(self, name: str) -> dict[str, str]:
        """Returns the environment of a process: `worker`, `worker.2`, `release`."""
        kind = name.partition(".")[0]
        full = name if "." in name else f"{name}.1"
        port = self._ports.get(full) if kind in _LISTENING else None
        needed = self._wiring.environment(kind, port=port)
        return overridden(needed, *self._shape.layers(kind, full))

    def logs(self) -> dict[str, str]:
        """Returns each log since the stack got its shape, also of `release` and of servers."""
        return {
            file.stem: file.read_text(errors="replace")
            for file in sorted(self.folder.glob("*.log"))
        }

    async def start_process(
        self,
        name: str,
        *,
        env: Mapping[str, str | None] | None = None,
        command: str = "",
        wait: bool = True,
    ) -> Process:
        """Starts a process that does not run: a stopped one, or one more, for example `worker.3`.

        `env`, and a `command` in place of the Procfile's, apply only to this run. With `wait=False`
        the method returns before the process is ready.
        """
        kind = name.partition(".")[0]
        name = name if "." in name else f"{name}.1"
        if kind in _LISTENING and name not in self._ports:
            self._reserve(name)
        if name not in self._processes:
            self._processes[name] = self._new_process(name, self._commands[kind])
        process = self._processes[name]
        process.env = overridden(self.env(name), env or {})
        process.command = shlex.split(command or self._commands[kind])
        await process.start()
        if wait:
            await self.wait_ready(name)
        return process

    async def stop_process(self, name: str) -> int:
        """Lets a process drain and end (SIGTERM). Returns its exit status."""
        return await self.process(name).terminate()

    async def restart_process(
        self,
        name: str,
        *,
        env: Mapping[str, str | None] | None = None,
        kill: bool = False,
    ) -> Process:
        """Ends a process, by SIGTERM or SIGKILL, and starts it again on the same port."""
        process = self.process(name)
        await (process.kill() if kill else process.terminate())
        return await self.start_process(process.name, env=env)

    async def stop_workers(self) -> None:
        """Lets all workers drain and end, so that no send is interrupted."""
        running = [worker for worker in self._workers() if worker.is_running]
        await asyncio.gather(*(worker.terminate() for worker in running))

    async def kill_workers(self) -> None:
        """Kills all workers at once."""
        running = [worker for worker in self._workers() if worker.is_running]
        await asyncio.gather(*(worker.kill() for worker in running))

    async def start_workers(self) -> None:
        """Starts the workers that `stop_workers` ended."""
        wanted = [worker.name for worker in self._workers() if worker.name in self._shape.names]
        idle = [name for name in wanted if not self.process(name).is_running]
        await together(*(self.start_process(name) for name in idle))

    def _workers(self) -> list[Process]:
        return [self.process(name) for name in self.names if name.startswith("worker")]

    async def wait_ready(self, name: str) -> None:
        """Waits until a process is ready: `/readyz` answers 200, or the worker logs it."""
        process = self.process(name)
        if process.url:
            await process.wait_ready(f"{process.url}/readyz")
        else:
            await process.wait_logged(_WORKER_READY)

    async def _open(self) -> None:
        self._commands = procfile_commands(self._root / "Procfile")
        names = self._shape.names
        listening = [name for name in names if name.partition(".")[0] in _LISTENING]
        for name in ("simulator", "control", *listening):
            self._reserve(name)
        # Other processes have these addresses in their environment, even if no process listens.
        for name in ("callbacks.1", "web.1"):
            if name not in self._ports:
                self._reserve(name)
        self._closing.push_async_callback(self._end_processes)
        enter = self._closing.enter_async_context
        await together(
            self._open_postgres(), self._open_redis(), enter(self.issuer), self._start_simulator()
        )
        self._wiring = Wiring(
            database_url=await self._open_pooler(),
            redis_url=self.redis.url,
            jwks_url=self.issuer.jwks_url,
            issuer_url=self.issuer.url,
            callback_base_url=self.callbacks_url,
            callback_secrets=secrets.token_urlsafe(32),
            daraja=await self._daraja_settings(),
        )
        if self._release:
            await self.run_release()
        await together(*(self.start_process(name) for name in names))

    async def run_release(self) -> None:
        """Runs the Procfile's `release` line, which migrates the database."""
        release = self._new_process("release", self._commands["release"])
        release.env = self.env("release")
        await release.start()
        code = await release.wait(within_seconds=_RELEASE_SECONDS)
        if code != 0:
            raise ProcessError(f"release failed with {describe_end(code)}:\n{release.log_tail()}")

    async def _open_postgres(self) -> None:
        if self._given_postgres is not None:
            self.postgres: PostgresServer | GivenPostgres = self._given_postgres
        else:
            own = postgres_server(self.folder, fast=self._is_fast)
            self.postgres = await self._closing.enter_async_context(own)
        create = self.postgres.create_database
        self.database_url = self._given_url or await create(template=self._template)
        if self._given_postgres and not self._given_url:
            self._closing.push_async_callback(self._drop_database)

    async def _open_pooler(self) -> str:
        """The URL of the database for the service's processes."""
        if not pooler.IS_WANTED or self._given_url:
            return self.database_url
        pooled = pooler.pooled_url(self.database_url, self.folder / "pooler")
        return await self._closing.enter_async_context(pooled)

    async def _open_redis(self) -> None:
        own = redis_server(self.folder)
        self.redis: RedisServer | GivenRedis = await self._closing.enter_async_context(own)
        self.redis_url = self.redis.url

    async def _start_simulator(self) -> None:
        self._certificate = self.folder / "daraja.pem"
        simulator = self._new_process(
            "simulator",
            f"python -m tests.simulator --port {self._ports['simulator']}"
            f" --control-port {self._ports['control']} --time-scale {self._shape.time_scale}"
            f" --certificate-file {self._certificate}",
        )
        simulator.env = self._simulator_env()
        self._processes["simulator"] = simulator
        await simulator.start()
        await simulator.wait_ready(f"{self.control_url}/settings")

    def _simulator_env(self) -> dict[str, str]:
        return overridden(bare(), self._shape.process_env.get("simulator", {}))

    async def _daraja_settings(self) -> dict[str, str]:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{self.control_url}/settings") as answer,
        ):
            members = await answer.json()
        settings = {
            name: str(value) for name, value in members.items() if name.startswith("DARAJA_")
        }
        own = {
            "DARAJA_BASE_URL": self.simulator_url,
            "DARAJA_CERTIFICATE_FILE": str(self._certificate),
        }
        return settings | own

    async def _drop_database(self) -> None:
        # If a test left the server stopped, the database is removed with the server.
        with suppress(Exception):
            await self.postgres.drop_database(self.database_url)

    async def _end_processes(self) -> None:
        # End the simulator last: a worker that drains waits for the answers to its requests, and
        # would retry without a simulator.
        failures: list[BaseException] = []
        for group in (self.names, self._processes):
            running = [self.process(name) for name in group if self.process(name).is_running]
            ends = [process.terminate() for process in running]
            outcomes = await asyncio.gather(*ends, return_exceptions=True)
            failures += [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            raise failures[0]

    async def _close(self) -> None:
        try:
            await self._closing.aclose()
        finally:
            for port in self._ports.values():
                release_port(port)

    def _leave_logs(self) -> None:
        self._own_folder.leave()
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def _new_process(self, name: str, command: str) -> Process:
        log = self.folder / f"{name}.log"
        root = ROOT if name == "simulator" else self._root
        process = Process(name, command, env={}, log=log, cwd=root, starter=self.starter)
        if name in self._ports:
            process.url = self._url(name)
        return process

    def _reserve(self, name: str) -> None:
        self._ports[name] = reserve_port()

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Runs all `works` concurrently. Raises only the first failure, which cancels the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
