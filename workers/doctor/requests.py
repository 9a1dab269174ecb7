"""One GET for a check, with limits, and a text that says what went wrong."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

SECONDS_MAX = 5.0
_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a GET. `date` is the header of this name."""

    status: int
    body: bytes
    date: str | None


class NoAnswer(Exception):
    """There was no answer. The text says why, and quotes nothing."""


async def get(url: str) -> Answer:
    """Sends one GET. Follows no redirect, and ignores proxies of the environment.

    Raises NoAnswer.
    """
    limits = aiohttp.ClientTimeout(total=SECONDS_MAX)
    try:
        async with (
            aiohttp.ClientSession(
                trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), timeout=limits
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            body = await response.content.read(_BYTES_MAX)
            return Answer(response.status, body, response.headers.get("Date"))
    except aiohttp.ClientConnectorDNSError:
        raise NoAnswer("its host name does not resolve") from None
    except aiohttp.ClientConnectorCertificateError:
        raise NoAnswer("its certificate is not valid for a client") from None
    except aiohttp.ClientSSLError:
        raise NoAnswer("it does not speak TLS") from None
    except TimeoutError:
        raise NoAnswer(f"it gave no answer within {SECONDS_MAX:.0f} s") from None
    except aiohttp.ClientConnectorError:
        raise NoAnswer("no connection is possible") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswer(f"the request failed ({type(error).__name__})") from None
