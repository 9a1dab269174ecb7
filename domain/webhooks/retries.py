"""What follows from an attempt: the end of the delivery or its next attempt, and a paused endpoint.

Pure. The waits grow from five seconds to six hours, each with a random part, so that many
deliveries do not return together. An endpoint that fails everything for two days is paused. That
is before the first delivery is given up, so an endpoint that was down loses no event: its
deliveries wait until its owner enables it again. A delivery is given up after three days only if
the endpoint accepted other messages meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.webhooks.endpoint import (
    AttemptOutcome,
    DeliveryStatus,
    EndpointStatus,
    StatusReason,
)

RETRY_FOR = timedelta(days=3)
PAUSE_AFTER = timedelta(days=2)
assert PAUSE_AFTER < RETRY_FOR  # noqa: S101

_FIRST_WAIT = timedelta(seconds=5)
_FACTOR = 3
_WAIT_MAX = timedelta(hours=6)
_JITTER = 0.25  # the share of a wait that is random

# If an endpoint works again after it failed for this long, its waiting deliveries are sent at once.
# Without this limit, a delivery that always fails would be sent again after each success of
# another.
_RECOVERY_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to store after an attempt.

    `next_attempt_at` is None if the delivery has ended. `endpoint_status` is None if the endpoint
    keeps its status. `hastens_others`: the endpoint's other waiting deliveries are due now.
    """

    status: DeliveryStatus
    next_attempt_at: datetime | None
    failing_since: datetime | None
    endpoint_status: EndpointStatus | None = None
    status_reason: StatusReason | None = None
    hastens_others: bool = False


def judge_attempt(
    outcome: AttemptOutcome,
    *,
    attempts: int,
    now: datetime,
    retry_until: datetime,
    failing_since: datetime | None,
    chance: float,
) -> Verdict:
    """The verdict after attempt number `attempts`.

    `failing_since` is the endpoint's first failure since its last success. `chance` is a random
    number from 0 to 1.
    """
    if outcome is AttemptOutcome.DELIVERED:
        has_recovered = failing_since is not None and now - failing_since >= _RECOVERY_AFTER
        return Verdict(
            status=DeliveryStatus.DELIVERED,
            next_attempt_at=None,
            failing_since=None,
            hastens_others=has_recovered,
        )
    since = failing_since or now
    next_attempt_at = now + wait_after(attempts, chance=chance)
    if outcome is AttemptOutcome.GONE:
        status, reason = EndpointStatus.DISABLED, StatusReason.GONE
    elif now - since >= PAUSE_AFTER:
        status, reason = EndpointStatus.PAUSED, StatusReason.FAILING
    elif next_attempt_at > retry_until:
        return Verdict(status=DeliveryStatus.FAILED, next_attempt_at=None, failing_since=since)
    else:
        return Verdict(
            status=DeliveryStatus.PENDING, next_attempt_at=next_attempt_at, failing_since=since
        )
    return Verdict(
        status=DeliveryStatus.PENDING,
        next_attempt_at=next_attempt_at,
        failing_since=since,
        endpoint_status=status,
        status_reason=reason,
    )


def wait_after(attempts: int, *, chance: float) -> timedelta:
    """The wait after attempt number `attempts`, shortened or lengthened by `chance` (0 to 1)."""
    factor: int = _FACTOR ** min(attempts - 1, 20)
    return min(_FIRST_WAIT * factor, _WAIT_MAX) * (1 + _JITTER * (chance - 0.5))
