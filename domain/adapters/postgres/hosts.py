"""Finds the host that accepts writes, among the hosts in a DATABASE_URL.

The driver itself tries one host after the other within one time limit. If the first host drops
packets, the driver waits for it until the limit is over. If the first host refuses us because it is
full or closed, the driver tries no other host. This module tries the next host when the last one
has failed, or has not answered for a moment. Meanwhile it also waits for the slow hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

import asyncpg

_NEXT_HOST_AFTER_SECONDS = 0.5

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Hosts:
    """Replaces the driver's `connect`. It starts with the host that accepted us last time."""

    def __init__(self, hosts: Sequence[tuple[str, int]]) -> None:
        self._hosts = list(hosts)

    async def connect(
        self,
        *,
        timeout: float,  # noqa: ASYNC109 - the driver's own name
        **arguments: Any,
    ) -> _Connection:
        """A connection to a host that matches `target_session_attrs`.

        Raises the driver's error for the host that failed last.
        """
        remaining = list(self._hosts)
        pause = min(_NEXT_HOST_AFTER_SECONDS, timeout / (2 * len(remaining)))
        tries: dict[asyncio.Task[_Connection], tuple[str, int]] = {}
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(timeout):
                while remaining or tries:
                    if remaining:
                        host, port = remaining.pop(0)
                        connecting = asyncpg.connect(
                            **{**arguments, "host": host, "port": port}, timeout=timeout
                        )
                        tries[asyncio.create_task(connecting)] = (host, port)
                    done, _ = await asyncio.wait(
                        tries,
                        timeout=pause if remaining else None,
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
                task.add_done_callback(_close_late_connection)
        raise failure or ConnectionError("no host")


def _close_late_connection(task: asyncio.Task[_Connection]) -> None:
    """Closes a connection that opened after another host was chosen."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
