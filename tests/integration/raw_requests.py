"""Hostile requests as bytes, each made from a request that our process would accept.

A case gets a `Frame`: the head and body of an acceptable request. It returns the changed bytes. If
it returns several parts, the test sends the parts in turn. The process must accept none of these
requests, and must not answer a request that is hidden behind such a request (`frame.hidden()`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CRLF = b"\r\n"
_MANY = 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """The parts of an acceptable request. `second` has the headers of a second request."""

    target: bytes
    fields: tuple[bytes, ...]
    body: bytes
    second: tuple[bytes, ...]

    def head(
        self,
        *more: bytes,
        method: bytes = b"POST",
        target: bytes | None = None,
        version: bytes = b"HTTP/1.1",
        fields: tuple[bytes, ...] | None = None,
        end: bytes = CRLF,
    ) -> bytes:
        line = b" ".join(
            part for part in (method, self.target if target is None else target, version) if part
        )
        return end.join([line, *(self.fields if fields is None else fields), *more, b"", b""])

    @property
    def length(self) -> bytes:
        return b"Content-Length: %d" % len(self.body)

    def whole(self, *more: bytes, **changes: bytes) -> bytes:
        """Return the request with its length, its body and the changes."""
        return self.head(self.length, *more, **changes) + self.body  # type: ignore[arg-type]

    def in_chunks(self, *more: bytes, chunks: bytes | None = None, **changes: bytes) -> bytes:
        head = self.head(b"Transfer-Encoding: chunked", *more, **changes)  # type: ignore[arg-type]
        return head + (self.chunks() if chunks is None else chunks)

    def chunks(
        self, *, size: bytes | None = None, end: bytes = CRLF, trailers: bytes = b""
    ) -> bytes:
        size = b"%x" % len(self.body) if size is None else size
        return size + end + self.body + end + b"0" + end + trailers + end

    def hidden(self) -> bytes:
        """Return a second acceptable request, for cases in which the first end is ambiguous."""
        return self.head(self.length, fields=self.second) + self.body

    def replaced(self, old: bytes, new: bytes) -> bytes:
        text = self.whole()
        assert old in text
        return text.replace(old, new, 1)


Case = Callable[[Frame], bytes | tuple[bytes, ...]]


def _length(value: bytes) -> Case:
    return lambda frame: frame.head(b"Content-Length: " + value) + frame.body + frame.hidden()


def _coding(value: bytes, *more: bytes) -> Case:
    return lambda frame: (
        frame.head(b"Transfer-Encoding: " + value, *more) + frame.chunks() + frame.hidden()
    )


def _chunks(**changes: bytes) -> Case:
    return lambda frame: frame.in_chunks(chunks=frame.chunks(**changes))


def _whole(*more: bytes, **changes: bytes) -> Case:
    return lambda frame: frame.whole(*more, **changes)


def _replaced(old: bytes, new: bytes) -> Case:
    return lambda frame: frame.replaced(old, new)


def _target(before: bytes, after: bytes) -> Case:
    return lambda frame: frame.whole(target=before + frame.target + after)


LENGTHS: dict[str, Case] = {
    "length and chunks, for CL.TE": lambda frame: (
        frame.in_chunks(b"Content-Length: 6") + frame.hidden()
    ),
    "chunks and length, for TE.CL": lambda frame: (
        frame.head(b"Transfer-Encoding: chunked", frame.length) + frame.chunks() + frame.hidden()
    ),
    "a plain body although chunks are announced": lambda frame: (
        frame.whole(b"Transfer-Encoding: chunked") + frame.hidden()
    ),
    "two lengths": lambda frame: frame.whole(b"Content-Length: 0") + frame.hidden(),
    "one length twice": lambda frame: frame.whole(frame.length) + frame.hidden(),
    "a list of lengths": _length(b"41, 41"),
    "a negative length": _length(b"-1"),
    "a length with a plus": _length(b"+41"),
    "a hexadecimal length": _length(b"0x29"),
    "an empty length": _length(b""),
    "a length beyond 64 bits": _length(b"99999999999999999999999999"),
    "a length in Arabic digits": _length("٤١".encode()),
    "a length after a vertical tab": _length(b"\x0b41"),
    "TE: xchunked": _coding(b"xchunked"),
    "TE: identity": _coding(b"identity"),
    "TE: gzip, chunked": _coding(b"gzip, chunked"),
    "TE: chunked, identity": _coding(b"chunked, identity"),
    "TE after a vertical tab": _coding(b"\x0bchunked"),
    "TE with a parameter": _coding(b"chunked;q=1"),
    "TE: chunked and NUL": _coding(b"chunked\0"),
    "TE twice": _coding(b"chunked", b"Transfer-Encoding: chunked"),
    "TE folded": _coding(b"\r\n chunked"),
    "TE with a space before the colon": lambda frame: (
        frame.head(b"Transfer-Encoding : chunked") + frame.chunks() + frame.hidden()
    ),
    "TE in HTTP/1.0": lambda frame: frame.in_chunks(version=b"HTTP/1.0") + frame.hidden(),
}

CHUNKS: dict[str, Case] = {
    "a chunk size that is no number": _chunks(size=b"zz"),
    "a chunk size that is no number, later": lambda frame: (
        frame.in_chunks(chunks=b""),
        frame.chunks(size=b"zz"),
    ),
    "a negative chunk size": _chunks(size=b"-1"),
    "a chunk size with 0x": _chunks(size=b"0x29"),
    "a chunk size beyond 64 bits": _chunks(size=b"f" * 17),
    "a chunk shorter than its size": lambda frame: frame.in_chunks(
        chunks=b"ff\r\n" + frame.body + b"\r\n0\r\n\r\n" + b"x" * 255
    ),
    "a chunk longer than its size": _chunks(size=b"5"),
    "chunks with bare line feeds": _chunks(end=b"\n"),
    "a chunk extension with a control character": _chunks(size=b"29;a=\x01"),
    "a chunk extension with a bare line feed": lambda frame: frame.in_chunks(
        chunks=frame.chunks(size=b"29;a\n" + frame.body[:1])
    ),
    "a trailer that sets the length": _chunks(trailers=b"Content-Length: 4\r\n"),
    "a thousand trailers": _chunks(trailers=b"A: b\r\n" * 1000),
    "a trailer of a mebibyte": _chunks(trailers=b"A: " + b"b" * _MANY * _MANY + b"\r\n"),
    "a hundred thousand chunks of a byte": lambda frame: frame.in_chunks(
        chunks=b"1\r\n \r\n" * 100_000
    ),
    "a chunk extension of two mebibytes": lambda frame: (
        frame.in_chunks(chunks=b"1;"),
        *(b"a" * _MANY * 64 for _ in range(32)),
    ),
}

HEADS: dict[str, Case] = {
    "bare line feeds": _whole(end=b"\n"),
    "bare carriage returns": _whole(end=b"\r"),
    "one bare line feed": _replaced(b"\r\nHost", b"\nHost"),
    "a folded line": _whole(b"X-A: b\r\n c"),
    "a folded first line": _replaced(b"\r\nHost", b"\r\n Host"),
    "NUL in a header": _whole(b"X-A: b\0c"),
    "CR in a header": _whole(b"X-A: b\rc"),
    "a space before a colon": _whole(b"X-A : b"),
    "a header without a colon": _whole(b"X-A"),
    "a header without a name": _whole(b": b"),
    "a header name with a letter outside ASCII": _whole("X-É: b".encode()),
    "a header of 100 KiB": _whole(b"X-A: " + b"a" * 100 * _MANY),
    "a header of 9,000 bytes": _whole(b"X-A: " + b"a" * 9000),
    "seventy headers": _whole(*(b"X-%d: a" % number for number in range(70))),
    "a thousand headers": _whole(*(b"X-%d: a" % number for number in range(1000))),
    "40 KiB of headers": _whole(*(b"X-%d: " % number + b"a" * 8000 for number in range(5))),
    "no Host": lambda frame: frame.head(frame.length, fields=frame.fields[1:]) + frame.body,
    "two Hosts": _whole(b"Host: elsewhere.example"),
    "two Content-Types": _whole(b"Content-Type: text/plain", b"Content-Type: application/json"),
    "a target of 100 KiB": _target(b"", b"?" + b"a" * 100 * _MANY),
    "a target of 9,000 bytes": _target(b"", b"?" + b"a" * 9000),
    "a target with a space": _target(b"", b" x"),
    "a query with a control character": _target(b"", b"?a=\x01"),
    "a target with CR": _target(b"", b"\r"),
    "a URL as target": _target(b"http://127.0.0.1", b""),
    "an authority as target": _whole(target=b"127.0.0.1:80"),
    "a target that begins with no slash": lambda frame: frame.whole(target=frame.target[1:]),
    "a target with a fragment": _target(b"", b"#x"),
    "an asterisk as target": _whole(target=b"*"),
    "HTTP/0.9": lambda frame: b"GET " + frame.target + CRLF + CRLF,
    "HTTP/1.2": _whole(version=b"HTTP/1.2"),
    "http/1.1 in small letters": _whole(version=b"http/1.1"),
    "the preface of HTTP/2": lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "a TLS hello": lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "an unknown method": _whole(method=b"BREW"),
    "a method in small letters": _whole(method=b"post"),
    "a method with a space before": lambda frame: b" " + frame.whole(),
    "a method of 100 KiB": _whole(method=b"P" * 100 * _MANY),
    "CONNECT": lambda frame: frame.head(method=b"CONNECT", target=b"127.0.0.1:80") + frame.hidden(),
    "TRACE": lambda frame: frame.head(method=b"TRACE"),
    "a WebSocket": lambda frame: (
        frame.whole(
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        + frame.hidden()
    ),
    "a GET that claims to be a POST": _whole(
        b"X-HTTP-Method-Override: POST",
        b"X-HTTP-Method: POST",
        b"X-Method-Override: POST",
        method=b"GET",
    ),
    "a path with two slashes": _target(b"/", b""),
    "an escaped path to the parent folder": _target(b"/x/%2e%2e", b""),
    "a path with an escaped slash": lambda frame: frame.whole(
        target=b"%2f".join(frame.target.rsplit(b"/", 1))
    ),
    "a path that is not UTF-8": _target(b"", b"\xff\xfe"),
    "an Expect header at an unknown route": _whole(b"Expect: cow <b>", target=b"/nowhere"),
    "an Expect header that is not UTF-8, at an unknown route": _whole(
        b"Expect: \xff\xfe", target=b"/nowhere"
    ),
    "an Expect header that is not UTF-8, with a wrong method": _whole(
        b"Expect: \xff\xfe", method=b"PUT"
    ),
}

# Only for the ingress: the receiver reads no token, no idempotency key and no content type.
INGRESS: dict[str, Case] = {
    "two Authorizations": _whole(b"Authorization: Bearer x"),
    "an Authorization folded into two": _replaced(b"Bearer ", b"Bearer\r\n "),
    "two idempotency keys": _whole(b"X-Idempotency-Key: another"),
    "an idempotency key that is not UTF-8": _replaced(
        b"X-Idempotency-Key: ", b"X-Idempotency-Key: \xff\xfe"
    ),
    "a token that is not UTF-8": _replaced(b"Bearer ", b"Bearer \xff"),
    "an Expect header without a body": lambda frame: frame.head(
        b"Content-Length: 0", b"Expect: 100-continue"
    ),
    "a path with an escaped letter": lambda frame: frame.whole(
        target=frame.target.replace(b"d", b"%64", 1)
    ),
    "a query that no handler reads": _target(b"", b"?amount=1"),
}
