"""If the endpoint of the key set fails, the last good set is used for a day.

The metrics show the age of the set.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

import gateway.auth.keys
from domain.errors import KeysUnavailable
from tests.integration.keys import (
    Issuer,
    Script,
    answer,
    jwk,
    key_set,
    sending,
)

GOOD_SET = key_set(jwk("first"))
DAY_SECONDS = 24 * 3600


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip_body(writer: asyncio.StreamWriter) -> None:
    """Send a good set byte by byte, without the last byte."""
    writer.write(answer(b"", length=len(GOOD_SET)))
    for at in range(len(GOOD_SET) - 1):
        writer.write(GOOD_SET[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0.001)
    await asyncio.Event().wait()


async def drip_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Wait: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


BOMB = gzip.compress(b" " * 10_000_000)
SLOW: dict[str, Script] = {
    "hangs": hang,
    "sends a slow body": drip_body,
    "sends a slow head": drip_head,
}
NO_ANSWER: dict[str, Script] = {
    **SLOW,
    "resets": reset,
    "closes without an answer": sending(),
    "speaks no HTTP": sending(b"\x16\x03\x01\x00\xff\r\n\r\n"),
    "has a head without end": sending(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000),
    "stops in its body": sending(answer(GOOD_SET[:50], length=len(GOOD_SET))),
}
BAD_ANSWER: dict[str, Script] = {
    "answers 500 with a good set": sending(answer(GOOD_SET, "500 Internal Server Error")),
    "answers 204": sending(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    "answers half a set": sending(answer(GOOD_SET[:-5])),
    "answers a megabyte": sending(answer(GOOD_SET + b" " * 1_000_000)),
    "answers without end": sending(b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * 65_536] * 20),
    "answers 10 MB as gzip": sending(answer(BOMB, "200 OK", "Content-Encoding: gzip")),
}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as issuer:
        yield issuer


def metric(name: str, **labels: str) -> float:
    """Return the value that /metrics would show now."""
    return REGISTRY.get_sample_value(f"mkwanja_key_set_{name}", labels) or 0.0


@pytest.mark.parametrize("fault", [*NO_ANSWER, *BAD_ANSWER])
async def test_the_last_good_set_serves_for_a_day(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """While the endpoint fails, known keys are found and the set's age grows.

    Before the first set and after a day, the answer is 503 (keys unavailable), not 401.
    Each failed fetch is counted as `no_answer` or as `bad_answer`.
    """
    result = "no_answer" if fault in NO_ANSWER else "bad_answer"
    faults = metric("fetches_total", result=result)

    def break_endpoint() -> None:
        issuer.script = (NO_ANSWER | BAD_ANSWER)[fault]
        if fault in SLOW:
            monkeypatch.setattr(gateway.auth.keys, "FETCH_SECONDS_MAX", 0.2)

    async def repair_endpoint(*, after_seconds: float) -> None:
        issuer.script = None
        monkeypatch.undo()
        issuer.now += after_seconds
        assert await issuer.knows("first")
        assert metric("age_seconds") == 0

    break_endpoint()
    await issuer.keys.start()
    assert (issuer.keys.is_loaded, metric("age_seconds")) == (False, -1)
    with pytest.raises(KeysUnavailable):
        await issuer.knows("first")
    await repair_endpoint(after_seconds=gateway.auth.keys.FIRST_RETRY_AFTER_SECONDS)
    loaded_at, generation = issuer.now, issuer.keys.generation
    break_endpoint()
    for age in (3600, DAY_SECONDS):
        issuer.now = loaded_at + age
        assert metric("age_seconds") == age
        assert await issuer.knows("first")
    issuer.now += gateway.auth.keys.RETRY_AFTER_SECONDS + 1
    with pytest.raises(KeysUnavailable):
        await issuer.knows("first")
    await repair_endpoint(after_seconds=gateway.auth.keys.RETRY_AFTER_SECONDS)
    assert issuer.keys.generation == generation
    assert (metric("fetches_total", result=result) - faults, issuer.fetches) == (4, 6)


async def test_a_redirect_of_the_key_set_is_not_followed(issuer: Issuer) -> None:
    """A redirect could lead to an attacker's keys, even a redirect within the same server."""
    issuer.script = sending(answer(b"", "302 Found", "Location: /other"))
    await issuer.keys.start()
    assert (issuer.keys.is_loaded, issuer.fetches) == (False, 1)


async def test_a_fetch_reuses_no_connection_and_no_cookie(issuer: Issuer) -> None:
    """A fetch therefore cannot fail because of the state of an earlier fetch."""
    issuer.keeps_connections = True
    issuer.script = sending(answer(GOOD_SET, "200 OK", "Set-Cookie: a=b"))
    keys = issuer.key_set(host="localhost")
    await keys.start()
    issuer.now += 541
    await keys.refresh_if_old()
    await keys.close()
    assert (issuer.connections, issuer.requests[0]) == (2, issuer.requests[1])


async def test_the_age_is_minus_one_without_a_key_set(issuer: Issuer) -> None:
    """The metric is -1 before the first fetch, and after the key set was closed."""
    loaded = metric("fetches_total", result="loaded")
    assert metric("age_seconds") == -1
    await issuer.keys.start()
    issuer.now += 7
    assert metric("age_seconds") == 7
    assert metric("fetches_total", result="loaded") == loaded + 1
    await issuer.keys.close()
    assert metric("age_seconds") == -1


async def test_a_key_that_is_published_during_a_fetch_is_not_remembered_as_missing(
    issuer: Issuer,
) -> None:
    """The endpoint read its keys before the new key, so the fetch proves nothing about that key."""
    await issuer.keys.start()
    issuer.is_open.clear()
    issuer.has_request.clear()
    issuer.now += 301
    assert await issuer.knows("first")  # starts a refresh without waiting for it
    await asyncio.wait_for(issuer.has_request.wait(), 5)
    issuer.jwks.append(jwk("second"))
    early = asyncio.create_task(issuer.knows("second"))
    await asyncio.sleep(0)
    issuer.is_open.set()
    assert not await early
    assert await issuer.knows("second")
    assert issuer.fetches == 3


async def test_an_unusable_key_is_logged(issuer: Issuer) -> None:
    issuer.jwks.append(jwk("other", use="enc"))
    with capture_logs() as logs:
        await issuer.keys.start()
    assert await issuer.knows("first")
    assert not await issuer.knows("other")
    [line] = [entry for entry in logs if entry["event"] == "key_set_has_unusable_keys"]
    assert line["count"] == 1


@pytest.mark.parametrize(
    ("has_secret", "level", "effect"),
    [
        (False, "warning", "Every token gets a 401."),
        (True, "info", "Only HS256 tokens by JWT_SECRET are accepted"),
    ],
)
async def test_an_empty_key_set_is_logged_once_with_its_effect(
    issuer: Issuer, has_secret: bool, level: str, effect: str
) -> None:
    """Without JWT_SECRET, the line is a warning with a hint. With JWT_SECRET, its level is info."""
    issuer.jwks = []
    keys = issuer.key_set(has_secret=has_secret)
    with capture_logs() as logs:
        await keys.start()
        assert keys.is_loaded
        issuer.now += 541
        await keys.refresh_if_old()
    await keys.close()
    assert issuer.fetches == 2
    [line] = logs
    assert (line["event"], line["log_level"]) == ("key_set_empty", level)
    assert line["effect"].startswith(effect)
    assert ("JWT_SECRET" in line.get("hint", "")) is not has_secret
