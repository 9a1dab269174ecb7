"""`ask`, `resolve` and `requeue`: what an operator decides about one payment."""

from __future__ import annotations

import argparse
from uuid import UUID

from domain.adapters.postgres.changing import PostgresChangingStore
from domain.adapters.postgres.storytelling import StoryReader, mask_payment
from domain.adapters.redis.connection import connect
from domain.adapters.redis.faults import explain_error
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.common import RedisSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import OperatorSettings
from domain.errors import InvalidRequest, QueueUnavailable
from domain.lifecycle.requeue import requeue_change
from domain.lifecycle.resolve import (
    OperatorDecision,
    Resolution,
    inquiry_request_change,
    resolution_change,
)
from domain.stages import Step
from domain.story import describe_due_step, describe_holds
from domain.times import DEFAULT_TIMES, Times
from workers.commands import arguments as given
from workers.commands.command import DONE, Call, Command, WrongInput
from workers.commands.payments import payment_view


def _add_ask(parser: argparse.ArgumentParser) -> None:
    given.add_payment(parser)
    given.add_reason(parser)
    given.add_operator(parser)
    given.add_json(parser)


async def _ask(call: Call) -> int:
    arguments = call.arguments
    brakes = await _read_brakes(call)
    result = await PostgresChangingStore(call.database).change(
        inquiry_request_change(
            arguments.payment_id,
            reason=arguments.reason,
            operator=given.operator_name(arguments),
        )
    )
    payment = result.decided.payment
    assert payment is not None  # noqa: S101 - `change` raises if there is no such payment
    holds = describe_holds(payment, brakes)
    call.output.print_result(
        f"an inquiry is due now. {describe_due_step(payment, brakes)} Its answer counts like any"
        " other",
        {"payment_id": str(payment.id), "inquiry": "due", "is_held": bool(holds)},
    )
    return DONE


def _add_resolve(parser: argparse.ArgumentParser) -> None:
    given.add_payment(parser)
    parser.add_argument("decision", choices=[decision.value for decision in OperatorDecision])
    given.add_reason(parser, "what you saw, and where")
    parser.add_argument(
        "--receipt", type=given.receipt, help="M-PESA's receipt number; needed for 'paid'"
    )
    parser.add_argument(
        "--amount",
        type=given.amount,
        help="for 'paid': the amount on the statement, if it is not the payment's own",
    )
    given.add_operator(parser)
    given.add_json(parser)


async def _resolve(call: Call) -> int:
    arguments = call.arguments
    resolution = Resolution(
        decision=OperatorDecision(arguments.decision),
        reason=arguments.reason,
        operator=given.operator_name(arguments),
        receipt=arguments.receipt,
        amount_kes=arguments.amount,
    )
    try:
        change = resolution_change(arguments.payment_id, resolution, _times())
    except InvalidRequest as error:
        faults = "; ".join(f"--{fault.pointer} {fault.detail}" for fault in error.errors)
        raise WrongInput(faults) from None
    result = await PostgresChangingStore(call.database).change(change)
    payment = result.decided.payment
    assert payment is not None  # noqa: S101 - `change` raises if there is no such payment
    settled = f" with KES {payment.amount_settled_kes}" if payment.amount_settled_kes else ""
    call.output.print_result(
        f"{payment.kind} {payment.id}: {payment.stage}{settled}, no longer flagged for review",
        {"payment": payment_view(mask_payment(payment))},
    )
    return DONE


def _times() -> Times:
    """The worker's times, or the default times if a setting in the environment is not valid.

    `resolve` must work even if the worker's settings are wrong.
    """
    try:
        return read_settings(OperatorSettings).decision_times
    except SettingsError:
        return DEFAULT_TIMES


async def _read_brakes(call: Call) -> frozenset[str]:
    """The names of the engaged brakes. They are read before the change, which is then certain."""
    record = await StoryReader(call.database).read(call.arguments.payment_id)
    return frozenset() if record is None else record.brakes


async def _requeue(call: Call) -> int:
    arguments = call.arguments
    brakes = await _read_brakes(call)
    result = await PostgresChangingStore(call.database).change(
        requeue_change(
            arguments.payment_id,
            reason=arguments.reason,
            operator=given.operator_name(arguments),
        )
    )
    payment = result.decided.payment
    assert payment is not None  # noqa: S101 - `change` raises if there is no such payment
    step = payment.next_step
    # Only a send needs a job at once. The sweeper hands over an inquiry, because it charges the
    # budget of inquiries first.
    is_woken, wake_up = False, ""
    if step is Step.SUBMIT:
        is_woken, wake_up = await _wake_worker(payment.id)
    holds = describe_holds(payment, brakes)
    when = describe_due_step(payment, brakes) if holds or not wake_up else wake_up
    call.output.print_result(
        f"{payment.kind} {payment.id}: the step {step} is due now. {when}",
        {
            "payment_id": str(payment.id),
            "stage": payment.stage.value,
            "step": None if step is None else step.value,
            "is_worker_woken": is_woken,
            "is_held": bool(holds),
        },
    )
    return DONE


async def _wake_worker(payment_id: UUID) -> tuple[bool, str]:
    """Queues a job if Redis is configured here. Returns whether it did, and a text about it."""
    try:
        settings = read_settings(RedisSettings)
    except SettingsError:
        return False, "REDIS_URL is not set here, or not valid. A sweeper finds it within seconds."
    redis = connect(
        settings.redis_url,
        client_name="mkwanja-operator",
        ca_file=settings.redis_ca_file,
        verify=settings.redis_tls_verify,
    )
    try:
        await RedisWakeups(redis).wake_new([payment_id])
    except QueueUnavailable as error:
        problem = explain_error(error).problem
        return False, f"No worker is woken, because {problem}. A sweeper finds it within seconds."
    finally:
        await redis.aclose()
    return True, "A worker is woken."


ASK = Command("ask", "inquire about a payment once more, even if it is final", _add_ask, _ask)
RESOLVE = Command("resolve", "settle a payment by M-PESA's own statement", _add_resolve, _resolve)
REQUEUE = Command(
    "requeue",
    "give a payment its next step now; the usual checks still decide what happens",
    _add_ask,
    _requeue,
)
