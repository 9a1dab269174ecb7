"""Checks Daraja: our app's credentials, by an access token, and Daraja's certificate.

By Daraja's FAQ, each new token ends the one before (daraja.md §1). So the check shares its token
with the workers. At most one request of each worker is refused then, and sent again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509

from domain.adapters.daraja.token import TokenSource, token_name
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.outages import Outage, classify_outage, explain_outage
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.sharing import SharedText
from domain.adapters.settings.common import RedisSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import CertificateSettings, DarajaAppSettings
from domain.errors import OutcomeUnknown, ProviderError, QueueUnavailable, Refused
from workers.doctor.findings import Finding, failed, ok, skipped, warning

_CHECK = "daraja credentials"
_SOON = timedelta(days=30)


class _NewToken:
    """A store that has no token, so that a new one is fetched. It shares the new one by Redis."""

    def __init__(self, shared: SharedText | None) -> None:
        self._shared = shared

    async def read(self) -> str | None:
        return None

    async def write(self, text: str, *, ttl_seconds: float) -> None:
        if self._shared is not None:
            await self._shared.write(text, ttl_seconds=ttl_seconds)

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        yield True


async def check_daraja_credentials() -> list[Finding]:
    """The findings about the consumer key and secret."""
    try:
        settings = read_settings(DarajaAppSettings)
    except SettingsError:
        return [skipped(_CHECK, "DARAJA_BASE_URL, DARAJA_CONSUMER_KEY or DARAJA_CONSUMER_SECRET")]
    parts = urlsplit(settings.daraja_base_url)
    redis = _connect_redis()
    try:
        await TokenSource(
            session=DarajaSession(),
            base_url=settings.daraja_base_url,
            consumer_key=settings.daraja_consumer_key,
            consumer_secret=settings.daraja_consumer_secret,
            store=_NewToken(_shared_token(redis, settings.daraja_consumer_key)),
            clock=time.time,
        ).get_current()
    except (ProviderError, QueueUnavailable) as error:
        return [_explain(error)]
    finally:
        if redis is not None:
            await redis.aclose()
    if parts.scheme != "https":
        return [
            warning(
                _CHECK,
                f"{parts.hostname} gave an access token, but without TLS",
                "Use https:// in DARAJA_BASE_URL, because Daraja accepts nothing else.",
            )
        ]
    return [ok(_CHECK, f"{parts.hostname} gave an access token")]


def _connect_redis() -> RedisClient | None:
    try:
        settings = read_settings(RedisSettings)
    except SettingsError:
        return None
    return connect(
        settings.redis_url,
        client_name="mkwanja-doctor",
        ca_file=settings.redis_ca_file,
        verify=settings.redis_tls_verify,
    )


def _shared_token(redis: RedisClient | None, consumer_key: str) -> SharedText | None:
    """Where the workers of this app share their token."""
    return None if redis is None else SharedText(redis, token_name(consumer_key))


def _explain(error: ProviderError | QueueUnavailable) -> Finding:
    match error:
        case Refused():
            return failed(
                _CHECK,
                "Daraja refused the consumer key or secret",
                "Copy both from the app on the portal. The keys must belong to DARAJA_BASE_URL.",
            )
        case OutcomeUnknown():
            return failed(
                _CHECK,
                "the answer at DARAJA_BASE_URL has no access token",
                "Check DARAJA_BASE_URL. A firewall in front of Daraja answers a page.",
            )
        case _:
            outage = classify_outage(error) or Outage.CLOSED
            cause = explain_outage(outage, server="Daraja", setting="DARAJA_BASE_URL")
            return failed(_CHECK, cause.problem, cause.remedy)


async def check_certificate() -> list[Finding]:
    """The findings about the certificate that encrypts the initiator's password."""
    check = "daraja certificate"
    try:
        path = read_settings(CertificateSettings).daraja_certificate_file
    except SettingsError:
        return [skipped(check, "DARAJA_CERTIFICATE_FILE")]
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.now(UTC)
    remedy = (
        "Get the certificate of this environment from the portal. The service uses only its key, "
        "so it works until Safaricom changes the key."
    )
    if not begins <= now <= ends:
        return [warning(check, f"valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d} only", remedy)]
    if ends - now < _SOON:
        return [warning(check, f"it ends soon, on {ends:%Y-%m-%d}", remedy)]
    return [ok(check, f"RSA, valid until {ends:%Y-%m-%d}")]
