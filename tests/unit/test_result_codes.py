"""The result codes that finalize a payment, and their failures, as in the contract's table."""

from __future__ import annotations

from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.result_codes import SUCCESS_CODE, code_text, find_failure
from domain.failures import MESSAGES, Failure, FailureReason
from domain.kinds import Kind
from tests.case_tables import for_each

R = FailureReason
# The codes that fail a payment, by reason.
DEPOSIT = {
    R.INSUFFICIENT_FUNDS: ["1"],
    R.LIMIT_EXCEEDED: ["2", "3", "4", "8"],
    R.EXPIRED: ["1019"],
    R.CANCELLED_BY_CUSTOMER: ["1031", "1032"],
    R.NO_RESPONSE: ["1036", "1037"],
    R.WRONG_PIN: ["2001", "8006"],
    R.REJECTED_BY_PROVIDER: ["1101", "1102", "2006", "2008", "2026", "2040", "E3008"],
    R.CONFIGURATION: ["2028", "2029", "SFC_IC0003", "SFC_J_C0003"],
}
PAYOUT = {
    R.INSUFFICIENT_FUNDS: ["1"],
    R.LIMIT_EXCEEDED: ["2", "3", "4", "8"],
    R.REJECTED_BY_PROVIDER: ["2006"],
    R.INVALID_RECIPIENT: ["2040", "SFC_IC0003"],
    R.CONFIGURATION: [
        *("11", "18", "20", "21", "22", "24", "25", "29"),
        *("2001", "2028", "8006", "TP40153"),
    ],
}
NOT_CODES: list[object] = [
    *(True, False, 0.0, float("nan"), None, [], {}, b"0"),
    *("", "x" * 41, 10**40, "0\n", "\ud800"),
]
# After these reasons a retry is not safe, because money may still move.
UNSAFE = {R.EXPIRED, R.NO_RESPONSE}

# Success, "verify" codes, duplicates, and codes of other APIs. None of them is a failure. The same
# holds for all other numbers below 20,000, and all other codes of an E with up to four digits.
NEVER_FINAL = [
    *("0", "15", "17", "26", "1001", "1025", "4999", "9999", "100000000", "R000001"),
    *("00.002.1001", "500.001.1001", "99", "", " 1", "1 ", "01", "-1", "e3008"),
]
CANDIDATES = {
    *map(str, range(20_000)),
    *(f"E{number}" for number in range(10_000)),
    *(code for table in (DEPOSIT, PAYOUT) for codes in table.values() for code in codes),
    *NEVER_FINAL,
}


@for_each("kind", Kind)
def test_exactly_the_codes_of_the_contract_finalize_with_their_reasons(kind: Kind) -> None:
    table = DEPOSIT if kind is Kind.DEPOSIT else PAYOUT
    found = {code: find_failure(PAGES[kind].failures, code) for code in CANDIDATES}
    assert {code: failure for code, failure in found.items() if failure is not None} == {
        code: Failure(reason, reason not in UNSAFE, code)
        for reason, codes in table.items()
        for code in codes
    }
    assert SUCCESS_CODE == "0"


@for_each(
    ("value", "text"),
    [
        *((0, "0"), ("0", "0"), (1032, "1032"), (-5, "-5")),
        *((text, text) for text in ("SFC_IC0003", "x" * 40)),
        (10**39, "1" + "0" * 39),
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
