"""What people do during a life: callers cancel, operators stop payouts and resolve payments."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from domain.changes import Change, ChangeResult
from domain.errors import PaymentServiceError, ResolutionRefused
from domain.lifecycle.accept import cancel as cancel_payment
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from tests.builders import AMOUNT_KES, PAYMENT_ID, a_caller
from tests.proof.interleavings.record import LawBroken, instant

if TYPE_CHECKING:
    from tests.proof.interleavings.world import World

_CALLER = a_caller()


class _Store:
    """The record, as the store that `cancel_payment` needs. Its coroutine never waits."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def change(self, change: Change) -> ChangeResult:
        return ChangeResult(self._world.record.change(change, instant(self._world.now)), None)


def cancel(world: World) -> None:
    """The caller cancels the payment, if it is proved unsent."""
    world.note("cancel")
    with suppress(StopIteration, PaymentServiceError):
        cancel_payment(_Store(world), PAYMENT_ID, caller=_CALLER).send(None)
    world.announce()


def stop_payouts(world: World, is_engaged: bool) -> None:
    """Engage or release the kill switch."""
    world.record.brakes.kill_switch = is_engaged
    world.look_again()


def switch_product(world: World, name: Literal["send", "inquiry"], is_missing: bool) -> None:
    """Safaricom removes a product from our app, or restores it."""
    world.note(f"{name} product {'missing' if is_missing else 'there'}")
    setattr(world.daraja, f"lacks_{name}_product", is_missing)


def move_breaker_of_another_payment(world: World, is_open: bool) -> None:
    """The result of another payment opens the breaker, or shows that our credential works again."""
    brakes = world.record.brakes
    if is_open:
        brakes.open(instant(world.now), is_ours=False)
    elif not brakes.breaker_is_ours:
        brakes.breaker_since = None
    world.look_again()


def operate(world: World) -> None:
    """An operator looks at the payment, and may decide by M-PESA's statement.

    The operator decides "unpaid" only if no money can move any more.
    """
    payment = world.record.payment
    if not payment.needs_review and world.random() < 0.5:
        return
    if payment.needs_review and world.random() < 0.3:
        _resolve(world, _REVIEWED)
    elif world.daraja.ledger:
        _resolve(world, _paid(world.daraja.ledger[0]))
    elif world.can_no_longer_move:
        _resolve(world, _UNPAID)


def settle(world: World) -> None:
    """A person ends an open payment by M-PESA's statement."""
    ledger, stage = world.daraja.ledger, world.record.payment.stage
    if not _resolve(world, _paid(ledger[0]) if ledger else _UNPAID) and ledger:
        raise LawBroken(f"{stage}: the decision of an operator who has the receipt is refused")


_REVIEWED, _UNPAID, _PAID = (
    Resolution(decision=decision, reason="by the statement", operator="test")
    for decision in (OperatorDecision.REVIEWED, OperatorDecision.UNPAID, OperatorDecision.PAID)
)


def _paid(receipt: str) -> Resolution:
    return replace(_PAID, receipt=receipt, amount_kes=AMOUNT_KES)


def _resolve(world: World, resolved: Resolution) -> bool:
    change = resolution_change(PAYMENT_ID, resolved, world.times.worker)
    try:
        world.commit(f"resolve {resolved.decision.value}", change, world.now)
    except ResolutionRefused:
        return False
    return True
