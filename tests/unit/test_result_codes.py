"""The result codes that finalize a payment, and their failures: the contract's table again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.result_codes import SUCCESS_CODE, code_text, find_failure
from domain.failures import MESSAGES, Failure, FailureReason
from domain.kinds import Kind
from tests.case_tables import for_each

# Code, reason. A star: it is not safe to try again, because money may still move.
DEPOSIT = """
1 insufficient_funds
2 limit_exceeded
3 limit_exceeded
4 limit_exceeded
8 limit_exceeded
1019 expired *
1031 cancelled_by_customer
1032 cancelled_by_customer
1036 no_response *
1037 no_response *
1101 rejected_by_provider
1102 rejected_by_provider
2001 wrong_pin
2006 rejected_by_provider
2008 rejected_by_provider
2026 rejected_by_provider
2028 configuration
2029 configuration
2040 rejected_by_provider
8006 wrong_pin
E3008 rejected_by_provider
SFC_IC0003 configuration
SFC_J_C0003 configuration
"""
PAYOUT = """
1 insufficient_funds
2 limit_exceeded
3 limit_exceeded
4 limit_exceeded
8 limit_exceeded
11 configuration
18 configuration
20 configuration
21 configuration
22 configuration
24 configuration
25 configuration
29 configuration
2001 configuration
2006 rejected_by_provider
2028 configuration
2040 invalid_recipient
8006 configuration
SFC_IC0003 invalid_recipient
TP40153 configuration
"""


def table(text: str) -> dict[str, tuple[str, bool]]:
    rows = [line.split() for line in text.strip().splitlines()]
    return {row[0]: (row[1], row[-1] != "*") for row in rows}


FINAL = {**dict.fromkeys(Kind, table(PAYOUT)), Kind.DEPOSIT: table(DEPOSIT)}
EVERY_CODE = sorted({code for codes in FINAL.values() for code in codes})

# Success, "verify" codes, duplicates, and codes of other APIs: none of them is a failure.
NEVER_FINAL = [
    *("0", "15", "17", "19", "26", "1001", "1025", "9999", "4999", "1050", "1051"),
    *("100000000", "100000001", "100000011", "R000001", "R000002"),
    *("00.002.1001", "500.001.1001", "500.002.1001"),
    *("99", "", " 1", "1 ", "01", "-1", "e3008"),
]


@for_each("kind", Kind)
@for_each("code", [*EVERY_CODE, *NEVER_FINAL])
def test_a_code_finalizes_only_as_the_contract_says(kind: Kind, code: str) -> None:
    row = FINAL[kind].get(code)
    expected = None if row is None else Failure(FailureReason(row[0]), row[1], code)
    assert find_failure(PAGES[kind].failures, code) == expected


@pytest.mark.parametrize("kind", Kind)
def test_exactly_the_codes_of_the_contract_finalize(kind: Kind) -> None:
    """It checks all numbers below 20,000, and all codes of an E with up to four digits."""
    candidates = [*map(str, range(20_000)), *(f"E{n}" for n in range(10_000)), *EVERY_CODE]
    assert {code for code in candidates if find_failure(PAGES[kind].failures, code)} == set(
        FINAL[kind]
    )


@given(kind=st.sampled_from(Kind), code=st.text(max_size=12))
def test_a_code_off_the_list_is_no_failure(kind: Kind, code: str) -> None:
    assert (find_failure(PAGES[kind].failures, code) is None) == (code not in FINAL[kind])


def test_success_is_one_code_and_no_failure() -> None:
    assert SUCCESS_CODE == "0"
    assert [find_failure(PAGES[kind].failures, SUCCESS_CODE) for kind in Kind] == [None] * len(Kind)


NOT_CODES: list[object] = [
    *(True, False, 0.0, float("nan"), None, [], {}, b"0"),
    *("", "x" * 41, "0\n", "\ud800"),
]


@for_each(
    ("value", "text"),
    [
        *((0, "0"), ("0", "0"), (1032, "1032"), (-5, "-5")),
        *((text, text) for text in ("SFC_IC0003", "x" * 40)),
        *((value, None) for value in NOT_CODES),
    ],
)
def test_a_code_is_read_as_text_from_an_integer_or_a_string_only(
    value: object, text: str | None
) -> None:
    assert code_text(value) == text


def test_every_reason_has_its_sentence() -> None:
    assert set(MESSAGES) == set(FailureReason)
    assert all(message.endswith(".") and len(message) < 120 for message in MESSAGES.values())
    assert len(set(MESSAGES.values())) == len(MESSAGES)
