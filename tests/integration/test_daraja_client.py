"""The Daraja client against the simulator: its records, and its retries if it cannot connect.

`test_daraja_answers.py` tests the class of each answer. `tests/spec` shows what each fault of the
simulator does to a payment.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain import callback_address
from domain.adapters.daraja.credential import security_credential
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.sharing import SharedRate
from domain.errors import Unreachable
from domain.kinds import RULES, Kind
from tests.integration.daraja import (
    CALLBACK_SECRET,
    TokenStore,
    an_attempt,
    client_of,
    frozen_after,
    to_submit,
)
from tests.simulator.app import Simulator
from workers.daraja_access import DarajaAccess, Slots, Turns
from workers.daraja_sender import DarajaSender


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Simulator]:
    async with Simulator(time_scale=0.02) as own:
        yield own


@pytest.fixture
async def simulator(running: Simulator) -> Simulator:
    """The simulator, reset to the state of a new one."""
    await running.reset(tokens=True)
    return running


@pytest.fixture
def store() -> TokenStore:
    return TokenStore(text=None)


@pytest.fixture
async def sender(
    simulator: Simulator,
    session: DarajaSession,
    store: TokenStore,
    redis: RedisClient,
    tmp_path: Path,
) -> DarajaSender:
    """A sender that knows the simulator's secrets."""
    simulator.vault.write_certificate(tmp_path / "certificate.pem")
    credential = security_credential(
        simulator.settings["DARAJA_INITIATOR_PASSWORD"], tmp_path / "certificate.pem"
    )
    client = client_of(
        session,
        simulator.base_url,
        settings=simulator.settings,
        store=store,
        credential=credential,
        call_seconds=1.5,
    )
    turns = Turns(SharedRate(redis, "rate", per_second=1000))
    access = DarajaAccess(client, Slots(10), turns)
    return DarajaSender(client, access, turns, draining=asyncio.Event())


@pytest.mark.parametrize("kind", list(Kind))
async def test_no_secret_and_no_phone_number_is_on_record(
    sender: DarajaSender, simulator: Simulator, store: TokenStore, kind: Kind
) -> None:
    """The sender sends all these secrets, and the simulator echoes some of them.

    The simulator refuses the first token.
    """
    simulator.scenario("token_expired", times=1)
    payment, open_attempt = to_submit(kind), an_attempt()
    await sender.submit(payment, open_attempt)
    assert [exchange.outcome for exchange in open_attempt.exchanges] == [
        "TokenRefused",
        "acknowledged",
    ]
    await simulator.idle()
    assert len(simulator.ledger.movements) == 1
    sent = json.loads(simulator.traffic.arrivals[-1].raw)
    kept = json.dumps([(exchange.request, exchange.answer) for exchange in open_attempt.exchanges])
    operation = RULES[kind].result_operation
    secrets = [
        *(sent[name] for name in ("Password", "SecurityCredential") if name in sent),
        callback_address.make_token(CALLBACK_SECRET, str(payment.id), operation),
        json.loads(store.text or "")["text"],
    ]
    if payment.request.phone_number:
        secrets.append(payment.request.phone_number)
    assert [secret for secret in secrets if secret in kept] == []
    assert operation in kept
    for name in ("Amount", "PartyA", "CommandID"):
        assert (name in sent) is (name in open_attempt.exchanges[0].request)


class TestRefusedConnections:
    """If no connection was made, no money moved. The sender tries again before the deadline."""

    @pytest.fixture(autouse=True)
    async def _no_listener(self, sender: DarajaSender, simulator: Simulator) -> None:
        """Send once, so that the sender has a token. Then close the simulator's listener."""
        await sender.submit(to_submit(), an_attempt())
        simulator.close_listener()
        await asyncio.sleep(0.1)

    async def test_a_refused_connection_is_tried_again_until_it_is_accepted(
        self, sender: DarajaSender, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing was written, so Daraja cannot have acted. Each try is recorded."""
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)
            await simulator.open_listener()

        monkeypatch.setattr(sender, "_sleep", wait)
        open_attempt = an_attempt()
        await sender.submit(to_submit(Kind.WITHDRAWAL), open_attempt)
        outcomes = [(exchange.was_written, exchange.outcome) for exchange in open_attempt.exchanges]
        assert outcomes == [(False, "Unreachable"), (True, "acknowledged")]
        assert len(waits) == 1

    async def test_if_no_connection_is_ever_accepted_the_payment_is_unsent(
        self, sender: DarajaSender
    ) -> None:
        """The sender gives up after a few tries."""
        open_attempt = an_attempt()
        with pytest.raises(Unreachable):
            await sender.submit(to_submit(), open_attempt)
        assert not open_attempt.fence.is_written
        assert {exchange.was_written for exchange in open_attempt.exchanges} == {False}
        assert 1 < len(open_attempt.exchanges) <= 5

    async def test_no_try_begins_past_the_deadline(self, sender: DarajaSender) -> None:
        """Each retry must pass the fence of its attempt."""
        open_attempt = an_attempt(clock=frozen_after(3))
        with pytest.raises(Unreachable):
            await sender.submit(to_submit(), open_attempt)
        assert [exchange.outcome for exchange in open_attempt.exchanges] == [
            "Unreachable",
            "DeadlinePassed",
        ]
