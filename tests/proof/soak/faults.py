"""Injects the planned faults into a running stack, and counts those that really happened."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

from tests.proof.soak.plan import LEASE_SECONDS, FaultKind, Plan, PlannedFault
from tests.spec.system import System
from tests.stack.processes import describe_end
from tests.stack.servers import PostgresServer, RedisServer

_WATCH_SECONDS = 0.2
_START_AGAIN_PAUSE_SECONDS = 0.5

Server = PostgresServer | RedisServer


class FaultInjector:
    """Injects the faults of one run. Faults of different processes and servers may overlap."""

    def __init__(self, system: System, plan: Plan) -> None:
        self._system = system
        self._stack = system.stack
        self._plan = plan
        postgres, redis = system.stack.postgres, system.stack.redis
        if not isinstance(postgres, PostgresServer) or not isinstance(redis, RedisServer):
            raise TypeError("a soak stops and kills its servers: unset DATABASE_URL and REDIS_URL")
        self._postgres, self._redis = postgres, redis
        self._turns: dict[object, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self.done: Counter[tuple[FaultKind, str]] = Counter()  # kind, process or ""
        self.past_lease = 0
        self.ended_alone: list[str] = []  # processes that ended without a fault
        self.failed: list[str] = []  # faults that could not be injected: an error of the harness

    async def carry_out(self) -> None:
        """Inject every fault at its time. Returns at the end of the planned time."""
        await self._system.control("POST", "/switches", {"chaos": self._plan.chaos})
        began_at = time.monotonic()
        watch = asyncio.create_task(self._watch())
        try:
            for fault in self._plan.faults:
                await asyncio.sleep(max(0.0, began_at + fault.at - time.monotonic()))
                task = asyncio.create_task(self._try(fault))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(max(0.0, began_at + self._plan.seconds - time.monotonic()))
        finally:
            watch.cancel()

    async def end(self) -> None:
        """End all faults, and start every process and server that is down."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._postgres.recover()
        await self._redis.recover()
        await self._system.control("POST", "/listener", {"open": True})
        await self._system.control("POST", "/switches", {"chaos": None})
        for name in self._stack.names:
            process = self._stack.process(name)
            process.thaw()
            if not process.is_running:
                await self._stack.start_process(name, wait=False)
        await asyncio.gather(*(self._stack.wait_ready(name) for name in self._stack.names))

    async def _try(self, fault: PlannedFault) -> None:
        try:
            await self._inject(fault)
            self.done[fault.kind, fault.target] += 1
        except Exception as error:  # noqa: BLE001 - the report shows it; the run goes on
            self.failed.append(f"{fault.kind} {fault.target}: {type(error).__name__} {error}"[:300])

    async def _inject(self, fault: PlannedFault) -> None:
        match fault.kind:
            case FaultKind.KILL:  # in any state, also frozen or half started
                async with self._turns[fault.target]:
                    await self._stack.process(fault.target).kill()
                    await self._stack.start_process(fault.target, wait=False)
            case FaultKind.FREEZE:
                await self._freeze(fault)
            case FaultKind.DRAIN:
                async with self._turns[fault.target]:
                    await self._drain(fault.target)
            case FaultKind.REDIS_FLUSH:
                async with self._turns[self._redis], asyncio.timeout(5):
                    await self._redis.flush()
            case FaultKind.REDIS_RESTART | FaultKind.REDIS_OUTAGE:
                await self._stop(self._redis, fault.seconds, self._redis.stop)
            case FaultKind.POSTGRES_RESTART | FaultKind.POSTGRES_OUTAGE:
                await self._stop(self._postgres, fault.seconds, self._postgres.stop)
            case FaultKind.POSTGRES_CRASH:
                await self._stop(self._postgres, fault.seconds, self._postgres.kill)
            case FaultKind.REDIS_FREEZE:
                await self._freeze_server(self._redis, fault.seconds)
            case FaultKind.POSTGRES_FREEZE:
                await self._freeze_server(self._postgres, fault.seconds)
            case FaultKind.DARAJA_CLOSED:
                closed = {"open": False, "seconds": fault.seconds}
                async with self._turns["daraja"]:
                    await self._system.control("POST", "/listener", closed)
                    await asyncio.sleep(fault.seconds)
            case FaultKind.TOKENS_EXPIRED:
                await self._system.control("POST", "/tokens/expire", {})

    async def _freeze(self, fault: PlannedFault) -> None:
        """Freeze and thaw a process. Other faults go on meanwhile, so a kill may hit it."""
        process = self._stack.process(fault.target)
        frozen = process.pid
        process.freeze()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            if process.pid == frozen:
                process.thaw()
        self.past_lease += process.pid == frozen and fault.seconds > LEASE_SECONDS

    async def _drain(self, name: str) -> None:
        process = self._stack.process(name)
        try:
            code = await process.terminate()
            # A process that is still starting has no signal handler yet. It has done no work, so
            # SIGTERM may end it.
            if code not in {0, -signal.SIGTERM}:
                self.ended_alone.append(f"{name} was asked to end: {describe_end(code)}")
        finally:
            await process.kill()  # needed if the run is over before the process ended
            await self._stack.start_process(name, wait=False)

    async def _watch(self) -> None:
        """Note each process that ended without a fault, and start it again."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for name in self._stack.names:
                process = self._stack.process(name)
                if self._turns[name].locked() or process.is_running:
                    continue
                end = describe_end(process.returncode or 0)
                log = process.log_tail(3).strip()[:600]
                self.ended_alone.append(f"{name} ended with {end}: {log}")
                async with self._turns[name]:
                    await asyncio.sleep(_START_AGAIN_PAUSE_SECONDS)
                    await self._stack.start_process(name, wait=False)

    async def _stop(
        self, server: Server, seconds: float, stop: Callable[[], Awaitable[None]]
    ) -> None:
        async with self._turns[server]:
            try:
                await stop()
                await asyncio.sleep(seconds)
            finally:
                await server.recover()

    async def _freeze_server(self, server: Server, seconds: float) -> None:
        async with self._turns[server]:
            _thaw_even_if_we_are_gone(server.pid, seconds)
            server.freeze()
            try:
                await asyncio.sleep(seconds)
            finally:
                server.thaw()


def _thaw_even_if_we_are_gone(pid: int, seconds: float) -> None:
    """Thaw the server even if this process dies: a frozen server ignores its death signal."""
    command = f"sleep {seconds + 1:.1f}; kill -{int(signal.SIGCONT)} {pid} 2>/dev/null"
    subprocess.run(
        ["sh", "-c", f"({command}) >/dev/null 2>&1 &"], env={"PATH": os.defpath}, check=True
    )
