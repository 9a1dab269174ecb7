"""The settings that a run may have: the product's own, and others that bring their limits close
to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from domain.account import Account
from domain.kinds import Kind
from domain.times import Times
from tests.builders import AN_ACCOUNT


class LifeTimes(NamedTuple):
    """Settings in milliseconds for the laws, and the same as the product's `Times`."""

    lease: int
    first_after: int
    trusted_after: int
    window: int
    expires_after: int
    call: int
    worker: Times
    accounts: Mapping[Kind, Account]  # by which the worker sends and asks
    delays: tuple[int, ...]  # near every limit
    calm_after: tuple[int, ...]  # when faults stop

    def by(self, account: Account) -> LifeTimes:
        """The same times for a worker that sends and asks by `account`."""
        return self._replace(accounts=dict.fromkeys(self.accounts, account))


def _times(
    *,
    lease: float,
    first: float,
    longest: float,
    trusted: float,
    window: float,
    expires: float,
    kind: Kind,
) -> LifeTimes:
    worker = Times(
        lease=timedelta(seconds=lease),
        inquiry_first_after=timedelta(seconds=first),
        inquiry_interval_max=timedelta(seconds=longest),
        result_window=timedelta(seconds=window),
        not_found_trusted_after=timedelta(seconds=trusted),
    )
    limits = (lease / 2, lease, first, trusted, window)
    near = [int(1000 * limit) + off for limit in limits for off in (-50, 1, 300)]
    return LifeTimes(
        lease=int(lease * 1000),
        first_after=int(first * 1000),
        trusted_after=int(trusted * 1000),
        window=int(window * 1000),
        expires_after=int(expires * 1000),
        call=int(1000 * worker.call_max.total_seconds()),
        worker=worker,
        accounts={kind: AN_ACCOUNT},
        delays=(*near, 600, 2000, 9000, 25_000, 70_000, int(4000 * longest)),
        calm_after=tuple(
            int(1000 * after) for after in (2, lease + first, 2 * window, 2 * longest, 4 * longest)
        ),
    )


_EXPIRES = {
    Kind.DEPOSIT: (60, 20),
    Kind.WITHDRAWAL: (86_400, 150),
    Kind.BILL_PAYMENT: (600, 60),
    Kind.POCHI_PAYMENT: (600, 60),
}

TIMES = {
    kind: (
        _times(
            lease=60,
            first=30,
            longest=300,
            trusted=300,
            window=180,
            expires=_EXPIRES[kind][0],
            kind=kind,
        ),
        _times(
            lease=60,
            first=30,
            longest=60,
            trusted=60,
            window=60,
            expires=_EXPIRES[kind][0],
            kind=kind,
        ),
        _times(
            lease=10,
            first=2,
            longest=20,
            trusted=30,
            window=30,
            expires=_EXPIRES[kind][1],
            kind=kind,
        ),
        _times(
            lease=300,
            first=10,
            longest=30,
            trusted=20,
            window=15,
            expires=_EXPIRES[kind][0],
            kind=kind,
        ),
    )
    for kind in Kind
}
