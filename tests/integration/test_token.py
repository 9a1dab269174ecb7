"""One access token for all workers: fetched by one at a time, early, and never waited for while
the old one is good.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from domain.adapters.daraja.token import Token, TokenSource
from domain.adapters.daraja.wire import daraja_session
from domain.adapters.redis import sharing
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.names import PREFIX
from domain.adapters.redis.sharing import SharedText
from domain.errors import OutcomeUnknown, ProviderError, QueueUnavailable, Refused, Unreachable
from tests.stack.servers import RedisServer

EARLY_SECONDS = 3599 - 200  # within the margin in which a token is renewed although it is good


class OAuth:
    """Daraja's token endpoint, which counts, and answers when the test lets it."""

    def __init__(self) -> None:
        self.fetches = 0
        self.is_open = asyncio.Event()  # while clear, no answer leaves
        self.is_open.set()
        self.was_asked = asyncio.Event()
        self.answer: dict[str, Any] | None = None  # status and body in place of a token
        self.expires_in: Any = 3599
        self.now = 1_000_000.0  # the workers' clock
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.fetches += 1
        number = self.fetches
        self.was_asked.set()
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
async def workers(oauth: OAuth, redis: RedisClient) -> AsyncIterator[list[TokenSource]]:
    """What three worker processes have: one source each, one Redis for all."""
    async with daraja_session(connections_max=10) as session:
        yield [a_source(oauth, session, redis) for _ in range(3)]


def a_source(oauth: OAuth, session: aiohttp.ClientSession, redis: RedisClient) -> TokenSource:
    return TokenSource(
        session=session,
        base_url=oauth.url,
        consumer_key="key",
        consumer_secret="secret",
        store=SharedText(redis, "token:key"),
        clock=lambda: oauth.now,
    )


class TestSingleFlight:
    """Each new token ends the one before, so there is one fetch for all."""

    async def test_whoever_asks_at_once_shares_one_fetch(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """Fifty payments in each of three workers."""
        tokens = await asyncio.gather(*(worker.get_current() for worker in workers * 50))
        assert {token.text for token in tokens} == {"t0ken1"}
        assert oauth.fetches == 1

    async def test_a_token_that_is_fresh_is_asked_of_nobody(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """Not even of Redis."""
        first = await workers[0].get_current()
        workers[0]._store = None  # type: ignore[assignment]
        assert await workers[0].get_current() == first
        assert oauth.fetches == 1

    @pytest.mark.parametrize("worker", [0, 1], ids=["the same worker", "another worker"])
    async def test_a_token_is_renewed_early_while_others_go_on_with_the_old_one(
        self, oauth: OAuth, workers: list[TokenSource], worker: int
    ) -> None:
        """Early enough that nobody has to wait for it."""
        old = await workers[0].get_current()
        await workers[1].get_current()
        oauth.now += EARLY_SECONDS
        oauth.is_open.clear()
        oauth.was_asked.clear()
        renewal = asyncio.create_task(workers[0].get_current())
        await oauth.was_asked.wait()
        async with asyncio.timeout(2):  # far less than the fetch may take
            assert await workers[worker].get_current() == old
        oauth.is_open.set()
        await renewal
        assert (
            (await workers[worker].get_current()).text
            == (await workers[0].get_current()).text
            == "t0ken2"
        )
        assert oauth.fetches == 2

    async def test_while_none_can_be_fetched_the_old_one_is_used_for_as_long_as_it_is_good(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """An outage of the token endpoint alone is no reason to stop paying; past the token's
        end it is.
        """
        old = await workers[0].get_current()
        oauth.now += EARLY_SECONDS
        oauth.answer = {"status": 503}
        for worker in workers:
            assert await worker.get_current() == old
        oauth.now += 300
        with pytest.raises(ProviderError):
            await workers[0].get_current()


class TestRefused:
    """Daraja refused the token that was used."""

    async def test_where_the_others_have_a_newer_one_it_is_used_without_a_fetch(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """Another worker noticed first."""
        old = await workers[0].get_current()
        await workers[1].get_current()
        new = await workers[1].replace_refused(old)
        assert await workers[0].replace_refused(old) == new
        assert new.text == "t0ken2"
        assert oauth.fetches == 2

    async def test_else_there_is_one_refresh_for_all_whom_it_was_refused(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """Twenty payments in each of three workers."""
        old = await workers[0].get_current()
        tokens = await asyncio.gather(*(worker.replace_refused(old) for worker in workers * 20))
        assert {token.text for token in tokens} == {"t0ken2"}
        assert oauth.fetches == 2
        assert {(await worker.get_current()).text for worker in workers} == {"t0ken2"}


class TestWhatItSays:
    """The endpoint's answers."""

    @pytest.mark.parametrize("expires_in", [3599, "3599", 3599.0])
    async def test_its_lifetime_may_be_a_number_or_a_string(
        self, oauth: OAuth, workers: list[TokenSource], expires_in: object
    ) -> None:
        """Both were seen."""
        oauth.expires_in = expires_in
        assert (await workers[0].get_current()).expires_at == oauth.now + 3599

    @pytest.mark.parametrize("expires_in", [None, "soon", -1, 0, 1e9, []])
    async def test_an_answer_with_an_invalid_lifetime_is_no_token(
        self, oauth: OAuth, workers: list[TokenSource], expires_in: object
    ) -> None:
        """It would be used for ever, or never."""
        oauth.expires_in = expires_in
        with pytest.raises(ProviderError):
            await workers[0].get_current()

    async def test_a_token_of_a_short_life_is_used_for_most_of_it(
        self, oauth: OAuth, workers: list[TokenSource]
    ) -> None:
        """The margin is a tenth of its life, where that is shorter than five minutes."""
        oauth.expires_in = 100
        first = await workers[0].get_current()
        oauth.now += 80
        assert await workers[0].get_current() == first
        oauth.now += 15
        assert (await workers[0].get_current()).text == "t0ken2"

    @pytest.mark.parametrize(
        ("answer", "means"),
        [
            ({"status": 400}, Refused),
            ({"status": 503, "text": "<html>"}, (Unreachable, OutcomeUnknown)),
            ({"status": 200, "text": "<html>"}, (Unreachable, OutcomeUnknown)),
            (
                {"status": 200, "text": '{"access_token": "two\\nlines", "expires_in": 3599}'},
                ProviderError,
            ),
            ({"status": 302, "headers": {"Location": "/oauth/v1/generate"}}, ProviderError),
        ],
        ids=["wrong key", "html 503", "html 200", "no header's text", "redirect"],
    )
    async def test_anything_else_is_no_token(
        self,
        oauth: OAuth,
        workers: list[TokenSource],
        answer: dict[str, Any],
        means: type[ProviderError],
    ) -> None:
        """And is asked for again by the next who needs one."""
        oauth.answer = answer
        with pytest.raises(means):
            await workers[0].get_current()
        assert oauth.fetches == 1
        oauth.answer = None
        assert (await workers[0].get_current()).text == "t0ken2"


class TestRedis:
    """What is shared may be lost at any moment."""

    async def test_flushed_it_costs_one_fetch_at_most(
        self, oauth: OAuth, workers: list[TokenSource], redis: RedisClient
    ) -> None:
        """Who has a token goes on with it; who has none fetches one."""
        first = await workers[0].get_current()
        await redis.flushdb()
        assert await workers[0].get_current() == first
        assert (
            (await workers[1].get_current()).text
            == (await workers[2].get_current()).text
            == "t0ken2"
        )
        assert (await workers[0].replace_refused(first)).text == "t0ken2"
        assert oauth.fetches == 2

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"text": "x"}', '{"text": 1, "issued_at": "a", "expires_at": "b"}']
    )
    async def test_garbage_in_its_place_is_ignored(
        self, workers: list[TokenSource], redis: RedisClient, text: str
    ) -> None:
        """And replaced."""
        await redis.set(f"{PREFIX}token:key", text)
        assert (await workers[0].get_current()).text == "t0ken1"
        assert (await workers[1].get_current()).text == "t0ken1"

    async def test_a_token_that_has_ended_is_not_taken_from_it(
        self, oauth: OAuth, workers: list[TokenSource], redis: RedisClient
    ) -> None:
        """Even if Redis kept it too long."""
        await redis.set(
            f"{PREFIX}token:key", json.dumps(asdict(Token("old", oauth.now - 100, oauth.now)))
        )
        assert (await workers[0].get_current()).text == "t0ken1"

    async def test_while_it_is_away_there_is_none_to_be_had(self, oauth: OAuth) -> None:
        """Fetching one's own would end everybody else's."""
        away = connect("redis://127.0.0.1:9/0", client_name="mkwanja-test")
        async with daraja_session(connections_max=1) as session:
            with pytest.raises(QueueUnavailable):
                await a_source(oauth, session, away).get_current()
        assert oauth.fetches == 0
        await away.aclose(close_connection_pool=True)

    async def test_a_token_that_was_fetched_is_used_although_redis_cannot_keep_it(
        self, oauth: OAuth
    ) -> None:
        """Daraja ended the one before when it gave this one; a second fetch would end it in
        turn.
        """
        async with RedisServer() as server, daraja_session(connections_max=1) as session:
            client = connect(server.url, client_name="mkwanja-test")
            source = a_source(oauth, session, client)
            oauth.is_open.clear()
            asking = asyncio.create_task(source.get_current())
            await oauth.was_asked.wait()
            await server.kill()
            oauth.is_open.set()
            assert (await asking).text == "t0ken1"
            assert (await source.get_current()).text == "t0ken1"
            assert oauth.fetches == 1
            await client.aclose(close_connection_pool=True)

    async def test_a_worker_that_died_while_it_fetched_is_taken_over_from(
        self, oauth: OAuth, workers: list[TokenSource], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its lock ends by itself; until then the others wait."""
        monkeypatch.setattr(sharing, "_LOCK_SECONDS", 1)
        oauth.is_open.clear()
        dying = asyncio.create_task(workers[0].get_current())
        await oauth.was_asked.wait()
        monkeypatch.setattr(workers[0]._store, "_release", _nothing)  # killed: it releases nothing
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        oauth.is_open.set()
        tokens = await asyncio.gather(workers[1].get_current(), workers[2].get_current())
        assert {token.text for token in tokens} == {"t0ken2"}

    async def test_a_lock_that_another_took_over_is_not_released(self, redis: RedisClient) -> None:
        """Who was too slow must not open the door to a third."""
        store = SharedText(redis, "token:key")
        async with store.lock() as is_ours:
            assert is_ours
            async with store.lock() as again:
                assert not again
            await redis.set(f"{PREFIX}token:key:lock", "another's")
        assert await redis.get(f"{PREFIX}token:key:lock") == b"another's"


async def _nothing(**_: object) -> None:
    return None
