"""How a process listens and how it stops: requests under way get time to finish."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import structlog
from aiohttp import web

from domain.adapters.garbage import collect_garbage_less_often
from gateway.edge.aiohttp_internals import answer_before_application, require_known_aiohttp
from gateway.edge.answers import add_headers_to_answer
from gateway.edge.connections import CONNECTIONS_MAX, WAITING_MAX, Connection, Connections
from gateway.edge.early_refusal import ANSWER_EARLY
from gateway.edge.listener import Listener, listening_sockets
from gateway.processes import Inherited

log = structlog.get_logger()

# After SIGTERM, the process waits for requests under way, at most for this long. The platform kills
# the process after 20 s.
_DRAIN_SECONDS = 10

# Open files besides the connections of clients: the largest pool, Redis, the key set, logs.
_OTHER_FILES = 400


async def serve(
    app: web.Application,
    port: int,
    *,
    ready_event: str,
    cancels_abandoned: bool,
    has_waiting: bool = False,
    inherited: Inherited | None = None,
) -> None:
    """Serves `app` until SIGTERM or SIGINT, then waits for the requests under way.

    `cancels_abandoned`: cancel a request if its client disconnects. `has_waiting`: the process has
    requests that only wait. `inherited`: this process is one of several that serve the port.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if inherited is not None:
        loop.add_reader(inherited.parent, stopping.set)
    async with listen(
        app,
        port,
        Connections(*_connections_max(WAITING_MAX if has_waiting else 0)),
        cancels_abandoned=cancels_abandoned,
        sockets=inherited.sockets if inherited is not None else None,
    ):
        collect_garbage_less_often()
        log.info(ready_event, port=port)
        if inherited is not None:
            os.write(inherited.ready, b"1")
            os.close(inherited.ready)
        await stopping.wait()
        if inherited is not None:
            loop.remove_reader(inherited.parent)
        log.info("draining")


@asynccontextmanager
async def listen(
    app: web.Application,
    port: int,
    connections: Connections,
    *,
    cancels_abandoned: bool = False,
    sockets: Sequence[socket.socket] | None = None,
) -> AsyncIterator[None]:
    """Serves `app` during the block, on `port` or on `sockets` that listen already.

    After the block it accepts no connection, and waits for the requests under way. Raises
    SettingsError if aiohttp is not a tested version, or if it cannot listen on the port.
    """
    require_known_aiohttp()
    loop = asyncio.get_running_loop()
    app.on_response_prepare.append(add_headers_to_answer)
    async with AsyncExitStack() as stack:
        watching = asyncio.create_task(connections.watch())
        stack.push_async_callback(_cancel, watching)
        runner = web.AppRunner(
            app, shutdown_timeout=_DRAIN_SECONDS, handler_cancellation=cancels_abandoned
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        server = runner.server
        assert server is not None  # noqa: S101 - `setup` has set it
        if (answer_early := app.get(ANSWER_EARLY)) is not None:
            answer_before_application(server, answer_early)
        methods = ",".join(sorted({route.method for route in app.router.routes()}))
        listener = Listener(
            sockets or listening_sockets(port),
            connections,
            lambda: Connection(server, connections, loop=loop, methods=methods),
        )
        listener.start()
        stack.callback(listener.close)
        yield
        connections.is_draining = True


def _connections_max(waiting_wanted: int) -> tuple[int, int]:
    """Increases the limit of open files if needed.

    Returns how many connections may be open, and how many more whose requests only wait. If the
    limit is too low for both, a third of the files is for requests that wait.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + waiting_wanted
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return CONNECTIONS_MAX, waiting_wanted
    files = max(soft - _OTHER_FILES, 1)
    waiting_max = files // 3 if waiting_wanted else 0
    at_most = min(CONNECTIONS_MAX, files - waiting_max)
    waiting_max = min(waiting_wanted, files - at_most)
    log.warning("few_open_files", connections_max=at_most, waiting_max=waiting_max, wanted=wanted)
    return at_most, waiting_max


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
