"""Genuine messages with changes that an attacker could make: to members, or to bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.unit.daraja_messages import PAYOUT, QUERY, STK, TOKEN, payout, stk
from tests.unit.status_messages import status

BILL = payout(
    0,
    [
        {"Key": "Amount", "Value": "1800.00"},
        {"Key": "ReceiverPartyPublicName", "Value": "888880 - SUPPLIER LTD"},
    ],
)
CALLBACKS: list[Any] = [
    stk(),
    stk(1032),
    payout(),
    payout(2001),
    BILL,
    status(),
    status("SFC_IC0003"),
]
ANSWERS: list[Any] = [
    STK,
    PAYOUT,
    QUERY,
    TOKEN,
    {"requestId": "1", "errorCode": "400.002.02", "errorMessage": "Bad Request"},
]

_NAMES = [
    "Body", "stkCallback", "Result", "ResultCode", "ResultDesc", "CallbackMetadata", "Item", "Name",
    "Value", "Key", "Amount", "TransactionAmount", "MpesaReceiptNumber", "TransactionReceipt",
    "TransactionID", "ResultParameters", "ResultParameter", "TransactionStatus", "ReceiptNo",
    "CheckoutRequestID", "ConversationID", "OriginatorConversationID", "ResponseCode", "errorCode",
    "errorMessage", "fault", "access_token", "expires_in", "",
]  # fmt: skip
_LITERALS = [
    "0", "-0", "0.0", "0e0", "1", "-1", "250", "250.0", "2.5e2", "1e999", "1e-999", "NaN",
    "-Infinity", "true", "false", "null", "{}", "[]", "00", "+0", '"0"', '"1"', '"00"', '"0 "',
    '"250"', '"Completed"', '"Failed"', '"UC17KX20PM"', '"uc17kx20pm"', '"UC10000000"', '""',
    '"\\u0000"', '"\\ud800"', '"\\u0660"', '"404.001.03"', '"3599"', "1" + "0" * 400,
    '"' + "x" * 70 + '"', "[" * 14 + "]" * 14,
]  # fmt: skip

_literals = (
    st.sampled_from(_LITERALS) | st.integers().map(str) | st.text(max_size=8).map(json.dumps)
)


class Raw(str):
    """A piece of JSON text, valid or not, in the place of a value."""

    __slots__ = ()


Members = list[tuple[str, Any]]


def _as_members(value: Any) -> Any:
    """Converts objects to lists of members, because a mutation may repeat a member."""
    if isinstance(value, dict):
        return ("object", [[name, _as_members(inner)] for name, inner in value.items()])
    return ("list", [_as_members(inner) for inner in value]) if isinstance(value, list) else value


def _json_text(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, tuple):
        kind, parts = value
        if kind == "list":
            return "[" + ",".join(_json_text(part) for part in parts) + "]"
        return (
            "{" + ",".join(f"{json.dumps(name)}:{_json_text(inner)}" for name, inner in parts) + "}"
        )
    return json.dumps(value)


def _containers(value: Any) -> list[Any]:
    if not isinstance(value, tuple):
        return []
    kind, parts = value
    inner = [part[1] for part in parts] if kind == "object" else parts
    return [value, *(found for part in inner for found in _containers(part))]


@st.composite
def mutated(draw: st.DrawFn, genuine: list[Any]) -> bytes:
    """A genuine message with changed members.

    Some members are swapped, deleted, renamed, repeated, retyped or copied from another message.
    """
    root = _as_members(draw(st.sampled_from(genuine)))
    for _ in range(draw(st.integers(1, 4))):
        kind, parts = draw(st.sampled_from(_containers(root)))
        if not parts:
            continue
        at, other = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        match draw(st.integers(0, 6)):
            case 0:
                del parts[at]
            case 1:
                parts.insert(other, list(parts[at]) if kind == "object" else parts[at])
            case 2 if kind == "object":
                parts[at] = [draw(st.sampled_from(_NAMES)), parts[at][1]]
            case 3 if kind == "object":
                parts.insert(other, [parts[at][0], Raw(draw(_literals))])
            case 4:
                spliced = draw(
                    st.sampled_from(_containers(_as_members(draw(st.sampled_from(genuine)))))
                )
                parts[at] = [parts[at][0], spliced] if kind == "object" else spliced
            case 5 if kind == "object":
                parts[at], parts[other] = (
                    [parts[at][0], parts[other][1]],
                    [parts[other][0], parts[at][1]],
                )
            case _:
                raw = Raw(draw(_literals))
                parts[at] = [parts[at][0], raw] if kind == "object" else raw
    return _json_text(root).encode("utf-8", "surrogatepass")


@st.composite
def mangled(draw: st.DrawFn, genuine: list[Any]) -> bytes:
    """A genuine message with some bytes removed, inserted or overwritten."""
    body = bytearray(json.dumps(draw(st.sampled_from(genuine))).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 12))] = draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"}", b",", b"0", b"\\u0030"])
        )
    return bytes(body)
