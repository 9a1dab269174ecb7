"""The rules that make a payment's values valid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import values
from domain.kinds import RULES, Kind, Reference, kinds_that
from domain.values import Caller, Role
from tests.builders import PAYMENT_ID
from tests.case_tables import for_each


def reference_of(kind: Kind) -> Reference:
    """The rule for the references of a kind."""
    rule = RULES[kind].reference
    assert rule is not None
    return rule


@for_each(
    ("text", "number"),
    [
        ("0711000111", "254711000111"),
        ("+254711000111", "254711000111"),
        ("254110000111", "254110000111"),
        ("0182000111", "254182000111"),  # a range opened in August 2026
    ],
)
def test_a_phone_number_is_parsed_into_one_form(text: str, number: str) -> None:
    assert values.parse_phone_number(text) == number


@for_each(
    "text",
    [
        *("", "711000111", "07110001112", "071100011", "0211000111", "+0711000111"),
        *("+2540711000111", "++254711000111", "00254711000111", "255711000111", "0711 000111"),
        *("254811000111", " 0711000111", "0711000111\n", "0711000111\0", "०७११०००१११"),
        "07\uff111000111",
    ],
)
def test_a_wrong_phone_number_is_rejected_with_the_valid_forms(text: str) -> None:
    with pytest.raises(ValueError, match="Kenyan mobile number"):
        values.parse_phone_number(text)


@for_each(
    ("kind", "low"),
    [
        (Kind.DEPOSIT, 1),
        (Kind.WITHDRAWAL, 10),
        (Kind.BILL_PAYMENT, 1),
        (Kind.POCHI_PAYMENT, 10),
    ],
)
def test_an_amount_is_whole_shillings_within_the_kinds_limits(kind: Kind, low: int) -> None:
    assert values.parse_amount_kes(low, kind) == low
    assert values.parse_amount_kes(250_000, kind) == 250_000
    for wrong in (low - 1, -1, 250_001, 10**30):
        with pytest.raises(ValueError, match=f"must be from {low} to 250000 shillings"):
            values.parse_amount_kes(wrong, kind)


@for_each("value", [True, False, "100", 100.0, 100.5, None, [100], {}, float("nan"), float("inf")])
def test_only_an_integer_is_an_amount(value: object) -> None:
    with pytest.raises(ValueError, match="JSON integer"):
        values.parse_amount_kes(value, Kind.DEPOSIT)


@for_each(("kind", "longest"), [(Kind.DEPOSIT, 12), (Kind.BILL_PAYMENT, 13)])
def test_a_reference_is_letters_and_digits_as_many_as_the_kind_allows(
    kind: Kind, longest: int
) -> None:
    for good in ("A", "9", "aZ09", "X" * longest):
        assert values.parse_account_reference(good, reference_of(kind)) == good
    for wrong in (
        *("", "X" * (longest + 1), "é", "٣", "A_B", "A&B", "A#1", "A@B"),
        *("A\n", " A", "A ", " ", "A\tB", "A\u00a0B"),
    ):
        with pytest.raises(ValueError, match=f"1 to {longest} letters"):
            values.parse_account_reference(wrong, reference_of(kind))


@for_each("text", ["INV-42", "A B", "A/B", "A.B", "-", "A  B", "01/02-3.4 56"])
def test_only_a_bill_s_account_may_contain_blanks_dashes_dots_and_slashes(text: str) -> None:
    """The payer sees a deposit's reference. Another business chose the reference of a bill."""
    assert values.parse_account_reference(text, reference_of(Kind.BILL_PAYMENT)) == text
    with pytest.raises(ValueError, match="1 to 12 letters and digits"):
        values.parse_account_reference(text, reference_of(Kind.DEPOSIT))


def test_a_shortcode_is_five_to_seven_digits() -> None:
    for good in ("12345", "174379", "1234567"):
        assert values.parse_shortcode(good) == good
    for wrong in ("1234", "12345678", "17437a", " 174379", "174379\n", "१२३४५", ""):
        with pytest.raises(ValueError, match="5 to 7 digits"):
            values.parse_shortcode(wrong)


def test_a_line_is_one_line_of_printable_characters() -> None:
    for good in ("ab", "x" * 100, "Rent, March 2026", "ñandú", "払い"):
        assert values.parse_line(good, 2, 100) == good
    for wrong in (
        *("", "a", "x" * 101, "  ", "a\nb", "a\0b", "a\u202eb", "\ud800\ud800", "a\u00a0\u2028"),
    ):
        with pytest.raises(ValueError, match="must be"):
            values.parse_line(wrong, 2, 100)


def test_text_that_postgres_cannot_store_is_rejected() -> None:
    for good in ("", "a\nb", "x" * 5000, "😀"):
        assert values.parse_storable_text(good) == good
    for wrong in ("\0", "a\0b", "\ud800", "😀\udc00"):
        with pytest.raises(ValueError, match="NUL or unpaired surrogate"):
            values.parse_storable_text(wrong)


@pytest.mark.parametrize(
    "check",
    [
        values.parse_phone_number,
        values.parse_shortcode,
        values.parse_storable_text,
        partial(values.parse_account_reference, rule=reference_of(Kind.DEPOSIT)),
        partial(values.parse_line, shortest=1, longest=13),
    ],
)
@given(text=st.text(max_size=15))
def test_each_parser_returns_storable_text_or_an_explanation(
    check: Callable[[str], str], text: str
) -> None:
    try:
        result = check(text)
    except ValueError:
        return
    assert "\0" not in result
    result.encode()


@for_each(
    "text",
    [
        *("UC14KD82QZ", "NLJ7RT61SV", "UC1234567A", "UX61234567", "UCW1234567", "UC01234567"),
        *("1C61234567", "UCA1234567B", "ABCDEF", "123456", "A" * 20),
    ],
)
def test_a_receipt_is_six_to_twenty_capitals_and_digits(text: str) -> None:
    assert values.is_receipt(text)


@for_each(
    "text",
    [
        *("OAK0000000", "TK61000000", "UKR0000001", "UC19999999", "UCV1234567", "MBN0000000"),
        *("0000000", "", "ABCDE", "A" * 21, "UC14KD82Q\n", "UC-4KD82QZ", "é" * 10, "uc14kd82qz"),
    ],
)
def test_a_placeholder_or_another_spelling_is_no_receipt(text: str) -> None:
    assert not values.is_receipt(text)


@given(payment_id=st.uuids(version=4))
def test_the_reference_made_from_a_payment_s_id_fits_every_kind(payment_id: UUID) -> None:
    reference = values.reference_from_id(payment_id)
    assert len(reference) == 12
    assert not set(reference) & set("ILOU")
    for kind in (Kind.DEPOSIT, Kind.BILL_PAYMENT):
        assert values.parse_account_reference(reference, reference_of(kind)) == reference


def test_payments_that_differ_in_their_random_part_have_different_references() -> None:
    ids = [UUID(int=PAYMENT_ID.int ^ (1 << bit)) for bit in range(60)]
    assert len({values.reference_from_id(each) for each in ids}) == 60


def test_no_two_callers_share_a_scope_of_idempotency_keys() -> None:
    callers = [
        *(("https://a", "bc"), ("https://ab", "c"), ("", "https://abc")),
        *(("8:https://a", "bc"), ("a", "1:b")),
    ]
    keys = {Caller(issuer, subject, Role.BACKEND).key for issuer, subject in callers}
    assert len(keys) == len(callers)


def test_a_caller_with_another_role_is_the_same_caller() -> None:
    """The scope is issuer and subject. Another role must not open a second set of keys."""
    assert Caller("i", "s", Role.BACKEND).key == Caller("i", "s", Role.USER).key


def test_only_deposits_bring_money_in() -> None:
    assert kinds_that(lambda rules: not rules.moves_money_out) == [Kind.DEPOSIT]
