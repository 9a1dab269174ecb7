"""The probability of each fault in one run.

A run has only some of the faults, because many faults at once hide each other.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random

_NEVER, _SELDOM, _OFTEN = 0.0, 0.06, 0.35

# The chance of each fault of a run is drawn from these levels.
_LEVELS = (_NEVER, _NEVER, _NEVER, _SELDOM, _SELDOM, _OFTEN)

# These faults may happen at every step. With higher chances, no flow would reach its end.
_CRASHES_MAX, _FREEZES_MAX = 0.15, 0.2


@dataclass(slots=True)
class Chances:
    """The probability of each fault, by its name."""

    # Between the worker's steps: it is killed or frozen, the answer to its COMMIT is lost, or it
    # gets no slot.
    crashes: float = _NEVER
    freezes: float = _NEVER
    commit_is_lost: float = _NEVER
    claim_is_unknown: float = _NEVER
    waits_for_a_row: float = _NEVER
    is_not_ready: float = _NEVER
    drains: float = _NEVER

    # What Redis and the sweepers do to a payment.
    wake_up_is_lost: float = _NEVER
    wake_up_is_doubled: float = _NEVER
    sweeper_is_late: float = _NEVER
    budget_is_spent: float = _NEVER
    bell_is_lost: float = _NEVER

    # Between us and Daraja.
    is_not_connected: float = _NEVER
    request_is_lost: float = _NEVER
    request_is_late: float = _NEVER
    answer_is_lost: float = _NEVER
    receiver_is_down: float = _NEVER

    # Daraja rejects the call before it acts.
    refuses_token: float = _NEVER
    throttles: float = _NEVER
    refuses: float = _NEVER
    is_busy: float = _NEVER
    breaks_before_acting: float = _NEVER

    # What Daraja does after it accepted the call.
    breaks_after_acting: float = _NEVER
    busy_yet_acts: float = _NEVER
    throttled_yet_acts: float = _NEVER
    fails: float = _NEVER
    fails_for_the_credential: float = _NEVER
    pays_late: float = _NEVER

    # Daraja's messages: results, and answers to inquiries.
    callback_is_lost: float = _NEVER
    callback_is_repeated: float = _NEVER
    callback_is_late: float = _NEVER
    comes_from_elsewhere: float = _NEVER
    omits_receipt: float = _NEVER
    reports_another_amount: float = _NEVER
    sends_timeout: float = _NEVER
    does_not_find_yet: float = _NEVER
    does_not_find_once: float = _NEVER
    is_vague: float = _NEVER
    gives_no_answer: float = _NEVER
    reports_failed_once: float = _NEVER
    is_still_under_way: float = _NEVER
    refuses_credential: float = _NEVER

    # People.
    caller_cancels: float = _NEVER
    operator_decides: float = _NEVER
    payouts_are_stopped: float = _NEVER
    breaker_opens_for_another: float = _NEVER

    # For a while our app lacks the product that sends, or the product that answers inquiries.
    lacks_send_product: float = _NEVER
    lacks_inquiry_product: float = _NEVER
    token_is_replaced: float = _NEVER


NAMES = tuple(field.name for field in fields(Chances))


def draw_chances(rng: Random) -> Chances:
    drawn = Chances(*rng.choices(_LEVELS, k=len(NAMES)))
    drawn.crashes = min(drawn.crashes, _CRASHES_MAX)
    drawn.freezes = min(drawn.freezes, _FREEZES_MAX)
    return drawn
