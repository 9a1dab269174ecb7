"""Which HTTP is read here: plain requests that no two readers understand differently. Refused
before anything else looks.

The parser refuses what is malformed; here is refused what it takes although a proxy before us may
have read it otherwise, or that nobody needs: upgrades, codings of the transfer, other forms of
target, very large heads.
"""

from __future__ import annotations

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from gateway.edge.answers import ROUTE
from gateway.edge.problems import Handler

# Proxies add a dozen headers, a token has at most 7 KiB; 100 KiB of them is somebody trying
# something.
HEAD_BYTES_MAX = 32 * 1024


@web.middleware
async def refuse_odd_http(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Also notes the route's pattern, which is all that the log says of a target."""
    request[ROUTE] = route_pattern(request)
    if request.version not in {HttpVersion10, HttpVersion11}:
        # HTTP/0.9 has no status: there is no refusal that it could read
        request.protocol.force_close()
        raise _last(web.HTTPBadRequest())
    if _is_ambiguous(request) or _switches_protocol(request) or not _is_plain_target(request):
        raise _last(web.HTTPBadRequest())
    if sum(len(name) + len(value) for name, value in request.raw_headers) > HEAD_BYTES_MAX:
        raise _last(web.HTTPRequestHeaderFieldsTooLarge())
    response = await handler(request)
    if hdrs.UPGRADE in request.headers:
        response.force_close()  # it may have sent on in another protocol
    return response


@web.middleware
async def refuse_escapes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No path of ours needs an escape, and one written with them passes a proxy's rules that
    ours would fall under.
    """
    if "%" in request.rel_url.raw_path:
        raise web.HTTPNotFound
    return await handler(request)


async def answer_expectation(request: web.Request) -> None:
    """Answers `Expect: 100-continue`, and ignores every other expectation: the body is read all
    the same.
    """
    if (
        request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        and request.version >= HttpVersion11
    ):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def route_pattern(request: web.Request) -> str:
    """As `/v1/payments/{payment_id}`; "unknown" for what has none."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"


def _is_ambiguous(request: web.Request) -> bool:
    """Whether its length is told in a way that another reader may not know: any coding but
    `chunked`, or that in HTTP/1.0.

    Some clients write `Chunked`: names of codings are the same in all letters (RFC 9112 §7).
    """
    codings = [coding.lower() for coding in request.headers.getall(hdrs.TRANSFER_ENCODING, [])]
    return bool(codings) and (codings != ["chunked"] or request.version < HttpVersion11)


def _switches_protocol(request: web.Request) -> bool:
    """A WebSocket, or a tunnel.

    Other upgrades (h2c, which some clients offer always) are not taken up: RFC 9110 §7.8.
    """
    upgrades = request.headers.get(hdrs.UPGRADE, "").lower()
    return "websocket" in upgrades or request.method == hdrs.METH_CONNECT


def _is_plain_target(request: web.Request) -> bool:
    """A path of ours: no URL that names a host of its own, nothing after a `#`."""
    return request.raw_path.startswith("/") and "#" not in request.raw_path


def _last(refusal: web.HTTPException) -> web.HTTPException:
    refusal.force_close()
    return refusal
