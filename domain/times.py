"""All durations that belong together, and the sums that must hold between them.

Pure. A worker makes its `Times` once, from its settings. What a sum forbids cannot be set, or ends
the process at its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

# What a sweep hands to a worker is due again this soon, in case it was lost (rules.md §5: at
# most 5 s).
HANDOVER_RETRY_AFTER = timedelta(seconds=5)

# No call to Daraja takes longer than this, whatever the lease (rules.md §10).
CALL_MAX = timedelta(seconds=15)

# Beyond one call, for what comes before and after it. A job that takes longer is let go (its send
# goes on by itself): arq hides a dead worker's jobs for as long, and they take up places at the
# head of the queue.
_JOB_BEYOND_CALL = timedelta(seconds=15)

# A held operation is probed after a cool-down that doubles up to this, an open breaker likewise
# (rules.md §17).
OPERATION_COOL_DOWN_MAX = timedelta(minutes=15)
BREAKER_COOL_DOWN_MAX = timedelta(hours=1)

# Of the time that SIGTERM leaves us: sends on the wire end, their answers are stored, then all else
# is, then Postgres and Redis are let go, one after the other.
TERMINATION_MAX = timedelta(seconds=20)
SENDS_DRAIN_MAX = timedelta(seconds=15.5)
REST_DRAIN_MAX = timedelta(seconds=1.5)
CLOSE_MAX = timedelta(seconds=1)


def _require(holds: bool, sum_in_words: str) -> None:
    if not holds:
        raise ValueError(f"these times do not fit together: {sum_in_words}")


_require(CALL_MAX < SENDS_DRAIN_MAX, "a send on the wire ends before we stop waiting for it")
_require(
    SENDS_DRAIN_MAX + REST_DRAIN_MAX + 2 * CLOSE_MAX < TERMINATION_MAX,
    "we have ended before SIGKILL comes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times by which a worker sends, asks and sweeps. The defaults are those of the settings as
    shipped.

    Raises ValueError where two of them do not fit together.
    """

    lease: timedelta = timedelta(seconds=60)  # of a claim, by the database's clock
    retry_after: timedelta = timedelta(
        seconds=4
    )  # next due time of a payment that could not be sent
    inquiry_first_after: timedelta = timedelta(seconds=30)  # after a send
    inquiry_interval_max: timedelta = timedelta(seconds=300)
    result_window: timedelta = timedelta(
        seconds=180
    )  # how long a deposit's result may be awaited before silence counts
    not_found_trusted_after: timedelta = timedelta(seconds=300)  # since the last send
    operation_cool_down: timedelta = timedelta(
        seconds=30
    )  # before the first probe of a held operation
    breaker_cool_down: timedelta = timedelta(seconds=60)  # before the breaker's first probe

    def __post_init__(self) -> None:
        _require(
            self.send_deadline + self.call_max < self.lease,
            "a send at the last moment ends within the lease",
        )
        _require(
            self.retry_after <= HANDOVER_RETRY_AFTER,
            "a first submission is due again within 5 s (rules.md §5)",
        )
        _require(
            self.operation_cool_down <= OPERATION_COOL_DOWN_MAX,
            "a hold's first cool-down is not its longest",
        )
        _require(
            self.breaker_cool_down <= BREAKER_COOL_DOWN_MAX,
            "the breaker's first cool-down is not its longest",
        )

    @property
    def send_deadline(self) -> timedelta:
        """After the claim was begun, the first byte may leave for so long (rules.md §3)."""
        return self.lease / 2

    @property
    def call_max(self) -> timedelta:
        """The longest that one call to Daraja may take (rules.md §10)."""
        return min(CALL_MAX, self.lease / 3)

    @property
    def job_max(self) -> timedelta:
        """The longest that a job may take before it is let go."""
        return self.call_max + _JOB_BEYOND_CALL


DEFAULT_TIMES = Times()  # for who decides about a payment without a worker's settings
