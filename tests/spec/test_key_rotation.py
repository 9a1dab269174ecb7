"""Signing keys rotate under load: valid tokens are accepted, tokens of revoked keys are not.

The ingress fetches the issuer's keys seldom.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.spec.conftest import a_system
from tests.spec.requesting import expect_problem, new_subject, send_request
from tests.spec.system import System
from tests.stack.client import Answer
from tests.stack.identity import Algorithm, Issuer

FETCHES_AT_ONCE, SECONDS_PER_FETCH = 5, 12  # gateway/auth/keys.py
STREAMS = 8
# Enough that each key is seen through every connection, before and after each change.
REQUESTS_A_PHASE = 80
READY = {"postgres": True, "migrated": True, "keys": True, "redis": True}


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[System]:
    async with a_system(processes=("web",)) as system:
        yield system


@pytest.fixture
async def ingress(servers: System) -> System:
    """An ingress that has just started and fetched the keys once. The issuer has one key."""
    issuer, web = servers.stack.issuer, servers.stack.process("web")
    await web.terminate()
    await recovers(issuer)
    issuer.rotate()
    issuer.fetches = 0
    await servers.stack.start_process("web")
    return servers


async def list_payments(system: System, token: str) -> Answer:
    return await send_request(system, "GET", "/v1/payments", token=token)


async def statuses(system: System, tokens: list[str]) -> Counter[int]:
    """Sends one request per token, all at once, and counts the statuses."""
    return Counter(
        answer.status
        for answer in await asyncio.gather(*(list_payments(system, token) for token in tokens))
    )


class Bucket:
    """The number of fetches that the issuer may have seen by now.

    Five, and one more for each twelve seconds since the start.
    """

    def __init__(self, issuer: Issuer) -> None:
        self._issuer, self._began_at = issuer, time.monotonic() - SECONDS_PER_FETCH

    def is_kept(self) -> bool:
        return (
            self._issuer.fetches
            <= FETCHES_AT_ONCE + (time.monotonic() - self._began_at) // SECONDS_PER_FETCH
        )


class Stream:
    """Endless requests by new and known users, signed with the keys that are valid now."""

    def __init__(self, system: System, kids: list[str]) -> None:
        self.kids = kids
        self.answers: Counter[tuple[str, int]] = Counter()
        self._system = system
        self._tokens: dict[str, str] = {}  # by key; each is sent several times
        self._turns = itertools.count()

    async def run(self) -> None:
        while True:
            turn = next(self._turns)
            kid = self.kids[turn % len(self.kids)]
            if kid not in self._tokens or turn % 8 == 0:
                self._tokens[kid] = self._system.stack.issuer.mint(sub=new_subject(), kid=kid)
            token = self._tokens[kid]
            self.answers[kid, (await list_payments(self._system, token)).status] += 1

    async def phase(self, kids: list[str]) -> None:
        """Runs until each of these keys, and no other, has signed its share of the requests."""
        self.kids = kids
        before = self.answers.copy()
        wanted = REQUESTS_A_PHASE // len(kids)

        async def served() -> bool:
            return all(
                self.answers.total() and self._count(kid) - self._count(kid, before) >= wanted
                for kid in kids
            )

        await self._system.eventually(served)

    def _count(self, kid: str, answers: Counter[tuple[str, int]] | None = None) -> int:
        return sum(
            count
            for (signer, _), count in (self.answers if answers is None else answers).items()
            if signer == kid
        )


async def test_keys_rotate_under_load_without_a_refusal(ingress: System) -> None:
    """A key is standby, then current, previous and revoked. Every valid token is answered 200."""
    issuer = ingress.stack.issuer
    bucket = Bucket(issuer)
    algorithms: list[Algorithm] = ["RS256", "ES256", "ES256"]
    current = issuer.kids[0]
    stream = Stream(ingress, [current])
    streams = [asyncio.create_task(stream.run()) for _ in range(STREAMS)]
    try:
        await stream.phase([current])
        revoked: list[str] = []
        for algorithm in algorithms:
            previous, current = current, issuer.add_key(algorithm)
            # The new key is standby: published, and it signs nothing yet.
            await stream.phase([previous])
            # The new key signs. Tokens of the previous key are still valid.
            await stream.phase([current, previous])
            # The fetch for the new key also showed that the key revoked last time is gone.
            assert await statuses(ingress, revoked) == Counter(
                {401: len(revoked)} if revoked else {}
            )
            revoked = [issuer.mint(sub=new_subject(), kid=previous) for _ in range(5)]
            assert await statuses(ingress, revoked) == {200: 5}
            # The ingress has not seen this token.
            revoked += [issuer.mint(sub=new_subject(), kid=previous)]
            # All other tokens of the previous key are out of use. Now it is revoked.
            await stream.phase([current])
            issuer.remove_key(previous)
            await stream.phase([current])
    finally:
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    assert {status for _, status in stream.answers} == {200}
    assert stream.answers.total() >= 13 * REQUESTS_A_PHASE
    assert bucket.is_kept()


async def test_two_hundred_made_up_keys_cause_five_fetches(ingress: System) -> None:
    """They come one after another, and then all at once. Each request is answered 401."""
    issuer = ingress.stack.issuer
    bucket = Bucket(issuer)
    kids = [f"made-up-{number}" for number in range(200)]
    for kid in kids[:100]:
        expect_problem(await list_payments(ingress, issuer.mint(kid=kid)), 401, "unauthenticated")
    assert await statuses(ingress, [issuer.mint(kid=kid) for kid in kids]) == {401: 200}
    assert await statuses(ingress, [issuer.user_token(new_subject()) for _ in range(10)]) == {
        200: 10
    }
    assert issuer.fetches > 1
    assert bucket.is_kept()


async def test_requests_that_wait_for_a_new_key_share_one_fetch(ingress: System) -> None:
    issuer = ingress.stack.issuer
    kid, before = issuer.add_key(), issuer.fetches
    issuer.delay_seconds = 1  # all requests wait before the issuer answers
    assert await statuses(
        ingress, [issuer.mint(sub=new_subject(), kid=kid) for _ in range(100)]
    ) == {200: 100}
    assert issuer.fetches == before + 1


async def test_a_known_token_of_a_revoked_key_is_refused_after_the_next_fetch(
    ingress: System,
) -> None:
    """It was accepted a moment ago. The fetch for another token shows that its key is gone."""
    issuer = ingress.stack.issuer
    known_token = issuer.user_token()
    assert await statuses(ingress, [known_token] * 3) == {200: 3}
    issuer.rotate()
    # No fetch since then; ten minutes are allowed.
    assert await statuses(ingress, [known_token]) == {200: 1}
    assert await statuses(ingress, [issuer.user_token()]) == {200: 1}
    assert await statuses(ingress, [known_token] * 3) == {401: 3}


async def goes_down(issuer: Issuer) -> None:
    await issuer.stop()


async def fails(issuer: Issuer) -> None:
    issuer.failing_with = 500


async def hangs(issuer: Issuer) -> None:
    issuer.delay_seconds = 60


async def recovers(issuer: Issuer) -> None:
    issuer.failing_with, issuer.delay_seconds = None, 0
    await issuer.stop()
    await issuer.start()


async def read_metric(system: System, name: str, labels: str = "") -> float:
    """One of the key set's metrics, as /metrics shows it now."""
    lines = (
        (await send_request(system, "GET", "/metrics", token=""))
        .expect(200)
        .body.decode()
        .splitlines()
    )
    values = [
        line.rpartition(" ")[2]
        for line in lines
        if line.startswith(f"mkwanja_key_set_{name}{labels} ")
    ]
    return float(values[0]) if values else 0


@pytest.mark.parametrize("fault", [goes_down, fails, hangs])
async def test_without_keys_a_good_token_gets_503_and_the_ingress_is_not_ready(
    ingress: System, fault: Callable[[Issuer], Awaitable[None]]
) -> None:
    """The keys were never fetched. A token that is bad in itself is still answered 401."""
    issuer = ingress.stack.issuer
    await ingress.stack.stop_process("web")
    await fault(issuer)
    web = await ingress.stack.start_process("web", wait=False)
    await web.wait_ready(f"{ingress.stack.web_url}/healthz")
    for token in (issuer.user_token(), issuer.mint(kid="made-up")):
        answer = await list_payments(ingress, token)
        assert expect_problem(answer, 503, "unavailable")["retryable"] is True
        assert int(answer.headers["Retry-After"]) >= 1
    for token in (
        issuer.mint(drop=["aud"]),
        issuer.mint(expires_in_seconds=-60),
        issuer.mint_with_secret("x" * 40),
    ):
        expect_problem(await list_payments(ingress, token), 401, "unauthenticated")
    readiness = (await send_request(ingress, "GET", "/readyz", token="")).expect(503).json()
    assert readiness["checks"] | {"redis": True} == READY | {"keys": False}
    assert await read_metric(ingress, "age_seconds") == -1
    await recovers(issuer)
    await ingress.eventually(
        lambda: list_payments(ingress, issuer.user_token()), lambda answer: answer.status == 200
    )
    assert (await send_request(ingress, "GET", "/readyz", token="")).expect(200).json()[
        "checks"
    ] == READY
    assert await read_metric(ingress, "age_seconds") >= 0


@pytest.mark.parametrize("fault", [goes_down, fails, hangs])
async def test_known_keys_are_accepted_while_the_issuer_is_away(
    ingress: System, fault: Callable[[Issuer], Awaitable[None]]
) -> None:
    """Unknown keys are not accepted, and the metrics show the key set's age."""
    issuer = ingress.stack.issuer
    tokens = [issuer.user_token(new_subject()) for _ in range(20)]
    assert await statuses(ingress, tokens[:10]) == {200: 10}
    age = await read_metric(ingress, "age_seconds")
    await fault(issuer)
    expect_problem(await list_payments(ingress, issuer.mint(kid="made-up")), 401, "unauthenticated")
    assert await statuses(ingress, tokens) == {200: 20}
    assert (await send_request(ingress, "GET", "/readyz", token="")).expect(200).json()[
        "checks"
    ] == READY
    assert await read_metric(ingress, "age_seconds") > age
    result = "bad_answer" if fault is fails else "no_answer"
    assert await read_metric(ingress, "fetches_total", f'{{result="{result}"}}') == 1
    assert await read_metric(ingress, "fetches_total", '{result="loaded"}') == 1


async def test_an_empty_key_set_is_logged_at_start(ingress: System) -> None:
    """The warning names the remedy. Tokens get 401 until the first key is published and fetched."""
    issuer = ingress.stack.issuer
    issuer.remove_key(issuer.kids[0])
    # It gets ready, because an empty key set is not a fault of the service.
    web = await ingress.stack.restart_process("web")
    log = web.log_text(since_start=True)
    assert log.count("key_set_empty") == 1
    assert "Set JWT_SECRET" in log
    assert await statuses(ingress, [issuer.user_token(), issuer.mint_with_secret("x" * 40)]) == {
        401: 2
    }
    issuer.add_key()
    assert await statuses(ingress, [issuer.user_token()]) == {200: 1}
