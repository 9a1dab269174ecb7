"""Checks each request to the console before its page sees it.

* Each page needs a session. A visitor without one goes to the sign-in page.
* Each POST must come from a page of the console: the browser says so (`Sec-Fetch-Site`, or an
  `Origin` that equals the host), and the form carries the token of the session.
* Each error becomes a page.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import structlog
from aiohttp import hdrs, web

from domain.errors import BodyTooLarge, CommitOutcomeUnknown, InvalidRequest, PaymentServiceError
from gateway.console.faults import Fault, show_faults
from gateway.console.forms import (
    Form,
    FormRefusedError,
    read_form,
    require_known_fields,
    require_own_origin,
)
from gateway.console.pages import Pages
from gateway.console.queries import NOTICE, Query, require_known
from gateway.console.sessions import COOKIE, Session, Sessions, set_cookie
from gateway.edge.load import count_place_for
from gateway.edge.problems import BUG, Problem, problem_of
from gateway.edge.requests import BODY_BYTES_MAX

log = structlog.get_logger()

HOME = "/console"
SIGN_IN = "/console/sign-in"
# Where a visitor may go after the sign-in: a page of the console, and nothing else.
_LOCAL_PATH = re.compile(r"/console(?:/[A-Za-z0-9/-]*)?(?:\?[A-Za-z0-9_=&.%+:,~-]*)?")
_PAGE = re.compile(
    r"/console/(?:payments/[A-Za-z0-9-]+|review|brakes|health|charts|sign-in)(?=/|$)"
)

# What the visitor of the sign-in page did before.
AFTER = "after"
AFTER_SIGN_IN = "sign-in"
AFTER_FORM = "form"


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a signed-in operator."""

    request: web.Request
    session: Session
    sessions: Sessions

    @property
    def form_token(self) -> str:
        return self.sessions.form_token(self.session)

    @property
    def done(self) -> str:
        """What this session did a moment ago, as `redirect_done` named it, else nothing."""
        sealed = self.request.query.get(NOTICE, "")
        return self.sessions.open_notice(self.session, self.request.path, sealed) or ""

    def query(self, known: Collection[str] = ()) -> Query:
        """The parameters of the page. Raises InvalidRequest if one is not known, or is repeated."""
        return require_known(self.request.query, known)

    def redirect_done(self, path: str, name: str) -> web.Response:
        """The answer after an action: the page at `path`, which says once what was done."""
        sealed = self.sessions.seal_notice(self.session, path, name)
        return redirect(f"{path}?{urlencode({NOTICE: sealed})}")

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
            return await self._answered(request, None, lambda: show(request))

        return get

    def open_form(
        self, act: Callable[[web.Request, Form], Awaitable[web.Response]], *fields: str
    ) -> Handler:
        """A form that needs no session. It is accepted only from a page of ours."""

        async def post(request: web.Request) -> web.StreamResponse:
            async def answer() -> web.Response:
                require_own_origin(request)
                form = await read_form(request)
                require_known(request.query, ())
                require_known_fields(form, fields)
                return await act(request, form)

            return await self._answered(request, None, answer)

        return post

    def page(self, show: PageHandler) -> Handler:
        """A page of the console. It extends the session by 15 minutes."""

        async def get(request: web.Request) -> web.StreamResponse:
            visit = self.visit(request)
            if visit is None:
                return redirect(sign_in_path(request.path_qs))
            response = await self._answered(request, visit, lambda: show(visit))
            set_cookie(request, response, self._sessions.seal(visit.session))
            return response

        return get

    def fragment(self, show: PageHandler) -> Handler:
        """A part of a page, which a script asks for again and again.

        It does not extend the session, because no person may be there. Without a session it answers
        401, and the script says so.
        """

        async def get(request: web.Request) -> web.StreamResponse:
            visit = self.visit(request)
            if visit is None:
                return web.Response(status=401)
            return await self._answered(request, visit, lambda: show(visit))

        return get

    def form(self, act: FormHandler, *fields: str) -> Handler:
        """A form of a page. It has these `fields`, and its address has no parameters."""

        async def post(request: web.Request) -> web.StreamResponse:
            visit = self.visit(request)
            if visit is None:
                return redirect(sign_in_path(page_of(request.path), after=AFTER_FORM))

            async def answer() -> web.Response:
                require_own_origin(request)
                form = await read_form(request)
                if not self._sessions.is_form_token(visit.session, form.pop("form_token", "")):
                    raise FormRefusedError
                visit.query()
                require_known_fields(form, fields)
                return await act(visit, form)

            return await self._answered(request, visit, answer)

        return post

    def visit(self, request: web.Request) -> Visit | None:
        """The visit of a signed-in operator, else None."""
        session = self._sessions.open(request.cookies.get(COOKIE))
        return None if session is None else Visit(request, session, self._sessions)

    def problem_page(self, request: web.Request, problem: Problem) -> web.Response | None:
        """The page of an error under /console that no handler has answered. Else None.

        Examples are an unknown address and an overloaded process.
        """
        path = request.rel_url.raw_path
        if path != HOME and not path.startswith(f"{HOME}/"):
            return None
        if problem.status == 404 and path.endswith("/") and request.method in ("GET", "HEAD"):
            query = request.rel_url.raw_query_string
            location = path.rstrip("/") + (f"?{query}" if query else "")
            return web.Response(status=308, headers={hdrs.LOCATION: location})
        try_again = " Try again in a moment." if problem.is_retryable else ""
        title, text = problem.title, f"Nothing was done.{try_again}"
        if problem.status == 404:
            title, text = _NO_PAGE
        elif problem.status == 405:
            title, text = _ONLY_A_FORM if request.method in ("GET", "HEAD") else _ONLY_A_PAGE
        return self._fault(request, self.visit(request), problem.status, title, text)

    async def _answered(
        self, request: web.Request, visit: Visit | None, answer: Callable[[], Awaitable[Any]]
    ) -> web.Response:
        """The answer, or a page that says what went wrong."""
        try:
            if visit is not None:
                count_place_for(visit.request, ("console", visit.session.subject))
            response: web.Response = await answer()
        except FormRefusedError:
            return self._fault(request, visit, 403, "The form was not sent", _FORM_REFUSED)
        except InvalidRequest as error:
            faults = show_faults(error.errors, request.query)
            return self._fault(request, visit, 422, *_WRONG_VALUES, faults=faults)
        except PaymentServiceError as error:
            problem = problem_of(error)
            if problem is BUG:
                log.exception("unmapped_error")
            title, text = _explain(error, problem)
            return self._fault(request, visit, problem.status, title, text)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("request_failed", route="console")
            text = "Try again. The log says what failed."
            return self._fault(request, visit, 500, BUG.title, text)
        return response

    def _fault(
        self,
        request: web.Request,
        visit: Visit | None,
        status: int,
        title: str,
        text: str,
        *,
        faults: Sequence[Fault] = (),
    ) -> web.Response:
        return self._pages.response(
            "fault.html",
            visit=visit,
            status=status,
            title=title,
            text=text,
            faults=faults,
            back=HOME if status == 404 else page_of(request.path),
        )


_FORM_REFUSED = (
    "It did not come from a page of your present session. Open the page again, and send the form"
    " from there."
)
_WRONG_VALUES = ("Some values are wrong", "Nothing was done. Correct what is named here:")
_NO_PAGE = ("No such page", "The console has no page at this address. Check the address.")
_ONLY_A_FORM = (
    "Nothing was done",
    "A button of a page leads to this address. Opened by itself, the address does nothing.",
)
_ONLY_A_PAGE = ("Nothing was done", "The page at this address takes no form.")


def _explain(error: PaymentServiceError, problem: Problem) -> tuple[str, str]:
    """The error as a title and a text for an operator."""
    match error:
        case BodyTooLarge():
            kibibytes = BODY_BYTES_MAX // 1024
            return "The form is too large", f"It may have at most {kibibytes} KiB. Type less."
        case CommitOutcomeUnknown():
            return (
                "The answer of the database was lost",
                "What you sent may be recorded or not. Look at the page before you send it again.",
            )
        case _:
            return problem.title, error.message


def redirect(path: str) -> web.Response:
    """The answer after a form: the browser reads the next page, and a reload sends no form."""
    return web.Response(status=303, headers={hdrs.LOCATION: path})


def sign_in_path(next_path: str, *, after: str | None = None) -> str:
    """The sign-in page that leads on to `next_path`."""
    query = {"next": local_path(next_path)} | ({} if after is None else {AFTER: after})
    return f"{SIGN_IN}?{urlencode(query, quote_via=quote, safe='')}"


def page_of(path: str) -> str:
    """The page that has the form of `path`, or shows `path` itself, else the first page."""
    found = _PAGE.match(path)
    return found[0] if found else HOME


def local_path(text: str) -> str:
    """`text` if it is the path of a page of the console, otherwise the console's first page."""
    is_page = _LOCAL_PATH.fullmatch(text) and not text.startswith("/console/sign-")
    return text if is_page else HOME
