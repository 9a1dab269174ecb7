"""Parsers get changed genuine messages: no parser fails, and no parser misreads a message.

Each test has the same 200 examples in every run. With `FUZZ_EXAMPLES=100000`, each test gets
100,000 new examples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from itertools import product
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.adapters.daraja.deposit import read_query_answer
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.reports import read_report
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.adapters.daraja.status import read_status_acknowledgement
from domain.adapters.daraja.token import _parse_token
from domain.adapters.postgres.feed import FeedPlace
from domain.adapters.strict_json import Unreadable, parse
from domain.callback_address import PAYMENT_OPERATIONS
from domain.errors import (
    OutcomeUnknown,
    ProductRefused,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.kinds import Kind
from domain.report import Report, ReportedOutcome
from domain.values import is_receipt, parse_storable_text
from gateway import cursors
from gateway.schemas import queries
from tests.builders import PAYMENT_ID, a_payment
from tests.unit.daraja_messages import CHECKOUT, TOKEN, answer_error
from tests.unit.mutations import ANSWERS, CALLBACKS, mangled, mutated

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=_EXAMPLES or 200,
    derandomize=not _EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
OPERATIONS = [*sorted(PAYMENT_OPERATIONS), "status-1", "status-2-timeout", ""]
STATUSES = [200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 503]
callbacks = mutated(CALLBACKS) | mangled(CALLBACKS)
answers = mutated(ANSWERS) | mangled(ANSWERS)


def parse_strictly(body: bytes) -> Any:
    """Parse `body` as strictly as the tested parser, without sharing code with it."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    def constant(_name: str) -> None:
        raise AssertionError

    return json.loads(
        body.decode("utf-8-sig"),
        object_pairs_hook=members,
        parse_float=Decimal,
        parse_constant=constant,
    )


def values_under(message: Any, names: tuple[str, ...]) -> list[Any]:
    """Every value, at any depth, of a member or a Key or Name entry with one of `names`."""
    if isinstance(message, list):
        return [found for inner in message for found in values_under(inner, names)]
    if not isinstance(message, dict):
        return []
    own = [message.get("Value")] if message.get("Key", message.get("Name")) in names else []
    return [
        *own,
        *(message[name] for name in names if name in message),
        *values_under(list(message.values()), names),
    ]


def assert_storable(report: Report) -> None:
    """Assert that PostgreSQL can store the report."""
    for text in (
        report.code,
        report.receipt,
        report.recipient_name,
        *(value for _, value in report.ids),
    ):
        assert text is None or (parse_storable_text(text) == text and len(text) <= 100)
    assert len(report.ids) <= 200
    assert (report.outcome is ReportedOutcome.FAILURE) is (report.failure is not None)


@fuzzed
@given(body=callbacks)
def test_a_changed_callback_succeeds_only_if_its_bytes_contain_a_success(body: bytes) -> None:
    """The bytes of a success contain an explicit zero, and the report's amount and receipt."""
    for operation in OPERATIONS:
        assert_report_matches(body, operation)


def assert_report_matches(body: bytes, operation: str) -> None:
    report = read_report(operation, body)
    assert_storable(report)
    if report.outcome is not ReportedOutcome.SUCCESS:
        assert report.receipt is None
        return
    message = parse_strictly(body)
    inner = message["Body"]["stkCallback"] if operation == "deposit" else message["Result"]
    assert type(inner["ResultCode"]) in (int, str)
    assert str(inner["ResultCode"]) == "0"
    if operation.startswith("status"):
        assert set(map(repr, values_under(inner, ("TransactionStatus",)))) >= {repr("Completed")}
    amounts = [
        value
        for value in values_under(inner, ("Amount", "TransactionAmount"))
        if value not in (None, "")
    ]
    if report.amount is not None:
        assert report.amount in [
            Decimal(value)
            for value in amounts
            if isinstance(value, (int, Decimal, str)) and _is_number(value)
        ]
    if report.receipt is not None:
        assert is_receipt(report.receipt)
        assert report.receipt in values_under(
            inner, ("MpesaReceiptNumber", "TransactionReceipt", "TransactionID", "ReceiptNo")
        )


def _is_number(value: Any) -> bool:
    return not isinstance(value, str) or value.replace(".", "", 1).isdecimal()


@fuzzed
@given(body=st.binary(max_size=400))
def test_random_bytes_are_never_a_result(body: bytes) -> None:
    for operation in OPERATIONS:
        assert read_report(operation, body).outcome in (
            ReportedOutcome.UNREADABLE,
            ReportedOutcome.TIMEOUT,
            ReportedOutcome.UNDECIDED,
        )


@fuzzed
@given(
    body=callbacks,
    secret=st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs"]), min_size=8),
)
def test_a_secret_is_replaced_anywhere_in_a_message(body: bytes, secret: str) -> None:
    """No other byte changes."""
    assert SECRET_FIELDS.replace_secrets(
        SECRET_FIELDS.replace_secrets(body)
    ) == SECRET_FIELDS.replace_secrets(body)
    member = f'"SecurityCredential" : "{secret}", '.encode()
    before, separator, after = body.partition(b"{")
    if separator and b"\\" not in before and b'"' not in before:
        kept = SECRET_FIELDS.replace_secrets(before + separator + member + after)
        assert kept == SECRET_FIELDS.replace_secrets(before + separator) + member.replace(
            secret.encode(), b"[replaced]"
        ) + SECRET_FIELDS.replace_secrets(after)


@fuzzed
@given(body=answers | st.binary(max_size=200))
def test_a_changed_answer_acknowledges_only_if_its_bytes_do(body: bytes) -> None:
    for status, kind in product(STATUSES, Kind):
        error = answer_error(kind, status, body)
        if error is not None:
            assert type(error) is not Unreachable  # the request was written
            assert error.code is None or parse_storable_text(error.code) == error.code
            continue
        message = parse_strictly(body)
        assert 200 <= status < 300
        assert "errorCode" not in message
        assert message["ResponseCode"] in ("0", 0)
        assert message[PAGES[kind].api.acknowledgement_id]


@fuzzed
@given(body=answers | st.binary(max_size=200))
def test_a_changed_answer_to_an_inquiry_reports_a_result_only_if_its_bytes_do(body: bytes) -> None:
    for status in STATUSES:
        with suppress(TokenRefused, ProductRefused, Throttled):
            answer = read_status_acknowledgement(status, body)
            assert answer != "acknowledged" or parse_strictly(body)["ResponseCode"] in ("0", 0)
        with suppress(TokenRefused, ProductRefused, Throttled):
            report = read_query_answer(status, body, CHECKOUT)
            assert_storable(report)
            if report.outcome in (ReportedOutcome.SUCCESS, ReportedOutcome.FAILURE):
                message = parse_strictly(body)
                assert 200 <= status < 300
                assert message.get("CheckoutRequestID") in (CHECKOUT, None, "")
                assert (str(message["ResultCode"]) == "0") is (
                    report.outcome is ReportedOutcome.SUCCESS
                )


@fuzzed
@given(body=mutated([TOKEN]) | mangled([TOKEN]) | st.binary(max_size=100))
def test_a_changed_token_is_accepted_only_if_a_header_can_carry_it(body: bytes) -> None:
    for status in STATUSES:
        try:
            token = _parse_token(status, body, 1000)
        except OutcomeUnknown:
            continue
        assert status == 200
        assert token.text == parse_strictly(body)["access_token"]
        assert token.text.isascii()
        assert token.text.isprintable()
        assert " " not in token.text
        assert 0 < len(token.text) <= 2050
        assert 1000 < token.expires_at < 1000 + 1e6


@fuzzed
@given(body=callbacks | answers | st.binary(max_size=200))
def test_parsed_json_has_one_meaning(body: bytes) -> None:
    try:
        value = parse(body)
    except Unreadable:
        return
    assert parse_strictly(body) == value


_GENUINE = [
    queries.next_cursor(queries.PageParameters(), a_payment()),
    cursors.feed_cursor(FeedPlace(15, "0123456789ab")),
    cursors.history_cursor(cursors.HistoryPlace(40, PAYMENT_ID)),
]
_changed = st.tuples(
    st.sampled_from(_GENUINE), st.integers(0, 80), st.integers(0, 5), st.text(max_size=3)
).map(lambda change: change[0][: change[1]] + change[3] + change[0][change[1] + change[2] :])
_patterns = st.one_of(
    *(st.from_regex(pattern) for pattern in (cursors.PAGE, cursors.FEED, cursors.HISTORY))
)


@fuzzed
@given(text=_changed | _patterns | st.text(max_size=40))
def test_a_cursor_that_we_would_not_write_is_rejected(text: str) -> None:
    """Only the list that writes a cursor accepts it."""
    lists: list[tuple[Callable[[str], Any], Callable[[Any], str]]] = [
        (cursors.page_place, cursors.page_cursor),
        (cursors.feed_place, cursors.feed_cursor),
        (cursors.history_place, cursors.history_cursor),
    ]
    written = []
    for read, write in lists:
        with suppress(ValueError):
            written.append(write(read(text)))
    assert written in ([], [text])
