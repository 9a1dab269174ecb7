"""How long the service uses a key, and a token that it verified with the key.

The endpoint is a real server. The tests set the clock.
"""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import patch

import pytest
from aiohttp.test_utils import make_mocked_request

import gateway.auth.keys
import gateway.auth.verifier
from domain.errors import KeysUnavailable, Unauthenticated
from gateway.auth.verifier import LEEWAY_SECONDS, VERIFIED_FOR_SECONDS, TokenVerifier
from gateway.console.pages import Pages
from gateway.console.sessions import Sessions
from gateway.console.sign_in import SignIn
from tests.integration.keys import FAILING, ISSUER, SECRET, Issuer, jwk, token


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as issuer:
        yield issuer


async def test_before_the_first_key_set_no_token_is_called_bad(issuer: Issuer) -> None:
    """Until a fetch succeeds, only HS256 tokens can be verified. `start` raises no error."""
    issuer.script = FAILING
    await issuer.keys.start()
    by_secret = token(None)
    for _ in range(20):
        with pytest.raises(KeysUnavailable):
            await issuer.subject(token("first"))
        assert await issuer.subject(by_secret) == "user"
    assert (issuer.keys.is_loaded, issuer.keys.age_seconds, issuer.fetches) == (False, None, 1)
    issuer.script = None
    issuer.now += gateway.auth.keys.FIRST_RETRY_AFTER_SECONDS
    assert await issuer.subject(token("first")) == "user"
    assert (issuer.keys.is_loaded, issuer.keys.age_seconds, issuer.keys.generation) == (True, 0, 1)


async def test_before_the_first_key_set_the_consoles_sign_in_says_so(issuer: Issuer) -> None:
    issuer.script = FAILING
    sign_in = SignIn(issuer.verifier, Sessions("a secret of a test, of 32 characters"), Pages())
    request = make_mocked_request("POST", "/console/sign-in")
    page = await sign_in.sign_in(request, {"token": token("first", role="operator")})
    assert page.status == 503
    assert "auth server&#39;s keys could not be loaded" in str(page.text)


async def test_an_unknown_kid_causes_one_fetch_a_minute(issuer: Issuer) -> None:
    """If a fetch does not return the kid, the kid is refused for 60 s without another fetch."""
    for _ in range(10):
        assert not await issuer.knows("second")
        issuer.now += 5.9
    assert issuer.fetches == 1  # the set's first fetch had shown that the kid is missing
    issuer.jwks.append(jwk("second"))
    issuer.now += 1
    assert await issuer.knows("second")
    assert issuer.fetches == 2


async def test_unknown_kids_cause_few_fetches(issuer: Issuer) -> None:
    """200 unknown kids cause at most 5 fetches, then one every 12 s, and 5 again after a pause.

    Known keys are found all the time.
    """
    await issuer.keys.start()
    assert not any([await issuer.knows(f"made-up-{number}") for number in range(200)])
    assert issuer.fetches == 5
    for fetches in (6, 7, 8):
        issuer.now += 12.001
        assert not any([await issuer.knows(f"made-up-{fetches}-{number}") for number in range(20)])
        assert issuer.fetches == fetches
    issuer.now += 3600
    assert not any([await issuer.knows(f"made-up-later-{number}") for number in range(200)])
    assert issuer.fetches == 8 + 5
    assert await issuer.knows("first")


async def test_a_closed_key_set_makes_no_fetch(issuer: Issuer) -> None:
    """The requests that still run use the last keys, whatever the age of these keys."""
    await issuer.keys.start()
    await issuer.keys.close()
    issuer.now += 600
    assert await issuer.knows("first")
    assert not await issuer.knows("second")
    assert issuer.fetches == 1


async def test_a_kid_whose_fetch_failed_is_looked_up_again(issuer: Issuer) -> None:
    """If a fetch failed or was not allowed, the kid is not remembered as missing."""
    await issuer.keys.start()
    issuer.script = FAILING
    assert not any([await issuer.knows("second") for _ in range(6)])
    assert issuer.fetches == 5
    issuer.script = None
    issuer.jwks.append(jwk("second"))
    issuer.now += 12.001
    assert await issuer.knows("second")


async def test_the_memory_for_missing_kids_is_bounded(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest kids are forgotten, and very long kids are never remembered."""
    monkeypatch.setattr(gateway.auth.keys, "MISSING_KIDS_MAX", 3)
    for kid in [*"abcde", "k" * 300]:
        assert not await issuer.knows(kid)
        issuer.now += 12.001
    assert list(issuer.keys._missing) == ["c", "d", "e"]


async def test_concurrent_waiters_share_one_fetch(issuer: Issuer) -> None:
    """A waiter that is cancelled does not cancel the fetch of the others."""
    issuer.is_open.clear()
    waiters = [asyncio.create_task(issuer.knows("first")) for _ in range(100)]
    await asyncio.wait_for(issuer.has_request.wait(), 5)
    waiters.pop(0).cancel()
    issuer.now += 2
    issuer.is_open.set()
    assert all(await asyncio.gather(*waiters))
    assert (issuer.fetches, issuer.keys.age_seconds) == (1, 2)  # the age counts from the request


async def test_a_rotation_takes_effect_at_once(issuer: Issuer) -> None:
    """The first token of a new key is accepted, and causes a fetch.

    From then on every token of a removed key is refused, even if it was verified before.
    """
    first, second = token("first"), token("second")
    assert await issuer.subject(first) == "user"
    issuer.jwks.insert(0, jwk("second"))
    assert [await issuer.subject(text) for text in (second, first)] == ["user", "user"]
    issuer.jwks = [jwk("third")]
    assert await issuer.subject(token("third")) == "user"
    assert issuer.fetches == 3
    for text in (first, token("first"), second):
        with pytest.raises(Unauthenticated):
            await issuer.subject(text)


async def test_a_removed_key_is_refused_after_idle_time(issuer: Issuer) -> None:
    """The tokens are refused ten minutes after the removal, even without a request in between."""
    assert await issuer.subject(token("first")) == "user"
    issuer.jwks = [jwk("second")]
    issuer.now += 600
    with pytest.raises(Unauthenticated):
        await issuer.subject(token("first"))


async def test_a_busy_token_does_not_keep_its_removed_key(issuer: Issuer) -> None:
    """A remembered token causes refreshes too, and is refused after its key was removed."""
    await issuer.keys.start()
    issuer.jwks = [jwk("second")]
    used = token("first")
    issuer.now += 100
    assert await issuer.subject(used) == "user"
    issuer.now += 201
    assert await issuer.subject(used) == "user"
    assert issuer.keys._fetching is not None
    await issuer.keys._fetching
    with pytest.raises(Unauthenticated):
        await issuer.subject(used)


@pytest.mark.parametrize(
    ("lifetime", "remembered_seconds"), [(60, 60), (3600, VERIFIED_FOR_SECONDS)]
)
async def test_a_verified_token_is_remembered_within_limits(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, lifetime: float, remembered_seconds: float
) -> None:
    """The token is verified again after five minutes, or when it expires if that is earlier."""
    good = token("first", exp=issuer.now + lifetime)
    await issuer.subject(good)
    monkeypatch.setattr(gateway.auth.verifier, "jwt", None)  # from now on every check fails
    issuer.now += remembered_seconds - 1
    assert await issuer.subject(good) == "user"
    issuer.now += 1
    with pytest.raises(Unauthenticated):
        await issuer.subject(good)


async def test_remembered_tokens_are_bounded(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit, the least recently used token is forgotten."""
    monkeypatch.setattr(gateway.auth.verifier, "VERIFIED_TOKENS_MAX", 2)
    tokens = [token("first", sub=f"user-{number}") for number in range(3)]
    for number in (0, 1, 0, 2):
        await issuer.subject(tokens[number])
    monkeypatch.setattr(gateway.auth.verifier, "jwt", None)
    assert [await issuer.subject(tokens[number]) for number in (0, 2)] == ["user-0", "user-2"]
    with pytest.raises(Unauthenticated):
        await issuer.subject(tokens[1])


async def test_a_hanging_endpoint_does_not_delay_known_keys(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch has a time limit. While the next fetch hangs, known keys are found at once."""
    await issuer.keys.start()
    issuer.is_open.clear()
    monkeypatch.setattr(gateway.auth.keys, "FETCH_SECONDS_MAX", 0.05)
    issuer.now += 600
    assert await issuer.knows("first")
    monkeypatch.setattr(gateway.auth.keys, "FETCH_SECONDS_MAX", 60)
    issuer.now += 20
    assert await issuer.knows("first")
    assert issuer.keys._fetching is not None


async def test_the_key_set_is_refreshed_without_requests(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A background task fetches a set that is older than five minutes.

    If the keys differ, the generation changes.
    """
    monkeypatch.setattr(gateway.auth.keys, "_TICK_SECONDS", 0.001)
    await issuer.keys.start()
    for added, generation in (([], 1), ([jwk("second")], 2)):
        issuer.jwks += added
        issuer.has_request.clear()
        issuer.now += 301
        await asyncio.wait_for(issuer.has_request.wait(), 5)
        await issuer.keys._wait_for_fetch()
        assert (issuer.keys.age_seconds, issuer.keys.generation) == (0, generation)


async def test_proxies_do_not_choose_our_keys(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are fetched directly from the issuer, even if the environment names a proxy."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    await issuer.keys.start()
    assert issuer.keys.is_loaded


async def test_a_flood_of_forged_tokens_displaces_no_verified_one(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged token costs one signature check, and is not remembered."""
    monkeypatch.setattr(gateway.auth.verifier, "VERIFIED_TOKENS_MAX", 3)
    good = [token("first", sub=f"user-{number}") for number in range(3)]
    forged = [token("other", header_kid="first", sub=f"user-{number}") for number in range(100)]
    for text in good:
        await issuer.subject(text)
    with patch(
        "jose.backends.cryptography_backend.CryptographyECKey.verify", return_value=False
    ) as verify:
        for text in forged:
            with pytest.raises(Unauthenticated, match="signature"):
                await issuer.subject(text)
        assert verify.call_count == len(forged)
        assert [await issuer.subject(text) for text in good] == ["user-0", "user-1", "user-2"]
    assert issuer.fetches == 1


async def test_a_clock_that_is_set_back_prolongs_no_token(issuer: Issuer) -> None:
    """A token that was verified before the change of the clock is refused when it has expired."""
    wall = [issuer.now]
    verifier = TokenVerifier(issuer.keys, SECRET, ISSUER, "authenticated", clock=lambda: wall[0])
    authorization = [f"Bearer {token('first', exp=issuer.now + 60)}"]
    for passed_seconds in (0, -3600, 59):
        wall[0] = issuer.now + passed_seconds
        assert (await verifier.authenticate(authorization)).subject == "user"
    wall[0] = issuer.now + 60 + LEEWAY_SECONDS
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.authenticate(authorization)
