"""Signs operators in by a token of the role `operator`, and out again.

The role gives no right under /v1, because `domain.values.Role` does not have it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from aiohttp import web

from domain.errors import NotPermitted, RateLimited, Unauthenticated
from gateway.auth.verifier import OPERATOR_ROLE, TokenVerifier, VerifiedClaims
from gateway.console.pages import Pages
from gateway.console.sessions import Operator, Sessions, delete_cookie, set_cookie
from gateway.console.visits import HOME, SIGN_IN, Visit, local_path, redirect

_NAME_LENGTH_MAX = 100

# One address may fail this often a minute. Behind a proxy that is the proxy's address.
FAILURES_MAX = 20
_MINUTE_SECONDS = 60.0
_ADDRESSES_MAX = 1_000


class FailedSignIns:
    """Counts the failed sign-ins of each address. A process counts only its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        """The number of remembered addresses."""
        return len(self._by_address)

    def require_patience(self, address: str) -> None:
        """Raises RateLimited if the address failed too often in this minute."""
        began_at, count = self._by_address.get(address, (0.0, 0))
        wait_seconds = began_at + _MINUTE_SECONDS - self._clock()
        if count >= FAILURES_MAX and wait_seconds > 0:
            raise RateLimited(
                "Too many sign-ins failed. Wait a minute, then try again.",
                limit="console.sign_ins",
                wait_seconds=wait_seconds,
            )

    def count(self, address: str) -> None:
        now = self._clock()
        began_at, count = self._by_address.pop(address, (now, 0))
        if now - began_at >= _MINUTE_SECONDS:
            began_at, count = now, 0
        self._by_address[address] = (began_at, count + 1)
        if len(self._by_address) > _ADDRESSES_MAX:
            self._by_address.popitem(last=False)


class SignIn:
    """The pages to sign in and out."""

    def __init__(self, verifier: TokenVerifier, sessions: Sessions, pages: Pages) -> None:
        self._verifier = verifier
        self._sessions = sessions
        self._pages = pages
        self._failed = FailedSignIns()

    async def show(self, request: web.Request) -> web.Response:
        """GET /console/sign-in"""
        return self._page(request.query.get("next", HOME))

    async def sign_in(self, request: web.Request, form: dict[str, str]) -> web.Response:
        """POST /console/sign-in"""
        address, target = request.remote or "", local_path(form.get("next", ""))
        try:
            self._failed.require_patience(address)
        except RateLimited as refusal:
            return self._page(target, refusal.message, status=429)
        try:
            verified = await self._verifier.read_claims("".join(form.get("token", "").split()))
            operator = read_operator(verified)
        except (Unauthenticated, NotPermitted) as refusal:
            self._failed.count(address)
            return self._page(target, refusal.message, status=403)
        response = redirect(target)
        session = self._sessions.begin(operator, verified.expires_at)
        set_cookie(request, response, self._sessions.seal(session))
        return response

    async def sign_out(self, _visit: Visit, _form: dict[str, str]) -> web.Response:
        """POST /console/sign-out"""
        response = redirect(SIGN_IN)
        delete_cookie(response)
        return response

    def _page(self, target: str, fault: str | None = None, *, status: int = 200) -> web.Response:
        return self._pages.response(
            "sign_in.html", status=status, next=local_path(target), fault=fault
        )


def read_operator(verified: VerifiedClaims) -> Operator:
    """The operator of a valid token. Raises NotPermitted if the token has another role."""
    claims = verified.claims
    if claims["role"] != OPERATOR_ROLE:
        raise NotPermitted(
            f"The token is valid, but its role is not {OPERATOR_ROLE}. Only a token of that role"
            " opens the console."
        )
    name = next(filter(None, map(_printable, (claims.get("email"), claims.get("name")))), None)
    return Operator(str(claims["sub"]), name)


def _printable(claim: Any) -> str | None:
    is_name = isinstance(claim, str) and claim.isprintable() and len(claim) <= _NAME_LENGTH_MAX
    return claim.strip() or None if is_name else None
