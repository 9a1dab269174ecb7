"""Whatever stands in Daraja's place may answer: no garbage is an acknowledgement, a result, a
refusal or a token.
"""

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


# Bodies that show nothing of a payment, and statuses that refuse whatever the body.
SILENT = {
    "empty",
    "white space",
    "null",
    "number",
    "true",
    "text",
    "empty list",
    "empty object",
    "xml",
    "long",
}
REFUSING = {400, 404, 405, 411, 413, 414, 415, 422}


@pytest.mark.parametrize("kind", Kind)
def test_no_mangled_answer_acknowledges_or_refuses_a_payment(kind: Kind) -> None:
    """Of any status, as long as it may show an id: the payment may have been taken, and is asked
    about.
    """
    good = ACKNOWLEDGEMENTS[kind]
    fields = {**retyped(good, "ResponseCode"), **retyped(good, PAGES[kind].api.acknowledgement_id)}
    acceptable = {"an id is any text": f"{PAGES[kind].api.acknowledgement_id}: "}
    wrong = {
        (what, status): error
        for what, body in {**shapeless(good), **fields}.items()
        for status in STATUSES
        if type(error := answer_error(kind, status, body)) is not OutcomeUnknown
        and not (what in SILENT and status in REFUSING)
        and not (
            what.startswith(acceptable["an id is any text"])
            and 200 <= status < 300
            and _is_text_id(body, kind)
        )
    }
    assert not wrong


@for_each("kind", Kind)
@for_each("what", sorted(SILENT))
def test_a_refusing_status_refuses_if_no_trace_of_a_payment_is_shown(kind: Kind, what: str) -> None:
    body = shapeless(ACKNOWLEDGEMENTS[kind])[what]
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
@for_each("what", REFUSALS)
@for_each("status", [200, 302, 400, 401, 403, 404, 429, 500, 503])
def test_an_answer_that_refuses_and_acknowledges_is_an_unknown_outcome(
    kind: Kind, what: str, status: int
) -> None:
    """Sent again on the strength of one half, the payment could be made twice; failed on it, it
    could be paid.
    """
    good = ACKNOWLEDGEMENTS[kind]
    is_good = status == 200 and what in ("nothing", "limiter")
    error = answer_error(kind, status, text_of({**good, **REFUSALS[what]}))
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
def test_a_code_that_differs_from_daraja_s_is_not_daraja_s(
    kind: Kind, status: int, code: object
) -> None:
    """A final failure needs Daraja's own words; a code that is cleaned first could become one of
    them.
    """
    body = text_of(
        {"requestId": "1", "errorCode": code, "errorMessage": "Bad Request - Invalid Amount"}
    )
    error = answer_error(kind, status, body)
    if status in REFUSING and type(error) is Refused:
        # By its status alone: an envelope that we do not know.
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
    """Both are refused at the door, before M-PESA saw the payment; what acknowledges besides is
    the test above.
    """
    for what, body in shapeless(ENVELOPE | {"ResponseCode": "1"}).items():
        if what in ("names in small", "names in capitals", "another key twice"):
            continue
        assert type(answer_error(kind, 401, body)) in (TokenRefused, OutcomeUnknown), what
        assert type(answer_error(kind, 429, body)) in (Throttled, OutcomeUnknown), what


def test_no_mangled_answer_is_a_result_of_a_query() -> None:
    """Neither paid nor failed."""
    fields = {**retyped(QUERY, "ResponseCode"), **retyped(QUERY, "CheckoutRequestID")}
    codes = {
        what: body
        for what, body in retyped(QUERY, "ResultCode").items()
        if what[12:] not in ("one", "text one")
    }
    says_nothing = {
        "CheckoutRequestID: null",
        "CheckoutRequestID: absent",
        "CheckoutRequestID: nothing",
    }
    for what, body in {**shapeless(QUERY), **fields, **codes}.items():
        for status in [*STATUSES, 401, 429]:
            try:
                report = read_query_answer(status, body, CHECKOUT)
            except (TokenRefused, Throttled):
                assert status in (401, 429)
                continue
            is_no_claim = what in says_nothing and 200 <= status < 300
            assert is_no_claim or (report.outcome, report.failure) == (
                ReportedOutcome.UNDECIDED,
                None,
            ), (
                what,
                status,
            )


def test_no_mangled_answer_acknowledges_a_status_inquiry() -> None:
    for what, body in {**shapeless(PAYOUT), **retyped(PAYOUT, "ResponseCode")}.items():
        for status in STATUSES:
            assert read_status_acknowledgement(status, body) != "acknowledged", (what, status)


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
    for what, body in shapeless(TOKEN).items():
        if what == "names in small":  # as they are
            continue
        for status in [*STATUSES, 401, 429]:
            with pytest.raises(OutcomeUnknown):
                pytest.fail(f"{what} of status {status}: {_parse_token(status, body, 1000)}")
    for status in [*STATUSES, 401, 429]:
        if status != 200:
            with pytest.raises(OutcomeUnknown):
                _parse_token(status, text_of(TOKEN), 1000)
