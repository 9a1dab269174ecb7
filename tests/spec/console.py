"""Visits the console as a browser without scripts would: cookies, forms, redirects."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from tests.spec.conftest import a_system
from tests.spec.system import System

CONSOLE_ENV: dict[str, str | None] = {"CONSOLE_SECRET": "a secret for the console, of a test only"}
OPERATOR = "c0ffee00-52cb-4b0e-9f53-0c2b8f1d4a10"
OPERATOR_EMAIL = "wanjiru@example.co.ke"
RECORDED_AS = f"{OPERATOR_EMAIL} ({OPERATOR})"


@asynccontextmanager
async def a_console_system(env: Mapping[str, str | None] | None = None) -> AsyncIterator[System]:
    """A system whose web process serves the console."""
    async with a_system(env={**CONSOLE_ENV, **(env or {})}) as system:
        yield system


def operator_token(system: System, *, expires_in_seconds: float = 3600) -> str:
    return system.stack.issuer.mint(
        sub=OPERATOR,
        role="operator",
        claims={"email": OPERATOR_EMAIL},
        expires_in_seconds=expires_in_seconds,
    )


async def payment_in_doubt(system: System) -> str:
    """A bill payment that Daraja may have paid, and about which no inquiry is possible.

    It was sent ten minutes ago, so an operator may decide that it is unpaid.
    """
    await system.scenario("answer_and_callback_lost", api="b2b", times=1)
    payment_id = await system.bill_payment()
    await system.in_stage(payment_id, "in_doubt")
    await system.execute(
        "UPDATE mkwanja.attempts SET ended_at = ended_at - interval '10 minutes'"
        " WHERE payment_id = $1::uuid",
        payment_id,
    )
    return payment_id


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of the console. `path` is where the redirects led."""

    status: int
    path: str
    headers: Mapping[str, str]
    source: str

    @property
    def text(self) -> str:
        """What a reader sees: the source without tags, with white space as single spaces."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.source)).split())

    @property
    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]+)"', self.source)
        assert found is not None, self.source
        return found[1]


class Visitor:
    """A visitor of the console. It sends the headers by which a browser names the form's origin."""

    def __init__(self, system: System, *, keeps_cookies: bool = True) -> None:
        self._system = system
        self._keeps_cookies = keeps_cookies
        self._form_token = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._system.stack.web_url,
            cookie_jar=(
                aiohttp.CookieJar(unsafe=True)  # the address is an IP number
                if self._keeps_cookies
                else aiohttp.DummyCookieJar()
            ),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Page:
        async with self._session.get(path, headers=headers) as answer:
            page = await self._page(answer)
        if 'name="form_token"' in page.source:
            self._form_token = page.form_token
        return page

    async def post(
        self,
        path: str,
        form: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        form_token: str | None = None,
    ) -> Page:
        """Send a form of the page that was read last."""
        token = self._form_token if form_token is None else form_token
        fields = {} if path == "/console/sign-in" else {"form_token": token}
        sent_headers = {"Origin": self._system.stack.web_url} if headers is None else headers
        async with self._session.post(
            path, data={**fields, **(form or {})}, headers=sent_headers
        ) as answer:
            return await self._page(answer)

    async def post_raw(self, path: str, fields: bytes, **headers: str) -> Page:
        """Send a form of the page that was read last, with more fields as these bytes."""
        sent_headers = {
            "Origin": self._system.stack.web_url,
            "Content-Type": "application/x-www-form-urlencoded",
            **headers,
        }
        body = f"form_token={self._form_token}&".encode() + fields
        async with self._session.post(path, data=body, headers=sent_headers) as answer:
            return await self._page(answer)

    async def request(self, method: str, path: str) -> Page:
        """Send a request without a body, and follow no redirect."""
        url = URL(f"{self._system.stack.web_url}{path}", encoded=True)
        async with self._session.request(method, url, allow_redirects=False) as answer:
            return await self._page(answer)

    async def cookie_of_sign_in(self, host: str) -> str:
        """The Set-Cookie header of a good sign-in under this host name."""
        headers = {"Origin": f"https://{host}", "Host": host}
        async with self._session.post(
            "/console/sign-in",
            data={"token": operator_token(self._system)},
            headers=headers,
            allow_redirects=False,
        ) as answer:
            return answer.headers["Set-Cookie"]

    async def sign_in(self, token: str | None = None) -> Page:
        """Sign in, by default with a good token, and read the first page."""
        page = await self.post(
            "/console/sign-in", {"token": operator_token(self._system) if token is None else token}
        )
        return await self.get("/console") if page.status == 200 else page

    async def _page(self, answer: aiohttp.ClientResponse) -> Page:
        return Page(answer.status, answer.url.path_qs, answer.headers, await answer.text())


@asynccontextmanager
async def an_operator(system: System) -> AsyncIterator[Visitor]:
    """A visitor who has signed in."""
    async with Visitor(system) as visitor:
        page = await visitor.sign_in()
        assert page.status == 200, page.text
        yield visitor
