"""One send and its token: which errors prove that Daraja did not act, and which do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from domain.adapters.daraja.token import Token, TokenSource
from domain.attempts import Outcome
from domain.errors import (
    DeadlinePassed,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    QueueUnavailable,
    Throttled,
    Unreachable,
)
from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.lifecycle.record_answer import fact_of_answer
from tests.builders import a_payment, an_attempt_id, an_open_attempt
from tests.unit.client_parts import OfflineClient, Tokens

ACKNOWLEDGED = 200, json.dumps({"ResponseCode": "0", "ConversationID": "AG_1"}).encode()
INVALID_TOKEN = (
    401,
    json.dumps({"errorCode": "401.002.01", "errorMessage": "Invalid Access Token"}).encode(),
)
BILL = a_payment(kind=Kind.BILL_PAYMENT)


class Client(OfflineClient):
    """A client for sends, which always have a fence. It fails only after the first byte."""

    async def _post(
        self, api: Any, body: Any, fence: Fence | None, token: Token
    ) -> tuple[int, bytes]:
        assert fence is not None
        return await super()._post(api, body, fence, token)


async def problem_of(client: Client, open_attempt: OpenAttempt | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await client.submit(BILL, open_attempt or an_open_attempt())
    return caught.value


async def test_submit_returns_the_ids_of_the_acknowledgement() -> None:
    assert await Client(Tokens("one"), ACKNOWLEDGED).submit(BILL, an_open_attempt()) == {
        ("conversation_id", "AG_1")
    }


async def test_a_refused_token_is_replaced_and_the_request_is_sent_again() -> None:
    client = Client(Tokens("one", "two"), INVALID_TOKEN, ACKNOWLEDGED)
    open_attempt = an_open_attempt()
    await client.submit(BILL, open_attempt)
    assert client.sent_with == ["one", "two"]
    assert [exchange.outcome for exchange in open_attempt.exchanges] == [
        "TokenRefused",
        "acknowledged",
    ]


async def test_a_second_refusal_of_the_token_refuses_the_operation() -> None:
    client = Client(Tokens("one", "two"), INVALID_TOKEN, INVALID_TOKEN)
    assert isinstance(await problem_of(client), ProductRefused)
    assert client.sent_with == ["one", "two"]


async def test_a_new_token_that_another_worker_replaced_proves_nothing_about_the_operation() -> (
    None
):
    client = Client(Tokens("one", "two", "three"), INVALID_TOKEN, INVALID_TOKEN)
    assert type(await problem_of(client)) is Unreachable
    assert client.sent_with == ["one", "two"]


async def test_without_redis_a_second_refusal_proves_nothing_about_the_operation() -> None:
    client = Client(Tokens("one", "two", QueueUnavailable()), INVALID_TOKEN, INVALID_TOKEN)
    assert type(await problem_of(client)) is Unreachable


@pytest.mark.parametrize(("newer", "sent_with"), [((), ["one"]), (("two",), ["one", "two"])])
async def test_a_probe_fetches_no_token_and_uses_one_that_others_fetched(
    newer: tuple[str, ...], sent_with: list[str]
) -> None:
    client = Client(Tokens("one", *newer), INVALID_TOKEN, INVALID_TOKEN)
    with pytest.raises(ProductRefused):
        await client.submit(replace(BILL, is_probe=True), an_open_attempt())
    assert client.sent_with == sent_with


class SharedTokens(Tokens):
    """A token of all workers. If it is refused, they get a second one. There is no third."""

    async def get_current(self) -> Token:
        return Token("one", 0, 3600)

    async def replace_refused(self, _refused: Token) -> Token:
        return Token("two", 1, 3600)

    async def find_newer(self, _used: Token) -> Token | None:
        return None


class Parallel(Client):
    """A client whose requests are at Daraja at the same time. The token decides the answer."""

    def __init__(self, *, has_product: bool) -> None:
        super().__init__(SharedTokens())
        self._has_product = has_product

    async def _post(
        self, _api: Any, _body: Any, fence: Fence | None, token: Token
    ) -> tuple[int, bytes]:
        assert fence is not None
        fence.pass_first_byte()
        self.sent_with.append(token.text)
        await asyncio.sleep(0)
        return ACKNOWLEDGED if self._has_product and token.text == "two" else INVALID_TOKEN


@pytest.mark.parametrize(("has_product", "resent"), [(False, 1), (True, 10)])
async def test_one_of_many_refused_requests_tries_the_new_token_first(
    has_product: bool, resent: int
) -> None:
    client = Parallel(has_product=has_product)
    results = await asyncio.gather(
        *(client.submit(BILL, an_open_attempt()) for _ in range(10)), return_exceptions=True
    )
    assert client.sent_with == ["one"] * 10 + ["two"] * resent
    assert all(isinstance(item, frozenset if has_product else ProductRefused) for item in results)


async def test_past_the_deadline_the_request_is_not_sent_again() -> None:
    at = [0.0]
    fence = Fence(clock=lambda: at[0], deadline_seconds=30, is_draining=lambda: False)

    class Slow(Tokens):
        async def replace_refused(self, refused: Token) -> Token:
            at[0] = 31
            return await super().replace_refused(refused)

    client = Client(Slow("one", "two"), INVALID_TOKEN)
    assert isinstance(
        await problem_of(client, OpenAttempt(attempt_id=an_attempt_id(), fence=fence)),
        DeadlinePassed,
    )
    assert client.sent_with == ["one"]


@pytest.mark.parametrize(
    "error", [TimeoutError(), aiohttp.ServerDisconnectedError(), ConnectionResetError()]
)
async def test_an_exchange_that_breaks_off_after_the_first_byte_may_have_acted(
    error: Exception,
) -> None:
    open_attempt = an_open_attempt()
    assert isinstance(await problem_of(Client(Tokens("one"), error), open_attempt), OutcomeUnknown)
    assert [(exchange.was_written, exchange.outcome) for exchange in open_attempt.exchanges] == [
        (True, "OutcomeUnknown")
    ]


class TokenStore:
    """A store without a token."""

    async def read(self) -> str | None:
        return None

    async def write(self, text: str, *, ttl_seconds: float) -> None:
        pass

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        yield True


class Source(TokenSource):
    """A token source to which Daraja always gives the same answer."""

    def __init__(self, status: int, body: bytes) -> None:
        session: Any = None
        super().__init__(
            session=session,
            base_url="",
            consumer_key="k",
            consumer_secret="s",
            store=TokenStore(),
            clock=lambda: 1000.0,
        )
        self._answer = status, body

    async def _request_token(self) -> tuple[int, bytes]:
        return self._answer


def token_source(status: int, body: bytes) -> TokenSource:
    return Source(status, body)


@pytest.mark.parametrize("lifetime", [3599, "3599"])
async def test_a_token_is_read_whether_its_lifetime_is_a_number_or_text(lifetime: object) -> None:
    body = json.dumps({"access_token": "abc", "expires_in": lifetime}).encode()
    assert await token_source(200, body).get_current() == Token("abc", 1000, 4599)


NO_TOKEN = [
    (500, b"<html>"), (503, b""), (200, b""), (200, b"[]"),
    (200, b'{"access_token": 5, "expires_in": 1}'), (302, b""),
    (200, b'{"access_token": "a\\nb", "expires_in": 3599}'),
    (200, b'{"access_token": "a", "expires_in": "soon"}'), (429, b'{"fault": {}}'),
    (200, b'{"access_token": "a", "expires_in": -1}'),
    (401, b'{"access_token":"a","expires_in":9}'),
]  # fmt: skip


def proves_that_nothing_was_done(error: ProviderError) -> bool:
    return fact_of_answer(an_attempt_id(), error).outcome is Outcome.NOT_ACTED


@pytest.mark.parametrize(("status", "body"), NO_TOKEN)
async def test_without_a_token_no_payment_becomes_in_doubt(status: int, body: bytes) -> None:
    """Its request never left. A bill payment in doubt costs an operator much time."""
    client = Client(token_source(status, body))
    assert proves_that_nothing_was_done(await problem_of(client))
    assert client.sent_with == []


async def test_wrong_consumer_keys_fail_no_payment() -> None:
    assert proves_that_nothing_was_done(await problem_of(Client(token_source(400, b""))))


@pytest.mark.parametrize(
    "error", [QueueUnavailable(), Unreachable(), OutcomeUnknown(), Throttled()]
)
async def test_a_refused_token_that_cannot_be_replaced_puts_no_payment_in_doubt(
    error: Exception,
) -> None:
    """Daraja refused the first send before M-PESA saw it, and there was no other send."""
    client = Client(Tokens("one", error), INVALID_TOKEN)
    assert proves_that_nothing_was_done(await problem_of(client))
