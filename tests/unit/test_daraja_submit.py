"""The errors of one send: which of them prove that Daraja did not act."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from domain.adapters.daraja.token import Token
from domain.attempts import Outcome
from domain.errors import (
    DeadlinePassed,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    QueueUnavailable,
    Refused,
    Throttled,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.record_answer import fact_of_answer
from tests.builders import a_payment, an_attempt_id, an_open_attempt
from tests.unit.client_parts import ACKNOWLEDGED, INVALID_TOKEN, OfflineClient, Tokens

BILL = a_payment(kind=Kind.BILL_PAYMENT)


async def problem_of(
    client: OfflineClient, open_attempt: OpenAttempt | None = None
) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await client.submit(BILL, open_attempt or an_open_attempt())
    return caught.value


async def test_a_refused_token_is_replaced_and_the_request_is_sent_again() -> None:
    client = OfflineClient(Tokens("one", "two"), INVALID_TOKEN, ACKNOWLEDGED)
    open_attempt = an_open_attempt()
    assert await client.submit(BILL, open_attempt) == {("conversation_id", "AG_1")}
    assert client.sent_with == ["one", "two"]
    assert [exchange.outcome for exchange in open_attempt.exchanges] == [
        "TokenRefused",
        "acknowledged",
    ]


@pytest.mark.parametrize(
    ("later", "error"),
    [
        pytest.param([], ProductRefused, id="no other token"),
        pytest.param(["three"], Unreachable, id="another worker replaced the token"),
        pytest.param([QueueUnavailable()], Unreachable, id="Redis is away"),
    ],
)
async def test_a_second_refusal_refuses_the_operation_if_no_newer_token_is_shared(
    later: list[str | Exception], error: type[ProviderError]
) -> None:
    client = OfflineClient(Tokens("one", "two", *later), INVALID_TOKEN, INVALID_TOKEN)
    assert type(await problem_of(client)) is error
    assert client.sent_with == ["one", "two"]


@pytest.mark.parametrize(("newer", "sent_with"), [((), ["one"]), (("two",), ["one", "two"])])
async def test_a_probe_fetches_no_new_token_but_uses_a_token_that_another_worker_fetched(
    newer: tuple[str, ...], sent_with: list[str]
) -> None:
    client = OfflineClient(Tokens("one", *newer), INVALID_TOKEN, INVALID_TOKEN)
    with pytest.raises(ProductRefused):
        await client.submit(replace(BILL, is_probe=True), an_open_attempt())
    assert client.sent_with == sent_with


async def test_past_the_deadline_the_request_is_not_sent_again() -> None:
    at = [0.0]
    fence = Fence(clock=lambda: at[0], deadline_seconds=30, is_draining=lambda: False)

    class Slow(Tokens):
        async def replace_refused(self, refused: Token) -> Token:
            at[0] = 31
            return await super().replace_refused(refused)

    client = OfflineClient(Slow("one", "two"), INVALID_TOKEN)
    open_attempt = OpenAttempt(attempt_id=an_attempt_id(), fence=fence)
    assert isinstance(await problem_of(client, open_attempt), DeadlinePassed)
    assert client.sent_with == ["one"]


@pytest.mark.parametrize(
    "error", [TimeoutError(), aiohttp.ServerDisconnectedError(), ConnectionResetError()]
)
async def test_an_exchange_that_breaks_off_after_the_first_byte_may_have_acted(
    error: Exception,
) -> None:
    open_attempt = an_open_attempt()
    client = OfflineClient(Tokens("one"), error)
    assert isinstance(await problem_of(client, open_attempt), OutcomeUnknown)
    assert [(exchange.was_written, exchange.outcome) for exchange in open_attempt.exchanges] == [
        (True, "OutcomeUnknown")
    ]


WRONG_CONSUMER_KEY = Refused(Failure(FailureReason.CONFIGURATION, True, "400"))


@pytest.mark.parametrize("sent_with", [[], ["one"]], ids=["no token", "no other token"])
@pytest.mark.parametrize(
    "error",
    [QueueUnavailable(), Unreachable(), OutcomeUnknown(), Throttled(), WRONG_CONSUMER_KEY],
)
async def test_without_a_token_no_payment_fails_or_becomes_in_doubt(
    error: Exception, sent_with: list[str]
) -> None:
    """Daraja got no request with a valid token, so it did not act.

    The test uses a bill payment, because an operator must resolve it if it is in doubt.
    """
    client = OfflineClient(Tokens(*sent_with, error), INVALID_TOKEN)
    problem = await problem_of(client)
    assert fact_of_answer(an_attempt_id(), problem).outcome is Outcome.NOT_ACTED
    assert client.sent_with == sent_with
