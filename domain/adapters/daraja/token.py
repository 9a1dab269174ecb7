"""One OAuth token for all workers.

By Daraja's FAQ, each new token invalidates the previous one (daraja.md §1). If each worker fetched
its own token, it would end the tokens of the others. So the workers share one token in Redis. One
worker at a time renews it before it expires, so that the others need not wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Protocol

import aiohttp
import structlog

from domain.adapters import observability
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.strict_json import Unreadable, parse
from domain.errors import OutcomeUnknown, ProviderError, QueueUnavailable, Refused, Unreachable
from domain.failures import Failure, FailureReason

log = structlog.get_logger()

_FETCH_SECONDS = 10
_POLL_SECONDS = 0.05  # the wait between two tries while another worker fetches a token
_BODY_BYTES_MAX = 16 * 1024

# Daraja's token has 28 characters (daraja.md §1). We put a token into a header only if its
# characters are those of a bearer token (RFC 6750) and any server accepts its length.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,2048}={0,2}")
_LIFETIME = re.compile(r"\d{1,6}(\.\d{1,4})?", re.ASCII)  # seconds

# A token is renewed this long before it expires. For a short-lived token, this margin is a tenth of
# the token's life.
_MARGIN_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. Its times are in seconds of Unix time."""

    text: str
    issued_at: float
    expires_at: float

    def is_fresh(self, now: float) -> bool:
        """Whether it is too early to renew the token."""
        return now < self.expires_at - min(_MARGIN_SECONDS, (self.expires_at - self.issued_at) / 10)

    def is_valid(self, now: float) -> bool:
        return now < self.expires_at - 1


class TokenStore(Protocol):
    """The place where the workers share the token, as text. Each method raises QueueUnavailable."""

    async def read(self) -> str | None: ...

    async def write(self, text: str, *, ttl_seconds: float) -> None: ...

    def lock(self) -> AbstractAsyncContextManager[bool]:
        """Return a lock that one worker at a time holds. Yields False if another worker has it."""
        ...


def token_name(consumer_key: str) -> str:
    """The name under which the workers share the token of this app. The key itself is a secret."""
    return f"token:{hashlib.sha256(consumer_key.encode()).hexdigest()[:16]}"


class TokenSource:
    """Provides the token to send with. Each worker process has one."""

    def __init__(
        self,
        *,
        session: DarajaSession,
        base_url: str,
        consumer_key: str,
        consumer_secret: str,
        store: TokenStore,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._url = f"{base_url}/oauth/v1/generate?grant_type=client_credentials"
        self._headers = {"Authorization": aiohttp.encode_basic_auth(consumer_key, consumer_secret)}
        self._store = store
        self._clock = clock
        self._token: Token | None = None
        # Allows one refresh at a time in this process. The store's lock excludes other processes.
        self._refresh_lock = asyncio.Lock()

    async def get_current(self) -> Token:
        """Return a token that is valid as far as we know.

        Raises ProviderError or QueueUnavailable if no token is available.
        """
        token, now = self._token, self._clock()
        # While a task renews the token, the other tasks use the old token until it expires.
        is_being_renewed = self._refresh_lock.locked()
        if token is not None and (
            token.is_fresh(now) or (token.is_valid(now) and is_being_renewed)
        ):
            return token
        return await self._renew_token(refused=None)

    async def replace_refused(self, refused: Token) -> Token:
        """Return another token than `refused`: one that we already have, else a new one."""
        if self._token is not None and self._token.text != refused.text:
            return self._token
        return await self._renew_token(refused=refused)

    async def find_newer(self, used: Token) -> Token | None:
        """Return the shared token if it is newer than `used`, else None. Fetches no token.

        If a worker is fetching a token, the method waits until that worker has shared it, because
        Daraja may already have ended the old token. Raises QueueUnavailable or Unreachable.
        """
        async with self._refresh_lock:
            for _ in range(int(_FETCH_SECONDS / _POLL_SECONDS)):
                async with self._store.lock() as is_held_by_us:
                    if is_held_by_us:
                        return await self._read_newer_shared(used)
                await asyncio.sleep(_POLL_SECONDS)
        raise Unreachable("another worker holds the lock of the token and does not finish")

    async def _read_newer_shared(self, used: Token) -> Token | None:
        newer = await self._read_shared(used)
        if newer is None or newer.issued_at < used.issued_at:
            return None
        self._token = newer
        return newer

    async def _renew_token(self, refused: Token | None) -> Token:
        async with self._refresh_lock:
            for _ in range(int(_FETCH_SECONDS / _POLL_SECONDS)):
                shared = await self._read_shared(refused)
                if shared is not None and shared.is_fresh(self._clock()):
                    self._token = shared
                    return shared
                async with self._store.lock() as is_held_by_us:
                    if is_held_by_us:
                        return await self._fetch_and_share(refused)
                # Another worker renews the token. Until the old token expires, it can be used.
                if shared is not None:
                    self._token = shared
                    return shared
                await asyncio.sleep(_POLL_SECONDS)
        raise Unreachable("no access token: another worker holds its lock and does not finish")

    async def _read_shared(self, refused: Token | None) -> Token | None:
        """Return the shared token if it is valid and is not `refused`, else None."""
        text = await self._store.read()
        try:
            token = Token(**json.loads(text)) if text else None
            if (
                token is None
                or not token.is_valid(self._clock())
                or not isinstance(token.is_fresh(0), bool)
            ):
                return None
        except (ValueError, TypeError):
            return None
        return None if refused is not None and token.text == refused.text else token

    async def _fetch_and_share(self, refused: Token | None) -> Token:
        # Read the shared token again under the lock. The lock's last holder may have fetched a new
        # one.
        shared = await self._read_shared(refused)
        if shared is None or not shared.is_fresh(self._clock()):
            try:
                shared = await self._fetch_and_count()
            except ProviderError:
                if shared is None:
                    raise
                # The old token is still valid for some minutes. The next send tries to renew it.
                log.warning("token_not_renewed")
            else:
                # Store the new token in this process before it is shared. Daraja has already ended
                # the old token, even if Redis fails now.
                self._token = shared
                try:
                    await self._store.write(
                        json.dumps(asdict(shared)), ttl_seconds=shared.expires_at - self._clock()
                    )
                except QueueUnavailable:
                    log.warning("token_not_shared")
        self._token = shared
        return shared

    async def _request_token(self) -> tuple[int, bytes]:
        return await self._session.request_once(
            "GET",
            self._url,
            headers=self._headers,
            bytes_max=_BODY_BYTES_MAX,
            seconds_max=_FETCH_SECONDS,
        )

    async def _fetch_and_count(self) -> Token:
        begun_at, outcome = time.monotonic(), "error"
        try:
            token = await self._fetch_token()
            outcome = "fetched"
        except ProviderError as error:
            outcome = type(error).__name__
            raise
        else:
            return token
        finally:
            observability.count_daraja_request("oauth", outcome, time.monotonic() - begun_at)

    async def _fetch_token(self) -> Token:
        now = self._clock()
        try:
            status, body = await self._request_token()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable("fetching the access token failed") from error
        if status == 400:
            # Daraja answers a wrong key or secret with an empty 400 (daraja.md §1).
            log.error("daraja_credentials_refused")
            raise Refused(
                Failure(FailureReason.CONFIGURATION, True, "400"),
                "Daraja refused the consumer key or secret",
            )
        return _parse_token(status, body, now)


def _parse_token(status: int, body: bytes, now: float) -> Token:
    try:
        message = parse(body)
    except Unreadable:
        message = None
    text, lifetime = (
        (message.get("access_token"), message.get("expires_in"))
        if isinstance(message, dict)
        else (None, None)
    )
    # Daraja sends a number today. Older captures show a string (daraja.md §1).
    has_valid_lifetime = (
        not isinstance(lifetime, bool)
        and _LIFETIME.fullmatch(str(lifetime))
        and float(str(lifetime)) > 0
    )
    if (
        status != 200
        or not isinstance(text, str)
        or not _TOKEN.fullmatch(text)
        or not has_valid_lifetime
    ):
        raise OutcomeUnknown(f"an answer of status {status} has no valid access token")
    return Token(text, now, now + float(str(lifetime)))
