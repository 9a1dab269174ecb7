"""One OAuth token for all workers.

Each new token invalidates the previous one (daraja.md §1), so workers that fetched their own would
keep killing each other's. The token is shared in Redis, fetched by one at a time, early enough that
nobody waits for it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Protocol

import aiohttp
import structlog

from domain.adapters.daraja.wire import request_once
from domain.adapters.strict_json import Unreadable, parse
from domain.errors import OutcomeUnknown, ProviderError, QueueUnavailable, Refused, Unreachable
from domain.failures import Failure, FailureReason

log = structlog.get_logger()

_FETCH_SECONDS = 10
_LOOK_AGAIN_SECONDS = 0.05  # while another worker fetches
_BODY_BYTES_MAX = 16 * 1024

# Daraja's has 28 letters and digits. What goes into a header is only what a bearer token may have
# (RFC 6750), and no more than any server takes.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,2048}={0,2}")
_LIFETIME = re.compile(r"\d{1,6}(\.\d{1,4})?", re.ASCII)  # seconds

# Refreshed this long before it ends, or a tenth of its life where that is shorter.
_MARGIN_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. Times in seconds since the epoch."""

    text: str
    issued_at: float
    expires_at: float

    def is_fresh(self, now: float) -> bool:
        """Whether nobody needs to think of a new one yet."""
        return now < self.expires_at - min(_MARGIN_SECONDS, (self.expires_at - self.issued_at) / 10)

    def is_valid(self, now: float) -> bool:
        return now < self.expires_at - 1


class Shelf(Protocol):
    """Where the workers share the token, as text. Each method raises QueueUnavailable."""

    async def read(self) -> str | None: ...

    async def write(self, text: str, *, kept_seconds: float) -> None: ...

    def lock(self) -> AbstractAsyncContextManager[bool]:
        """Held by one worker at a time; False where another holds it."""
        ...


class TokenSource:
    """Gives the token to send with. One for each worker process."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        base_url: str,
        consumer_key: str,
        consumer_secret: str,
        shelf: Shelf,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._url = f"{base_url}/oauth/v1/generate?grant_type=client_credentials"
        self._headers = {"Authorization": aiohttp.encode_basic_auth(consumer_key, consumer_secret)}
        self._shelf = shelf
        self._clock = clock
        self._token: Token | None = None
        self._refreshing = (
            asyncio.Lock()
        )  # one refresh in this process; the shelf's lock sees to the others

    async def current(self) -> Token:
        """A token that is valid as far as we know.

        Raises ProviderError or QueueUnavailable where none can be had.
        """
        token, now = self._token, self._clock()
        is_renewed_already = self._refreshing.locked()  # then the old one is good until its end
        if token is not None and (
            token.is_fresh(now) or (token.is_valid(now) and is_renewed_already)
        ):
            return token
        return await self._renew(refused=None)

    async def after_refusal(self, refused: Token) -> Token:
        """Another token than the one that Daraja refused: the shared one if it is newer, else a
        new one.
        """
        if self._token is not None and self._token.text != refused.text:
            return self._token
        return await self._renew(refused=refused)

    async def newer_than(self, used: Token) -> Token | None:
        """The shared token if it is newer than `used`, or None. Fetches none. Raises
        QueueUnavailable or Unreachable.

        Daraja ends the old token before the new one is shared. So a fetch that is under way is
        waited for.
        """
        async with self._refreshing:
            for _ in range(int(_FETCH_SECONDS / _LOOK_AGAIN_SECONDS)):
                async with self._shelf.lock() as is_ours:
                    if is_ours:
                        return await self._shared_since(used)
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        raise Unreachable("another worker holds the refresh and does not finish")

    async def _shared_since(self, used: Token) -> Token | None:
        newer = await self._shared(used)
        if newer is None or newer.issued_at < used.issued_at:
            return None
        self._token = newer
        return newer

    async def _renew(self, refused: Token | None) -> Token:
        async with self._refreshing:
            for _ in range(int(_FETCH_SECONDS / _LOOK_AGAIN_SECONDS)):
                shared = await self._shared(refused)
                if shared is not None and shared.is_fresh(self._clock()):
                    self._token = shared
                    return shared
                async with self._shelf.lock() as is_ours:
                    if is_ours:
                        return await self._fetch_and_share(refused)
                if (
                    shared is not None
                ):  # another worker renews it early; meanwhile the old one is good
                    self._token = shared
                    return shared
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        raise Unreachable("no access token: another worker holds the refresh and does not finish")

    async def _shared(self, refused: Token | None) -> Token | None:
        """The shared token, if it is valid and not the one that was just refused."""
        text = await self._shelf.read()
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
        # Looked at again under the lock: the one who held it before us may have fetched.
        shared = await self._shared(refused)
        if shared is None or not shared.is_fresh(self._clock()):
            try:
                shared = await self._fetch()
            except ProviderError:
                if shared is None:
                    raise
                log.warning(
                    "token_not_renewed"
                )  # the old one has some minutes left, and the next send tries again
            else:
                # Ours before it is shared: Daraja gave it, and ended the one before, whether Redis
                # keeps it or not.
                self._token = shared
                try:
                    await self._shelf.write(
                        json.dumps(asdict(shared)), kept_seconds=shared.expires_at - self._clock()
                    )
                except QueueUnavailable:
                    log.warning("token_not_shared")
        self._token = shared
        return shared

    async def _ask(self) -> tuple[int, bytes]:
        return await request_once(
            self._session,
            "GET",
            self._url,
            bytes_max=_BODY_BYTES_MAX,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS),
        )

    async def _fetch(self) -> Token:
        now = self._clock()
        try:
            status, body = await self._ask()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable("the access token could not be fetched") from error
        if status == 400:
            # Daraja answers a wrong key or secret with an empty 400 (daraja.md §1).
            log.error("daraja_credentials_refused")
            raise Refused(
                Failure(FailureReason.CONFIGURATION, True, "400"),
                "the consumer key or secret was refused",
            )
        return _token_of(status, body, now)


def _token_of(status: int, body: bytes, now: float) -> Token:
    try:
        message = parse(body)
    except Unreadable:
        message = None
    text, lifetime = (
        (message.get("access_token"), message.get("expires_in"))
        if isinstance(message, dict)
        else (None, None)
    )
    # A number today, a string in older captures (daraja.md §1).
    is_lifetime = (
        not isinstance(lifetime, bool)
        and _LIFETIME.fullmatch(str(lifetime))
        and float(str(lifetime)) > 0
    )
    if status != 200 or not isinstance(text, str) or not _TOKEN.fullmatch(text) or not is_lifetime:
        raise OutcomeUnknown(f"no access token in an answer of status {status}")
    return Token(text, now, now + float(str(lifetime)))
