"""Answers that Daraja never sends, but that an attacker may send in Daraja's place.

None of them is an acknowledgement or a result.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

from tests.unit.daraja_messages import as_body

WRONG_VALUES: dict[str, Any] = {
    "null": None, "true": True, "false": False, "one": 1, "text one": "1", "fraction": 0.0,
    "two zeros": "00", "zero and a space": "0 ", "zero and a line": "0\n", "plus zero": "+0",
    "minus zero": "-0", "zero in Arabic": "\u0660", "letter O": "O", "empty text": "",
    "list of zero": ["0"], "object": {}, "NUL": "0\0", "half a pair": "\ud800",
    "very long": "0" * 5_000, "a large number": 10**300, "a word": "success",
}  # fmt: skip


def _twice(message: dict[str, Any], name: str, first: Any) -> bytes:
    """`message` with `name` twice. A parser that uses the last value sees a good answer."""
    return b'{"' + name.encode() + b'":' + as_body(first) + b"," + as_body(message)[1:]


def shapeless(good: dict[str, Any]) -> dict[str, bytes]:
    """Bodies without a valid answer, most of them made from the answer `good`."""
    body = as_body(good)
    name = "ResponseCode" if "ResponseCode" in good else "access_token"
    return {
        "empty": b"", "null": b"null", "number": b"0", "text": b'"0"', "empty list": b"[]",
        "empty object": b"{}", "the answer in a list": b"[" + body + b"]",
        "the answer in a text": json.dumps(body.decode()).encode(),
        "the answer in an object": as_body({"Result": good}),
        "cut off": body[:-1], "only the second half": body[len(body) // 2 :],
        "the answer twice": body + body,
        "with a comma at its end": body[:-1] + b",}", "with a letter after it": body + b"x",
        "in single quotes": body.replace(b'"', b"'"), "as a script": b"callback(" + body + b")",
        "html": b"<html><body>" + body + b"</body></html>", "xml": b"<a>0</a>",
        "a form": b"ResponseCode=0&CheckoutRequestID=ws_CO_1&access_token=x&expires_in=3599",
        "UTF-16": body.decode().encode("utf-16"),
        "UTF-16 without a mark": body.decode().encode("utf-16-le"),
        "latin-1": body[:-1] + b',"x":"\xe9"}', "gzip": gzip.compress(body, mtime=0),
        "NUL before it": b"\0" + body, "every byte": bytes(range(256)),
        "a key twice": _twice(good, name, "1"),
        "a key twice with one value": _twice(good, name, good[name]),
        "a key twice in an inner object": body[:-1] + b',"x":{"y":1,"y":2}}',
        "NaN": body[:-1] + b',"x":NaN}',
        "minus zero": body[:-1] + b',"x":-0}',
        "deep": body[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}",
        "deeper": body[:-1] + b',"x":' + b"[" * 30_000, "deep objects": b'{"a":' * 9_000,
        "many digits": body[:-1] + b',"x":' + b"1" * 5_000 + b"}",
        "a large exponent": body[:-1] + b',"x":1e99999999999999999999}',
        "in upper case": body.upper(), "in lower case": body.lower(), "long": b"x" * 60_000,
    }  # fmt: skip


def retyped(good: dict[str, Any], name: str) -> dict[str, bytes]:
    """The answer `good` with each wrong value for `name`, and without `name`."""
    without = {key: value for key, value in good.items() if key != name}
    return {
        f"{name}: {label}": as_body(good | {name: value}) for label, value in WRONG_VALUES.items()
    } | {f"{name}: absent": as_body(without)}
