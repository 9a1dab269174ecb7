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
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.report import ReportedOutcome
from tests.case_tables import for_each
from tests.unit.daraja_messages import answer_error
from tests.unit.hostile_answers import (
    CHECKOUT,
    ENVELOPE,
    PAYOUT,
    QUERY,
    STK,
    TOKEN,
    retyped,
    shapeless,
    text_of,
)

# Without 401 and 429, whose meaning does not depend on the body.
STATUSES = [
    100, 101, 199, 200, 201, 202, 204, 206, 300, 301, 302, 304, 307, 308, 400, 402, 403, 404, 405,
    408, 409, 410, 413, 415, 418, 422, 451, 500, 501, 502, 503, 504, 520, 599, 0, 999,
]  # fmt: skip
ACKNOWLEDGEMENTS = {**dict.fromkeys(Kind, PAYOUT), Kind.DEPOSIT: STK}


def test_the_answers_before_mangling_are_valid() -> None:
    """Otherwise the tests below would prove nothing."""
    for kind, good in ACKNOWLEDGEMENTS.items():
        assert answer_error(kind, 200, text_of(good)) is None
    assert read_query_answer(200, text_of(QUERY), CHECKOUT).inquiry_outcome is InquiryOutcome.PAID
    assert read_status_acknowledgement(200, text_of(PAYOUT)) == "acknowledged"
    assert _parse_token(200, text_of(TOKEN), 1000).expires_at == 4599


# Bodies without a trace of a payment, and statuses that refuse a request with any body.
SILENT = {
    "empty", "white space", "null", "number", "true", "text", "empty list", "empty object", "xml",
    "long",
}  # fmt: skip
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
        if type(error := answer_error(kind, status, body)) is not OutcomeUnknown
        and not (label in SILENT and status in REFUSING)
        and not (
            label.startswith(f"{id_name}: ") and 200 <= status < 300 and _is_text_id(body, kind)
        )
    }
    assert not wrong


@for_each("kind", Kind)
@for_each("label", sorted(SILENT))
def test_a_refusing_status_refuses_if_no_trace_of_a_payment_is_shown(
    kind: Kind, label: str
) -> None:
    body = shapeless(ACKNOWLEDGEMENTS[kind])[label]
    for status in STATUSES:
        assert (type(answer_error(kind, status, body)) is Refused) == (status in REFUSING)


def _is_text_id(body: bytes, kind: Kind) -> bool:
    """Ids are opaque: any short printable text may be one."""
    value = json.loads(body).get(PAGES[kind].api.acknowledgement_id)
    return (
        isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()
    )


@for_each("kind", Kind)
@for_each("status", STATUSES)
def test_an_acknowledgement_counts_only_with_a_status_of_success(kind: Kind, status: int) -> None:
    error = answer_error(kind, status, text_of(ACKNOWLEDGEMENTS[kind]))
    assert error is None if 200 <= status < 300 else type(error) is OutcomeUnknown


REFUSALS: dict[str, dict[str, Any]] = {
    "token": {"errorCode": "404.001.03", "errorMessage": "Invalid Access Token"},
    "spike": {"errorCode": "500.003.02", "errorMessage": "Spike Arrest Violation"},
    "busy": {"errorCode": "500.003.02", "errorMessage": "System is busy"},
    "validation": {"errorCode": "400.002.02", "errorMessage": "Bad Request - Invalid Amount"},
    "credentials": {"errorCode": "500.001.1001", "errorMessage": "Wrong credentials"},
    "limiter": {
        "fault": {"faultstring": "x", "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}
    },
    "nothing": {},
}


@for_each("kind", Kind)
@for_each("label", REFUSALS)
@for_each("status", [200, 302, 400, 401, 403, 404, 429, 500, 503])
def test_an_answer_that_refuses_and_acknowledges_is_an_unknown_outcome(
    kind: Kind, label: str, status: int
) -> None:
    """If the refusal counted, a resend could pay twice, or a failed payment could be paid."""
    good = ACKNOWLEDGEMENTS[kind]
    is_good = status == 200 and label in ("nothing", "limiter")
    error = answer_error(kind, status, text_of({**good, **REFUSALS[label]}))
    assert error is None if is_good else type(error) is OutcomeUnknown


@for_each("kind", Kind)
@for_each("status", [200, 400, 403, 404, 500])
@for_each(
    "code",
    ["", " ", "0", "400", "400.002.02\n", "400.002\0.02", "\u200b400.002.02", "400.002.02 ",
     "\uff1400.002.02", "404.001.03\r\n", "oauth.v2.InvalidApiKey", "blocked", "403.", ".403",
     "403.002.1001.5", "x" * 81, "400.002.02" + "\0" * 80, "\ud800", None, 400, 400.002, True, [],
     {}, ["400.002.02"]],
)  # fmt: skip
def test_a_code_that_differs_from_daraja_s_is_an_unknown_code(
    kind: Kind, status: int, code: object
) -> None:
    """A code is compared as it is. If it were cleaned first, it could become a code of Daraja."""
    body = text_of(
        {"requestId": "1", "errorCode": code, "errorMessage": "Bad Request - Invalid Amount"}
    )
    error = answer_error(kind, status, body)
    if status in REFUSING and type(error) is Refused:
        # The status alone refuses, because the envelope is unknown.
        assert (error.failure.reason, error.failure.safe_to_retry) == (
            FailureReason.REJECTED_BY_PROVIDER,
            False,
        )
    else:
        assert type(error) is OutcomeUnknown
    assert error.code is None or (error.code.isprintable() and len(error.code) <= 80)


@for_each("kind", Kind)
@for_each(
    "text",
    [None, 5, ["Wrong credentials"], {"Wrong credentials": 1}, True, "", "x" * 50_000, "\ud800"],
)
def test_a_refusal_by_its_text_needs_a_text(kind: Kind, text: object) -> None:
    for code in ("500.001.1001", "500.002.1001", "500.003.02"):
        body = text_of({"errorCode": code, "errorMessage": text})
        assert type(answer_error(kind, 500, body)) is OutcomeUnknown


@pytest.mark.parametrize("kind", Kind)
def test_a_redirect_refuses_nothing_with_any_body(kind: Kind) -> None:
    for code, text in (
        ("400.002.02", "Bad Request - Invalid Amount"),
        ("500.001.1001", "Wrong credentials"),
    ):
        body = text_of({"errorCode": code, "errorMessage": text})
        for status in (300, 301, 302, 303, 304, 307, 308, 399):
            assert type(answer_error(kind, status, body)) is OutcomeUnknown
        assert type(answer_error(kind, 400, body)) is Refused


@pytest.mark.parametrize("kind", Kind)
def test_a_401_and_a_429_are_known_by_their_status_with_any_body(kind: Kind) -> None:
    """Daraja sends both before M-PESA sees the payment. For acknowledgements see above."""
    for label, body in shapeless(ENVELOPE | {"ResponseCode": "1"}).items():
        if label in ("names in small", "names in capitals", "another key twice"):
            continue
        assert type(answer_error(kind, 401, body)) in (TokenRefused, OutcomeUnknown), label
        assert type(answer_error(kind, 429, body)) in (Throttled, OutcomeUnknown), label


def test_no_mangled_answer_of_a_query_is_paid_or_failed() -> None:
    fields = {**retyped(QUERY, "ResponseCode"), **retyped(QUERY, "CheckoutRequestID")}
    codes = retyped(QUERY, "ResultCode")
    del codes["ResultCode: one"], codes["ResultCode: text one"]
    without_id = {f"CheckoutRequestID: {value}" for value in ("null", "absent", "nothing")}
    for label, body in {**shapeless(QUERY), **fields, **codes}.items():
        for status in [*STATUSES, 401, 429]:
            try:
                report = read_query_answer(status, body, CHECKOUT)
            except (TokenRefused, Throttled):
                assert status in (401, 429)
                continue
            is_about_the_push = label in without_id and 200 <= status < 300
            is_undecided = (report.outcome, report.failure) == (ReportedOutcome.UNDECIDED, None)
            assert is_about_the_push or is_undecided, (label, status)


def test_no_mangled_answer_acknowledges_a_status_inquiry() -> None:
    for label, body in {**shapeless(PAYOUT), **retyped(PAYOUT, "ResponseCode")}.items():
        for status in STATUSES:
            assert read_status_acknowledgement(status, body) != "acknowledged", (label, status)


_LIFETIMES: list[Any] = [
    None, True, False, "", " ", "soon", "NaN", "Infinity", "-1", "-0", "0", "0.0", 0, -1, -3599,
    0.0, 1e9, 10**7, "1e3", "1_000", " 3599", "3599 ", "3599\n", "+3599", "0x10", "\u0663599",
    "\uff13599", 10**400, -(10**400), [], [3599], {}, {"a": 3599}, "9" * 5_000,
]  # fmt: skip
_TEXTS: list[Any] = [
    None, True, 5, [], {}, ["abc"], "", " ", "a b", "a\nb", "a\r\nX-Injected: 1", "a\0", "é",
    "\ud800", "a\t", "a,b", '"a"', "a;b", "=", "a=b", "a===", "x" * 2_049, "x" * 15_000,
]  # fmt: skip


@for_each("lifetime", _LIFETIMES, ids=range(len(_LIFETIMES)))
def test_an_answer_with_an_invalid_lifetime_is_no_token(lifetime: Any) -> None:
    with pytest.raises(OutcomeUnknown):
        _parse_token(200, text_of(TOKEN | {"expires_in": lifetime}), 1000)


@for_each("text", _TEXTS, ids=range(len(_TEXTS)))
def test_a_text_that_is_no_bearer_token_is_never_put_into_a_header(text: Any) -> None:
    with pytest.raises(OutcomeUnknown):
        _parse_token(200, text_of(TOKEN | {"access_token": text}), 1000)


def test_no_mangled_answer_is_a_token() -> None:
    for label, body in shapeless(TOKEN).items():
        if label == "names in small":  # the names of a token answer are lower case
            continue
        for status in [*STATUSES, 401, 429]:
            with pytest.raises(OutcomeUnknown):
                pytest.fail(f"{label} of status {status}: {_parse_token(status, body, 1000)}")
    for status in [*STATUSES, 401, 429]:
        if status != 200:
            with pytest.raises(OutcomeUnknown):
                _parse_token(status, text_of(TOKEN), 1000)
