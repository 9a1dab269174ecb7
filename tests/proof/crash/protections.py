"""The protections, each with a scenario that passes with the protection and fails without it.

A scenario raises `PromiseBroken` only if the promise is broken. The scenario's second argument
names the protection that its processes run without. If it is "", they run with all protections.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.proof.crash.judging import count_received_sends
from tests.proof.crash.ordering import PaymentOrder, place_order
from tests.proof.crash.running import CrashSystem
from tests.proof.crash.table import Kind
from tests.proof.failpoints.starting import reached, start_armed
from tests.spec import operating
from tests.spec.delivering import deliver
from tests.spec.feed_reader import open_transaction, wait_for_blocked
from tests.spec.system import System
from tests.stack.processes import Process
from tests.stack.servers import PostgresServer

# An armed worker sweeps only once, at its start. Another worker makes all later changes.
_RARELY: dict[str, str | None] = {"SWEEP_INTERVAL_SECONDS": "60"}

# If a promise is broken, an expected change may never come. A scenario waits this long for it.
_PATIENCE_SECONDS = 30.0

_COPIES = 40

# The stages of a payment that Daraja has. The simulator holds the result, but an inquiry may
# already have ended the payment.
_ASKED = ("awaiting_result", "succeeded")

_WANTED_BY_TWO = "duplicate key value"
_LOCK = "SELECT id FROM mkwanja.payments WHERE id = '{}' FOR UPDATE"


class PromiseBroken(AssertionError):
    """A promise was broken because its protection is missing."""


Scenario = Callable[[CrashSystem, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Protection:
    """A protection. `check` is its name in `tests/proof/failpoints/points.py`.

    `sentence` says what happens without the protection.
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


def require(is_met: object, reason: str) -> None:
    if not is_met:
        raise PromiseBroken(reason)


async def require_sends(system: System, order: PaymentOrder, count: int, reason: str) -> None:
    require(await count_received_sends(system, order) == count, reason)


async def begin(
    crash_system: CrashSystem, kind: Kind, scenario: str = "approve", **params: Any
) -> PaymentOrder:
    """Ask for a payment that meets `scenario`."""
    order = await place_order(crash_system.system, kind, scenario, **params)
    await crash_system.clients.ask(order)
    return order


async def finish_after_thaw(crash_system: CrashSystem, worker: Process) -> None:
    """Thaw the only worker, let it try the claims that it was about to make, and end it."""
    system = crash_system.system
    worker.thaw()
    # When the worker claims this deposit, it is done with the earlier claims.
    later = await begin(crash_system, Kind.DEPOSIT)
    await system.wait_for_stage(later.payment_id, *_ASKED)
    # A worker that ends undoes its claims of payments that it has not sent.
    sending = "SELECT id FROM mkwanja.payments WHERE stage = 'submitting'"
    await system.eventually(lambda: system.rows(sending), lambda rows: not rows, "no send")
    await worker.terminate()


async def held_result(system: System, order: PaymentOrder) -> Any:
    """Wait until the simulator holds the payment's result, and return the result."""

    async def held() -> list[Any]:
        items = (await system.control("GET", "/callbacks"))["held"]
        return [item for item in items if order.payment_id in item["url"]]

    return (await system.eventually(held, awaited="its result"))[0]


async def wait_for_first_outcome(system: System, order: PaymentOrder) -> None:
    """Wait until the worker of the payment's first attempt has recorded its outcome."""
    outcomes = "SELECT outcome FROM mkwanja.attempts WHERE payment_id = $1::uuid ORDER BY number"
    await system.eventually(
        lambda: system.rows(outcomes, order.payment_id),
        lambda rows: rows[0]["outcome"] not in (None, "unknown"),
        "the outcome of the first attempt",
    )


async def require_soon(system: System, look: Callable[[], Any], reason: str) -> None:
    try:
        await system.eventually(look, awaited=reason, patience_seconds=_PATIENCE_SECONDS)
    except AssertionError as error:
        raise PromiseBroken(reason) from error


# --- scenarios ------------------------------------------------------------------------------------


async def between_look_and_claim(crash_system: CrashSystem, without: str) -> None:
    """A worker is frozen just before it claims three payments, and claims none after its thaw.

    Meanwhile another worker sends the first payment, payouts are stopped, and the third payment
    becomes too old.
    """
    system, place = crash_system.system, "readied_before_claim:freeze:3:together"
    await crash_system.prepare("worker")
    worker = await start_armed(system.stack, "worker", place, without=without, env=_RARELY)
    kinds = (Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.DEPOSIT)
    sent, stopped, old = [await begin(crash_system, kind) for kind in kinds]
    await reached(worker, place)
    await operating.stop(system)
    age = "UPDATE mkwanja.payments SET expires_at = now(), next_step_at = now() + interval '1 hour'"
    await system.execute(f"{age} WHERE id = $1::uuid", old.payment_id)
    await system.stack.start_process("worker.2")
    await system.wait_for_stage(sent.payment_id, *_ASKED)
    await system.stack.process("worker.2").kill()
    await finish_after_thaw(crash_system, worker)
    await require_sends(system, sent, 1, "a payment that another worker had sent was sent again")
    await require_sends(system, stopped, 0, "a payout was sent while payouts were stopped")
    await require_sends(system, old, 0, "a payment was sent that had waited too long")
    await operating.start(system)


async def operation_refused_meanwhile(crash_system: CrashSystem, without: str) -> None:
    """A worker is frozen just before it claims a withdrawal, and does not claim it after its thaw.

    Meanwhile another worker learns that Daraja refuses withdrawals to our app. Deposits go on.
    """
    system, place = crash_system.system, "readied_before_claim:freeze"
    await crash_system.prepare("worker")
    worker = await start_armed(system.stack, "worker", place, without=without, env=_RARELY)
    waiting = await begin(crash_system, Kind.WITHDRAWAL)
    await reached(worker, place)
    await system.control("POST", "/switches", {"missing_products": ["b2c"]})
    await system.stack.start_process("worker.2")
    refused = await begin(crash_system, Kind.WITHDRAWAL)
    await system.wait_until_engaged("b2c")
    await system.stack.process("worker.2").kill()  # otherwise it probes the operation
    await system.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() + interval '1 hour' WHERE name = 'b2c'"
    )
    sent_before = await count_received_sends(system, waiting)
    await finish_after_thaw(crash_system, worker)
    await require_sends(
        system, waiting, sent_before, "a payment was sent to an operation that Daraja refuses"
    )
    require(
        (await system.stored(refused.payment_id))["stage"] == "accepted",
        "the payment that Daraja refused did not stay accepted",
    )
    await system.release_brakes()


async def killed_before_the_answer(crash_system: CrashSystem, without: str) -> None:
    """A worker is killed while Daraja has two of its payments. Neither payment is sent again.

    The withdrawal is inquired about and found paid. No inquiry can find the bill payment, so it is
    flagged for a person.
    """
    system, place = crash_system.system, "sent_before_answer:tell:2:together"
    await crash_system.prepare("worker")
    worker = await start_armed(system.stack, "worker", place, without=without)
    withdrawal, bill = [
        await begin(crash_system, kind, "slow", seconds=15, times=1)
        for kind in (Kind.WITHDRAWAL, Kind.BILL_PAYMENT)
    ]
    await reached(worker, place)
    for order in (withdrawal, bill):
        await system.eventually(partial(count_received_sends, system, order))
    await worker.kill()
    await start_armed(system.stack, "worker", without=without)

    async def is_over() -> bool:
        sends = [await count_received_sends(system, order) for order in (withdrawal, bill)]
        is_paid = (await system.stored(withdrawal.payment_id))["stage"] == "succeeded"
        is_flagged = (await system.stored(bill.payment_id))["needs_review"]
        return max(sends) > 1 or (is_paid and is_flagged)

    await require_soon(system, is_over, "the payments never end")
    await require_sends(system, withdrawal, 1, "a withdrawal that Daraja had was sent again")
    await require_sends(system, bill, 1, "a bill payment that Daraja had was sent again")


async def late_answer_of_an_earlier_attempt(crash_system: CrashSystem, without: str) -> None:
    """A frozen worker wakes up after another worker has sent the same withdrawal.

    The first worker records the outcome of its own attempt. The payment stays with the newer
    attempt.
    """
    system = crash_system.system
    place, later_place = "claimed_before_call:freeze", "answered_before_commit:freeze"
    await crash_system.prepare("worker")
    first = await start_armed(system.stack, "worker", place, without=without, env=_RARELY)
    order = await begin(crash_system, Kind.WITHDRAWAL)
    await reached(first, place)
    second = await start_armed(system.stack, "worker.2", later_place)
    await reached(second, later_place)
    first.thaw()
    await wait_for_first_outcome(system, order)
    require(
        (await system.stored(order.payment_id))["stage"] == "submitting",
        "an earlier attempt's answer moved a payment that is being sent",
    )
    second.thaw()
    await system.wait_for_stage(order.payment_id, *_ASKED)


async def woken_past_the_deadline(crash_system: CrashSystem, without: str) -> None:
    """A worker wakes up long after its deposit failed. It sends nothing."""
    system, place = crash_system.system, "claimed_before_call:freeze"
    await crash_system.prepare("worker")
    worker = await start_armed(system.stack, "worker", place, without=without, env=_RARELY)
    order = await begin(crash_system, Kind.DEPOSIT)
    await reached(worker, place)
    await system.stack.start_process("worker.2")
    await system.wait_for_stage(order.payment_id, "failed")
    worker.thaw()
    await wait_for_first_outcome(system, order)
    await require_sends(
        system, order, 0, "a prompt was sent for a deposit that was announced as failed"
    )


async def killed_before_publishing(crash_system: CrashSystem, without: str) -> None:
    """The receiver is killed after the final commit, before it publishes. The sweeper publishes."""
    system, place = crash_system.system, "finalized_before_publish:kill"
    await crash_system.prepare("worker", "callbacks")
    # The worker sends no inquiry in this time, so the callback ends the payment.
    unasked: dict[str, str | None] = {"INQUIRY_FIRST_AFTER_SECONDS": "600"}
    await start_armed(system.stack, "worker", without=without, env=unasked)
    receiver = await start_armed(system.stack, "callbacks", place)
    order = await begin(crash_system, Kind.DEPOSIT)
    await held_result(system, order)
    await system.control("POST", "/callbacks/release", {"url_contains": order.payment_id})
    await reached(receiver, place)
    await system.stack.start_process("callbacks")

    def is_received() -> bool:
        bodies = [json.loads(event.body) for event in crash_system.listener.received_events]
        return any(event["subject"] == order.payment_id for event in bodies)

    await require_soon(system, is_received, "a final payment was never announced")


async def one_result_many_times_at_once(crash_system: CrashSystem, without: str) -> None:
    """A result comes many times while the receiver waits for the rows of two other payments.

    Each copy is stored. No batch contains two changes of the payment, because PostgreSQL would
    reject such a batch.
    """
    system, postgres = crash_system.system, crash_system.system.stack.postgres
    assert isinstance(postgres, PostgresServer)
    await crash_system.prepare("callbacks")
    await start_armed(system.stack, "callbacks", without=without)
    *slow, order = [await begin(crash_system, Kind.WITHDRAWAL) for _ in range(3)]
    item = await held_result(system, order)
    log_before = postgres.log_text()
    others = []
    async with AsyncExitStack() as holders:
        # At most two batches run at once, so the copies wait for the next one.
        for other in slow:
            lock = open_transaction(system, _LOCK.format(other.payment_id))
            holder = await holders.enter_async_context(lock)
            result = await held_result(system, other)
            others.append(asyncio.create_task(deliver(system, result["url"], result["body"])))
            await wait_for_blocked(system, holder)
        copies = [
            asyncio.create_task(deliver(system, item["url"], item["body"])) for _ in range(_COPIES)
        ]
        # When the receiver has answered these requests, it has also read the copies.
        for _ in range(5):
            async with system.http.get(f"{system.stack.callbacks_url}/healthz") as answer:
                assert answer.status == 200
    statuses = [answer.status for answer in await asyncio.gather(*others, *copies)]
    require(set(statuses) == {200}, f"the receiver answered {statuses}")
    kept = [
        row for row in await system.callbacks(order.payment_id) if row["operation"] == "withdrawal"
    ]
    require(len(kept) == _COPIES, f"{len(kept)} copies are on record, not {_COPIES}")
    new = postgres.log_text().removeprefix(log_before)
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
               "no record shows that a payment was sent, so the payment is sent again",
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
    """Each scenario with all protections and, if asked for, without each of its protections."""
    scenarios = dict.fromkeys(protection.scenario for protection in PROTECTIONS)
    present = [Case(scenario_name(scenario), scenario) for scenario in scenarios]
    without = [Case(f"without {one.check}", one.scenario, one.check) for one in PROTECTIONS]
    return present + without if with_each_taken_away else present


def scenario_name(scenario: Scenario) -> str:
    return str(getattr(scenario, "__name__", scenario)).replace("_", " ")
