"""The address that Daraja is given: it says what a message is about, and proves that we said so."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.callback_address import (
    RESULT_OPERATIONS,
    TIMEOUT_OPERATIONS,
    Operation,
    address,
    fits_kind,
    is_genuine,
    is_operation,
    token,
)
from domain.values import Kind
from tests.builders import PAYMENT_ID

FIRST, SECOND = "first-secret", "second-secret"
ID = str(PAYMENT_ID)
OPERATIONS = [*Operation, "status-1", "status-1-timeout", "status-999999"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_address_carries_payment_operation_and_a_token_of_at_least_128_bits(operation: str) -> None:
    start, given_token = address("https://pay.example/in", FIRST, PAYMENT_ID, operation).rsplit("/", 1)
    assert start == f"https://pay.example/in/results/{ID}/{operation}"
    assert re.fullmatch(r"[0-9a-f]{32,64}", given_token)
    assert is_genuine([FIRST], ID, operation, given_token)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_address_has_none_of_the_words_that_daraja_refuses(operation: str) -> None:
    url = address("https://pay.example", FIRST, PAYMENT_ID, operation)
    assert url == url.lower()
    assert not re.search(r"m-?pesa|safaricom|exe|cmd|sql|query", url)


def test_a_token_of_any_of_the_secrets_is_genuine_while_they_are_rotated() -> None:
    old = token(SECOND, ID, "deposit")
    assert is_genuine([FIRST, SECOND], ID, "deposit", old)
    assert not is_genuine([FIRST], ID, "deposit", old)
    assert not is_genuine([], ID, "deposit", old)


@pytest.mark.parametrize(
    ("payment_id", "operation", "change"),
    [
        (ID, "deposit", lambda text: text[:-1]),
        (ID, "deposit", lambda text: text + "0"),
        (ID, "deposit", lambda text: text.upper()),
        (ID, "deposit", lambda text: "0" + text[1:] if text[0] != "0" else "1" + text[1:]),
        (ID, "deposit", lambda _text: ""),
        (ID, "deposit", lambda _text: "é"),
        (ID, "deposit", lambda _text: "\ud800"),
        (ID, "withdrawal", str),
        (ID, "deposit-timeout", str),
        (ID.upper(), "deposit", str),
        (ID[:-1], "deposit", str),
        ("", "deposit", str),
        ("\udcff", "deposit", str),  # what aiohttp makes of bytes that are no UTF-8
    ],
)
def test_a_token_is_good_for_nothing_else(payment_id: str, operation: str, change: object) -> None:
    assert callable(change)
    assert not is_genuine([FIRST, SECOND], payment_id, operation, change(token(FIRST, ID, "deposit")))


@given(
    first=st.tuples(st.text(max_size=8), st.text(max_size=8)),
    second=st.tuples(st.text(max_size=8), st.text(max_size=8)),
)
def test_no_two_pairs_share_a_token(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (token(FIRST, *first) == token(FIRST, *second)) == (first == second)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_set_of_operations_has(operation: str) -> None:
    assert is_operation(operation)


@pytest.mark.parametrize(
    "operation",
    ["", "deposit-timeout", "Deposit", "bill_payment", "status", "status-", "status-0", "status-01", "status-1000000",
     "status-1-", "status-1-timeouts", "status-१", "status-1\n", "deposit ", "results"],
)  # fmt: skip
def test_the_set_of_operations_is_closed_to(operation: str) -> None:
    assert not is_operation(operation)
    assert not any(fits_kind(operation, kind) for kind in Kind)


@pytest.mark.parametrize(("kind", "operation"), list(product(Kind, OPERATIONS)))
def test_an_operation_fits_its_own_kind_and_a_status_fits_payouts(kind: Kind, operation: str) -> None:
    """A deposit is asked about by STK query, which answers at once: nothing about its status can come by callback."""
    is_own = operation in (RESULT_OPERATIONS[kind], TIMEOUT_OPERATIONS.get(kind))
    assert fits_kind(operation, kind) == (is_own or (kind.moves_money_out and operation.startswith("status-")))


def test_every_kind_has_a_result_operation_and_every_payout_a_timeout() -> None:
    assert set(RESULT_OPERATIONS) == set(Kind)
    assert set(TIMEOUT_OPERATIONS) == {kind for kind in Kind if kind.moves_money_out}
    assert {*RESULT_OPERATIONS.values(), *TIMEOUT_OPERATIONS.values()} == set(Operation)
