"""Answers that Daraja never sends, but an attacker in its place might.

None of them is an acknowledgement or a result.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

CHECKOUT = "ws_CO_010320261015034711000111"

# The good answer to each request. Almost every hostile answer resembles one of these.
STK = {
    "MerchantRequestID": "4c1e-118203",
    "CheckoutRequestID": CHECKOUT,
    "ResponseCode": "0",
    "ResponseDescription": "Success. Request accepted for processing",
    "CustomerMessage": "Success. Request accepted for processing",
}
PAYOUT = {
    "ConversationID": "AG_20260301_2010",
    "OriginatorConversationID": "payout-17",
    "ResponseCode": "0",
    "ResponseDescription": "Accept the service request successfully.",
}
QUERY = {
    "ResponseCode": "0",
    "ResponseDescription": "The service request has been accepted successfully",
    "MerchantRequestID": "4c1e-118203",
    "CheckoutRequestID": CHECKOUT,
    "ResultCode": "0",
    "ResultDesc": "The service request is processed successfully.",
}
TOKEN = {"access_token": "c9SQxWWhmdVRlyh0zh8gZDTkubVF", "expires_in": "3599"}

ENVELOPE = {
    "requestId": "4c1e-118203",
    "errorCode": "500.003.1001",
    "errorMessage": "Internal Server Error",
}

WRONG_VALUES: dict[str, Any] = {
    "null": None, "true": True, "false": False, "one": 1, "text one": "1", "minus one": -1,
    "fraction": 0.0, "two zeros": "00", "zero and a space": "0 ", "space and a zero": " 0",
    "zero and a line": "0\n", "plus zero": "+0", "minus zero": "-0", "hexadecimal zero": "0x0",
    "zero in Arabic": "\u0660", "zero in full width": "\uff10", "letter O": "O", "nothing": "",
    "list": [], "list of zero": ["0"], "object": {}, "object of zero": {"0": "0"}, "NUL": "0\0",
    "half a character": "\ud800", "very long": "0" * 5_000, "a large number": 10**300,
    "a word": "success",
}  # fmt: skip


def text_of(message: Any) -> bytes:
    return json.dumps(message).encode()


def _twice(message: dict[str, Any], name: str, first: Any) -> bytes:
    """`message` with `name` in it twice. A parser that keeps the last value sees a good answer."""
    return b'{"' + name.encode() + b'":' + text_of(first) + b"," + text_of(message)[1:]


def shapeless(good: dict[str, Any]) -> dict[str, bytes]:
    """Bodies without a valid answer, most of them made from the answer `good`."""
    body = text_of(good)
    name = "ResponseCode" if "ResponseCode" in good else "access_token"
    return {
        "empty": b"", "white space": b" \r\n\t", "null": b"null", "number": b"0", "true": b"true",
        "text": b'"0"', "empty list": b"[]", "empty object": b"{}",
        "list of it": b"[" + body + b"]", "it in a text": text_of(body.decode()),
        "it in an object": text_of({"Result": good}), "cut off": body[:-1],
        "cut in half": body[: len(body) // 2], "its second half": body[len(body) // 2 :],
        "twice": body + body, "and a comma": body[:-1] + b",}", "and something": body + b"x",
        "in comments": b"/**/" + body, "in single quotes": body.replace(b'"', b"'"),
        "as a script": b"callback(" + body + b")",
        "html": b"<html><body>" + body + b"</body></html>", "xml": b"<a>0</a>",
        "a form": b"ResponseCode=0&CheckoutRequestID=ws_CO_1&access_token=x&expires_in=3599",
        "UTF-16": body.decode().encode("utf-16"),
        "UTF-16 without a mark": body.decode().encode("utf-16-le"),
        "UTF-32": body.decode().encode("utf-32"), "latin-1": body[:-1] + b',"x":"\xe9"}',
        "gzip": gzip.compress(body, mtime=0), "NUL": b"\0" * 64, "NUL before it": b"\0" + body,
        "NUL after it": body + b"\0", "every byte": bytes(range(256)),
        "a key twice": _twice(good, name, "1"),
        "a key twice, alike": _twice(good, name, good[name]),
        "another key twice": body[:-1] + b',"x":1,"x":2}',
        "a key twice within": body[:-1] + b',"x":{"y":1,"y":2}}', "NaN": body[:-1] + b',"x":NaN}',
        "Infinity": body[:-1] + b',"x":-Infinity}', "minus zero": body[:-1] + b',"x":-0}',
        "deep": body[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}",
        "deeper": body[:-1] + b',"x":' + b"[" * 30_000, "deep objects": b'{"a":' * 9_000,
        "many digits": body[:-1] + b',"x":' + b"1" * 5_000 + b"}",
        "a large exponent": body[:-1] + b',"x":1e99999999999999999999}',
        "names in capitals": body.upper(), "names in small": body.lower(), "long": b"x" * 60_000,
    }  # fmt: skip


def retyped(good: dict[str, Any], name: str) -> dict[str, bytes]:
    """The answer `good` with each wrong value for `name`, and without `name`."""
    changed = {
        f"{name}: {label}": text_of(good | {name: value}) for label, value in WRONG_VALUES.items()
    }
    return {
        **changed,
        f"{name}: absent": text_of({key: value for key, value in good.items() if key != name}),
    }
