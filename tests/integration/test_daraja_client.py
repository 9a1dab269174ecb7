"""The Daraja client against every fault of the simulator: error classes, retries and records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from domain import callback_address
from domain.adapters.daraja.client import DarajaClient
from domain.adapters.daraja.credential import security_credential
from domain.adapters.daraja.wire import daraja_session
from domain.adapters.redis.connection import RedisClient
from domain.adapters.redis.sharing import SharedRate
from domain.attempts import Outcome
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    Unreachable,
)
from domain.failures import FailureReason
from domain.kinds import RULES, Kind
from domain.lifecycle.record_answer import fact_of_answer
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

DEPOSIT, WITHDRAWAL, BILL = Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.BILL_PAYMENT
APIS = {
    DEPOSIT: "stk",
    WITHDRAWAL: "b2c",
    BILL: "b2b",
    Kind.POCHI_PAYMENT: "b2pochi",
}  # the simulator's names


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with daraja_session(connections_max=10) as own:
        yield own


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Simulator]:
    async with Simulator(time_scale=0.02) as own:
        yield own


@pytest.fixture
async def simulator(running: Simulator) -> Simulator:
    """As new."""
    await running.reset(tokens=True)
    return running


@pytest.fixture
def store() -> TokenStore:
    return TokenStore(text=None)


@pytest.fixture
async def client(
    simulator: Simulator, session: aiohttp.ClientSession, store: TokenStore, tmp_path: Path
) -> DarajaClient:
    """A client of the simulator that knows its secrets."""
    simulator.vault.write_certificate(tmp_path / "certificate.pem")
    credential = security_credential(
        simulator.settings["DARAJA_INITIATOR_PASSWORD"], tmp_path / "certificate.pem"
    )
    return client_of(
        session,
        simulator.base_url,
        settings=simulator.settings,
        store=store,
        credential=credential,
        call_seconds=1.5,
    )


@pytest.fixture
def sender(client: DarajaClient, redis: RedisClient) -> DarajaSender:
    turns = Turns(SharedRate(redis, "rate", per_second=1000))
    return DarajaSender(
        client, DarajaAccess(client, Slots(10), turns), turns, draining=asyncio.Event()
    )


# The class of each answer, and its class for a withdrawal. Only of a withdrawal does Daraja refuse
# the id's second use.
UNKNOWN = OutcomeUnknown
FAULTS: dict[str, tuple[type[ProviderError], type[ProviderError]]] = {
    "spike_arrest_apigee": (Throttled, Throttled),
    "spike_arrest_json": (Throttled, Throttled),
    "quota": (Throttled, Throttled),
    "system_busy": (UNKNOWN, Resendable),
    "maintenance": (UNKNOWN, Resendable),
    "invalid_request": (Refused, Refused),
    "our_field_refused": (Refused, Refused),
    "refused_otherwise": (Refused, Refused),
    "html_403": (ProductRefused, ProductRefused),
    **dict.fromkeys(
        (
            *(
                "internal_error_without_acting",
                "internal_error_after_acting",
                "html_503",
                "html_200",
            ),
            *(
                "garbage_200",
                "empty_200",
                "error_envelope_200",
                "redirect_after_acting",
                "redirect_without_acting",
            ),
            *("cut_before_acting", "answer_lost_after_acting", "answer_and_callback_lost"),
        ),
        (UNKNOWN, UNKNOWN),
    ),
}
FAULTS_OF_SOME: list[tuple[str, Kind, type[ProviderError]]] = [
    ("merchant_missing", DEPOSIT, Refused),
    ("wrong_credentials", DEPOSIT, Refused),
    ("subscriber_locked", DEPOSIT, Refused),
    ("duplicate_ocid", WITHDRAWAL, DuplicateSubmission),
    ("gateway_403", WITHDRAWAL, ProductRefused),
    ("gateway_403", BILL, ProductRefused),
    ("system_internal_error", WITHDRAWAL, UNKNOWN),
    ("system_internal_error", BILL, UNKNOWN),
]
EVERY_FAULT = [
    (name, kind, means[RULES[kind].can_be_sent_again])
    for name, means in FAULTS.items()
    for kind in Kind
] + FAULTS_OF_SOME


class TestAnswers:
    """Each behaviour of the simulator, and the error class that it leads to."""

    @pytest.mark.parametrize(
        ("kind", "names"),
        [
            (DEPOSIT, {"checkout_request_id", "merchant_request_id"}),
            (WITHDRAWAL, {"conversation_id", "originator_conversation_id"}),
            (BILL, {"conversation_id", "originator_conversation_id"}),
        ],
    )
    async def test_an_acknowledgement_returns_the_provider_s_ids(
        self, sender: DarajaSender, simulator: Simulator, kind: Kind, names: set[str]
    ) -> None:
        """It is recorded as one exchange."""
        payment, open_attempt = to_submit(kind), an_attempt()
        ids = await sender.submit(payment, open_attempt)
        assert {name for name, _ in ids} == names
        assert open_attempt.fence.is_written
        (exchange,) = open_attempt.exchanges
        assert (exchange.was_written, exchange.http_status, exchange.outcome) == (
            True,
            200,
            "acknowledged",
        )
        await simulator.idle()
        assert [movement.amount for movement in simulator.ledger.movements] == [
            payment.request.amount_kes
        ]

    @pytest.mark.parametrize(("scenario", "kind", "means"), EVERY_FAULT)
    @pytest.mark.sampled(30)
    async def test_every_fault_raises_its_error_class(
        self,
        sender: DarajaSender,
        simulator: Simulator,
        scenario: str,
        kind: Kind,
        means: type[ProviderError],
    ) -> None:
        """The request was written, so it is sent once, and is recorded."""
        simulator.scenario(scenario, api=APIS[kind])
        open_attempt = an_attempt()
        with pytest.raises(ProviderError) as caught:
            await sender.submit(to_submit(kind), open_attempt)
        assert type(caught.value) is means
        assert open_attempt.fence.is_written
        (exchange,) = open_attempt.exchanges
        assert (exchange.was_written, exchange.outcome) == (True, means.__name__)
        assert simulator.traffic.to_json(path="/mpesa/")["count"] == 1

    @pytest.mark.parametrize(
        ("scenario", "reason"),
        [
            ("merchant_missing", FailureReason.CONFIGURATION),
            ("subscriber_locked", FailureReason.SUBSCRIBER_BUSY),
        ],
    )
    async def test_each_refusal_has_its_failure_reason(
        self, sender: DarajaSender, simulator: Simulator, scenario: str, reason: FailureReason
    ) -> None:
        """The failure has Daraja's own code."""
        simulator.scenario(scenario)
        with pytest.raises(Refused) as caught:
            await sender.submit(to_submit(), an_attempt())
        assert (caught.value.failure.reason, caught.value.code) == (reason, "500.001.1001")

    async def test_a_late_answer_is_an_unknown_outcome(
        self, simulator: Simulator, session: aiohttp.ClientSession
    ) -> None:
        """The call had its effect although its answer was late."""
        simulator.scenario("slow", api="stk", params={"seconds": 30})
        client = client_of(
            session,
            simulator.base_url,
            settings=simulator.settings,
            store=TokenStore(None),
            call_seconds=0.3,
        )
        open_attempt = an_attempt()
        with pytest.raises(OutcomeUnknown):
            await client.submit(to_submit(), open_attempt)
        assert open_attempt.fence.is_written


class TestTokens:
    """A refused token proves that nothing happened, also if no other token can be obtained."""

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_a_refused_token_is_renewed_and_the_payment_is_sent_again(
        self, sender: DarajaSender, simulator: Simulator, kind: Kind
    ) -> None:
        """Both exchanges are recorded. Money moves once."""
        simulator.scenario("token_expired", times=1)
        open_attempt = an_attempt()
        await sender.submit(to_submit(kind), open_attempt)
        assert [exchange.outcome for exchange in open_attempt.exchanges] == [
            "TokenRefused",
            "acknowledged",
        ]
        await simulator.idle()
        assert len(simulator.ledger.movements) == 1

    async def test_after_a_second_refused_token_nothing_is_sent_again(
        self, sender: DarajaSender, simulator: Simulator
    ) -> None:
        """The payment becomes accepted again, and its operation is held."""
        simulator.scenario("token_expired", times=5)
        open_attempt = an_attempt()
        with pytest.raises(ProductRefused):
            await sender.submit(to_submit(), open_attempt)
        assert len(open_attempt.exchanges) == 2

    @pytest.mark.parametrize(
        "fault",
        [
            "html_200",
            "html_503",
            "garbage_200",
            "internal_error_without_acting",
            "cut_before_acting",
            "redis",
        ],
    )
    async def test_if_no_other_token_can_be_obtained_the_payment_is_unsent(
        self, sender: DarajaSender, simulator: Simulator, store: TokenStore, fault: str
    ) -> None:
        """Daraja refused the token before it acted. A doubt would only cost an operator time."""
        await sender.submit(to_submit(), an_attempt())
        simulator.scenario("token_expired", api="b2b", times=10)
        if fault == "redis":
            store.is_away = True
        else:
            simulator.scenario(fault, api="oauth")
        open_attempt = an_attempt()
        with pytest.raises(ProviderError) as caught:
            await sender.submit(to_submit(BILL), open_attempt)
        outcome = fact_of_answer(open_attempt.attempt_id, caught.value).outcome
        assert outcome is Outcome.NOT_ACTED, repr(caught.value)


class TestTheRecord:
    """Every exchange is recorded, without secrets and phone numbers."""

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize("scenario", [None, "token_expired"])
    async def test_no_secret_and_no_phone_number_is_on_record(
        self,
        sender: DarajaSender,
        simulator: Simulator,
        store: TokenStore,
        kind: Kind,
        scenario: str | None,
    ) -> None:
        """All of them were sent, and Daraja echoes some."""
        if scenario:
            simulator.scenario(scenario, times=1)
        payment, open_attempt = to_submit(kind), an_attempt()
        await sender.submit(payment, open_attempt)
        sent = json.loads(simulator.traffic.arrivals[-1].raw)
        kept = json.dumps(
            [(exchange.request, exchange.answer) for exchange in open_attempt.exchanges]
        )
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


async def stop_listening(simulator: Simulator) -> None:
    """Close the listener, and wait until our side has noticed that its connections are gone."""
    simulator.close_listener()
    await asyncio.sleep(0.1)


class TestRefusedConnections:
    """If no connection was made, no money moved. The send is tried again until the deadline."""

    async def test_a_refused_connection_is_tried_again_until_it_is_accepted(
        self, sender: DarajaSender, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing was written, so nothing can have happened. Each try is recorded."""
        await sender.submit(to_submit(), an_attempt())  # fetches a token
        await stop_listening(simulator)
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)
            await simulator.open_listener()

        monkeypatch.setattr(sender, "_sleep", wait)
        open_attempt = an_attempt()
        await sender.submit(to_submit(WITHDRAWAL), open_attempt)
        meanings = [(exchange.was_written, exchange.outcome) for exchange in open_attempt.exchanges]
        assert meanings == [(False, "Unreachable"), (True, "acknowledged")]
        assert len(waits) == 1

    async def test_if_no_connection_is_ever_accepted_the_payment_is_unsent(
        self, sender: DarajaSender, simulator: Simulator
    ) -> None:
        """After a few tries."""
        await sender.submit(to_submit(), an_attempt())
        await stop_listening(simulator)
        open_attempt = an_attempt()
        with pytest.raises(Unreachable):
            await sender.submit(to_submit(), open_attempt)
        assert not open_attempt.fence.is_written
        assert {exchange.was_written for exchange in open_attempt.exchanges} == {False}
        assert 1 < len(open_attempt.exchanges) <= 5

    async def test_no_try_begins_past_the_deadline(
        self, sender: DarajaSender, simulator: Simulator
    ) -> None:
        """Retries pass the same fence."""
        await sender.submit(to_submit(), an_attempt())
        await stop_listening(simulator)
        open_attempt = an_attempt(clock=frozen_after(3))
        with pytest.raises(Unreachable):
            await sender.submit(to_submit(), open_attempt)
        assert [exchange.outcome for exchange in open_attempt.exchanges] == [
            "Unreachable",
            "DeadlinePassed",
        ]
