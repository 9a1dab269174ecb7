"""All points at which a process can be stopped, and all checks that can be removed from it.

A point is the beginning or the end of one product function, so product code needs no hook. If a
wanted point is not the boundary of a function, the function probably does two things
(docs/adr/0006). Only an armed process wraps functions, so a point costs the product nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FailpointError(Exception):
    """The failpoint or the check is unknown, or is used wrongly. The message says why."""


class Side(StrEnum):
    """Where a point lies: before the function does anything, or after it has returned.

    WITHIN: the function was called and has not returned. The process reports this and continues.
    The test stops the process at the right moment, for example when Daraja has the request and
    holds its answer.
    """

    BEFORE = "before"
    WITHIN = "within"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Point:
    """A boundary of the function that `target` names as `module:Class.method`.

    * `crash_point`: the number of its crash point (rules.md §23).
    * `is_of_batch`: the function gets a batch of events, and not one payment.
    """

    crash_point: int
    side: Side
    target: str
    sentence: str
    is_of_batch: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A protection that can be removed, so a test can show what it prevents.

    `target` names a function or a constant. The function `by` in `without.py` makes its
    replacement.
    """

    target: str
    by: str
    sentence: str


POINTS: Mapping[str, Point] = {
    "read_before_commit": Point(crash_point=1, side=Side.BEFORE,
        target="domain.adapters.postgres.accepting:PostgresAcceptingStore.accept",
        sentence="The request was read and is valid; nothing of the request was sent to Postgres."),
    "committed_before_wakeup": Point(crash_point=2, side=Side.AFTER,
        target="domain.adapters.postgres.accepting:PostgresAcceptingStore.accept",
        sentence="The payment, its key and its answer are committed; Redis has no wake-up yet."),
    "woken_before_answer": Point(crash_point=3, side=Side.AFTER,
        target="gateway.ingress_handlers:IngressHandlers._wake_and_copy",
        sentence="A worker was woken; the 202 does not exist yet."),
    "taken_before_claim": Point(crash_point=4, side=Side.BEFORE,
        target="domain.lifecycle.submit:Submitter.submit",
        sentence="The worker took the job from Redis and has not read the payment's row."),
    "readied_before_claim": Point(crash_point=4, side=Side.AFTER,
        target="workers.daraja_access:Turns.acquire",
        sentence="The payment may be sent, and the worker has a token, a slot and a turn; "
        "the payment is not claimed."),
    "claimed_before_call": Point(crash_point=5, side=Side.AFTER,
        target="domain.adapters.postgres.claiming:PostgresClaimingStore.claim",
        sentence="The claim is committed; the worker has not asked for a connection to Daraja."),
    "claimed_before_first_byte": Point(crash_point=5, side=Side.BEFORE,
        target="domain.fence:Fence.pass_first_byte",
        sentence="The claim is committed and a connection is open; the deadline is not checked, "
        "and nothing of the request is written."),
    "sent_before_answer": Point(crash_point=6, side=Side.WITHIN,
        target="domain.adapters.daraja.client:DarajaClient._send",
        sentence="The request was sent, and Daraja holds its answer back."),
    "answered_before_commit": Point(crash_point=7, side=Side.BEFORE,
        target="domain.lifecycle.submit:Submitter._record",
        sentence="Daraja answered, or the request failed; only this process knows the outcome."),
    "callback_read_before_commit": Point(crash_point=8, side=Side.BEFORE,
        target="gateway.callbacks:Receiver._record",
        sentence="A callback was read and its token is right; nothing was sent to Postgres."),
    "finalized_before_publish": Point(crash_point=9, side=Side.BEFORE,
        target="domain.adapters.redis.bell:RedisBell.ring", is_of_batch=True,
        sentence="The payments are final and their events are fixed; no event is published."),
    "published_before_recorded": Point(crash_point=10, side=Side.AFTER,
        target="domain.adapters.redis.bell:RedisBell.ring", is_of_batch=True,
        sentence="Redis has published the events; their publication is not recorded."),
    "inquiry_answered_before_commit": Point(crash_point=11, side=Side.AFTER,
        target="workers.daraja_inquirer:DarajaInquirer.send_inquiry",
        sentence="An inquiry was answered; only this process knows the answer."),
    "writing_in_transaction": Point(crash_point=12, side=Side.AFTER,
        target="domain.adapters.postgres.changing:write",
        sentence="Changes are written; the transaction that locks their payments is still open."),
    "announcing_in_turn": Point(crash_point=12, side=Side.AFTER,
        target="domain.adapters.redis.bell:RedisBell.ring", is_of_batch=True,
        sentence="Redis has published the events; the process has the turn to publish."),
}  # fmt: skip

CHECKS: Mapping[str, Check] = {
    "fence_check": Check(target="domain.fence:Fence.check", by="a_check",
        sentence="A worker sends nothing after an attempt's deadline, or while it drains."),
    "claim_stage": Check(target="domain.adapters.postgres.claiming:_CLAIM", by="the_stage",
        sentence="Only an accepted payment is claimed."),
    "claim_brakes": Check(target="domain.adapters.postgres.claiming:_CLAIM", by="the_brakes",
        sentence="No payout is claimed while payouts are stopped."),
    "claim_operation": Check(target="domain.adapters.postgres.claiming:_CLAIM", by="the_operation",
        sentence="If Daraja refuses an operation, only one probe is claimed after each cool-down."),
    "claim_age": Check(target="domain.adapters.postgres.claiming:_CLAIM", by="the_age",
        sentence="A payment that is past its age is not claimed."),
    "attempt_fencing": Check(target="domain.lifecycle.submit:answer_change",
        by="fencing_by_attempt",
        sentence="An old attempt's outcome does not move a payment that a newer attempt sends."),
    "intent_commit": Check(target="domain.adapters.postgres.claiming:PostgresClaimingStore.claim",
        by="a_committed_claim",
        sentence="The claim is on disk before the payment is sent."),
    "lease": Check(target="domain.lifecycle.reconcile:Sweeper._end_leases",
        by="a_step_of_the_sweep",
        sentence="The sweeper ends expired leases, also those of a dead worker."),
    "events_swept": Check(target="domain.lifecycle.reconcile:Sweeper._announce_owed",
        by="a_step_of_the_sweep",
        sentence="An event that is not recorded as published is published again."),
    "in_doubt": Check(target="domain.payment:TRANSITIONS", by="doubt",
        sentence="A payment whose lease expired is in doubt, and is not accepted again."),
    "one_change_per_batch": Check(target="domain.adapters.batching:Lane.__init__",
        by="keys_of_a_lane",
        sentence="A batch contains at most one change of each payment."),
}  # fmt: skip
