"""Garbage in an answer is no acknowledgement, no result, no refusal and no token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.adapters.daraja.deposit import read_query_answer
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.status import read_status_acknowledgement
from domain.adapters.daraja.token import _parse_token
from domain.errors import OutcomeUnknown, Refused, Throttled, TokenRefused
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from tests.case_tables import for_each
from tests.unit.daraja_messages import (
    ACKNOWLEDGEMENTS,
    CHECKOUT,
    PAYOUT,
    QUERY,
    TOKEN,
    answer_error,
    as_body,
    envelope,
    fault,
)
from tests.unit.hostile_answers import retyped, shapeless

STATUSES = [
    100, 199, 200, 202, 204, 299, 300, 302, 307, 400, 401, 402, 403, 404, 405, 408, 409, 413, 418,
    422, 429, 451, 500, 502, 503, 599, 0, 999,
]  # fmt: skip
# Daraja sends these statuses before M-PESA sees the payment, whatever the body says.
BY_STATUS = {401: TokenRefused, 429: Throttled}


def test_the_answers_before_mangling_are_valid() -> None:
    """Otherwise the tests below would prove nothing."""
    assert read_query_answer(200, as_body(QUERY), CHECKOUT).inquiry_outcome is InquiryOutcome.PAID
    assert read_status_acknowledgement(200, as_body(PAYOUT)) == "acknowledged"
    for lifetime in (3599, "3599", 3599.0):  # seen as a number and as text (daraja.md §1)
        token = _parse_token(200, as_body(TOKEN | {"expires_in": lifetime}), 1000)
        assert (token.text, token.expires_at) == (TOKEN["access_token"], 4599)


@for_each("kind", Kind)
@for_each("status", STATUSES)
def test_an_acknowledgement_counts_only_with_a_status_of_success(kind: Kind, status: int) -> None:
    error = answer_error(kind, status, ACKNOWLEDGEMENTS[kind])
    assert error is None if 200 <= status < 300 else type(error) is OutcomeUnknown


# Bodies without a trace of a payment, and the statuses that refuse a request with such a body.
SILENT = {"empty", "null", "number", "text", "empty list", "empty object", "xml", "long"}
REFUSING = {400, 404, 405, 411, 413, 414, 415, 422}


@pytest.mark.parametrize("kind", Kind)
def test_no_mangled_answer_acknowledges_or_refuses_a_payment(kind: Kind) -> None:
    """If a body may show an id, Daraja may have acted, whatever the status."""
    good, id_name = ACKNOWLEDGEMENTS[kind], PAGES[kind].api.acknowledgement_id
    fields = {**retyped(good, "ResponseCode"), **retyped(good, id_name)}
    wrong = {
        (label, status): error
        for label, body in {**shapeless(good), **fields}.items()
        for status in STATUSES
        if type(error := answer_error(kind, status, body))
        not in (OutcomeUnknown, BY_STATUS.get(status))
        and not (label in SILENT and status in REFUSING)
        and not (
            label.startswith(f"{id_name}: ") and 200 <= status < 300 and _is_text_id(body, kind)
        )
    }
    assert not wrong


def _is_text_id(body: bytes, kind: Kind) -> bool:
    """Whether the id is short printable text. An id has no other known form."""
    value = json.loads(body).get(PAGES[kind].api.acknowledgement_id)
    return (
        isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()
    )


REFUSALS: dict[str, dict[str, Any]] = {
    "token": envelope("404.001.03", "Invalid Access Token"),
    "spike": envelope("500.003.02", "Spike Arrest Violation"),
    "busy": envelope("500.003.02", "System is busy"),
    "validation": envelope("400.002.02", "Bad Request - Invalid Amount"),
    "credentials": envelope("500.001.1001", "Wrong credentials"),
    "limiter": fault("policies.ratelimit.QuotaViolation"),
    "nothing": {},
}


@for_each("kind", Kind)
@for_each("label", REFUSALS)
@for_each("status", [200, 302, 400, 401, 403, 429, 500])
def test_an_answer_that_refuses_and_acknowledges_is_an_unknown_outcome(
    kind: Kind, label: str, status: int
) -> None:
    """If the refusal counted, a resend could pay twice, or a failed payment could be paid."""
    good = ACKNOWLEDGEMENTS[kind]
    is_good = status == 200 and label in ("nothing", "limiter")
    error = answer_error(kind, status, {**good, **REFUSALS[label]})
    assert error is None if is_good else type(error) is OutcomeUnknown


@for_each("trace", [{"MerchantRequestID": "4c1e"}, {"data": [{"ConversationID": "AG_1"}]}])
def test_a_refusal_in_daraja_s_own_envelope_refuses_nothing_beside_an_id(trace: Any) -> None:
    assert type(answer_error(Kind.DEPOSIT, 400, REFUSALS["validation"] | trace)) is OutcomeUnknown


@for_each("status", [200, 400, 403, 500])
@for_each(
    "code",
    ["", "0", "400", "400.002.02\n", "400.002\0.02", "\u200b400.002.02", "400.002.02 ",
     "\uff1400.002.02", "404.001.03\r\n", "oauth.v2.InvalidApiKey", "403.", ".403",
     "403.002.1001.5", "x" * 81, "400.002.02" + "\0" * 80, "\ud800", None, 400, 400.002, True, [],
     ["400.002.02"]],
)  # fmt: skip
def test_a_code_that_differs_from_daraja_s_is_an_unknown_code(status: int, code: object) -> None:
    """The parser does not clean a code. A cleaned code could become one of Daraja's codes."""
    error = answer_error(Kind.DEPOSIT, status, envelope(code, "Bad Request - Invalid Amount"))
    if status == 400 and type(error) is Refused:
        # The status alone refuses, because the envelope is unknown.
        assert not error.failure.safe_to_retry
    else:
        assert type(error) is OutcomeUnknown
    assert error.code is None or (error.code.isprintable() and len(error.code) <= 80)


@for_each("code", ["500.001.1001", "500.002.1001", "500.003.02"])
@for_each("text", [None, 5, ["Wrong credentials"], {"Wrong credentials": 1}, "x" * 50_000])
def test_a_refusal_that_is_known_by_its_text_needs_a_text(code: str, text: object) -> None:
    assert type(answer_error(Kind.WITHDRAWAL, 500, envelope(code, text))) is OutcomeUnknown


_LIFETIMES: list[Any] = [
    None, True, "", "soon", "NaN", "Infinity", "-1", "-0", "0", "0.0", 0, -3599, 1e9, 10**7, "1e3",
    "1_000", " 3599", "3599\n", "+3599", "0x10", "\u0663599", 10**400, [3599], {},
]  # fmt: skip
_TEXTS: list[Any] = [
    None, 5, [], ["abc"], "", "a b", "a\nb", "a\r\nX-Injected: 1", "a\0", "é", "\ud800", "a,b",
    '"a"', "=", "a=b", "a===", "x" * 2_049,
]  # fmt: skip


@for_each(
    ("field", "value"),
    [
        *(("expires_in", lifetime) for lifetime in _LIFETIMES),
        *(("access_token", text) for text in _TEXTS),
    ],
)
def test_a_text_that_is_no_bearer_token_is_never_put_into_a_header(field: str, value: Any) -> None:
    """A token needs a text that a header can carry, and a lifetime that ends."""
    with pytest.raises(OutcomeUnknown):
        _parse_token(200, as_body(TOKEN | {field: value}), 1000)
