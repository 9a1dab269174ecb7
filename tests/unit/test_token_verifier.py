"""The caller that a token names, and the tokens that are rejected.

`tests/spec/hostile_tokens.py` has the tokens. `tests/integration/test_keys.py` tests how long keys
and verified tokens are trusted.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import jose.backends
import jose.jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from domain.errors import NotPermitted, Unauthenticated
from domain.values import Caller, Role
from gateway.auth.keys import KeySet
from gateway.auth.verifier import LEEWAY_SECONDS, TokenVerifier
from tests.spec.hostile_tokens import (
    ABSENT,
    GOOD,
    HOSTILE,
    SECRET,
    SUBJECT,
    Forge,
    Hostile,
    Maker,
)
from tests.stack.identity import Issuer

NOW = 1_800_000_000


@pytest.fixture(autouse=True, scope="module")
def _jose_at_our_time() -> Iterator[None]:
    with patch("jose.jwt.datetime") as clock:  # jose accepts no other clock
        clock.now.return_value = datetime.fromtimestamp(NOW, UTC)
        yield


@pytest.fixture(scope="module")
def forge() -> Forge:
    issuer = Issuer()
    issuer.add_key("RS256")
    return Forge(issuer, now=lambda: NOW)


class KeysInMemory(KeySet):
    def __init__(self, issuer: Issuer) -> None:
        super().__init__("https://project.example/keys")
        self._issuer = issuer

    async def _download(self) -> bytes:
        return json.dumps(self._issuer.jwks()).encode()


class Service:
    """A verifier with the issuer's keys and the secret."""

    def __init__(self, forge: Forge, secret: str | None = SECRET, **options: Any) -> None:
        options = {"issuer": forge.issuer.url, "audience": "authenticated", **options}
        keys = KeysInMemory(forge.issuer)
        self.verifier = TokenVerifier(keys, secret, clock=lambda: NOW, **options)

    async def caller(self, token: str) -> Caller:
        return await self.verifier.authenticate([f"Bearer {token}"])


@pytest.fixture
def service(forge: Forge) -> Service:
    return Service(forge)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
async def test_a_hostile_token_is_rejected(
    forge: Forge, service: Service, hostile: Hostile
) -> None:
    """The rejection names the fault. The rejection and the log repeat no part of the token."""
    text = hostile.make(forge)
    error = Unauthenticated if hostile.status == 401 else NotPermitted
    with capture_logs() as logs, pytest.raises(error) as refusal:
        await service.caller(text)
    assert hostile.sentence in refusal.value.message
    shown = refusal.value.message + json.dumps(logs)
    assert not any(part in shown for part in [SECRET, *text.split(".")] if len(part) > 20)


async def test_a_token_with_any_changed_character_is_rejected(
    forge: Forge, service: Service
) -> None:
    good = forge.token()
    assert (await service.caller(good)).subject == SUBJECT
    for place, character in enumerate(good):
        changed = "A" if character != "A" else "B"
        with pytest.raises(Unauthenticated):
            await service.caller(good[:place] + changed + good[place + 1 :])


_VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, 0, -1, 2**70, 1.5, 1e308, "", "x", "\ud800", [], [[]], {}, {"a": [None]}]
)
_FIELDS = st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "x"]), _VALUES, max_size=2)
_CLAIMS = st.dictionaries(
    st.sampled_from(["iss", "aud", "exp", "iat", "sub", "role", "is_anonymous", "jti", "at_hash"]),
    _VALUES,
    max_size=3,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(header=_FIELDS, claims=_CLAIMS)
async def test_any_signed_json_names_a_caller_or_is_rejected(
    forge: Forge, header: dict[str, object], claims: dict[str, object]
) -> None:
    """The verifier raises no other error, whatever JSON is validly signed."""
    try:
        caller = await Service(forge).caller(
            forge.compact(forge.header | header, forge.claims | claims)
        )
    except (Unauthenticated, NotPermitted):
        return
    assert caller.issuer == forge.issuer.url


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
async def test_a_valid_token_names_its_caller(forge: Forge, service: Service, make: Maker) -> None:
    """The caller has issuer, subject and role, also from the cache.

    jose may use only one algorithm.
    """
    good = make(forge)
    claims = jose.jwt.get_unverified_claims(good)
    with patch("jose.jwt.decode", wraps=jose.jwt.decode) as decode:
        assert [await service.caller(good) for _ in range(2)] == [
            Caller(forge.issuer.url, claims["sub"], Role(claims["role"]))
        ] * 2
    algorithm = jose.jwt.get_unverified_header(good)["alg"]
    assert all(call.kwargs["algorithms"] == [algorithm] for call in decode.mock_calls)


@pytest.mark.parametrize(
    ("times", "is_valid"),
    [
        ({"exp": NOW - LEEWAY_SECONDS}, False),
        ({"exp": NOW - LEEWAY_SECONDS + 1}, True),
        ({"nbf": NOW + LEEWAY_SECONDS}, True),
        ({"nbf": NOW + LEEWAY_SECONDS + 1}, False),
    ],
)
async def test_a_token_is_valid_within_the_leeway(
    forge: Forge, service: Service, times: dict[str, Any], *, is_valid: bool
) -> None:
    try:
        await service.caller(forge.token(**times))
    except Unauthenticated:
        assert not is_valid
    else:
        assert is_valid


async def test_a_forged_role_is_answered_like_any_forged_token(
    forge: Forge, service: Service
) -> None:
    """The answer is 403 only if the signature is valid."""
    with pytest.raises(Unauthenticated):
        await service.caller(forge.token(sign=forge.sign_as_attacker, role="anon"))


async def test_the_policy_may_allow_anonymous_users(forge: Forge) -> None:
    caller = await Service(forge, allow_anonymous=True).caller(forge.token(is_anonymous=True))
    assert caller.role is Role.USER


@pytest.mark.parametrize(
    ("sentence", "make"),
    [
        ("HS256", GOOD["HS256 without a kid"]),
        # The message explains a legacy API key, although the service has no secret.
        (r"API key.*README\.md", lambda forge: forge.api_key(iss="supabase", ref="abcd")),
    ],
)
async def test_hs256_is_rejected_if_no_secret_is_configured(
    forge: Forge, sentence: str, make: Maker
) -> None:
    with pytest.raises(Unauthenticated, match=sentence):
        await Service(forge, secret=None).caller(make(forge))


async def test_a_secret_alone_verifies_only_hs256(forge: Forge) -> None:
    verifier = TokenVerifier(None, SECRET, forge.issuer.url, "authenticated", clock=lambda: NOW)
    for _ in range(2):  # the second time from the cache
        assert (await verifier.authenticate([f"Bearer {forge.hs256()}"])).subject == SUBJECT
    with pytest.raises(Unauthenticated, match="ES256, which is not accepted"):
        await verifier.authenticate([f"Bearer {forge.token()}"])


def test_invalid_settings_stop_the_start(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invalid are: neither keys nor a secret, a weak secret, no issuer, another backend of jose."""
    pem = forge.public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    issuer = forge.issuer.url
    for secret, name in ((None, issuer), ("short", issuer), (pem, issuer), (SECRET, "")):
        with pytest.raises(ValueError, match="JWT_"):
            TokenVerifier(None, secret, name, "authenticated")
    monkeypatch.setattr(jose.backends, "ECKey", object)
    with pytest.raises(RuntimeError, match="cryptography"):
        Service(forge)


async def test_a_rejection_names_the_expected_issuer_and_audience(
    forge: Forge, service: Service
) -> None:
    """It does not name the token's issuer or audience: it repeats no part of the token."""
    for name, value, expected in (
        ("iss", "https://elsewhere.example/auth/v1", f" {forge.issuer.url}"),
        ("iss", ABSENT, f" {forge.issuer.url}"),
        ("aud", "elsewhere", "authenticated"),
    ):
        claims: dict[str, Any] = {name: value}
        with pytest.raises(Unauthenticated) as refusal:
            await service.caller(forge.token(**claims))
        assert expected in refusal.value.message
        assert "elsewhere" not in refusal.value.message


async def test_a_caller_keeps_the_identity_of_its_first_issuer(forge: Forge) -> None:
    """Otherwise used idempotency keys would be free again. A token must name the present issuer."""
    first, second = "https://first.example/auth/v1", "https://second.example"
    old, new = forge.token(iss=first), forge.token()
    before = await Service(forge, issuer=first).caller(old)
    renamed = Service(forge, former_issuers=[first, second])
    for _ in range(2):  # the second time from the cache
        assert await renamed.caller(new) == before == Caller(first, SUBJECT, Role.USER)
    with pytest.raises(Unauthenticated, match="issuer"):
        await renamed.caller(old)
    assert (await Service(forge).caller(new)).key != before.key
