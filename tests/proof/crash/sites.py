"""Where a process is killed or frozen: each crash point (rules.md §23) in each of its processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tests.proof.failpoints.arming import Action
from tests.proof.failpoints.points import POINTS


class Target(StrEnum):
    """The process that is killed or frozen, by its Procfile name."""

    WEB = "web"
    CALLBACKS = "callbacks"
    WORKER = "worker"


class DeliveryTime(StrEnum):
    """When Daraja's results are delivered."""

    AT_ONCE = "at once"  # as soon as the simulator has a result
    AFTER_THE_STOP = "after the stop"  # once the process is dead or frozen
    AFTER_THE_RESTART = "after the restart"


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a process. `point` is the name of its failpoint.

    If `is_together`, the process stops only after all payments of the batch reached the place.
    """

    name: str
    crash_point: int
    target: Target
    point: str
    sentence: str
    action: Action = Action.KILL
    is_together: bool = True
    delivery: DeliveryTime = DeliveryTime.AT_ONCE
    # Whether the worker holds claims at this place. It holds at most four claims of bill payments.
    claims: bool = False

    @property
    def publishes_together(self) -> bool:
        """Whether the process publishes the events of all payments in one batch, and then stops.

        No sweeper may publish them earlier.
        """
        return self.is_together and POINTS[self.point].is_of_batch

    @property
    def is_frozen(self) -> bool:
        return self.action is Action.FREEZE


WEB, CALLBACKS, WORKER = Target.WEB, Target.CALLBACKS, Target.WORKER

_AFTER_THE_STOP, _AFTER_THE_RESTART = DeliveryTime.AFTER_THE_STOP, DeliveryTime.AFTER_THE_RESTART

SITES = (
    Site("1", 1, WEB, "read_before_commit", "request read, before commit"),
    Site("2", 2, WEB, "committed_before_wakeup", "payment committed, before the wake-up"),
    Site("3", 3, WEB, "woken_before_answer", "worker woken, before the 202 left"),
    Site("4", 4, WORKER, "taken_before_claim", "job taken, before claim"),
    Site("5", 5, WORKER, "claimed_before_call",
         "claim committed, before the request left", claims=True),
    Site("6", 6, WORKER, "sent_before_answer",
         "request left, before the answer came", delivery=_AFTER_THE_STOP, claims=True),
    Site("7", 7, WORKER, "answered_before_commit",
         "answer came, before it was committed", delivery=_AFTER_THE_STOP, claims=True),
    Site("8", 8, CALLBACKS, "callback_read_before_commit", "callback read, before commit"),
    Site("9 callbacks", 9, CALLBACKS, "finalized_before_publish",
         "finalized by a message, before publish"),
    Site("9 worker", 9, WORKER, "finalized_before_publish",
         "finalized by the worker, before publish"),
    Site("10 callbacks", 10, CALLBACKS, "published_before_recorded",
         "published by the receiver, before recorded"),
    Site("10 worker", 10, WORKER, "published_before_recorded",
         "published by the worker, before recorded"),
    Site("11 worker", 11, WORKER, "inquiry_answered_before_commit",
         "STK query answered, before commit", delivery=_AFTER_THE_RESTART),
    Site("11 callbacks", 11, CALLBACKS, "callback_read_before_commit",
         "Transaction Status answered, before commit", delivery=_AFTER_THE_RESTART),
    Site("12 at 5", 12, WORKER, "claimed_before_call",
         "at 5, until the lease is over", Action.FREEZE, claims=True),
    Site("12 at 6", 12, WORKER, "sent_before_answer",
         "at 6, until the lease is over", Action.FREEZE, delivery=_AFTER_THE_STOP, claims=True),
    Site("12 at 7", 12, WORKER, "answered_before_commit",
         "at 7, until the lease is over", Action.FREEZE, delivery=_AFTER_THE_STOP, claims=True),
    Site("12 recording", 12, WORKER, "writing_in_transaction",
         "in the transaction that records answers",
         Action.FREEZE, is_together=False, delivery=_AFTER_THE_STOP),
    Site("12 finalizing", 12, CALLBACKS, "writing_in_transaction",
         "in the transaction that stores a callback", Action.FREEZE, is_together=False),
    Site("12 announcing", 12, CALLBACKS, "announcing_in_turn",
         "in its turn to publish, until another process has taken the turn", Action.FREEZE),
)  # fmt: skip
