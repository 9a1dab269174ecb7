"""Rejects HTTP that two parsers may read differently, before any other code sees the request.

The parser already rejects malformed requests. This module rejects two more sorts of requests: those
that a proxy in front may have read differently, and those that no client needs. Examples are
WebSockets, unusual transfer codings, targets that are not plain paths, and very large heads.
"""

from __future__ import annotations

from itertools import chain

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from domain.adapters.observability import UNKNOWN_ROUTE
from gateway.edge.answers import ROUTE
from gateway.edge.http_faults import HEAD_BYTES_MAX, HttpFault, refusal_of
from gateway.edge.problems import Handler

_VERSIONS = (HttpVersion11, HttpVersion10)


def plain_http_only(*, allows_escapes: bool = True) -> Middleware:
    """A middleware that rejects HTTP that another parser may read differently.

    It also rejects HTTP that no client needs. With `allows_escapes=False` it answers 404 to a path
    with percent escapes: no path of ours needs one, and an escaped path could evade a proxy's rules
    for our paths. The middleware also stores the pattern of the request's route.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[ROUTE] = route_pattern(request)
        _require_plain_http(request)
        if not allows_escapes and "%" in request.rel_url.raw_path:
            raise web.HTTPNotFound
        response = await handler(request)
        if hdrs.UPGRADE in request.headers:
            response.force_close()  # the next bytes may be of another protocol
        return response

    return check


reject_ambiguous_http = plain_http_only()


def _require_plain_http(request: web.Request) -> None:
    if request.version not in _VERSIONS:
        # HTTP/0.9 has no status line, so its client could not read an answer.
        request.protocol.force_close()
        raise refusal_of(HttpFault.FIRST_LINE)
    if _is_ambiguous(request):
        raise refusal_of(HttpFault.CODING)
    if _switches_protocol(request):
        raise refusal_of(HttpFault.PROTOCOL)
    if not _is_plain_target(request):
        raise refusal_of(HttpFault.TARGET)
    if sum(map(len, chain.from_iterable(request.raw_headers))) > HEAD_BYTES_MAX:
        raise refusal_of(HttpFault.HEAD_TOO_LARGE)


async def answer_expect_header(request: web.Request) -> None:
    """Answers the header `Expect: 100-continue`, so that the client sends its body.

    Ignores any other value of the header. The handler then reads the body as usual.
    """
    if (
        request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        and request.version >= HttpVersion11
    ):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def route_pattern(request: web.Request) -> str:
    """The pattern of the request's route, such as `/v1/payments/{payment_id}`."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else UNKNOWN_ROUTE


def _is_ambiguous(request: web.Request) -> bool:
    """Whether another parser may read the length of the body differently.

    All transfer codings other than `chunked` are ambiguous, and so is `chunked` in HTTP/1.0. The
    check ignores upper and lower case (RFC 9112 §7), because some clients write `Chunked`.
    """
    codings = request.headers.getall(hdrs.TRANSFER_ENCODING, None)
    if codings is None:
        return False
    is_chunked = [coding.lower() for coding in codings] == ["chunked"]
    return not is_chunked or request.version < HttpVersion11


def _switches_protocol(request: web.Request) -> bool:
    """Whether the request asks for a WebSocket or a tunnel.

    The server ignores other upgrades (RFC 9110 §7.8). Some clients always offer one, such as h2c.
    """
    upgrades = request.headers.get(hdrs.UPGRADE, "").lower()
    return "websocket" in upgrades or request.method == hdrs.METH_CONNECT


def _is_plain_target(request: web.Request) -> bool:
    """Whether the target is a plain path: not a URL with a host, and without a `#`."""
    return request.raw_path.startswith("/") and "#" not in request.raw_path
