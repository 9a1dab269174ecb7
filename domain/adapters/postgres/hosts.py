"""Finds, among the hosts that a DATABASE_URL names, the one that takes writes.

The driver tries one host after the other within one time limit. A first host that drops packets
would use up all of it, and a first host that refuses us for a reason of its own (full, closed by a
proxy) would end the search. Here each host has the whole limit: the next one is tried when the last
one has failed, or has said nothing for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

import asyncpg

_NEXT_HOST_AFTER_SECONDS = 0.5

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Hosts:
    """Stands in for the driver's `connect`. Begins with the host that was found last."""

    def __init__(self, hosts: Sequence[tuple[str, int]]) -> None:
        self._hosts = list(hosts)

    async def connect(self, *, timeout: float, **arguments: Any) -> _Connection:  # noqa: ASYNC109 - the driver's own name
        """A connection to a host that fits `target_session_attrs`.

        Raises what the last host's driver raised.
        """
        waiting = list(self._hosts)
        pause = min(_NEXT_HOST_AFTER_SECONDS, timeout / (2 * len(waiting)))
        tries: dict[asyncio.Task[_Connection], tuple[str, int]] = {}
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(timeout):
                while waiting or tries:
                    if waiting:
                        host, port = waiting.pop(0)
                        connecting = asyncpg.connect(
                            **{**arguments, "host": host, "port": port}, timeout=timeout
                        )
                        tries[asyncio.create_task(connecting)] = (host, port)
                    done, _ = await asyncio.wait(
                        tries,
                        timeout=pause if waiting else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        address = tries.pop(task)
                        if (error := task.exception()) is not None:
                            failure = error
                            continue
                        self._hosts.sort(key=lambda known: known != address)
                        return task.result()
        finally:
            for task in tries:
                task.cancel()
                task.add_done_callback(_end)
        raise failure or ConnectionError("no host")


def _end(task: asyncio.Task[_Connection]) -> None:
    """Ends a connection that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
