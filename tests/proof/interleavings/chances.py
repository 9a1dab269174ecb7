"""The probability of each fault in one run.

A run has only some of the faults, because many faults at once hide each other.
"""

from __future__ import annotations

from random import Random

_NEVER, _SELDOM, _OFTEN = 0.0, 0.06, 0.35

# One draw for each fault of a run.
_LEVELS = (_NEVER, _NEVER, _NEVER, _SELDOM, _SELDOM, _OFTEN)

# Between the worker's steps: it is killed or frozen, the answer to its COMMIT is lost, or it gets
# no slot.
WORKER = (
    "crashes",
    "freezes",
    "commit_is_lost",
    "claim_is_unknown",
    "waits_for_a_row",
    "is_not_ready",
    "drains",
)

# What Redis and the sweepers do to a payment.
WAKING = (
    "wake_up_is_lost",
    "wake_up_is_doubled",
    "sweeper_is_late",
    "budget_is_spent",
    "bell_is_lost",
)

# Between us and Daraja.
NETWORK = (
    "is_not_connected",
    "request_is_lost",
    "request_is_late",
    "answer_is_lost",
    "receiver_is_down",
)

# Daraja rejects the call before it acts.
DOOR = ("refuses_token", "throttles", "refuses", "is_busy", "breaks_before_acting")

# What Daraja does after it accepted the call.
INSIDE = (
    "breaks_after_acting",
    "busy_yet_acts",
    "throttled_yet_acts",
    "fails",
    "fails_for_the_credential",
    "pays_late",
)

# Its messages: results, and answers to inquiries.
MESSAGES = (
    "callback_is_lost", "callback_is_repeated", "callback_is_late", "comes_from_elsewhere",
    "omits_receipt", "reports_another_amount", "sends_timeout", "does_not_find_yet",
    "does_not_find_once", "is_vague", "gives_no_answer", "reports_failed_once",
    "is_still_under_way", "refuses_credential",
)  # fmt: skip

# People.
PEOPLE = ("caller_cancels", "operator_decides", "payouts_are_stopped", "breaker_opens_for_another")

# For a while our app lacks the product that sends, or the product that answers inquiries.
PRODUCTS = ("lacks_send_product", "lacks_inquiry_product", "token_is_replaced")

NAMES = (*WORKER, *WAKING, *NETWORK, *DOOR, *INSIDE, *MESSAGES, *PEOPLE, *PRODUCTS)


class Chances:
    """The probability of each fault, by its name."""

    __slots__ = NAMES

    crashes: float
    freezes: float
    commit_is_lost: float
    claim_is_unknown: float
    waits_for_a_row: float
    is_not_ready: float
    drains: float
    wake_up_is_lost: float
    wake_up_is_doubled: float
    sweeper_is_late: float
    budget_is_spent: float
    bell_is_lost: float
    is_not_connected: float
    request_is_lost: float
    request_is_late: float
    answer_is_lost: float
    receiver_is_down: float
    refuses_token: float
    throttles: float
    refuses: float
    is_busy: float
    breaks_before_acting: float
    breaks_after_acting: float
    busy_yet_acts: float
    throttled_yet_acts: float
    fails: float
    fails_for_the_credential: float
    pays_late: float
    callback_is_lost: float
    callback_is_repeated: float
    callback_is_late: float
    comes_from_elsewhere: float
    omits_receipt: float
    reports_another_amount: float
    sends_timeout: float
    does_not_find_yet: float
    does_not_find_once: float
    is_vague: float
    gives_no_answer: float
    reports_failed_once: float
    is_still_under_way: float
    refuses_credential: float
    caller_cancels: float
    operator_decides: float
    payouts_are_stopped: float
    breaker_opens_for_another: float
    lacks_send_product: float
    lacks_inquiry_product: float
    token_is_replaced: float

    def __init__(self, rng: Random | None = None) -> None:
        """With `rng` the faults of a run, else none."""
        if rng is None:
            for name in NAMES:
                setattr(self, name, _NEVER)
            return
        for name, level in zip(NAMES, rng.choices(_LEVELS, k=len(NAMES)), strict=True):
            setattr(self, name, level)
        if self.crashes > _SELDOM:
            self.crashes = 0.15  # of every step; with more, no flow would reach its end
        if self.freezes > _SELDOM:
            self.freezes = 0.2
