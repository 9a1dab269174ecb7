"""JWT_FORMER_ISSUERS: the oldest name identifies callers, and tokens must name the present one."""

from __future__ import annotations

import time

import pytest
from jose import jwt

from domain.adapters.settings.common import read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.web import IngressSettings
from domain.errors import Unauthenticated
from domain.values import Caller, Role
from gateway.auth.verifier import TokenVerifier

_SECRET = "only-the-tests-use-this-secret-of-many-characters"
_FIRST, _NOW = "https://first.example/auth/v1", "https://now.example/auth/v1"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("SUPABASE_URL", "JWT_JWKS_URL", "JWT_ISSUER", "JWT_FORMER_ISSUERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/mkwanja")
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    monkeypatch.setenv("JWT_SECRET", _SECRET)
    return monkeypatch


def _caller_issuer(settings: IngressSettings) -> str:
    return next(iter([*settings.jwt_former_issuers, settings.jwt_issuer]))


@pytest.mark.parametrize(
    ("former", "identifying"),
    [
        ("", _NOW),
        (_FIRST, _FIRST),
        (f"{_FIRST} , https://second.example,", _FIRST),
        (_NOW, _NOW),
        (f"{_FIRST},{_NOW}", _FIRST),
        (f"{_NOW},https://second.example", _NOW),
        ("supabase", "supabase"),
    ],
)
def test_the_oldest_name_of_an_issuer_identifies_its_callers(
    environment: pytest.MonkeyPatch, former: str, identifying: str
) -> None:
    environment.setenv("JWT_ISSUER", _NOW)
    environment.setenv("JWT_FORMER_ISSUERS", former)
    settings = read_settings(IngressSettings)
    assert (settings.jwt_issuer, _caller_issuer(settings)) == (_NOW, identifying)


def test_callers_keep_their_identity_when_the_address_of_the_project_changes(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("SUPABASE_URL", "https://now.example")
    environment.setenv("JWT_FORMER_ISSUERS", _FIRST)
    settings = read_settings(IngressSettings)
    assert (settings.jwt_issuer, _caller_issuer(settings)) == (_NOW, _FIRST)


@pytest.mark.parametrize("former", [f"{_FIRST},{_FIRST}", f"{_FIRST} {_NOW}", "a\tb"])
def test_invalid_former_issuers_stop_the_start(
    environment: pytest.MonkeyPatch, former: str
) -> None:
    environment.setenv("JWT_ISSUER", _NOW)
    environment.setenv("JWT_FORMER_ISSUERS", former)
    with pytest.raises(SettingsError, match="JWT_FORMER_ISSUERS"):
        read_settings(IngressSettings)


async def test_a_caller_keeps_the_identity_of_its_first_issuer() -> None:
    """Otherwise a new name would free idempotency keys. The token must name the present issuer."""
    claims = {
        "aud": "authenticated",
        "sub": "shop",
        "role": "service_role",
        "exp": int(time.time()) + 3600,
    }
    token, old = (
        f"Bearer {jwt.encode({**claims, 'iss': issuer}, _SECRET)}" for issuer in (_NOW, _FIRST)
    )
    before = await TokenVerifier(None, _SECRET, _FIRST, "authenticated").authenticate([old])
    renamed = TokenVerifier(
        None, _SECRET, _NOW, "authenticated", former_issuers=[_FIRST, "https://second.example"]
    )
    for _ in range(2):  # the second time from the cache
        assert await renamed.authenticate([token]) == before == Caller(_FIRST, "shop", Role.BACKEND)
    with pytest.raises(Unauthenticated, match="issuer"):
        await renamed.authenticate([old])
    assert (
        await TokenVerifier(None, _SECRET, _NOW, "authenticated").authenticate([token])
    ).key != before.key
