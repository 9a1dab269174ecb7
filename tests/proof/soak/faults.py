"""Injects the planned faults into a running stack, and counts those that really happened."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aiohttp

from tests.proof.soak.plan import LEASE_SECONDS, FaultKind, Plan, PlannedFault
from tests.stack.processes import describe_end
from tests.stack.servers import PostgresServer, RedisServer
from tests.stack.stack import Stack

_WATCH_SECONDS = 0.2
_START_AGAIN_PAUSE_SECONDS = 0.5


class FaultInjector:
    """The faults of one run: one at a time for each process or server, else concurrently."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        if not isinstance(stack.postgres, PostgresServer) or not isinstance(
            stack.redis, RedisServer
        ):
            raise TypeError("a soak stops and kills its servers: unset DATABASE_URL and REDIS_URL")
        self._stack = stack
        self._plan = plan
        self._postgres = stack.postgres
        self._redis = stack.redis
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self.log: list[tuple[datetime, PlannedFault]] = []  # when each really began
        self.done: Counter[tuple[str, str]] = Counter()  # (act, process or "")
        self.past_lease = 0
        self.away_seconds: Counter[str] = Counter()
        self.ended_alone: list[str] = []  # processes that ended without a fault
        self.failed: list[str] = []  # faults that could not be injected: an error of the harness

    async def carry_out(self) -> None:
        """Inject every fault at its time. Returns when the last one began."""
        await self._control("POST", "/switches", {"chaos": self._plan.chaos})
        began_at = time.monotonic()
        watch = asyncio.create_task(self._watch())
        try:
            for fault in self._plan.faults:
                await asyncio.sleep(max(0.0, began_at + fault.at - time.monotonic()))
                task = asyncio.create_task(self._do(fault))
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
        for server in (self._postgres, self._redis):
            await _ensure_started(server)
        await self._control("POST", "/listener", {"open": True})
        await self._control("POST", "/switches", {"chaos": None})
        for name in self._stack.names:
            process = self._stack.process(name)
            process.thaw()
            if not process.is_running:
                await self._stack.start_process(name, wait=False)
        await asyncio.gather(*(self._stack.wait_ready(name) for name in self._stack.names))

    async def _do(self, fault: PlannedFault) -> None:
        injections: dict[FaultKind, Callable[[PlannedFault], Awaitable[None]]] = {
            FaultKind.KILL: self._kill,
            FaultKind.FREEZE: self._freeze,
            FaultKind.DRAIN: self._drain,
            FaultKind.REDIS_FLUSH: self._flush,
            FaultKind.REDIS_RESTART: self._redis_away,
            FaultKind.REDIS_OUTAGE: self._redis_away,
            FaultKind.REDIS_FREEZE: self._redis_frozen,
            FaultKind.POSTGRES_RESTART: self._postgres_away,
            FaultKind.POSTGRES_OUTAGE: self._postgres_away,
            FaultKind.POSTGRES_CRASH: self._postgres_crashed,
            FaultKind.POSTGRES_FREEZE: self._postgres_frozen,
            FaultKind.DARAJA_CLOSED: self._daraja_closed,
            FaultKind.TOKENS_EXPIRED: self._tokens_expired,
        }
        self.log.append((datetime.now(UTC), fault))
        try:
            await injections[fault.kind](fault)
        except Exception as error:  # noqa: BLE001 - the report shows it; the run goes on
            self.failed.append(f"{fault.kind} {fault.target}: {type(error).__name__} {error}"[:300])
            return
        self.done[
            fault.kind.value,
            fault.target
            if fault.kind in {FaultKind.KILL, FaultKind.FREEZE, FaultKind.DRAIN}
            else "",
        ] += 1
        if fault.seconds:
            self.away_seconds[fault.kind.value] += round(fault.seconds)

    # --- processes --------------------------------------------------------------------------------

    async def _kill(self, fault: PlannedFault) -> None:
        """Kill it in any state, also frozen or half started."""
        process = self._stack.process(fault.target)
        async with self._turns[fault.target]:
            await process.kill()
            await self._stack.start_process(fault.target, wait=False)

    async def _freeze(self, fault: PlannedFault) -> None:
        """A kill may come meanwhile, so the freeze does not hold the turn."""
        process = self._stack.process(fault.target)
        frozen = process.pid
        process.freeze()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            if process.pid == frozen:
                process.thaw()
        self.past_lease += process.pid == frozen and fault.seconds > LEASE_SECONDS

    async def _drain(self, fault: PlannedFault) -> None:
        process = self._stack.process(fault.target)
        async with self._turns[fault.target]:
            try:
                code = await process.terminate()
                # A process that still starts has no signal handler. It did no work, so SIGTERM may
                # end it.
                if code not in {0, -signal.SIGTERM}:
                    self.ended_alone.append(
                        f"{fault.target} was asked to end, and ended with {describe_end(code)}"
                    )
            finally:
                await process.kill()  # the run may be over before it ended
                await self._stack.start_process(fault.target, wait=False)

    async def _watch(self) -> None:
        """No process may end because a server is away. Note each that did, and start it again."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for name in self._stack.names:
                process = self._stack.process(name)
                if self._turns[name].locked() or process.is_running:
                    continue
                end = describe_end(process.returncode or 0)
                self.ended_alone.append(
                    f"{name} ended with {end}: {process.log_tail(3).strip()}"[:600]
                )
                async with self._turns[name]:
                    await asyncio.sleep(_START_AGAIN_PAUSE_SECONDS)
                    await self._stack.start_process(name, wait=False)

    # --- servers ----------------------------------------------------------------------------------

    async def _flush(self, _fault: PlannedFault) -> None:
        async with self._turns["redis"], asyncio.timeout(5):
            await self._redis.flush()

    async def _redis_away(self, fault: PlannedFault) -> None:
        async with self._turns["redis"]:
            try:
                await self._redis.stop()
                await asyncio.sleep(fault.seconds)
            finally:
                await _ensure_started(self._redis)

    async def _redis_frozen(self, fault: PlannedFault) -> None:
        async with self._turns["redis"]:
            self._redis.freeze()
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                self._redis.thaw()

    async def _postgres_away(self, fault: PlannedFault) -> None:
        async with self._turns["postgres"]:
            try:
                await self._postgres.stop()
                await asyncio.sleep(fault.seconds)
            finally:
                await _ensure_started(self._postgres)

    async def _postgres_crashed(self, _fault: PlannedFault) -> None:
        async with self._turns["postgres"]:
            try:
                await self._postgres.kill()
            finally:
                await _ensure_started(self._postgres)

    async def _postgres_frozen(self, fault: PlannedFault) -> None:
        async with self._turns["postgres"]:
            _thaw_even_if_we_are_gone(self._postgres.pid, fault.seconds)
            self._postgres.freeze()
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                self._postgres.thaw()

    # --- Daraja -----------------------------------------------------------------------------------

    async def _daraja_closed(self, fault: PlannedFault) -> None:
        async with self._turns["daraja"]:
            await self._control("POST", "/listener", {"open": False, "seconds": fault.seconds})
            await asyncio.sleep(fault.seconds)

    async def _tokens_expired(self, _fault: PlannedFault) -> None:
        await self._control("POST", "/tokens/expire", {})

    async def _control(self, method: str, path: str, body: object = None) -> None:
        timeout = aiohttp.ClientTimeout(
            total=60
        )  # long, because the simulator shares two busy cores
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
            http.request(method, self._stack.control_url + path, json=body) as answer,
        ):
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {await answer.text()}")


def _thaw_even_if_we_are_gone(pid: int, seconds: float) -> None:
    """Thaw PostgreSQL even if this process dies: its death signal does not end a frozen server."""
    command = f"sleep {seconds + 1:.1f}; kill -{int(signal.SIGCONT)} {pid} 2>/dev/null"
    subprocess.run(
        ["sh", "-c", f"({command}) >/dev/null 2>&1 &"], env={"PATH": os.defpath}, check=True
    )


async def _ensure_started(server: PostgresServer | RedisServer) -> None:
    server.thaw()
    if not server._process.is_running:
        await server.start()
