"""Limits how many requests a process works on at the same time.

Each request occupies a place. If no place is free, the request gets a 503. Therefore no queue in
the process grows without limit. Each caller and each callback address has only a share of the
places, so none of them can occupy all places.
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

# 1,000 requests must be able to wait before the process rejects a request (rules.md §10). All of
# them can come from one caller, and one caller gets only half of these places (see
# `RequestPlaces`). With a pool of ten connections to Postgres, the process answers 1,000 requests
# in a few seconds.
INGRESS_PLACES_MAX = 2500
# Daraja sends each message once. A message that is rejected here is lost, and at best an inquiry
# finds its content again. The number is therefore CONNECTIONS_MAX, less the connections that health
# checks need.
CALLBACKS_PLACES_MAX = 4000
# Daraja sends a few messages to one address. An attacker that knows the address can send thousands.
ADDRESS_PLACES_MAX = 128


class Place:
    """The place of one request.

    `sharer`: the caller or the callback address for which the place counts. None until it is known.
    """

    def __init__(self, places: RequestPlaces) -> None:
        self.places = places
        self.sharer: Hashable | None = None
        self.is_occupied = True


_PLACE = web.RequestKey("place", Place)


class RequestPlaces:
    """The places of all requests in progress.

    Requests for which `is_counted` is false occupy no place and are never rejected. A sharer gets
    at most `share_max` places. By default, a sharer gets at most as many places as are still free:
    one sharer alone gets half of all places, and each of two sharers gets a third. Even if many
    callers flood the process, the next caller therefore finds a free place.
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
        self._occupied = 0
        self._shares: Counter[Hashable] = Counter()

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._is_counted(request):
                return await handler(request)
            place = request[_PLACE] = Place(self)
            self.occupy(place)
            try:
                return await handler(request)
            except asyncio.CancelledError:
                if place.is_occupied:  # else the request only waited
                    observability.shed.labels(reason="abandoned").inc()
                raise
            finally:
                if place.is_occupied:
                    self.release(place)

        return count

    def is_full(self) -> bool:
        return self._occupied >= self._at_most

    def occupy(self, place: Place) -> None:
        """Occupies a place. Raises Overloaded if no place, or none for this sharer, is free."""
        place.is_occupied = False
        if self.is_full():
            raise _overloaded()
        self._occupied += 1
        try:
            self.count_share(place)
        except Overloaded:
            self._occupied -= 1
            raise
        place.is_occupied = True

    def count_share(self, place: Place) -> None:
        """Counts an occupied place for its sharer. Raises Overloaded."""
        if place.sharer is None:
            return
        share_max = self._at_most - self._occupied if self._share_max is None else self._share_max
        if self._shares[place.sharer] >= max(1, share_max):
            raise _overloaded()
        self._shares[place.sharer] += 1

    def release(self, place: Place) -> None:
        self._occupied -= 1
        place.is_occupied = False
        if place.sharer is not None:
            self._shares[place.sharer] -= 1
            if not self._shares[place.sharer]:
                del self._shares[place.sharer]


_count_overloaded = observability.shed.labels(reason="overloaded").inc


def _overloaded() -> Overloaded:
    _count_overloaded()
    return Overloaded()


def count_place_for(request: web.Request, sharer: Hashable) -> None:
    """Counts the request's place for `sharer` from now on.

    Raises Overloaded if the sharer already occupies its whole share.
    """
    place = request.get(_PLACE)
    if place is None:
        return
    place.sharer = sharer
    try:
        place.places.count_share(place)
    except Overloaded:
        place.sharer = None
        raise


@contextmanager
def release_place_while_waiting(request: web.Request) -> Iterator[None]:
    """Lets other requests use the request's place while the block waits for the client.

    Raises Overloaded if no place is free after the block.
    """
    place = request.get(_PLACE)
    if place is None:
        yield
        return
    place.places.release(place)
    yield
    place.places.occupy(place)


def give_up_place(request: web.Request) -> None:
    """Lets other requests use the request's place from now on, for a request that only waits."""
    place = request.get(_PLACE)
    if place is not None and place.is_occupied:
        place.places.release(place)


class ConcurrencyLimit:
    """Lets at most `at_most` blocks run at the same time for each key."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._running: Counter[Hashable] = Counter()

    @contextmanager
    def enter(self, key: Hashable, refusal: Exception) -> Iterator[None]:
        """Counts the block for `key`. Raises `refusal` if too many blocks run for it already."""
        if self._running[key] >= self._at_most:
            raise refusal
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
