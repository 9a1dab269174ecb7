"""Each protection with a scenario that passes with it, and fails if the protection is removed.

A scenario raises `PromiseBroken` only if the promise is broken. Each arms the processes that it
needs without the given protection ("" for none).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from tests.proof.crash.delivering import CallbackDeliverer, deliver_again
from tests.proof.crash.judging import count_received_sends
from tests.proof.crash.running import CrashSystem
from tests.proof.crash.steps import (
    begin,
    held_result,
    hold_row,
    row_of,
    switch_payouts,
    wait_for_claimed_sends,
    wait_for_stage,
)
from tests.proof.crash.table import Kind
from tests.proof.crash.waiting import stage_of, wait_until
from tests.proof.failpoints.starting import reached, start_armed
from tests.stack.servers import PostgresServer

# An armed worker sweeps only once, at its start. Another worker makes all later changes.
_RARELY: dict[str, str | None] = {"SWEEP_INTERVAL_SECONDS": "60"}

# How long to wait if a broken promise means that nothing happens: many times the usual time.
_PATIENCE_SECONDS = 30.0

_COPIES = 40

# Daraja has it. The simulator holds its result, but an inquiry may have ended it already.
_ASKED = ("awaiting_result", "succeeded")

_WAITS_FOR_A_ROW = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_WANTED_BY_TWO = "duplicate key value"


class PromiseBroken(AssertionError):
    """A promise was broken because its protection is missing."""


Scenario = Callable[[CrashSystem, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Protection:
    """`check` is its name in `tests/proof/failpoints/points.py`.

    `sentence` says what happens without it.
    """

    check: str
    letter: str
    sentence: str
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a scenario, with all protections or without one."""

    name: str
    scenario: Scenario
    without: str = ""


def require(is_met: bool, reason: str) -> None:
    if not is_met:
        raise PromiseBroken(reason)


# --- scenarios ------------------------------------------------------------------------------------


async def between_look_and_claim(crash_system: CrashSystem, without: str) -> None:
    """A worker is frozen just before three claims, and claims none of them after its thaw.

    Meanwhile another worker sends the first payment, payouts are stopped, and the third payment
    passes its age.
    """
    system = crash_system.system
    place = "readied_before_claim:freeze:3:together"
    await crash_system.prepare("worker")
    worker = await start_armed(system.stack, "worker", place, without=without, env=_RARELY)
    sent, stopped, old = [
        await begin(system, kind) for kind in (Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.DEPOSIT)
    ]
    await reached(worker, place)
    await switch_payouts(system, "stop")
    age = "UPDATE mkwanja.payments SET expires_at = now(), next_step_at = now() + interval '1 hour'"
    await system.execute(f"{age} WHERE id = $1::uuid", old.payment_id)
    await system.stack.start_process("worker.2")
    await wait_for_stage(system, sent, *_ASKED)
    await system.stack.process("worker.2").kill()
    worker.thaw()
    # The worker that claims this deposit has passed the other three claims.
    later = await begin(system, Kind.DEPOSIT)
    await wait_for_stage(system, later, *_ASKED)
    await wait_for_claimed_sends(system)
    await worker.terminate()
    require(
        await count_received_sends(system, sent) == 1,
        "a payment that another worker had sent was sent again",
    )
    require(
        await count_received_sends(system, stopped) == 0,
        "a payout was sent while payouts were stopped",
    )
    require(
        await count_received_sends(system, old) == 0, "a payment was sent that had waited too long"
    )
    await switch_payouts(system, "start")


async def operation_refused_meanwhile(crash_system: CrashSystem, without: str) -> None:
    """A worker is frozen just before it claims a withdrawal, and does not claim it after its thaw.

    Meanwhile another worker learns that Daraja refuses withdrawals to our app. Deposits go on.
    """
    system, place = crash_system.system, "readied_before_claim:freeze"
    await crash_system.prepare("worker")
    worker = await start_armed(system.stack, "worker", place, without=without, env=_RARELY)
    waiting = await begin(system, Kind.WITHDRAWAL)
    await reached(worker, place)
    await system.control("POST", "/switches", {"missing_products": ["b2c"]})
    await system.stack.start_process("worker.2")
    refused = await begin(system, Kind.WITHDRAWAL)
    held = "SELECT name FROM mkwanja.brakes WHERE name = 'b2c' AND is_engaged"
    await wait_until(lambda: system.rows(held), what="a held operation")
    await system.stack.process("worker.2").kill()
    await system.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() + interval '1 hour' WHERE name = 'b2c'"
    )
    sent_before = await count_received_sends(system, waiting)
    worker.thaw()
    # The worker that claims this deposit has passed the other claim.
    later = await begin(system, Kind.DEPOSIT)
    await wait_for_stage(system, later, *_ASKED)
    await wait_for_claimed_sends(system)
    await worker.terminate()
    require(
        await count_received_sends(system, waiting) == sent_before,
        "a payment was sent to an operation that Daraja refuses",
    )
    require(
        await stage_of(system, refused) == "accepted",
        "a payment that Daraja did not look at does not wait",
    )
    await system.release_brakes()


async def killed_before_the_answer(crash_system: CrashSystem, without: str) -> None:
    """A worker is killed while Daraja has its requests. Neither payment is sent again.

    The withdrawal is inquired about and found paid. No inquiry can find the bill payment, so it is
    flagged for a person.
    """
    system = crash_system.system
    await crash_system.prepare("worker")
    place = "sent_before_answer:tell:2:together"
    worker = await start_armed(system.stack, "worker", place, without=without)
    withdrawal, bill = [
        await begin(system, kind, "slow", seconds=15, times=1)
        for kind in (Kind.WITHDRAWAL, Kind.BILL_PAYMENT)
    ]
    await reached(worker, place)
    for order in (withdrawal, bill):
        await wait_until(partial(count_received_sends, system, order), what="the request at Daraja")
    await worker.kill()
    worker = await start_armed(system.stack, "worker", without=without)

    async def is_over() -> bool:
        is_again = (
            await count_received_sends(system, withdrawal) > 1
            or await count_received_sends(system, bill) > 1
        )
        row = await row_of(system, bill)
        return is_again or (
            await stage_of(system, withdrawal) == "succeeded" and row["needs_review"]
        )

    try:
        await wait_until(is_over, what="the ends", seconds=_PATIENCE_SECONDS)
    except AssertionError as error:
        raise PromiseBroken(f"they never end: {await stage_of(system, withdrawal)}") from error
    require(
        await count_received_sends(system, withdrawal) == 1,
        "a withdrawal that Daraja had was sent again",
    )
    require(
        await count_received_sends(system, bill) == 1,
        "a bill payment that Daraja had was sent again",
    )


async def late_answer_of_an_earlier_attempt(crash_system: CrashSystem, without: str) -> None:
    """A worker wakes up after its attempt was given up and another worker sends the withdrawal.

    It records the outcome of its own attempt. The payment stays with the newer attempt.
    """
    system = crash_system.system
    await crash_system.prepare("worker")
    first = await start_armed(
        system.stack, "worker", "claimed_before_call:freeze", without=without, env=_RARELY
    )
    order = await begin(system, Kind.WITHDRAWAL)
    await reached(first, "claimed_before_call:freeze")
    second = await start_armed(system.stack, "worker.2", "answered_before_commit:freeze")
    await reached(second, "answered_before_commit:freeze")
    first.thaw()
    outcomes = "SELECT outcome FROM mkwanja.attempts WHERE payment_id = $1::uuid ORDER BY number"
    await wait_until(
        lambda: system.rows(outcomes, order.payment_id),
        lambda rows: rows[0]["outcome"] == "not_acted",
        "its outcome",
    )
    require(
        await stage_of(system, order) == "submitting",
        "an earlier attempt's answer moved a payment that is being sent",
    )
    second.thaw()
    await wait_for_stage(system, order, *_ASKED)


async def woken_past_the_deadline(crash_system: CrashSystem, without: str) -> None:
    """A worker wakes up long after its deposit failed. It sends nothing."""
    system = crash_system.system
    await crash_system.prepare("worker")
    worker = await start_armed(
        system.stack, "worker", "claimed_before_call:freeze", without=without, env=_RARELY
    )
    order = await begin(system, Kind.DEPOSIT)
    await reached(worker, "claimed_before_call:freeze")
    await system.stack.start_process("worker.2")
    await wait_for_stage(system, order, "failed")
    worker.thaw()
    outcome = "SELECT outcome FROM mkwanja.attempts WHERE payment_id = $1::uuid"
    await wait_until(
        lambda: system.rows(outcome, order.payment_id),
        lambda rows: rows[0]["outcome"] is not None,
        "its outcome",
    )
    require(
        await count_received_sends(system, order) == 0,
        "a prompt was sent for a deposit that was announced as failed",
    )


async def killed_before_publishing(crash_system: CrashSystem, without: str) -> None:
    """The receiver is killed after the final commit, before it publishes. The sweeper publishes."""
    system, place = crash_system.system, "finalized_before_publish:kill"
    await crash_system.prepare("worker", "callbacks")
    # No inquiry goes out meanwhile, so the callback ends the payment.
    unasked: dict[str, str | None] = {"INQUIRY_FIRST_AFTER_SECONDS": "600"}
    await start_armed(system.stack, "worker", without=without, env=unasked)
    receiver = await start_armed(system.stack, "callbacks", place)
    order = await begin(system, Kind.DEPOSIT)
    await held_result(system, order)
    await system.control("POST", "/callbacks/release", {"url_contains": order.payment_id})
    await reached(receiver, place)
    await system.stack.start_process("callbacks")

    async def is_received() -> bool:
        return any(
            json.loads(event.body)["subject"] == order.payment_id
            for event in crash_system.listener.received_events
        )

    try:
        await wait_until(is_received, what="its event", seconds=_PATIENCE_SECONDS)
    except AssertionError as error:
        raise PromiseBroken("a final payment was never announced") from error


async def one_result_many_times_at_once(crash_system: CrashSystem, without: str) -> None:
    """While the receiver waits for the row of one payment, the result of another comes many times.

    Each copy is stored, and Postgres never has to reject the second of two changes in a batch.
    """
    system, postgres = crash_system.system, crash_system.system.stack.postgres
    await crash_system.prepare("callbacks")
    await start_armed(system.stack, "callbacks", without=without)
    slow, order = await begin(system, Kind.WITHDRAWAL), await begin(system, Kind.WITHDRAWAL)
    waited_for, item = await held_result(system, slow), await held_result(system, order)
    log_before = postgres.log_text() if isinstance(postgres, PostgresServer) else ""
    async with hold_row(system, slow):
        one = asyncio.create_task(deliver_again(system, waited_for))
        await wait_until(lambda: system.rows(_WAITS_FOR_A_ROW), what="a receiver that waits")
        copies = [asyncio.create_task(deliver_again(system, item)) for _ in range(_COPIES)]
        for _ in range(5):  # the same loop that reads the copies answers these
            async with system.http.get(f"{system.stack.callbacks_url}/healthz") as answer:
                assert answer.status == 200
    statuses = await asyncio.gather(one, *copies)
    require(set(statuses) == {200}, f"answered {statuses}")
    kept = [
        row for row in await system.callbacks(order.payment_id) if row["operation"] == "withdrawal"
    ]
    require(len(kept) == _COPIES, f"{len(kept)} copies are on record")
    if isinstance(postgres, PostgresServer):
        new = postgres.log_text()[len(log_before) :]
        require(_WANTED_BY_TWO not in new, f"two changes of one payment met in a batch:\n{new}")


PROTECTIONS = (
    Protection("claim_stage", "a", "a payment that another worker has sent is sent again",
               between_look_and_claim),
    Protection("claim_brakes", "a", "a payout is sent while payouts are stopped",
               between_look_and_claim),
    Protection("claim_operation", "a", "a payment is sent to an operation that Daraja refuses",
               operation_refused_meanwhile),
    Protection("claim_age", "a", "a payment past its age is sent", between_look_and_claim),
    Protection("attempt_fencing", "b", "an old attempt's answer moves the payment",
               late_answer_of_an_earlier_attempt),
    Protection("intent_commit", "c",
               "no record shows that a payment was sent, and it is sent again",
               killed_before_the_answer),
    Protection("lease", "d", "a payment whose worker died waits for ever",
               killed_before_the_answer),
    Protection("fence_check", "e", "a worker sends after its lease", woken_past_the_deadline),
    Protection("events_swept", "f", "an event is never published", killed_before_publishing),
    Protection("in_doubt", "g", "a payment that Daraja has is sent again",
               killed_before_the_answer),
    Protection("one_change_per_batch", "h", "two changes of a payment collide in Postgres",
               one_result_many_times_at_once),
)  # fmt: skip


def cases(*, with_each_taken_away: bool) -> list[Case]:
    """Each scenario once, and on request once without each of its protections."""
    scenarios = dict.fromkeys(protection.scenario for protection in PROTECTIONS)
    present = [Case(_name(scenario), scenario) for scenario in scenarios]
    if not with_each_taken_away:
        return present
    return present + [Case(f"without {one.check}", one.scenario, one.check) for one in PROTECTIONS]


def _name(scenario: Scenario) -> str:
    return str(getattr(scenario, "__name__", scenario)).replace("_", " ")


async def play_case(crash_system: CrashSystem, case: Case) -> None:
    """One case. The simulator is reset, and holds the result of every payment."""
    await crash_system.system.control("POST", "/reset", {})
    await crash_system.system.control(
        "POST", "/switches", {"time_scale": 0.02, "hold_callbacks": True}
    )
    # The deliverer releases answers to inquiries, and nothing else.
    async with CallbackDeliverer(crash_system.system):
        await case.scenario(crash_system, case.without)
