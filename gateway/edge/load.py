"""How many requests a process has at hand: beyond that, new ones are told to come back. No queue is
without end.

No caller and no callback address can have all the places: each has a share of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Middleware

from domain.adapters import observability
from domain.errors import Overloaded
from gateway.edge.problems import Handler

# A caller that is alone can have half of these places (see `Load`), and 1,000 must be able to wait
# before any is turned away (rules.md §10). A pool of ten connections to Postgres answers as many in
# a few seconds, which is as long as callers wait.
INGRESS_AT_HAND_MAX = 2500
# Daraja sends once: what is turned away here is lost, and found again by an inquiry at best. So as
# many as there may be connections, but for what health checks need.
CALLBACKS_AT_HAND_MAX = 4000
# Daraja sends a few messages to one address. An attacker who has learned the address may send
# thousands.
ADDRESS_AT_HAND_MAX = 128


class Place:
    """One request's among those at hand.

    `sharer`: whose share it counts for, once that is known.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        self.sharer: Hashable | None = None
        self.is_taken = True


_PLACE = web.RequestKey("place", Place)


class Load:
    """Requests at hand. Those that `is_counted` does not want counted are never turned away.

    A sharer may have `share_max` places. By default it may have as many places as are still free:
    half of them if it is alone, a third if there are two of the kind. So however many callers flood
    a process, the next caller finds room.
    """

    def __init__(
        self,
        at_most: int,
        is_counted: Callable[[web.Request], bool],
        *,
        share_max: int | None = None,
    ) -> None:
        self._at_most = at_most
        self._is_counted = is_counted
        self._share_max = share_max
        self._at_hand = 0
        self._shares: Counter[Hashable] = Counter()

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._is_counted(request):
                return await handler(request)
            place = request[_PLACE] = Place(self)
            self.take(place)
            try:
                return await handler(request)
            except asyncio.CancelledError:
                observability.shed.labels(reason="abandoned").inc()
                raise
            finally:
                if place.is_taken:
                    self.give_back(place)

        return count

    def take(self, place: Place) -> None:
        """Raises Overloaded if there is no room, or not for this sharer."""
        place.is_taken = False
        if self._at_hand >= self._at_most:
            raise _turned_away()
        self._at_hand += 1
        try:
            self.count_share(place)
        except Overloaded:
            self._at_hand -= 1
            raise
        place.is_taken = True

    def count_share(self, place: Place) -> None:
        """Counts a request at hand for its sharer. Raises Overloaded."""
        if place.sharer is None:
            return
        share_max = self._at_most - self._at_hand if self._share_max is None else self._share_max
        if self._shares[place.sharer] >= max(1, share_max):
            raise _turned_away()
        self._shares[place.sharer] += 1

    def give_back(self, place: Place) -> None:
        self._at_hand -= 1
        place.is_taken = False
        if place.sharer is not None:
            self._shares[place.sharer] -= 1
            if not self._shares[place.sharer]:
                del self._shares[place.sharer]


def _turned_away() -> Overloaded:
    observability.shed.labels(reason="overloaded").inc()
    return Overloaded()


def count_for(request: web.Request, sharer: Hashable) -> None:
    """The request's place is one of `sharer`'s from now on.

    Raises Overloaded if it has its share already.
    """
    place = request.get(_PLACE)
    if place is None:
        return
    place.sharer = sharer
    try:
        place.load.count_share(place)
    except Overloaded:
        place.sharer = None
        raise


@contextmanager
def place_given_back(request: web.Request) -> Iterator[None]:
    """While the block waits for the peer, others may have the request's place.

    Raises Overloaded if none is left after it.
    """
    place = request.get(_PLACE)
    if place is None:
        yield
        return
    place.load.give_back(place)
    yield
    place.load.take(place)


class Bound:
    """So many at once for each name."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._held: Counter[Hashable] = Counter()

    @contextmanager
    def place(self, name: Hashable, refusal: Exception) -> Iterator[None]:
        """Counts the block for `name`. Raises `refusal` if there are so many already."""
        if self._held[name] >= self._at_most:
            raise refusal
        self._held[name] += 1
        try:
            yield
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]
