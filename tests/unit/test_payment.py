"""The stages of a payment: every stage with every fact, in every situation of its attempts."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.attempts import Attempt, IdKind, Outcome
from domain.payment import Fact, Payment
from domain.stages import TRANSITIONS, FactName, Guard, Stage
from tests.builders import (
    A_FAILURE,
    RECEIPT,
    a_payment,
    an_attempt,
    an_attempt_id,
    attempts_with,
)
from tests.case_tables import for_each

NOT_ACTED, REFUSED, FAILED = Outcome.NOT_ACTED, Outcome.REFUSED, Outcome.FAILED
UNKNOWN, ACKNOWLEDGED, RESENDABLE, DUPLICATE = (
    Outcome.UNKNOWN,
    Outcome.ACKNOWLEDGED,
    Outcome.RESENDABLE,
    Outcome.DUPLICATE,
)

# Combinations of attempts, by what they prove.
NOTHING_ACTED: list[tuple[Outcome | None, ...]] = [(), (NOT_ACTED,), (NOT_ACTED, NOT_ACTED)]
ALL_ACCOUNTED_FOR: list[tuple[Outcome | None, ...]] = [
    (REFUSED,), (FAILED,), (NOT_ACTED, REFUSED), (FAILED, NOT_ACTED), (NOT_ACTED, REFUSED, FAILED),
]  # fmt: skip
SOME_MAY_HAVE_ACTED: list[tuple[Outcome | None, ...]] = [
    (None,), (UNKNOWN,), (ACKNOWLEDGED,), (RESENDABLE,), (DUPLICATE,), (NOT_ACTED, UNKNOWN),
    (UNKNOWN, NOT_ACTED), (REFUSED, None), (ACKNOWLEDGED, FAILED), (UNKNOWN, REFUSED),
    (NOT_ACTED, REFUSED, UNKNOWN),
]  # fmt: skip
SITUATIONS = (NOTHING_ACTED, ALL_ACCOUNTED_FOR, SOME_MAY_HAVE_ACTED)

# Stage, fact, and the next stage if (1) no attempt can have acted, (2) every attempt is accounted
# for and Daraja refused one, (3) an attempt may have acted. A dot: the stage stays. It also
# stays for each pair of a stage and a fact that is not in the table.
TABLE = """
accepted         claimed              submitting       submitting       submitting
accepted         claim_lost           in_doubt         in_doubt         in_doubt
accepted         too_old              failed           failed           failed
accepted         cancelled_by_caller  failed           failed           failed
accepted         resolved_paid        succeeded        succeeded        succeeded
accepted         resolved_unpaid      failed           failed           failed
accepted         success_reported     succeeded        succeeded        succeeded
submitting       acknowledged         awaiting_result  awaiting_result  awaiting_result
submitting       refused              failed           failed           in_doubt
submitting       not_acted            accepted         in_doubt         in_doubt
submitting       outcome_unknown      in_doubt         in_doubt         in_doubt
submitting       lease_expired        in_doubt         in_doubt         in_doubt
submitting       success_reported     succeeded        succeeded        succeeded
submitting       failure_reported     failed           failed           .
awaiting_result  no_result_confirmed  failed           failed           failed
awaiting_result  resolved_paid        succeeded        succeeded        succeeded
awaiting_result  resolved_unpaid      failed           failed           failed
awaiting_result  success_reported     succeeded        succeeded        succeeded
awaiting_result  failure_reported     failed           failed           .
in_doubt         acknowledged         awaiting_result  awaiting_result  awaiting_result
in_doubt         refused              failed           failed           .
in_doubt         not_acted            accepted         .                .
in_doubt         no_result_confirmed  failed           failed           failed
in_doubt         resolved_paid        succeeded        succeeded        succeeded
in_doubt         resolved_unpaid      failed           failed           failed
in_doubt         success_reported     succeeded        succeeded        succeeded
in_doubt         failure_reported     failed           failed           .
failed           resolved_paid        succeeded        succeeded        succeeded
failed           success_reported     succeeded        succeeded        succeeded
"""
MOVES = {(row[0], row[1]): row[2:] for row in map(str.split, TABLE.strip().splitlines())}


@for_each(("before", "fact"), list(product(Stage, FactName)))
def test_each_fact_leads_only_to_the_stage_in_the_table(before: Stage, fact: FactName) -> None:
    row = MOVES.get((before, fact), ["."] * len(SITUATIONS))
    for expected, situations in zip(row, SITUATIONS, strict=True):
        for outcomes in situations:
            payment = a_payment(stage=before, attempts=attempts_with(*outcomes))
            after = payment.apply(Fact(name=fact, failure=A_FAILURE, receipt=RECEIPT))
            assert after.stage == (before if expected == "." else expected), outcomes


def test_every_stage_is_in_the_table_and_every_transition_leads_to_a_stage() -> None:
    assert set(TRANSITIONS) == set(Stage)
    rules = [(stage, rule) for stage, rules in TRANSITIONS.items() for rule in rules.values()]
    assert all(rule.to is not stage and rule.otherwise is not stage for stage, rule in rules)
    assert all(rule.otherwise is None for _, rule in rules if rule.guard is Guard.ALWAYS)
    assert {rule.guard for _, rule in rules} == set(Guard)


def test_only_the_two_last_stages_are_final_and_have_a_final_status() -> None:
    assert {stage: stage.public_status for stage in Stage if stage.is_final} == {
        Stage.SUCCEEDED: "success",
        Stage.FAILED: "failed",
    }
    assert {stage.public_status for stage in Stage if not stage.is_final} == {"pending"}


# A later outcome of an attempt counts only if it is in a later line.
STRENGTH: list[list[Outcome | None]] = [
    [None],
    [UNKNOWN],
    [RESENDABLE, DUPLICATE, ACKNOWLEDGED],
    [NOT_ACTED, REFUSED],
    [FAILED],
]


def strength(outcome: Outcome | None) -> int:
    return next(place for place, line in enumerate(STRENGTH) if outcome in line)


@for_each(("earlier", "later"), list(product([None, *Outcome], Outcome)))
def test_a_later_outcome_never_replaces_a_stronger_one(
    earlier: Outcome | None, later: Outcome
) -> None:
    payment = a_payment(stage=Stage.IN_DOUBT, attempts=(an_attempt(earlier),))
    fact = Fact(name=FactName.OUTCOME_UNKNOWN, attempt_id=an_attempt_id(), outcome=later)
    expected = later if strength(later) > strength(earlier) else earlier
    assert payment.apply(fact).attempts[0].outcome is expected


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (
            Fact(name=FactName.REFUSED, attempt_id=an_attempt_id(2), outcome=REFUSED),
            [UNKNOWN, REFUSED],
        ),
        (Fact(name=FactName.FAILURE_REPORTED, outcome=FAILED), [UNKNOWN, UNKNOWN]),
    ],
)
def test_an_outcome_changes_only_the_attempt_that_it_names(
    fact: Fact, expected: list[Outcome]
) -> None:
    payment = a_payment(stage=Stage.IN_DOUBT, attempts=attempts_with(UNKNOWN, UNKNOWN))
    assert [attempt.outcome for attempt in payment.apply(fact).attempts] == expected


@pytest.mark.parametrize(
    "payment", [a_payment(stage=Stage.FAILED), a_payment(stage=Stage.SUCCEEDED, receipt=None)]
)
def test_a_success_sets_receipt_and_name_and_clears_the_failure(payment: Payment) -> None:
    """The payment has failed before, or has succeeded without a receipt."""
    success = Fact(name=FactName.SUCCESS_REPORTED, receipt=RECEIPT, recipient_name="JANE DOE")
    after = payment.apply(success)
    assert (after.stage, after.failure) == (Stage.SUCCEEDED, None)
    assert (after.receipt, after.recipient_name) == (RECEIPT, "JANE DOE")


def test_a_second_receipt_does_not_replace_the_first() -> None:
    payment = a_payment(stage=Stage.SUCCEEDED)
    assert payment.apply(Fact(name=FactName.SUCCESS_REPORTED, receipt="UC14OTHER1")) == payment


# The facts that prove that money moved: from Daraja, or from a person who read M-PESA's statement.
PAID = (FactName.SUCCESS_REPORTED, FactName.RESOLVED_PAID)

FACTS = st.builds(
    Fact,
    name=st.sampled_from(FactName),
    attempt_id=st.sampled_from([None, *map(an_attempt_id, range(1, 4))]),
    outcome=st.sampled_from([None, *Outcome]),
    failure=st.just(A_FAILURE),
    receipt=st.sampled_from([None, RECEIPT]),
    is_about_all_sends=st.booleans(),
    is_resend_permitted=st.booleans(),
)


@given(facts=st.lists(FACTS, max_size=25))
def test_only_a_success_leaves_a_final_stage_in_any_order_of_facts(
    facts: list[Fact],
) -> None:
    """Only a success leaves `failed`, and no fact leaves `succeeded`.

    No attempt is lost, and no weaker outcome replaces a stronger one.
    """
    payment = a_payment()
    for fact in facts:
        after = payment.apply(fact)
        if payment.stage is Stage.SUCCEEDED:
            assert after.stage is Stage.SUCCEEDED
        if payment.stage is Stage.FAILED and after.stage is not Stage.FAILED:
            assert (after.stage, fact.name in PAID) == (Stage.SUCCEEDED, True)
        if after.stage is Stage.SUCCEEDED is not payment.stage:
            assert fact.name in PAID
        assert (after.failure is not None) == (after.stage is Stage.FAILED)
        assert len(after.attempts) >= len(payment.attempts)
        pairs = zip(payment.attempts, after.attempts, strict=False)
        assert all(strength(new.outcome) >= strength(old.outcome) for old, new in pairs)
        payment = after


ONE = {IdKind.CHECKOUT_REQUEST: "ws_CO_1"}
TWO = {IdKind.CHECKOUT_REQUEST: "ws_CO_2"}
FIRST = an_attempt(ACKNOWLEDGED, checkout_request_id="ws_CO_1")
SECOND = an_attempt(ACKNOWLEDGED, number=2, checkout_request_id="ws_CO_2")


@pytest.mark.parametrize(
    ("attempts", "ids", "expected"),
    [
        ([], ONE, None),
        ([FIRST], ONE, 1),
        ([FIRST, SECOND], TWO, 2),
        ([an_attempt(FAILED, checkout_request_id="ws_CO_1"), an_attempt(None, number=2)], ONE, 1),
        ([an_attempt(NOT_ACTED), an_attempt(None, number=2)], ONE, 2),
        ([an_attempt(NOT_ACTED), an_attempt(UNKNOWN, number=2)], {}, 2),
        ([an_attempt(None), an_attempt(UNKNOWN, number=2)], ONE, None),
        ([an_attempt(NOT_ACTED), an_attempt(REFUSED, number=2)], ONE, None),
    ],
)
def test_a_message_is_about_the_attempt_with_its_id_or_the_only_open_one(
    attempts: list[Attempt], ids: dict[IdKind, str], expected: int | None
) -> None:
    found = a_payment(stage=Stage.IN_DOUBT, attempts=tuple(attempts)).attempt_named_by(
        frozenset(ids.items())
    )
    assert found == (None if expected is None else an_attempt_id(expected))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({}, False),  # an absent id contradicts nothing
        (ONE, False),
        (TWO, False),  # known from the other attempt
        ({IdKind.CHECKOUT_REQUEST: "ws_CO_3"}, True),
        ({IdKind.MERCHANT_REQUEST: "m-9"}, False),  # no id of its kind is known
        ({**ONE, IdKind.MERCHANT_REQUEST: "m-9"}, False),
        ({IdKind.CHECKOUT_REQUEST: "ws_CO_3", IdKind.MERCHANT_REQUEST: "m-9"}, True),
    ],
)
def test_ids_disagree_only_if_all_known_ids_of_their_kind_differ(
    ids: dict[IdKind, str], expected: bool
) -> None:
    attempts = (FIRST, SECOND)
    payment = a_payment(stage=Stage.IN_DOUBT, attempts=attempts)
    assert payment.disagrees_with(frozenset(ids.items())) is expected
