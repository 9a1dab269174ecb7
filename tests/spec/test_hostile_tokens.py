"""The ingress refuses every token of `HOSTILE`, and accepts every token of `GOOD`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from multidict import CIMultiDict

from tests.spec.hostile_tokens import (
    GOOD,
    HEADER_VALUES,
    HOSTILE,
    SECRET,
    SUBJECT,
    Forge,
    Hostile,
    Maker,
)
from tests.spec.requesting import expect_problem
from tests.spec.system import System
from tests.stack.client import Answer
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer
from tests.stack.stack import Stack
from tests.stack.starter import Starter

CODES = {401: "unauthenticated", 403: "not_permitted"}


class Target:
    """An ingress that runs alone, and the `Forge` that makes tokens for it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.forge = Forge(system.stack.issuer)
        self.tokens: list[str] = []  # all tokens that were sent

    async def send_request(self, values: list[str], method: str, path: str) -> Answer:
        headers = CIMultiDict([("Authorization", value) for value in values])
        headers.add("X-Idempotency-Key", str(uuid4()))
        self.tokens += values
        body = {"amount": 1200, "phone_number": "0722000222"} if method == "POST" else None
        url = self.system.stack.web_url + path
        async with self.system.http.request(method, url, headers=headers, json=body) as answer:
            return Answer(f"{method} {path}", answer.status, answer.headers, await answer.read())

    async def expect_refusal(self, values: list[str], status: int, sentence: str) -> None:
        """Check that a read and a payment are refused, and that no answer repeats the token."""
        for method, path in (("GET", "/v1/payments"), ("POST", "/v1/withdrawals")):
            answer = await self.send_request(values, method, path)
            assert sentence in expect_problem(answer, status, CODES[status])["detail"]
            challenge = answer.headers.get("WWW-Authenticate", "")
            assert challenge.startswith("Bearer") is (status == 401)
            shown = answer.body.decode() + str(answer.headers)
            assert not repeated(values, shown)
            assert SUBJECT not in shown


def repeated(values: list[str], shown: str) -> set[str]:
    """The pieces of the tokens that `shown` contains. A piece has twelve letters."""
    tokens = [value.removeprefix("Bearer ") for value in values]
    pieces = {token[at : at + 12] for token in tokens for at in range(len(token) - 11)}
    return {piece for piece in pieces if piece in shown}


@pytest.fixture(scope="module")
async def target(
    postgres: PostgresServer | GivenPostgres, template: str, starter: Starter
) -> AsyncIterator[Target]:
    stack = Stack(
        processes=("web",),
        env={"JWT_SECRET": SECRET},
        postgres=postgres,
        template=template,
        starter=starter,
    )
    stack.issuer.add_key("RS256")
    async with stack, System(stack) as system:
        yield Target(system)


@pytest.mark.sampled(30)
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
async def test_the_service_refuses_a_hostile_token(target: Target, hostile: Hostile) -> None:
    """The answer is 401, or 403 for a valid token of a caller that may not use the API."""
    token = hostile.make(target.forge)
    await target.expect_refusal([f"Bearer {token}"], hostile.status, hostile.sentence)


@pytest.mark.parametrize(("sentence", "values"), HEADER_VALUES.values(), ids=HEADER_VALUES)
async def test_the_service_refuses_a_good_token_in_a_wrong_header(
    target: Target, sentence: str, values: Callable[[str], list[str]]
) -> None:
    """The header must contain the token once, alone, after the scheme Bearer."""
    await target.expect_refusal(values(target.forge.token()), 401, sentence)


@pytest.mark.sampled(15)
@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
async def test_the_service_accepts_the_good_twin_of_a_hostile_token(
    target: Target, make: Maker
) -> None:
    """The twin lacks only the fault, so the fault is the reason for the refusal."""
    for scheme in ("Bearer", "bearer", "BEARER "):
        value = f"{scheme} {make(target.forge)}"
        (await target.send_request([value], "GET", "/v1/payments")).expect(200)


async def test_hostile_tokens_store_no_payment_and_appear_in_no_log(target: Target) -> None:
    """The log contains no piece of any token, good or bad."""
    assert await target.system.rows("SELECT id FROM mkwanja.payments") == []
    assert not repeated(target.tokens, target.system.stack.logs()["web.1"])
