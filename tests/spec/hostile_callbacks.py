"""Hostile bodies for a genuine callback address, and their harmless twins.

Each body is a changed result of a payment. A case makes its bytes from the payment that the address
belongs to and from another, settled payment. A hostile body must settle nothing, and a twin must
settle the payment of its address. Most hostile bodies name a forged receipt. If the service
believed such a body, the payment would show that receipt.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

from tests.spec.delivering import AwaitedPayment

Make = Callable[[AwaitedPayment, AwaitedPayment], bytes]
Text = str | Callable[[AwaitedPayment], str]

BYTES_MAX = 64 * 1024
_CODE = '"ResultCode": 0'


def success_text(one: AwaitedPayment, **changes: Any) -> str:
    """The payment's own success, with the forged receipt."""
    return json.dumps(one.result(**{"receipt": forged_receipt(one), **changes}))


def forged_receipt(one: AwaitedPayment) -> str:
    """The forged receipt. No payment may get it by a hostile body."""
    return f"EVLX{one.amount:06}"


def settled_receipt(other: AwaitedPayment) -> str:
    """The receipt of the settled payment."""
    return f"UKNX{other.amount:06}"


def _text(literal: Text, one: AwaitedPayment) -> str:
    return literal if isinstance(literal, str) else literal(one)


def _changed(old: Text, new: Text) -> Make:
    """The success with `old` replaced by `new` in its text."""

    def make(one: AwaitedPayment, _other: AwaitedPayment) -> bytes:
        body, before = success_text(one), _text(old, one)
        assert before in body, (before, body)
        return body.replace(before, _text(new, one), 1).encode("utf-8", "surrogatepass")

    return make


def _whole(change: Callable[[bytes], bytes]) -> Make:
    return lambda one, _other: change(success_text(one).encode())


def _code(literal: str) -> Make:
    return _changed(_CODE, f'"ResultCode": {literal}')


def _amount(literal: Text) -> Make:
    return _changed(
        lambda one: f'"Value": {one.amount}}}', lambda one: f'"Value": {_text(literal, one)}}}'
    )


def _receipt(literal: str) -> Make:
    # A result of B2C or B2B names its receipt twice.
    return lambda one, _: success_text(one).replace(f'"{forged_receipt(one)}"', literal).encode()


def _items(one: AwaitedPayment, more: list[tuple[str, Any]], *, first: bool = False) -> bytes:
    """The success with the named values `more` after its own, or, if `first`, before its own."""
    message = one.result(receipt=forged_receipt(one))
    if one.api == "stk":
        items, key = message["Body"]["stkCallback"]["CallbackMetadata"]["Item"], "Name"
    else:
        items, key = message["Result"]["ResultParameters"]["ResultParameter"], "Key"
    added = [{key: name, "Value": value} for name, value in more]
    items[:] = [*added, *items] if first else [*items, *added]
    return json.dumps(message).encode()


_AMOUNT_NAMES = {"stk": "Amount", "b2c": "TransactionAmount", "b2b": "Amount"}
_RECEIPT_NAMES = {
    "stk": "MpesaReceiptNumber",
    "b2c": "TransactionReceipt",
    "b2b": "TransactionReceipt",
}
_OUTER = {"stk": "Body", "b2c": "Result", "b2b": "Result"}


def _more(
    names: dict[str, str], value: Any | Callable[[AwaitedPayment], Any], *, first: bool = False
) -> Make:
    """The success with one more named value; `names` holds its name for each API."""
    return lambda one, _: _items(
        one, [(names[one.api], value(one) if callable(value) else value)], first=first
    )


def _other_amount(one: AwaitedPayment) -> int:
    return one.amount + 5


def _parsed(one: AwaitedPayment) -> Any:
    return json.loads(success_text(one))


def _result(change: Callable[[AwaitedPayment, AwaitedPayment], dict[str, Any]]) -> Make:
    """The success with the values that `change` returns."""
    return lambda one, other: success_text(one, **change(one, other)).encode()


def _without_ids(one: AwaitedPayment) -> dict[str, Any]:
    return dict.fromkeys(one.ids, ...)


def _foreign_ids(one: AwaitedPayment, other: AwaitedPayment) -> dict[str, Any]:
    return {name: other.ids[name] for name in one.ids if name in other.ids}


def _each_id(change: Callable[[str], Any]) -> Make:
    return _result(lambda one, _other: {name: change(value) for name, value in one.ids.items()})


_UNREADABLE_CODES = [
    "true", "false", "null", "[]", "{}", "[0]", '{"0":0}', "0.0", "0e0", "0.5", "-0", "-0.0",
    "1e-400", "NaN", "Infinity", "-Infinity", "00", "+0", "0x0", "0b0", "'0'", '""',
    '"0\\u0000"', '"\\ud800"', '"0\\n"',
    "1" * 5000, "1e99999999999999999999", '"' + "0" * 500 + '"',
]  # fmt: skip
_UNKNOWN_CODES = [
    '"00"', '"0 "', '" 0"', '"+0"', '"-0"', '"0x0"', '"0.0"', '"0e0"', '"\\u0660"', '"\\uff10"',
    '"O"', '"success"', '"true"', '"null"', '"NaN"', "-1", "10", "1000000000000", "4999",
    '"0;1032"', '"0,0"', '"\'0\'"', '"0 OR 1=1"',
    '"%d"', '"{0}"', '"${0}"',
]  # fmt: skip

_OTHER_AMOUNTS: dict[str, Text] = {
    "a shilling more": lambda one: str(one.amount + 1),
    "a shilling less": lambda one: str(one.amount - 1),
    "a cent more": lambda one: f"{one.amount}.01",
    "a tiny fraction more": lambda one: f"{one.amount}.{'0' * 40}1",
    "negative": lambda one: str(-one.amount),
    "a hundred times": lambda one: str(one.amount * 100),
    "in cents": lambda one: f'"{one.amount * 100}"',
    "zero": "0",
    "minus zero": "-0.0",
    "too large for a double": "1e400",
    "of 4000 digits": "9" * 4000,
    "too large for a Decimal": "1e99999999999999999999",
    "true": "true",
    "in a list": lambda one: f"[{one.amount}]",
    "NaN": "NaN",
    "with its currency": lambda one: f'"KES {one.amount}"',
    "with commas": lambda one: f'"{one.amount:,}"',
    "with a sign": lambda one: f'"+{one.amount}"',
    "hexadecimal": lambda one: f'"{one.amount:#x}"',
    "in full width": lambda one: '"' + "".join(f"\\uff1{digit}" for digit in str(one.amount)) + '"',
    "null": "null",
    "an empty string": '""',
    "the key twice, with equal values": lambda one: f'{one.amount}, "Value": {one.amount}',
    "the key twice, with different values": lambda one: f'{one.amount + 1}, "Value": {one.amount}',
}

_NO_RECEIPTS: dict[str, str] = {
    "null": "null",
    "an empty string": '""',
    "true": "true",
    "an object": '{"a": "EVLXAAAAAA"}',
    "a placeholder": '"UKN0000000"',
    "in lower case": '"evl7aaaaaa"',
    "with a space": '" EVLXAAAAAA"',
    "too short": '"EVLXA"',
    "too long": '"' + "E" * 21 + '"',
    "with NUL": '"EVLXAAA\\u0000"',
    "half of a surrogate pair": '"EVLXAAA\\ud800"',
    "full-width letters": '"\\uff25VL7AAAAAA"',
    "SQL": '"\' OR 1=1; DROP TABLE mkwanja.payments; --"',
    "the keys twice": '"EVLXAAAAAA", "Value": "EVLXBBBBBB", '
    '"TransactionID": "EVLXCCCCCC", "TransactionID": "EVLXDDDDDD"',
}

_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "half of a surrogate pair, as bytes": lambda body: body[:-1] + b', "x": "\xed\xa0\x80"}',
    "an overlong zero": lambda body: body.replace(b": 0,", b": \xc0\xb0,"),
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "NUL at the end": lambda body: body + b"\0",
    "as a JSON string": lambda body: json.dumps(body.decode()).encode(),
    "in a list": lambda body: b"[" + body + b"]",
    "the whole body twice": lambda body: body + body,
    "without its last byte": lambda body: body[:-1],
    "cut in half": lambda body: body[: len(body) // 2],
    "an extra comma": lambda body: body[:-1] + b",}",
    "single quotes": lambda body: body.replace(b'"', b"'"),
    "HTML": lambda body: b"<html><body>" + body + b"</body></html>",
    "a form": lambda body: b"payload=" + body,
    "multipart": lambda body: (
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + body + b"\r\n--x--\r\n"
    ),
    "names in capitals": lambda body: body.upper(),
    "an unknown escape": lambda body: body[:-1] + b', "x": "\\q"}',
    "a raw control character": lambda body: body[:-1] + b', "x": "\x01"}',
    "another member, 40 deep": lambda body: body[:-1] + b', "x": ' + b"[" * 40 + b"]" * 40 + b"}",
    "another member that never ends": lambda body: body[:-1] + b', "x": ' + b"[" * 50_000,
    "another member that is NaN": lambda body: body[:-1] + b', "x": NaN}',
    "another member twice": lambda body: body[:-1] + b', "x": 1, "x": 1}',
    "the outer key twice": lambda body: body[:-1] + b", " + body[1:],
    "the outer key twice, at first empty": lambda body: b'{"Body": {}, "Result": {}, ' + body[1:],
    "cut at 64 KiB": lambda body: (body[:-1] + b', "x": "' + b"x" * BYTES_MAX)[:BYTES_MAX],
}

_MADE: dict[str, Make] = {
    "the code twice, 0 last": _changed(_CODE, '"ResultCode": 1032, "ResultCode": 0'),
    "the code twice, both 0": _changed(_CODE, '"ResultCode": 0, "ResultCode": 0'),
    "the code twice, once escaped": _changed(_CODE, '"ResultCode": 1032, "Result\\u0043ode": 0'),
    "the code under another name": _changed('"ResultCode"', '"resultCode"'),
    "the code outside its object": lambda one, _: (
        b'{"ResultCode": 0, ' + success_text(one).replace(_CODE, '"Code": 0').encode()[1:]
    ),
    "another shape": _changed(lambda one: f'"{_OUTER[one.api]}"', '"Data"'),
    "wrapped twice": lambda one, _: json.dumps({_OUTER[one.api]: _parsed(one)}).encode(),
    "a list of results": lambda one, _: json.dumps(
        {outer: [result] for outer, result in _parsed(one).items()}
    ).encode(),
    "no amount and no receipt": _result(lambda _one, _other: {"amount": ..., "receipt": ...}),
    "no amount": _result(lambda _one, _other: {"amount": ...}),
    "no receipt": _result(lambda _one, _other: {"receipt": ...}),
    "two amounts, the right one first": _more(_AMOUNT_NAMES, _other_amount),
    "two amounts, the right one last": _more(_AMOUNT_NAMES, _other_amount, first=True),
    "two receipts": _more(_RECEIPT_NAMES, "EVLXSECOND"),
    "two receipts, the other first": _more(_RECEIPT_NAMES, "EVLXSECOND", first=True),
    "the ids of another payment": _result(_foreign_ids),
    "one id of another payment": _result(lambda *both: dict([*_foreign_ids(*both).items()][:1])),
    "the result of another payment": lambda one, other: json.dumps(
        other.result(receipt=forged_receipt(one))
    ).encode(),
    "the receipt of another payment": _result(
        lambda _one, other: {"receipt": settled_receipt(other)}
    ),
    "the receipt of another payment, without ids": _result(
        lambda one, other: {"receipt": settled_receipt(other), **_without_ids(one)}
    ),
    "a failure with the ids of another payment": _result(
        lambda *both: {"code": 1, **_foreign_ids(*both)}
    ),
    "a failure of another amount": lambda one, _: _items(
        one, [(_AMOUNT_NAMES[one.api], _other_amount(one))]
    ).replace(_CODE.encode(), b'"ResultCode": 1'),
    "ids with a space": _each_id(lambda value: value + " "),
    "ids as numbers": _each_id(lambda _value: 5),
    "ids with NUL": _each_id(lambda value: value + "\0"),
    "ids with upper and lower case swapped": _each_id(lambda value: value.swapcase()),
}


HOSTILE: dict[str, Make] = {
    **{f"encoding: {name}": _whole(change) for name, change in _ENCODINGS.items()},
    **{
        f"code: {literal[:40]}": _code(literal) for literal in [*_UNREADABLE_CODES, *_UNKNOWN_CODES]
    },
    **{f"amount: {name}": _amount(literal) for name, literal in _OTHER_AMOUNTS.items()},
    **{f"receipt: {name}": _receipt(literal) for name, literal in _NO_RECEIPTS.items()},
    **_MADE,
}
assert len(HOSTILE) >= 130, len(HOSTILE)

# Unusual bodies that still state clearly that this payment succeeded, so they settle it. Most are
# like a hostile body above, but without the fault of that body.
TWINS: dict[str, Make] = {
    "unchanged": _whole(lambda body: body),
    "a byte order mark": _whole(lambda body: b"\xef\xbb\xbf" + body),
    "white space": _whole(lambda body: b" \r\n\t" + body + b"\n\n"),
    "the largest size": _whole(lambda body: body[:-1] + b" " * (BYTES_MAX - len(body)) + b"}"),
    "the code as text": _code('"0"'),
    "the amount as text": _amount(lambda one: f'"{one.amount}"'),
    "the amount as a fraction": _amount(lambda one: f"{one.amount}.00"),
    "the amount with an exponent": _amount(lambda one: f"{one.amount}e0"),
    "the amount twice, with equal values": _more(_AMOUNT_NAMES, lambda one: f"{one.amount}.0"),
    "the amount twice, once as no number": _more(_AMOUNT_NAMES, True),
    "the receipt twice, with equal values": _more(_RECEIPT_NAMES, forged_receipt),
    "without ids": _result(lambda one, _other: _without_ids(one)),
    "other names with other amounts": lambda one, _: _items(
        one, [("Balance", 5), ("AmountDue", 7), ("Charges", "x")], first=True
    ),
    "a reference that names another receipt": _whole(
        lambda body: (
            body[:-1] + b', "ReferenceData": {"ReferenceItem": '
            b'{"Key": "TransactionReceipt", "Value": "EVLXOTHER1"}}}'
        )
    ),
    "a name of control characters and markup": lambda one, _: _items(
        one, [("ReceiverPartyPublicName", "254711000111 - \u202e<b>'; DROP TABLE x; --\0")]
    ),
    "an escaped letter in a name": _changed('"ResultCode"', '"Result\\u0043ode"'),
}
