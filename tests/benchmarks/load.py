"""Sends requests from a process of its own: `python -m tests.benchmarks.load`.

It reads a `Plan` as JSON from its input, sends the requests, and writes what it saw as JSON. The
load shares the cores with the servers, so it does as little for each request as HTTP allows, and
reports the processor time that it used. `loading.py` starts it.

Closed loop: each connection sends its next request when the answer to the last one has arrived.
Open loop: each request has a planned time. Its delay counts from that time, also if all connections
are busy then. A slow server therefore cannot hide that requests wait.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import cast

import uvloop

# The two holes of a request. Each has the length of its content, so Content-Length stays right.
KEY = "#KEY".ljust(32, "#")
PHONE = "#PHONE##"
PHONE_FIRST = 10_000_000  # smaller numbers are the simulator's magic numbers

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_ID = re.compile(rb'"id": ?"([^"]+)"')
_COME_BACK = (429, 503)
# After a reset or a refused connection, a client waits for about this long.
_RECONNECT_SECONDS = 1.0
# After the end, unanswered requests get this long, so that no server works for a lost client.
_GRACE_SECONDS = 2.0


@dataclass(slots=True)
class Plan:
    """What to send. Of `seconds` and `total` at least one is set."""

    host: str
    port: int
    requests: list[str]  # taken in turn
    connections: int
    name: str  # 12 characters. Each key is the name and the number of its request
    first: int = 0  # the number of the first request
    seconds: float | None = None
    total: int | None = None
    patience_seconds: float = 120.0  # the end of a plan without `seconds`
    per_second: float | None = None  # open loop
    is_burst: bool = False  # all requests are planned for the beginning
    is_obedient: bool = False  # after 429 and 503, the client repeats the request when told
    has_ids: bool = False  # report the id of each accepted payment, and when its answer came


@dataclass(slots=True)
class Seen:
    """What happened. Times of day are Unix times."""

    began_at: float = 0.0
    ended_at: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    delays_us: list[int] = field(default_factory=list)  # of requests that were answered 2xx
    resets: int = 0  # connections that ended before the answer
    refused: int = 0  # connections that the server did not accept
    unanswered: int = 0  # requests that had no answer 2xx at the end
    late_ms: float = 0.0  # open loop: how late the load itself was, at most
    cpu_seconds: float = 0.0
    accepted: dict[str, float] = field(default_factory=dict)  # payment id: time of the answer


@dataclass(slots=True)
class _Job:
    request: bytes
    planned_at: float


class Load:
    """Gives requests to the connections, and records the answers."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen = Seen()
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._began = 0.0  # by time.monotonic(), because uvloop's clock has whole milliseconds
        self._statuses: Counter[int] = Counter()
        self._templates = [Template(request, plan.name) for request in plan.requests]
        self._numbers = iter(
            range(plan.first, plan.first + plan.total)
            if plan.total is not None
            else count(plan.first)
        )
        self._idle: list[_Client] = []
        self._waiting: deque[_Job] = deque()
        self._outstanding = 0
        self._all_given = False
        self._finished = asyncio.Event()

    async def run(self) -> Seen:
        """Sends everything, and returns what happened."""
        plan, seen = self.plan, self.seen
        seen.began_at, self._began = time.time(), time.monotonic()
        limit = plan.patience_seconds if plan.seconds is None else plan.seconds
        clients = [_Client(self) for _ in range(plan.connections)]
        if plan.per_second is None:
            for client in clients:
                self.give_work(client)
            await self._wait(limit)
        else:
            self._idle = clients
            await self._send_on_time(limit)
            self._all_given = True
            if self._outstanding:
                await self._wait(plan.patience_seconds)
        self.is_over = True
        seen.ended_at = seen.began_at + time.monotonic() - self._began
        seen.unanswered = self._outstanding
        self._finished.clear()
        if self._outstanding:
            await self._wait(_GRACE_SECONDS)
        for client in clients:
            client.close()
        seen.statuses = {str(status): number for status, number in self._statuses.items()}
        seen.cpu_seconds = time.process_time()
        return seen

    def give_work(self, client: _Client) -> None:
        """Lets a connection without work send the next request, if there is one."""
        if self._waiting:
            client.send(self._waiting.popleft())
        elif self.plan.per_second is not None:
            self._idle.append(client)
        elif not self.is_over:
            planned_at = self._began if self.plan.is_burst else time.monotonic()
            if (job := self._next_job(planned_at)) is not None:
                client.send(job)

    def record(self, client: _Client, job: _Job, status: int, answer: bytes) -> None:
        """Records an answer, and gives the connection more work, or the same again."""
        now = time.monotonic()
        is_accepted = 200 <= status < 300
        if not self.is_over:
            self._statuses[status] += 1
            if is_accepted:
                self.seen.delays_us.append(int((now - job.planned_at) * 1e6))
                if self.plan.has_ids and (found := _ID.search(answer)):
                    self.seen.accepted[found[1].decode()] = time.time()
        if self.plan.is_obedient and status in _COME_BACK and not self.is_over:
            told = _RETRY_AFTER.search(answer)
            seconds = float(told[1]) if told else _RECONNECT_SECONDS
            self._loop.call_later(seconds, client.send, job)
            return
        self._outstanding -= 1
        self.give_work(client)
        if not self._outstanding and (self._all_given or self.is_over):
            self._finished.set()

    def come_back(self, client: _Client, job: _Job) -> None:
        """Repeats a request after its connection was lost, like an honest client."""
        if not self.is_over:
            seconds = _RECONNECT_SECONDS * (0.5 + random.random())
            self._loop.call_later(seconds, client.send, job)

    async def _send_on_time(self, seconds: float) -> None:
        began, per_second = self._began, self.plan.per_second
        assert per_second is not None
        for number in count():
            planned_at = began + number / per_second
            if self.plan.total is None and planned_at > began + seconds:
                return
            await asyncio.sleep(max(0.0, planned_at - time.monotonic()))
            job = self._next_job(planned_at)
            if job is None:
                return
            late_ms = (time.monotonic() - planned_at) * 1e3
            self.seen.late_ms = max(self.seen.late_ms, late_ms)
            if self._idle:
                self._idle.pop().send(job)
            else:
                self._waiting.append(job)

    def _next_job(self, planned_at: float) -> _Job | None:
        number = next(self._numbers, None)
        if number is None:
            self._all_given = True
            return None
        self._outstanding += 1
        return _Job(self._templates[number % len(self._templates)].fill(number), planned_at)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finished.wait()


class Template:
    """A request with holes for its key and its phone number."""

    def __init__(self, request: str, name: str) -> None:
        self._name = name.encode()
        self._parts = [part.encode() for part in re.split(f"({KEY}|{PHONE})", request)]

    def fill(self, number: int) -> bytes:
        """Returns the request with this number."""
        holes = {
            KEY.encode(): b"%s%020d" % (self._name, number),
            PHONE.encode(): b"%08d" % ((PHONE_FIRST + number) % 100_000_000),
        }
        return b"".join([holes.get(part, part) for part in self._parts])


class _Client(asyncio.Protocol):
    """One connection, which is opened when it is needed."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._job: _Job | None = None
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._opening: asyncio.Task[None] | None = None

    def send(self, job: _Job) -> None:
        """Sends a request, on a new connection if none is open."""
        if self._load.is_over:
            return
        self._job = job
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(job.request)
        else:
            self._opening = asyncio.create_task(self._open())

    def close(self) -> None:
        """Closes the connection. The answer to an unanswered request is lost."""
        self._job = None
        if self._opening is not None:
            self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def _open(self) -> None:
        plan = self._load.plan
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, plan.host, plan.port)
        except OSError:
            self._load.seen.refused += not self._load.is_over
            if self._job is not None:
                self._load.come_back(self, self._job)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = cast("asyncio.Transport", transport), b""
        if self._job is not None:
            self._transport.write(self._job.request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        head_end = received.find(_HEAD_END)
        length = _LENGTH.search(received, 0, head_end + 2) if head_end >= 0 else None
        needed = head_end + len(_HEAD_END) + (int(length[1]) if length else 0)
        if head_end < 0 or len(received) < needed:
            self._received = received
            return
        self._received = b""
        job, self._job = self._job, None
        if job is None:
            return
        if _CLOSES.search(received, 0, head_end + 2) and self._transport is not None:
            self._transport.close()
        self._load.record(self, job, int(received[9:12]), received)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._job is not None:
            self._load.seen.resets += not self._load.is_over
            self._load.come_back(self, self._job)


async def _run(plan: Plan) -> Seen:
    return await Load(plan).run()


def main() -> None:
    """Runs the plan in the input."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = Plan(**json.load(sys.stdin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(_run(plan))
    json.dump(asdict(seen), sys.stdout)


if __name__ == "__main__":
    main()
