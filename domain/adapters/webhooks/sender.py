"""Sends one message to an endpoint, and judges the answer.

The endpoint may be hostile. The name is looked up once, its addresses are checked, and the
connection goes to a checked address, so no second lookup can give another one. Redirects are not
followed. One time limit covers everything, heads have limits, and of the body at most a kilobyte is
read.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs
from yarl import URL

from domain.adapters.webhooks.lookups import Lookups, NameNotResolved
from domain.webhooks.addresses import Address, Network, may_call
from domain.webhooks.endpoint import ANSWER_BYTES_MAX, AttemptOutcome, outcome_of_status

_CONNECT_SECONDS = 5.0
# The answer's body is only for people who look for a fault, so a slow one is cut off.
_BODY_SECONDS = 2.0
_ADDRESSES_MAX = 3

_CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
_USER_AGENT = "Mkwanja-Webhooks/1"


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of one request. `http_status` is None if there was no answer."""

    outcome: AttemptOutcome
    http_status: int | None = None
    answer: bytes = b""
    milliseconds: int = 0


class WebhookSender:
    """Sends messages. Call `close` at the end."""

    def __init__(
        self,
        *,
        allowed: Sequence[Network],
        seconds_max: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = allowed
        self._seconds_max = seconds_max
        self._tls = tls
        self._lookups = Lookups()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Sent:
        """Sends the message and returns what came of it. Raises no error of the network."""
        started = time.monotonic()
        sent = await self._try_to_send(URL(url, encoded=True), headers, body)
        milliseconds = round((time.monotonic() - started) * 1000)
        return Sent(sent.outcome, sent.http_status, sent.answer, milliseconds)

    async def _try_to_send(self, url: URL, headers: Mapping[str, str], body: bytes) -> Sent:
        try:
            async with asyncio.timeout(self._seconds_max):
                return await self._send_to_first(url, headers, body)
        except TimeoutError:
            return Sent(AttemptOutcome.TIMEOUT)
        except NameNotResolved:
            return Sent(AttemptOutcome.NAME_NOT_RESOLVED)
        except aiohttp.ClientSSLError:
            return Sent(AttemptOutcome.TLS_FAILED)
        except aiohttp.ClientConnectorError:
            return Sent(AttemptOutcome.UNREACHABLE)
        except (aiohttp.ClientError, ValueError):
            return Sent(AttemptOutcome.BROKEN_ANSWER)
        except OSError:
            return Sent(AttemptOutcome.UNREACHABLE)

    async def _send_to_first(self, url: URL, headers: Mapping[str, str], body: bytes) -> Sent:
        """Sends to the first permitted address that accepts a connection."""
        found = await self._lookups.find(called_host(url))
        is_https = url.scheme == "https"
        addresses = [
            each for each in found if may_call(each, is_https=is_https, allowed=self._allowed)
        ][:_ADDRESSES_MAX]
        if not addresses:
            return Sent(AttemptOutcome.ADDRESS_NOT_ALLOWED)
        for address in addresses[:-1]:
            try:
                return await self._post(url, address, headers, body)
            except aiohttp.ClientSSLError:
                raise
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue  # nothing was sent
        return await self._post(url, addresses[-1], headers, body)

    async def _post(
        self, url: URL, address: Address, headers: Mapping[str, str], body: bytes
    ) -> Sent:
        is_https = url.scheme == "https"
        request = self._open_session().post(
            url.with_host(str(address)),
            data=body,
            headers={
                **headers,
                hdrs.HOST: url.host_port_subcomponent or "",
                hdrs.CONTENT_TYPE: _CONTENT_TYPE,
                hdrs.USER_AGENT: _USER_AGENT,
            },
            allow_redirects=False,
            ssl=self._open_tls() if is_https else False,
            server_hostname=called_host(url).rstrip(".") if is_https else None,
        )
        async with request as response:
            answer = await _read_beginning(response)
            response.close()
            return Sent(outcome_of_status(response.status), response.status, answer)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=(hdrs.ACCEPT_ENCODING,),
                auto_decompress=False,
                read_bufsize=ANSWER_BYTES_MAX,
                trust_env=False,
            )
        return self._session

    def _open_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


def called_host(url: URL) -> str:
    """The host whose addresses are looked up and whose certificate is required, in lower case.

    A punycode name stays punycode. yarl's `host` would decode it, and Python would encode it again
    by an older standard: `xn--fa-hia.example` would become `fass.example`, which can have another
    owner.
    """
    return (url.raw_host or "").lower()


async def _read_beginning(response: aiohttp.ClientResponse) -> bytes:
    """The first kilobyte of the body, or as much as arrives in time. The status counts anyway."""
    beginning = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while len(beginning) < ANSWER_BYTES_MAX:
                chunk = await response.content.read(ANSWER_BYTES_MAX - len(beginning))
                if not chunk:
                    break
                beginning += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    return bytes(beginning)
