"""All durations that depend on each other, and the conditions between them.

Pure. A worker makes its `Times` once, from its settings. If the settings break a condition, the
process does not start.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

# A step that the sweeper hands to a worker is due again after this time, in case the wake-up is
# lost (rules.md §5: at most 5 s).
HANDOVER_RETRY_AFTER = timedelta(seconds=5)

# The longest time for a call to Daraja. If the lease is short, `Times.call_max` is less (rules.md
# §10).
CALL_MAX = timedelta(seconds=15)

# A job may take this long for its work before and after the call. If it takes longer, arq cancels
# the job, but the job's send continues. The time is short because workers can die: until the
# longest time of a job (`Times.job_max`) is over, other workers skip a dead worker's jobs, which
# stay at the head of the queue.
_JOB_BEYOND_CALL = timedelta(seconds=15)

# A worker probes a held operation, or an open breaker, after a cool-down (rules.md §17). Each
# cool-down is twice as long as the one before, up to these maximums.
OPERATION_COOL_DOWN_MAX = timedelta(minutes=15)
BREAKER_COOL_DOWN_MAX = timedelta(hours=1)

# No worker may fail as unsent a payment that a restore has flagged, because the restore has lost
# the record that would show that Daraja paid it. So a restore postpones the payment's step by a
# lifetime (`Payment.is_postponed_for_a_person`).
TIME_FOR_A_PERSON = timedelta(days=36_500)

# The time between SIGTERM and SIGKILL, and its parts. First the process waits until the sends on
# the wire end and their answers are stored. Then it waits for its other work. Then it closes
# PostgreSQL and Redis, one after the other.
TERMINATION_MAX = timedelta(seconds=20)
SENDS_DRAIN_MAX = timedelta(seconds=15.5)
REST_DRAIN_MAX = timedelta(seconds=1.5)
CLOSE_MAX = timedelta(seconds=1)


def _require(is_met: bool, condition: str) -> None:
    if not is_met:
        raise ValueError(f"these times do not fit together: {condition}")


_require(CALL_MAX < SENDS_DRAIN_MAX, "a send on the wire must end before we stop waiting for it")
_require(
    SENDS_DRAIN_MAX + REST_DRAIN_MAX + 2 * CLOSE_MAX < TERMINATION_MAX,
    "the process must end before SIGKILL",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times by which a worker sends, inquires and sweeps.

    The defaults are those of the settings. Raises ValueError if two times do not fit together.
    """

    # How long a claim is valid, by the database's clock.
    lease: timedelta = timedelta(seconds=60)
    # A payment that could not be sent is due again after this time.
    retry_after: timedelta = timedelta(seconds=4)
    # The time from a send to the first inquiry.
    inquiry_first_after: timedelta = timedelta(seconds=30)
    inquiry_interval_max: timedelta = timedelta(seconds=300)
    # How long we wait for a deposit's result before silence counts.
    result_window: timedelta = timedelta(seconds=180)
    # We trust a "not found" only if its inquiry was sent this long after the last send.
    not_found_trusted_after: timedelta = timedelta(seconds=300)
    # The wait before the first probe of a held operation.
    operation_cool_down: timedelta = timedelta(seconds=30)
    # The wait before the breaker's first probe.
    breaker_cool_down: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        _require(
            self.send_deadline + self.call_max < self.lease,
            "a send at the last moment must end within the lease",
        )
        _require(
            self.retry_after <= HANDOVER_RETRY_AFTER,
            "a first submission must be due again within 5 s (rules.md §5)",
        )
        _require(
            self.operation_cool_down <= OPERATION_COOL_DOWN_MAX,
            "a hold's first cool-down must not exceed its longest",
        )
        _require(
            self.breaker_cool_down <= BREAKER_COOL_DOWN_MAX,
            "the breaker's first cool-down must not exceed its longest",
        )

    @property
    def send_deadline(self) -> timedelta:
        """For this long after the start of the claim, a first byte may be sent (rules.md §3)."""
        return self.lease / 2

    @property
    def call_max(self) -> timedelta:
        """The longest time for one call to Daraja (rules.md §10)."""
        return min(CALL_MAX, self.lease / 3)

    @property
    def job_max(self) -> timedelta:
        """The longest time for a job."""
        return self.call_max + _JOB_BEYOND_CALL


# Code that has no worker's settings, for example an operator's command, decides by these times.
DEFAULT_TIMES = Times()
