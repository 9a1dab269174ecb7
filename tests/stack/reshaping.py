"""Changes a running stack to another shape, as if it had just been started with it."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace

import aiohttp

from tests.stack import databases
from tests.stack.databases import database_name, with_database
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.shape import Shape
from tests.stack.stack import Stack, together


class ReshapedStack(Stack):
    """A stack that changes its shape for each borrower."""

    async def reshape(self, shape: Shape) -> None:
        """Changes the stack as if it had just been started with `shape`.

        Starts the workers, and the other processes whose settings differ. The database, Redis and
        the simulator are empty afterwards. The stack must be allowed to stop its servers.
        """
        self._shape = shape
        if self._simulator_differs():
            await self._end_processes()
            await self._start_simulator()
            self._wiring = replace(self._wiring, daraja=await self._daraja_settings())
        wanted = shape.names
        kept = [name for name in wanted if self._may_keep(name)]
        ended = [self.process(name) for name in self.names if name not in kept]
        await asyncio.gather(*(process.kill() for process in ended))
        for name in [name for name in self.names if name not in wanted]:
            self._processes.pop(name).log.unlink(missing_ok=True)
        await self._empty()
        for process in self._processes.values():
            process.forget_log()
        await together(*(self.start_process(name) for name in wanted if name not in kept))

    def _simulator_differs(self) -> bool:
        simulator = self.process("simulator")
        return not simulator.is_running or simulator.env != self._simulator_env()

    def _may_keep(self, name: str) -> bool:
        """Returns whether a process may continue to run with the new shape.

        A worker may not, because it may be working on a payment that is deleted now.
        """
        process = self._processes.get(name)
        if process is None or not process.is_running or name.startswith("worker"):
            return False
        process.thaw()
        command = shlex.split(self._commands[name.partition(".")[0]])
        return process.env == self.env(name) and process.command == command

    async def _empty(self) -> None:
        for server in (self.postgres, self.redis):
            if isinstance(server, PostgresServer | RedisServer):
                await server.recover()
        await self.issuer.reset()
        name = database_name(self.database_url)
        await databases.empty(with_database(self.postgres.admin_url, name))
        await self.redis.flush()
        async with aiohttp.ClientSession() as client:
            for path, body in (("reset", {}), ("switches", {"time_scale": self._shape.time_scale})):
                async with client.post(f"{self.control_url}/{path}", json=body) as answer:
                    answer.raise_for_status()
