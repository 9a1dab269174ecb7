"""Signing keys rotate under load: valid tokens are accepted, tokens of revoked keys are not.

The ingress fetches the issuer's keys seldom.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import a_system
from tests.spec.requesting import expect_problem, new_subject, send_request
from tests.spec.system import System
from tests.stack.client import Answer
from tests.stack.identity import Algorithm

FETCHES_AT_ONCE, SECONDS_PER_FETCH = 5, 12  # gateway/auth/keys.py
STREAMS = 8
# With this many requests, tokens of each key use every connection before and after each change.
REQUESTS_A_PHASE = 48
READY = {"postgres": True, "migrated": True, "keys": True, "redis": True}


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[System]:
    async with a_system(processes=("web",)) as system:
        yield system


@pytest.fixture
async def ingress(servers: System) -> System:
    """An ingress that has just started and fetched the keys once. The issuer has one key."""
    issuer = servers.stack.issuer
    await servers.stack.process("web").terminate()
    await issuer.reset()
    issuer.rotate()
    await servers.stack.start_process("web")
    return servers


async def list_payments(system: System, token: str) -> Answer:
    return await send_request(system, "GET", "/v1/payments", token=token)


async def statuses(system: System, tokens: list[str]) -> Counter[int]:
    """Sends one request per token, all at once, and counts the statuses."""
    answers = await asyncio.gather(*(list_payments(system, token) for token in tokens))
    return Counter(answer.status for answer in answers)


async def checks(system: System, status: int) -> dict[str, bool]:
    """The checks that /readyz shows in an answer with this status."""
    answer = await send_request(system, "GET", "/readyz", token="")
    shown: dict[str, bool] = answer.expect(status).json()["checks"]
    return shown


class Stream:
    """Sends requests endlessly, with tokens of new and known users that the keys `kids` signed."""

    def __init__(self, system: System) -> None:
        self.kids = system.stack.issuer.kids
        self.answers: Counter[tuple[str, int]] = Counter()
        self._system = system
        self._tokens: dict[str, str] = {}  # the token of each key, which is sent several times
        self._turns = itertools.count()

    async def run(self) -> None:
        while True:
            turn = next(self._turns)
            kid = self.kids[turn % len(self.kids)]
            if kid not in self._tokens or turn % 8 == 0:
                self._tokens[kid] = self._system.stack.issuer.mint(sub=new_subject(), kid=kid)
            token = self._tokens[kid]
            self.answers[kid, (await list_payments(self._system, token)).status] += 1

    async def phase(self, *kids: str) -> None:
        """Use only these keys, until each key has signed the tokens of its share of requests."""
        self.kids = list(kids)
        before = self._counts()

        async def served() -> bool:
            more = self._counts() - before
            return all(more[kid] >= REQUESTS_A_PHASE // len(kids) for kid in kids)

        await self._system.eventually(served)
        # A refused request proves nothing about the keys that the ingress has.
        assert {status for _, status in self.answers} == {200}, self.answers

    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for (signer, _), count in self.answers.items():
            counts[signer] += count
        return counts


async def test_keys_rotate_under_load_without_a_refusal(ingress: System) -> None:
    """Each key is standby, then current, previous and revoked. Valid tokens are answered 200."""
    issuer = ingress.stack.issuer
    began_at = time.monotonic() - SECONDS_PER_FETCH
    algorithms: list[Algorithm] = ["RS256", "ES256", "ES256"]
    current = issuer.kids[0]
    stream = Stream(ingress)
    streams = [asyncio.create_task(stream.run()) for _ in range(STREAMS)]
    try:
        await stream.phase(current)
        revoked: list[str] = []
        for algorithm in algorithms:
            previous, current = current, issuer.add_key(algorithm)
            # The new key is standby: it is published, and signs nothing yet.
            await stream.phase(previous)
            # The new key signs. Tokens of the previous key are still valid.
            await stream.phase(current, previous)
            # With the new key, the ingress also learned that the key revoked before is gone.
            assert await statuses(ingress, revoked) == ({401: len(revoked)} if revoked else {})
            revoked = [issuer.mint(sub=new_subject(), kid=previous) for _ in range(5)]
            assert await statuses(ingress, revoked) == {200: 5}
            # The ingress has not seen this token.
            revoked += [issuer.mint(sub=new_subject(), kid=previous)]
            # Callers stop using the previous key's tokens. Then the previous key is revoked.
            await stream.phase(current)
            issuer.remove_key(previous)
            await stream.phase(current)
    finally:
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    assert stream.answers.total() >= 13 * REQUESTS_A_PHASE
    seconds = time.monotonic() - began_at
    assert issuer.fetches <= FETCHES_AT_ONCE + seconds // SECONDS_PER_FETCH


async def read_age(system: System) -> float:
    """The age of the key set, as /metrics shows it now."""
    text = (await send_request(system, "GET", "/metrics", token="")).expect(200).body.decode()
    [line] = [line for line in text.splitlines() if line.startswith("mkwanja_key_set_age_seconds ")]
    return float(line.rpartition(" ")[2])


async def test_without_keys_a_good_token_gets_503_and_the_ingress_is_not_ready(
    ingress: System,
) -> None:
    """The ingress never got the keys. A token with wrong claims is still answered 401."""
    issuer = ingress.stack.issuer
    await ingress.stack.stop_process("web")
    await issuer.stop()
    web = await ingress.stack.start_process("web", wait=False)
    await web.wait_ready(f"{ingress.stack.web_url}/healthz")
    for token in (issuer.user_token(), issuer.mint(kid="made-up")):
        answer = await list_payments(ingress, token)
        assert expect_problem(answer, 503, "unavailable")["retryable"] is True
        assert int(answer.headers["Retry-After"]) >= 1
    assert await statuses(ingress, [issuer.mint(drop=["aud"])]) == {401: 1}
    assert await checks(ingress, 503) | {"redis": True} == READY | {"keys": False}
    assert await read_age(ingress) == -1
    await issuer.reset()
    await ingress.eventually(
        lambda: list_payments(ingress, issuer.user_token()), lambda answer: answer.status == 200
    )
    assert await checks(ingress, 200) == READY
    assert await read_age(ingress) >= 0
