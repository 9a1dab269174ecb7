"""Checks each request to the console before its page sees it.

* Each page needs a session. A visitor without one goes to the sign-in page.
* Each POST must come from a page of the console: the browser says so (`Sec-Fetch-Site`, or an
  `Origin` that equals the host), and the form carries the token of the session.
* Each error becomes a page.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from aiohttp import hdrs, web

from domain.errors import PaymentServiceError, UnsupportedMediaType
from gateway.console.pages import Pages
from gateway.console.sessions import COOKIE, Session, Sessions, set_cookie
from gateway.edge.load import count_place_for
from gateway.edge.problems import BUG, problem_of
from gateway.edge.requests import BODY_BYTES_MAX, read_bytes

log = structlog.get_logger()

HOME = "/console"
SIGN_IN = "/console/sign-in"
_FORM_TYPE = "application/x-www-form-urlencoded"
_FIELDS_MAX = 20
# Where a visitor may go after the sign-in: a page of the console, and nothing else.
_LOCAL_PATH = re.compile(r"/console(?:/[a-z0-9/-]*)?(?:\?[A-Za-z0-9_=&.%-]*)?")

Form = dict[str, str]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a signed-in operator."""

    request: web.Request
    session: Session
    form_token: str

    @property
    def operator(self) -> str:
        """The operator as the history records it."""
        return str(self.session.operator)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PageHandler = Callable[[Visit], Awaitable[web.Response]]
FormHandler = Callable[[Visit, Form], Awaitable[web.Response]]


class Visits:
    """Wraps the handlers of the console's pages and forms."""

    def __init__(self, sessions: Sessions, pages: Pages) -> None:
        self._sessions = sessions
        self._pages = pages

    def open_page(self, show: Handler) -> Handler:
        """A page that needs no session."""

        async def get(request: web.Request) -> web.StreamResponse:
            return await self._answered(None, lambda: show(request))

        return get

    def open_form(self, act: Callable[[web.Request, Form], Awaitable[web.Response]]) -> Handler:
        """A form that needs no session. It is accepted only from a page of ours."""

        async def post(request: web.Request) -> web.StreamResponse:
            async def answer() -> web.Response:
                _require_own_origin(request)
                return await act(request, await _read_form(request))

            return await self._answered(None, answer)

        return post

    def page(self, show: PageHandler) -> Handler:
        """A page of the console. It extends the session by 15 minutes."""

        async def get(request: web.Request) -> web.StreamResponse:
            visit = self._visit(request)
            if visit is None:
                return redirect(f"{SIGN_IN}?next={quote(local_path(request.path_qs), safe='')}")
            response = await self._answered(visit, lambda: show(visit))
            set_cookie(request, response, self._sessions.seal(visit.session))
            return response

        return get

    def fragment(self, show: PageHandler) -> Handler:
        """A part of a page, which a script asks for again and again.

        It does not extend the session, because no person may be there. Without a session it answers
        401, and the script says so.
        """

        async def get(request: web.Request) -> web.StreamResponse:
            visit = self._visit(request)
            if visit is None:
                return web.Response(status=401)
            return await self._answered(visit, lambda: show(visit))

        return get

    def form(self, act: FormHandler) -> Handler:
        """A form of a page."""

        async def post(request: web.Request) -> web.StreamResponse:
            visit = self._visit(request)
            if visit is None:
                return redirect(SIGN_IN)

            async def answer() -> web.Response:
                _require_own_origin(request)
                form = await _read_form(request)
                if not self._sessions.is_form_token(visit.session, form.pop("form_token", "")):
                    raise _FormRefusedError
                return await act(visit, form)

            return await self._answered(visit, answer)

        return post

    def _visit(self, request: web.Request) -> Visit | None:
        session = self._sessions.open(request.cookies.get(COOKIE))
        if session is None:
            return None
        return Visit(request, session, self._sessions.form_token(session))

    async def _answered(
        self, visit: Visit | None, answer: Callable[[], Awaitable[Any]]
    ) -> web.Response:
        """The answer, or a page that says what went wrong."""
        try:
            if visit is not None:
                count_place_for(visit.request, ("console", visit.session.subject))
            response: web.Response = await answer()
        except _FormRefusedError:
            return self._fault(visit, 403, "The form was not sent", _FORM_REFUSED)
        except PaymentServiceError as error:
            problem = problem_of(error)
            if problem is BUG:
                log.exception("unmapped_error")
            return self._fault(visit, problem.status, problem.title, error.message)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("request_failed", route="console")
            return self._fault(visit, 500, BUG.title, "Try again. The log says what failed.")
        return response

    def _fault(self, visit: Visit | None, status: int, title: str, text: str) -> web.Response:
        return self._pages.response(
            "fault.html", visit=visit, status=status, title=title, text=text
        )


class _FormRefusedError(Exception):
    """The form did not come from a page of this session."""


_FORM_REFUSED = (
    "It did not come from a page of your present session. Open the page again, and send the form"
    " from there."
)


def redirect(path: str) -> web.Response:
    """The answer after a form: the browser reads the next page, and a reload sends no form."""
    return web.Response(status=303, headers={hdrs.LOCATION: path})


def local_path(text: str) -> str:
    """`text` if it is the path of a page of the console, otherwise the console's first page."""
    return text if _LOCAL_PATH.fullmatch(text) and not text.startswith(SIGN_IN) else HOME


def _require_own_origin(request: web.Request) -> None:
    """Raises if the browser does not say that a page of ours sent the form."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        is_own = site == "same-origin"
    else:  # a browser before 2023, or a page without HTTPS
        host = urlsplit(request.headers.get(hdrs.ORIGIN, "")).netloc
        is_own = bool(host) and host == request.host
    if not is_own:
        raise _FormRefusedError


async def _read_form(request: web.Request) -> Form:
    """The fields of the form. Raises UnsupportedMediaType, or an error of `read_bytes`."""
    if request.content_type != _FORM_TYPE:
        raise UnsupportedMediaType(f"Send the form as {_FORM_TYPE}.")
    body = await read_bytes(request, BODY_BYTES_MAX)
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        raise _FormRefusedError from None
    return dict(fields)
