"""Limits how many requests may wait: for a final payment, or for events.

A request that waits costs memory and no work. It therefore occupies neither a place of the requests
in progress (`edge/load.py`) nor one of the connections (`edge/connections.py`). It has limits of
its own: for each caller (`waiting_at_once` in the policy), and for the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from aiohttp import web

from domain.adapters import observability
from domain.errors import Overloaded, RateLimited
from domain.policy import Policy
from domain.values import Caller
from gateway.edge.answers import WAITED
from gateway.edge.connections import WAITING_MAX, Connection
from gateway.edge.load import give_up_place

LIMIT = "caller.waiting_at_once"
_RETRY_AFTER_SECONDS = 5.0


class WaitingPlaces:
    """The places of all requests of this process that wait.

    Besides its limit in the policy, a caller gets at most as many places as are still free. One
    caller alone gets half of them.
    """

    def __init__(self, policy: Policy, at_most: int = WAITING_MAX) -> None:
        self._policy = policy
        self._at_most = at_most
        self._count = 0
        self._counts: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    @contextmanager
    def occupy(self, request: web.Request, caller: Caller, what: str) -> Iterator[None]:
        """Lets the request wait during the block. Other requests use its place meanwhile.

        Raises RateLimited if too many requests of the caller wait. Raises Overloaded if too many
        requests of the process wait. `what` is the label of the metric.
        """
        self._check(caller)
        connection = request.protocol
        with connection.only_waiting() if isinstance(connection, Connection) else nullcontext():
            give_up_place(request)
            request[WAITED] = True
            self._count += 1
            self._counts[caller.key] += 1
            self._count_kind(what, 1)
            try:
                yield
            finally:
                self._count_kind(what, -1)
                self._count -= 1
                self._counts[caller.key] -= 1
                if not self._counts[caller.key]:
                    del self._counts[caller.key]

    def _count_kind(self, what: str, change: int) -> None:
        self._kinds[what] += change
        observability.waiting_requests.labels(what=what).set(self._kinds[what])

    def _check(self, caller: Caller) -> None:
        own = self._counts[caller.key]
        maximum = self._policy.callers[caller.role].waiting_at_once
        if maximum is not None and own >= maximum:
            raise RateLimited(
                f"{own:,} of your requests wait already (?wait= or text/event-stream), which is "
                "the limit. End one of them, or send this request again later.",
                limit=LIMIT,
                wait_seconds=_RETRY_AFTER_SECONDS,
            )
        if own >= self._at_most - self._count:
            observability.shed.labels(reason="overloaded").inc()
            raise Overloaded("Too many requests wait already. Send the same request again shortly.")
