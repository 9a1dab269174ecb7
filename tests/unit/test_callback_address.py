"""The addresses that we give to Daraja, and their verification."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.callback_address import (
    PAYMENT_OPERATIONS,
    fits_kind,
    is_genuine,
    is_operation,
    make_address,
    make_token,
    verified_payment_id,
)
from domain.kinds import RULES, Kind
from tests.builders import PAYMENT_ID
from tests.case_tables import for_each

FIRST, SECOND = "first-secret", "second-secret"
ID = str(PAYMENT_ID)
OPERATIONS = [*sorted(PAYMENT_OPERATIONS), "status-1", "status-1-timeout", "status-999999"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_address_carries_payment_operation_and_a_token_of_at_least_128_bits(
    operation: str,
) -> None:
    start, given_token = make_address(
        "https://pay.example/in", FIRST, PAYMENT_ID, operation
    ).rsplit("/", 1)
    assert start == f"https://pay.example/in/results/{ID}/{operation}"
    assert re.fullmatch(r"[0-9a-f]{32,64}", given_token)
    assert is_genuine([FIRST], ID, operation, given_token)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_address_has_none_of_the_words_that_daraja_refuses(operation: str) -> None:
    url = make_address("https://pay.example", FIRST, PAYMENT_ID, operation)
    assert url == url.lower()
    assert not re.search(r"m-?pesa|safaricom|exe|cmd|sql|query", url)


def test_a_token_of_any_of_the_secrets_is_genuine_while_they_are_rotated() -> None:
    old = make_token(SECOND, ID, "deposit")
    assert is_genuine([FIRST, SECOND], ID, "deposit", old)
    assert not is_genuine([FIRST], ID, "deposit", old)
    assert not is_genuine([], ID, "deposit", old)


@for_each(
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
        ("\udcff", "deposit", str),  # how aiohttp decodes bytes that are not UTF-8
    ],
)
def test_a_token_is_valid_only_for_its_payment_and_operation(
    payment_id: str, operation: str, change: object
) -> None:
    assert callable(change)
    assert not is_genuine(
        [FIRST, SECOND], payment_id, operation, change(make_token(FIRST, ID, "deposit"))
    )


def test_an_address_of_ours_names_its_payment() -> None:
    for operation in OPERATIONS:
        presented = make_token(SECOND, ID, operation)
        assert verified_payment_id([FIRST, SECOND], ID, operation, presented) == PAYMENT_ID


class _Counted(str):
    """A secret that counts how often a token is made with it."""

    __slots__ = ("uses",)
    uses: int

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.uses += 1
        return super().encode(encoding, errors)


WRONG_ADDRESSES = {
    "the first secret's token": (ID, "deposit", make_token(FIRST, ID, "deposit")),
    "the last secret's token": (ID, "deposit", make_token("third-secret", ID, "deposit")),
    "a wrong token": (ID, "deposit", "0" * 40),
    "no token": (ID, "deposit", ""),
    "a token of half the length": (ID, "deposit", make_token(FIRST, ID, "deposit")[:20]),
    "another payment": (str(PAYMENT_ID)[:-1] + "0", "deposit", make_token(FIRST, ID, "deposit")),
    "a payment id that is none": ("payment", "deposit", make_token(FIRST, ID, "deposit")),
    "another operation": (ID, "withdrawal", make_token(FIRST, ID, "deposit")),
    "an operation that is none": (ID, "refund", make_token(FIRST, ID, "deposit")),
    "an operation that is none, signed": (ID, "refund", make_token(FIRST, ID, "refund")),
}


@pytest.mark.parametrize("which", WRONG_ADDRESSES)
def test_a_wrong_address_takes_the_same_work_whichever_part_is_wrong(which: str) -> None:
    """One token is made with each secret, even if an earlier one matched or a part is malformed."""
    secrets = [_Counted(secret) for secret in (FIRST, SECOND, "third-secret")]
    for secret in secrets:
        secret.uses = 0
    found = verified_payment_id(secrets, *WRONG_ADDRESSES[which])
    assert [secret.uses for secret in secrets] == [1, 1, 1]
    assert (found is not None) == ("secret's token" in which)


@given(
    first=st.tuples(st.text(max_size=8), st.text(max_size=8)),
    second=st.tuples(st.text(max_size=8), st.text(max_size=8)),
)
def test_no_two_pairs_share_a_token(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (make_token(FIRST, *first) == make_token(FIRST, *second)) == (first == second)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_of_the_set_is_accepted(operation: str) -> None:
    assert is_operation(operation)


@for_each(
    "operation",
    ["", "deposit-timeout", "Deposit", "bill_payment", "status", "status-", "status-0", "status-01",
     "status-1000000", "status-1-", "status-1-timeouts", "status-१", "status-1\n", "deposit ",
     "results"],
)  # fmt: skip
def test_any_other_text_is_not_an_operation(operation: str) -> None:
    assert not is_operation(operation)
    assert not any(fits_kind(operation, kind) for kind in Kind)


@for_each(("kind", "operation"), list(product(Kind, OPERATIONS)))
def test_an_operation_fits_its_own_kind_and_a_status_fits_payouts(
    kind: Kind, operation: str
) -> None:
    """STK query answers at once, so no callback is about a deposit's status."""
    is_own = operation in (RULES[kind].result_operation, RULES[kind].timeout_operation)
    assert fits_kind(operation, kind) == (
        is_own or (kind is not Kind.DEPOSIT and operation.startswith("status-"))
    )


def test_every_kind_has_a_result_operation_and_every_payout_a_timeout() -> None:
    results = [rules.result_operation for rules in RULES.values()]
    timeouts = {
        kind: rules.timeout_operation for kind, rules in RULES.items() if rules.timeout_operation
    }
    assert set(timeouts) == {kind for kind, rules in RULES.items() if rules.moves_money_out}
    assert len({*results, *timeouts.values()}) == len(results) + len(timeouts)
