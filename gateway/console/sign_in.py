"""Signs operators in by a token of the role `operator`, and out again.

The role gives no right under /v1, because `domain.values.Role` does not have it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web

from domain.errors import (
    ExpiredToken,
    NotPermitted,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from domain.values import Role
from gateway.auth.verifier import OPERATOR_ROLE, TokenVerifier, VerifiedClaims
from gateway.console.forms import parse_url
from gateway.console.pages import Pages
from gateway.console.pasted_token import EmptyTokenError, read_pasted_token
from gateway.console.sessions import (
    COOKIE,
    Operator,
    Sessions,
    delete_cookie,
    is_local,
    set_cookie,
)
from gateway.console.visits import (
    AFTER,
    AFTER_FORM,
    AFTER_SIGN_IN,
    HOME,
    SIGN_IN,
    Visit,
    local_path,
    redirect,
    sign_in_path,
)

# Whose tokens have the other roles that we know.
_OWNERS = {Role.USER.value: "an app's user", Role.BACKEND.value: "a backend"}
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

    def __init__(
        self,
        verifier: TokenVerifier,
        sessions: Sessions,
        pages: Pages,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = verifier
        self._sessions = sessions
        self._pages = pages
        self._clock = clock
        self._failed = FailedSignIns()

    async def show(self, request: web.Request) -> web.Response:
        """GET /console/sign-in: the page, which says why the operator sees it if we know it."""
        target, after = request.query.get("next", HOME), request.query.get(AFTER)
        cookie = request.cookies.get(COOKIE)
        has_session = self._sessions.open(cookie) is not None
        if after in (AFTER_SIGN_IN, AFTER_FORM) and has_session:
            return redirect(local_path(target))
        if after == AFTER_SIGN_IN:
            return self._page(target, _describe_lost_session(request, cookie), status=403)
        if after == AFTER_FORM:
            return self._page(target, _FORM_WITHOUT_SESSION)
        return self._page(target, _SESSION_ENDED if cookie and not has_session else None)

    async def sign_in(self, request: web.Request, form: dict[str, str]) -> web.Response:
        """POST /console/sign-in

        It redirects to the sign-in page, which finds out whether the browser has kept the cookie.
        """
        address, target = request.remote or "", local_path(form.get("next", ""))
        try:
            self._failed.require_patience(address)
            verified = await self._verifier.read_claims(read_pasted_token(form.get("token", "")))
            operator = read_operator(verified)
            # The verifier tolerates a difference of clocks. The session would have ended already.
            if verified.expires_at <= self._clock():
                raise ExpiredToken
        except EmptyTokenError:
            return self._page(target, "Paste a token into the field. It was empty.", status=422)
        except RateLimited as refusal:
            return self._page(target, refusal.message, status=429)
        except Unavailable:
            return self._page(target, _NOT_CHECKED, status=503)
        except (Unauthenticated, NotPermitted) as refusal:
            self._failed.count(address)
            return self._page(target, _describe_refusal(refusal), status=403)
        response = redirect(sign_in_path(target, after=AFTER_SIGN_IN))
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


_SESSION_ENDED = "Your session has ended. Sign in again."
_NOT_CHECKED = (
    "The token was not checked, because your auth server's keys could not be loaded. Paste it again"
    " in a moment."
)
_FORM_WITHOUT_SESSION = (
    "Your session has ended, so the form did nothing. Sign in, then fill in the form again."
)


def _describe_refusal(refusal: Unauthenticated | NotPermitted) -> str:
    """What is wrong with the token, and what to do. It repeats no part of the token."""
    match refusal:
        case NotPermitted():
            return refusal.message
        case ExpiredToken():
            return f"{refusal.message} Let your auth server sign a new one, and paste that."
        case _ if ". " in refusal.message:  # it says what to do
            return refusal.message
        case _:
            return (
                f"{refusal.message} Copy the token again, whole. If the message stays, let your"
                " auth server sign a new one for this service."
            )


def _describe_lost_session(request: web.Request, cookie: str | None) -> str:
    """Why the operator, whose token was accepted a moment ago, has no session."""
    if cookie:
        return (
            "The token was accepted, but the next web process could not open the session. All web"
            " processes need the same CONSOLE_SECRET, and the same time."
        )
    is_plain = parse_url(request.headers.get(hdrs.REFERER, "")).scheme == "http"
    if is_plain and not is_local(request.host):
        return (
            "The token was accepted, but a browser keeps the session's cookie only over HTTPS. Open"
            " the console at its https:// address."
        )
    return (
        "The token was accepted, but your browser did not send the session's cookie. Allow cookies"
        " for this address, then sign in again."
    )


def read_operator(verified: VerifiedClaims) -> Operator:
    """The operator of a valid token. Raises NotPermitted if the token has another role."""
    claims = verified.claims
    if claims["role"] != OPERATOR_ROLE:
        owner = _OWNERS.get(str(claims["role"]))
        whose = f" It is the token of {owner}." if owner else ""
        raise NotPermitted(
            f"The token is valid, but its role is not {OPERATOR_ROLE}.{whose} Only a token of the"
            f" role {OPERATOR_ROLE} opens the console. Let your auth server sign one for you."
        )
    name = next(filter(None, map(_printable, (claims.get("email"), claims.get("name")))), None)
    return Operator(str(claims["sub"]), name)


def _printable(claim: Any) -> str | None:
    is_name = isinstance(claim, str) and claim.isprintable() and len(claim) <= _NAME_LENGTH_MAX
    return claim.strip() or None if is_name else None
