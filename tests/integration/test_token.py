"""One access token for all workers, fetched early and by one worker at a time."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest
from aiohttp import web

from domain.adapters.daraja.token import Token, TokenSource
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.redis import sharing
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.sharing import SharedText
from domain.errors import OutcomeUnknown, ProviderError, QueueUnavailable, Refused
from tests.stack.servers import RedisServer

EARLY_SECONDS = 3599 - 200  # within the margin in which a valid token is already renewed


class OAuth:
    """Daraja's token endpoint. It counts requests, and answers while `is_open` is set."""

    def __init__(self) -> None:
        self.fetches = 0
        self.is_open = asyncio.Event()  # while it is clear, no answer is sent
        self.is_open.set()
        self.has_request = asyncio.Event()
        self.answer: dict[str, Any] | None = None  # status and body instead of a token
        self.expires_in: Any = 3599
        self.now = 1_000_000.0  # the workers' clock
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.fetches += 1
        number = self.fetches
        self.has_request.set()
        await self.is_open.wait()
        assert (
            request.headers["Authorization"] == "Basic " + base64.b64encode(b"key:secret").decode()
        )
        if self.answer is not None:
            return web.Response(**self.answer)
        return web.json_response({"access_token": f"t0ken{number}", "expires_in": self.expires_in})


@pytest.fixture
async def oauth() -> AsyncIterator[OAuth]:
    own = OAuth()
    application = web.Application()
    application.router.add_get("/oauth/v1/generate", own.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    own.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield own
    own.is_open.set()
    await runner.cleanup()


@pytest.fixture
def workers(oauth: OAuth, redis: RedisClient, session: DarajaSession) -> list[TokenSource]:
    """The token sources of three worker processes with one Redis."""
    return [a_source(oauth, session, redis) for _ in range(3)]


def a_source(oauth: OAuth, session: DarajaSession, redis: RedisClient) -> TokenSource:
    return TokenSource(
        session=session,
        base_url=oauth.url,
        consumer_key="key",
        consumer_secret="secret",
        store=SharedText(redis, "token:key"),
        clock=lambda: oauth.now,
    )


async def text_of(worker: TokenSource) -> str:
    return (await worker.get_current()).text


class TestSingleFlight:
    """A new token ends the token before it, so all workers share one fetch."""

    async def test_concurrent_sends_share_one_fetch(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """Three workers send fifty payments each. They have no token, and then a refused token."""
        tokens = await asyncio.gather(*(worker.get_current() for worker in workers * 50))
        assert {token.text for token in tokens} == {"t0ken1"}
        assert oauth.fetches == 1
        newer = await asyncio.gather(
            *(worker.replace_refused(tokens[0]) for worker in workers * 50)
        )
        assert {token.text for token in newer} == {"t0ken2"}
        assert oauth.fetches == 2

    async def test_a_fresh_token_is_returned_without_a_request(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """The worker does not even send a request to Redis."""
        first = await workers[0].get_current()
        workers[0]._store = None  # type: ignore[assignment]
        assert await workers[0].get_current() == first
        assert oauth.fetches == 1

    @pytest.mark.parametrize("worker", [0, 1], ids=["the same worker", "another worker"])
    async def test_a_token_is_renewed_early_while_others_use_the_old_one(
        self, oauth: OAuth, workers: list[TokenSource], worker: int
    ) -> None:
        """The renewal begins so early that no send has to wait."""
        old = await workers[0].get_current()
        await workers[1].get_current()
        oauth.now += EARLY_SECONDS
        oauth.is_open.clear()
        oauth.has_request.clear()
        renewal = asyncio.create_task(workers[0].get_current())
        await oauth.has_request.wait()
        async with asyncio.timeout(2):  # much shorter than the limit of a fetch
            assert await workers[worker].get_current() == old
        oauth.is_open.set()
        await renewal
        assert await text_of(workers[worker]) == await text_of(workers[0]) == "t0ken2"
        assert oauth.fetches == 2

    async def test_while_no_token_can_be_fetched_the_old_one_is_used_until_it_expires(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """While only the token endpoint is down, payments go on until the token expires."""
        old = await workers[0].get_current()
        oauth.now += EARLY_SECONDS
        oauth.answer = {"status": 503}
        for worker in workers:
            assert await worker.get_current() == old
        oauth.now += 300
        with pytest.raises(ProviderError):
            await workers[0].get_current()

    async def test_a_refused_token_is_replaced_by_a_newer_shared_one_without_a_fetch(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """Another worker has renewed the token already."""
        old = await workers[0].get_current()
        await workers[1].get_current()
        new = await workers[1].replace_refused(old)
        assert await workers[0].replace_refused(old) == new
        assert new.text == "t0ken2"
        assert oauth.fetches == 2


class TestAnswers:
    """The endpoint's answers. `test_daraja_hostile_answers.py` tests the invalid answers."""

    async def test_a_short_lived_token_is_used_for_most_of_its_life(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """The margin is a tenth of its life if that is shorter than five minutes."""
        oauth.expires_in = 100
        first = await workers[0].get_current()
        oauth.now += 80
        assert await workers[0].get_current() == first
        oauth.now += 15
        assert await text_of(workers[0]) == "t0ken2"

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            ({"status": 400}, Refused),
            ({"status": 503, "text": "<html>"}, OutcomeUnknown),
            ({"status": 200, "text": "<html>"}, OutcomeUnknown),
            ({"status": 302, "headers": {"Location": "/oauth/v1/generate"}}, OutcomeUnknown),
        ],
        ids=["wrong key", "html 503", "html 200", "redirect"],
    )
    async def test_an_answer_without_a_token_raises_a_provider_error(
        self,
        oauth: OAuth,
        workers: list[TokenSource],
        answer: dict[str, Any],
        error: type[ProviderError],
    ) -> None:
        """The next send that needs a token fetches again."""
        oauth.answer = answer
        with pytest.raises(error):
            await workers[0].get_current()
        assert oauth.fetches == 1
        oauth.answer = None
        assert await text_of(workers[0]) == "t0ken2"


class TestRedis:
    """Redis may lose the shared token at any moment."""

    async def test_a_flush_of_redis_costs_one_fetch_at_most(
        self, oauth: OAuth, workers: list[TokenSource], redis: RedisClient
    ) -> None:
        """A worker with a token continues to use it. The other workers share a new token."""
        first = await workers[0].get_current()
        await redis.flushdb()
        assert await workers[0].get_current() == first
        assert await text_of(workers[1]) == await text_of(workers[2]) == "t0ken2"
        assert (await workers[0].replace_refused(first)).text == "t0ken2"
        assert oauth.fetches == 2

    @pytest.mark.parametrize(
        "text",
        [
            *("", "{", "[]", '{"text": "x"}'),
            '{"text": 1, "issued_at": "a", "expires_at": "b"}',
            json.dumps(asdict(Token("expired", 999_900, 1_000_000))),
        ],
    )
    async def test_garbage_instead_of_the_shared_token_is_ignored(
        self, workers: list[TokenSource], redis: RedisClient, text: str
    ) -> None:
        """An expired token in Redis is ignored, too. The worker then fetches a new token."""
        await redis.set(f"{PREFIX}token:key", text)
        assert await text_of(workers[0]) == await text_of(workers[1]) == "t0ken1"

    async def test_without_redis_no_token_is_fetched(
        self, oauth: OAuth, session: DarajaSession
    ) -> None:
        """A new token for this worker would end the token of all other workers."""
        away = connect("redis://127.0.0.1:9/0", client_name="mkwanja-test")
        with pytest.raises(QueueUnavailable):
            await a_source(oauth, session, away).get_current()
        assert oauth.fetches == 0
        await away.aclose(close_connection_pool=True)

    async def test_a_fetched_token_is_used_even_if_redis_cannot_store_it(
        self, oauth: OAuth, session: DarajaSession
    ) -> None:
        """Daraja has ended the old token. A second fetch would end this new token too."""
        async with RedisServer() as server:
            client = connect(server.url, client_name="mkwanja-test")
            source = a_source(oauth, session, client)
            oauth.is_open.clear()
            fetching = asyncio.create_task(source.get_current())
            await oauth.has_request.wait()
            await server.kill()
            oauth.is_open.set()
            assert (await fetching).text == "t0ken1"
            assert await text_of(source) == "t0ken1"
            assert oauth.fetches == 1
            await client.aclose(close_connection_pool=True)

    async def test_another_worker_fetches_if_a_worker_died_during_its_fetch(
        self, oauth: OAuth, workers: list[TokenSource], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other workers wait until the dead worker's lock expires."""

        async def keep_lock(**_: object) -> None:
            """Release no lock, as a killed worker."""

        monkeypatch.setattr(sharing, "_LOCK_SECONDS", 1)
        oauth.is_open.clear()
        dying = asyncio.create_task(workers[0].get_current())
        await oauth.has_request.wait()
        monkeypatch.setattr(workers[0]._store, "_release", keep_lock)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        oauth.is_open.set()
        tokens = await asyncio.gather(workers[1].get_current(), workers[2].get_current())
        assert {token.text for token in tokens} == {"t0ken2"}

    async def test_a_worker_does_not_release_another_workers_lock(self, redis: RedisClient) -> None:
        """If a worker is too slow, its lock expires, and another worker may get the lock."""
        store = SharedText(redis, "token:key")
        async with store.lock() as is_ours:
            assert is_ours
            async with store.lock() as again:
                assert not again
            await redis.set(f"{PREFIX}token:key:lock", "another worker")
        assert await redis.get(f"{PREFIX}token:key:lock") == b"another worker"
