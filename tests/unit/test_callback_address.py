"""The addresses that we give to Daraja, and their verification."""

from __future__ import annotations

import re
from collections.abc import Callable

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


@for_each("operation", OPERATIONS)
def test_an_address_carries_payment_operation_and_a_token_of_at_least_128_bits(
    operation: str,
) -> None:
    """The address contains none of the words that Daraja refuses."""
    url = make_address("https://pay.example/in", FIRST, PAYMENT_ID, operation)
    start, token = url.rsplit("/", 1)
    assert start == f"https://pay.example/in/results/{ID}/{operation}"
    assert re.fullmatch(r"[0-9a-f]{32,64}", token)
    assert is_genuine([FIRST], ID, operation, token)
    assert verified_payment_id([SECOND, FIRST], ID, operation, token) == PAYMENT_ID
    assert not re.search(r"m-?pesa|safaricom|exe|cmd|sql|query", url, re.IGNORECASE)


def test_a_token_of_each_secret_is_genuine_during_a_rotation() -> None:
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
    payment_id: str, operation: str, change: Callable[[str], str]
) -> None:
    token = change(make_token(FIRST, ID, "deposit"))
    assert not is_genuine([FIRST, SECOND], payment_id, operation, token)


@given(
    first=st.tuples(st.text(max_size=8), st.text(max_size=8)),
    second=st.tuples(st.text(max_size=8), st.text(max_size=8)),
)
def test_no_two_pairs_share_a_token(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert (make_token(FIRST, *first) == make_token(FIRST, *second)) == (first == second)


class _Counted(str):
    """A secret that counts the tokens that are made with it."""

    __slots__ = ("uses",)
    uses: int

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.uses += 1
        return super().encode(encoding, errors)


TOKEN = make_token(FIRST, ID, "deposit")
LAST_TOKEN = make_token("third-secret", ID, "deposit")


@for_each(
    ("payment_id", "operation", "token", "is_right"),
    [
        (ID, "deposit", TOKEN, True),
        (ID, "deposit", LAST_TOKEN, True),
        (ID, "deposit", "0" * 40, False),
        (ID, "deposit", "", False),
        (ID, "deposit", TOKEN[:20], False),
        (ID[:-1] + "0", "deposit", TOKEN, False),
        ("no id", "deposit", TOKEN, False),
        (ID, "withdrawal", TOKEN, False),
        (ID, "refund", TOKEN, False),
        (ID, "refund", make_token(FIRST, ID, "refund"), False),
    ],
)
def test_a_wrong_address_takes_the_same_work_whichever_part_is_wrong(
    payment_id: str, operation: str, token: str, is_right: bool
) -> None:
    """The check makes one token with each secret, even after a match or for a malformed part."""
    secrets = [_Counted(secret) for secret in (FIRST, SECOND, "third-secret")]
    for secret in secrets:
        secret.uses = 0
    found = verified_payment_id(secrets, payment_id, operation, token)
    assert [secret.uses for secret in secrets] == [1, 1, 1]
    assert (found is not None) == is_right


@for_each(
    "operation",
    [
        *("", "deposit-timeout", "Deposit", "bill_payment", "deposit ", "status", "status-"),
        *("status-0", "status-01", "status-1000000", "status-1-", "status-1-timeouts"),
        *("status-१", "status-1\n"),
    ],
)
def test_any_other_text_is_not_an_operation(operation: str) -> None:
    assert not is_operation(operation)
    assert not any(fits_kind(operation, kind) for kind in Kind)


@for_each("kind", Kind)
@for_each("operation", OPERATIONS)
def test_an_operation_fits_its_own_kind_and_a_status_fits_payouts(
    kind: Kind, operation: str
) -> None:
    """STK query answers at once, so no callback is about a deposit's status."""
    assert is_operation(operation)
    is_own = operation in (RULES[kind].result_operation, RULES[kind].timeout_operation)
    assert fits_kind(operation, kind) == (
        is_own or (kind is not Kind.DEPOSIT and operation.startswith("status-"))
    )


def test_every_kind_has_a_result_operation_and_every_payout_a_timeout() -> None:
    results = [rules.result_operation for rules in RULES.values()]
    timeouts = [rules.timeout_operation for rules in RULES.values() if rules.moves_money_out]
    assert RULES[Kind.DEPOSIT].timeout_operation is None
    assert None not in timeouts
    assert len({*results, *timeouts}) == len(results) + len(timeouts)
