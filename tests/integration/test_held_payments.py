"""A payment that may not be claimed now costs the others nothing."""

from __future__ import annotations

import pytest

from domain.kinds import Kind
from domain.stages import Stage
from tests.integration.conftest import Store
from tests.integration.scripted import charge_limit


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.BILL_PAYMENT])
async def test_stopped_payouts_take_no_request_from_the_shared_limit(
    fresh: Store, kind: Kind
) -> None:
    """Thousands may wait behind a brake, each looked at every few seconds: deposits must not pay
    for that.
    """
    await fresh.execute(
        "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'test' WHERE name = 'kill_switch'"
    )
    payment_id = await fresh.accepted(kind)
    assert await charge_limit(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
    assert await charge_limit(fresh, await fresh.accepted(Kind.DEPOSIT)) == [Kind.DEPOSIT]


async def test_a_payment_that_a_person_must_look_at_first_is_neither_readied_nor_claimed(
    fresh: Store,
) -> None:
    """Daraja spoke of it although it was never sent, as far as we can prove."""
    payment_id = await fresh.accepted()
    await fresh.execute("UPDATE mkwanja.payments SET needs_review = true WHERE id = $1", payment_id)
    assert await charge_limit(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
