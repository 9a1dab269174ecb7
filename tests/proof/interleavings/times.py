"""The settings of a run: the product's own, and others whose limits are close to each other."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from domain.account import Account
from domain.kinds import Kind
from domain.times import Times
from tests.builders import AN_ACCOUNT


class LifeTimes(NamedTuple):
    """The settings of a life, in milliseconds for the laws and as `Times` for the core."""

    lease: int
    first_after: int
    trusted_after: int
    window: int
    expires_after: int
    call: int
    worker: Times
    accounts: Mapping[Kind, Account]  # of the worker's sends and inquiries
    delays: tuple[int, ...]  # just before and just after every limit, and some others
    calm_after: tuple[int, ...]  # when faults stop

    def by(self, account: Account) -> LifeTimes:
        """The same times for a worker with another account."""
        return self._replace(accounts=dict.fromkeys(self.accounts, account))


_EXPIRES = {
    Kind.DEPOSIT: (60, 20),
    Kind.WITHDRAWAL: (86_400, 150),
    Kind.BILL_PAYMENT: (600, 60),
    Kind.POCHI_PAYMENT: (600, 60),
}

# In seconds: lease, first inquiry, longest interval, "not found" trusted after, result window. The
# last number chooses the age in `_EXPIRES`.
_RUNS = (
    (60, 30, 300, 300, 180, 0),
    (60, 30, 60, 60, 60, 0),
    (10, 2, 20, 30, 30, 1),
    (300, 10, 30, 20, 15, 0),
)


def _times(
    kind: Kind, lease: int, first: int, longest: int, trusted: int, window: int, age: int
) -> LifeTimes:
    worker = Times(
        lease=timedelta(seconds=lease),
        inquiry_first_after=timedelta(seconds=first),
        inquiry_interval_max=timedelta(seconds=longest),
        result_window=timedelta(seconds=window),
        not_found_trusted_after=timedelta(seconds=trusted),
    )
    limits = (500 * lease, *(1000 * limit for limit in (lease, first, trusted, window)))
    near = [limit + off for limit in limits for off in (-50, 1, 300)]
    calm_after = (2, lease + first, 2 * window, 2 * longest, 4 * longest)
    return LifeTimes(
        lease=1000 * lease,
        first_after=1000 * first,
        trusted_after=1000 * trusted,
        window=1000 * window,
        expires_after=1000 * _EXPIRES[kind][age],
        call=int(1000 * worker.call_max.total_seconds()),
        worker=worker,
        accounts={kind: AN_ACCOUNT},
        delays=(*near, 600, 2000, 9000, 25_000, 70_000, 4000 * longest),
        calm_after=tuple(1000 * after for after in calm_after),
    )


TIMES = {kind: tuple(_times(kind, *run) for run in _RUNS) for kind in Kind}
