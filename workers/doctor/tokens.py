"""Checks the keys that check callers' tokens: the key set loads, and has usable keys."""

from __future__ import annotations

from collections import Counter

from domain.adapters.jwks import NoKeySet, read_key_set
from domain.adapters.settings.common import read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.web import TokenSettings
from workers.doctor.findings import Finding, failed, ok, skipped, warning
from workers.doctor.requests import NoAnswer, get

_CHECK = "token keys"
_ADDRESS = "Check JWT_JWKS_URL (or SUPABASE_URL). Without keys, every caller gets 503."


async def check_token_keys() -> list[Finding]:
    """The findings about the key set (JWKS)."""
    try:
        settings = read_settings(TokenSettings)
    except SettingsError:
        return [skipped(_CHECK, "JWT_JWKS_URL or JWT_ISSUER")]
    if settings.jwt_jwks_url is None:
        return [
            warning(
                _CHECK,
                "only JWT_SECRET checks tokens, and each holder of the secret can forge them",
                "Give the auth server an asymmetric key, and set JWT_JWKS_URL.",
            )
        ]
    try:
        answer = await get(settings.jwt_jwks_url)
    except NoAnswer as error:
        return [failed(_CHECK, f"the key set is not reachable: {error}", _ADDRESS)]
    if answer.status != 200:
        return [failed(_CHECK, f"the key set is answered with HTTP {answer.status}", _ADDRESS)]
    try:
        keys, refused = read_key_set(answer.body)
    except NoKeySet as error:
        return [failed(_CHECK, f"the answer is not a key set: {error}", _ADDRESS)]
    findings = [
        warning(_CHECK, f"a key is not used: {fault}", "Remove it from the key set, or replace it.")
        for fault in refused
    ]
    counts = Counter(key.algorithm for key in keys.values())
    if counts:
        told = ", ".join(f"{count} {algorithm}" for algorithm, count in sorted(counts.items()))
        return [ok(_CHECK, f"the key set has usable keys: {told}"), *findings]
    if settings.jwt_secret is not None:
        text = "the key set has no ES256 or RS256 key, so only JWT_SECRET checks tokens"
        return [warning(_CHECK, text, "Give the auth server an asymmetric key."), *findings]
    return [
        failed(
            _CHECK,
            "the key set has no ES256 or RS256 key, so every token is refused",
            "Give the auth server an asymmetric key (Supabase: JWT Keys), or set JWT_SECRET.",
        ),
        *findings,
    ]
