"""What can be wrong with the HTTP of a request, and what the client should do.

The parser finds some of these faults, and `plain_http.py` finds the others. A detail repeats
nothing of the request.

The texts of the parser's errors are documented nowhere. If a release of aiohttp changes a text, the
request is refused as before, and only its detail becomes more general.
"""

from __future__ import annotations

import re
from enum import Enum

from aiohttp import http_exceptions, web

HEADERS_MAX = 64
FIELD_BYTES_MAX = 8190  # the longest field that we accept is a token of 7 KiB
# Proxies add about twelve headers, and a token has at most 7 KiB. A head of 100 KiB is an attack.
HEAD_BYTES_MAX = 32 * 1024


class HttpFault(Enum):
    """A fault. Its value is the detail of the answer."""

    URL_TOO_LONG = (
        f"The path and the query have more than {FIELD_BYTES_MAX} bytes. Send a shorter URL."
    )
    HEADER_TOO_LONG = (
        f"A header has more than {FIELD_BYTES_MAX} bytes. Send a smaller token, or leave out "
        "headers that the service does not read, such as Cookie."
    )
    TOO_MANY_HEADERS = f"The request has more than {HEADERS_MAX} headers. Send fewer."
    HEAD_TOO_LARGE = (
        f"The headers have more than {HEAD_BYTES_MAX} bytes in total. Leave out headers that the "
        "service does not read, such as Cookie."
    )
    UNKNOWN_METHOD = (
        "HTTP has no such method, or it is not in capital letters. The header Allow names the "
        "methods that the service takes."
    )
    NO_METHOD = (
        "The request does not begin with a method and a path, such as GET /healthz. Check that "
        "the client speaks HTTP/1.1."
    )
    TLS = (
        "The client speaks HTTPS, and this port speaks plain HTTP. Use http:// here, or call the "
        "proxy that ends TLS."
    )
    FIRST_LINE = (
        "The first line must be a method, a path and HTTP/1.1, with one blank between them and CR "
        "LF at its end. Write a blank in the path or the query as %20. The service does not speak "
        "HTTP/2."
    )
    TARGET = (
        "The first line must name a path that begins with /, without a host in front of it and "
        "without a fragment (#). Write control characters, and characters outside ASCII, with % "
        "escapes."
    )
    NO_HOST = "The header Host is missing. Every request of HTTP/1.1 must have it."
    REPEATED_HEADER = (
        "A header that a request may have only once is there twice. Send Host, Content-Type, "
        "Content-Length, Transfer-Encoding and User-Agent at most once each."
    )
    HEADER = (
        "A header is not valid. Send each as a name, a colon and a value, on one line that ends "
        "with CR LF. A name has no blank, and a value has no control character."
    )
    LENGTH = "Content-Length must be one number: the bytes of the body."
    TWO_LENGTHS = "Send either Content-Length or Transfer-Encoding, and not both."
    CODING = (
        "Transfer-Encoding may only be chunked, and only in HTTP/1.1. Send Content-Length instead."
    )
    CHUNK = (
        "A chunk of the body is not valid. Send its size in hexadecimal digits, CR LF, that many "
        "bytes, and CR LF. Or send Content-Length instead of chunks."
    )
    EXCESS_BYTES = (
        "Bytes follow the last request of the connection. Check that Content-Length counts all "
        "bytes of the body."
    )
    PROTOCOL = (
        "The service opens no WebSocket and no tunnel. Leave out the header Upgrade, and do not "
        "use CONNECT. GET /v1/events with Accept: text/event-stream is a stream of events."
    )
    OTHER = "The request is not valid HTTP/1.1. Send it with a usual HTTP library."

    @property
    def status(self) -> int:
        return _STATUSES.get(self, 400)


_STATUSES = {
    HttpFault.URL_TOO_LONG: 414,
    HttpFault.HEADER_TOO_LONG: 431,
    HttpFault.TOO_MANY_HEADERS: 431,
    HttpFault.HEAD_TOO_LARGE: 431,
    HttpFault.UNKNOWN_METHOD: 405,
}


def refusal_of(fault: HttpFault) -> web.HTTPException:
    """The exception that refuses a request with `fault`. Its text is the detail of the answer."""
    refusal: web.HTTPException = (
        web.HTTPRequestHeaderFieldsTooLarge(text=fault.value)
        if fault.status == 431
        else web.HTTPBadRequest(text=fault.value)
    )
    refusal.force_close()
    return refusal


# The beginnings of the parser's texts. The first one that fits counts.
_FAULTS = (
    ("Missing 'Host'", HttpFault.NO_HOST),
    ("Duplicate ", HttpFault.REPEATED_HEADER),
    ("Too many headers", HttpFault.TOO_MANY_HEADERS),
    ("Content-Length can't be present", HttpFault.TWO_LENGTHS),
    ("Transfer-Encoding can't be present", HttpFault.TWO_LENGTHS),
    ("Invalid character in Content-Length", HttpFault.LENGTH),
    ("Content-Length overflow", HttpFault.LENGTH),
    ("Empty Content-Length", HttpFault.LENGTH),
    ("Invalid `Transfer-Encoding`", HttpFault.CODING),
    ("Request has invalid `Transfer-Encoding`", HttpFault.CODING),
    ("Invalid character in chunk", HttpFault.CHUNK),
    ("Invalid quoted-pair in chunk", HttpFault.CHUNK),
    ("Chunk size overflow", HttpFault.CHUNK),
    ("Expected LF after chunk", HttpFault.CHUNK),
    ("Missing expected CR after chunk", HttpFault.CHUNK),
    ("Invalid header", HttpFault.HEADER),
    ("Missing expected", HttpFault.HEADER),
    ("Expected LF after", HttpFault.HEADER),
    ("Unexpected whitespace after header", HttpFault.HEADER),
    ("Unexpected space after start line", HttpFault.HEADER),
    ("Data after `Connection: close`", HttpFault.EXCESS_BYTES),
    ("Expected CRLF after version", HttpFault.FIRST_LINE),
    ("Pause on PRI/Upgrade", HttpFault.FIRST_LINE),
)
# The parser's text about a method quotes the line.
_BEGINS_WITH_METHOD = re.compile(r"[^\n]*\n\n  b'[A-Za-z-]{1,32} /")


def find_fault(error: BaseException | None) -> HttpFault:
    """The fault for which the parser raised `error`."""
    text = str(error.args[0]) if error is not None and error.args else ""
    match error:
        case http_exceptions.LineTooLong():
            return HttpFault.URL_TOO_LONG if _is_about_url(error) else HttpFault.HEADER_TOO_LONG
        case http_exceptions.BadHttpMethod():
            if error.message.startswith("Received HTTPS"):
                return HttpFault.TLS
            is_method = _BEGINS_WITH_METHOD.match(error.message)
            return HttpFault.UNKNOWN_METHOD if is_method else HttpFault.NO_METHOD
        case http_exceptions.BadStatusLine():
            return HttpFault.FIRST_LINE
        case http_exceptions.InvalidURLError():
            return HttpFault.TARGET
        case http_exceptions.InvalidHeader():
            return HttpFault.HEADER
        case _:
            return next(
                (fault for start, fault in _FAULTS if text.startswith(start)), HttpFault.OTHER
            )


def _is_about_url(error: http_exceptions.LineTooLong) -> bool:
    """Whether the URL is too long, and not a header.

    Both raise the same error. Only the traceback has the name of the parser's function.
    """
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_name.endswith("on_url"):
            return True
        traceback = traceback.tb_next
    return False
