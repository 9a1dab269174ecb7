"""A payment that may not be claimed now costs the others nothing."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.kinds import Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.submit import Submitter
from domain.stages import Stage
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import Store
from tests.integration.scripted import Bell, Provider
from workers.main import boot_clock


class Counting(Provider):
    """A provider that counts how often it was asked to make ready: each time takes one of the
    shared requests.
    """

    readied_for: list[Kind]

    def readied(self, kind: Kind):  # type: ignore[no-untyped-def]
        self.readied_for.append(kind)
        return super().readied(kind)


async def asked(store: Store, payment_id: UUID) -> list[Kind]:
    """For which kinds the shared limit was asked when a worker looked at the payment."""
    provider = Counting()
    provider.readied_for = []
    submitter = Submitter(
        claims=store.claiming,
        changes=store.changing,
        provider=provider,
        announcer=Announcer(store.sweeping, Bell()),
        times=TIMES,
        accounts=ACCOUNTS,
        clock=boot_clock,
    )
    await submitter.submit(payment_id)
    return provider.readied_for


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
    assert await asked(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
    assert await asked(fresh, await fresh.accepted(Kind.DEPOSIT)) == [Kind.DEPOSIT]


async def test_a_payment_that_a_person_must_look_at_first_is_neither_readied_nor_claimed(
    fresh: Store,
) -> None:
    """Daraja spoke of it although it was never sent, as far as we can prove."""
    payment_id = await fresh.accepted()
    await fresh.execute("UPDATE mkwanja.payments SET needs_review = true WHERE id = $1", payment_id)
    assert await asked(fresh, payment_id) == []
    assert (await fresh.payment(payment_id)).stage is Stage.ACCEPTED
