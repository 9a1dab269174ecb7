"""The closed lists of history entries and effects, and the effects that one decision may have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import domain
from domain.adapters.postgres.effects import BatchEffects, sort_effects
from domain.changes import (
    AnnounceEvent,
    CloseBreaker,
    Decided,
    Disposition,
    Effect,
    HistoryEntry,
    JudgeOperation,
    NewEntry,
    OpenBreaker,
    ProbeOperation,
    StoreAnswer,
    StoreInquiry,
)
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.lifecycle.judge_report import EntryDisposition
from domain.operations import Operation, OperationAnswer, OperationHealth
from domain.stages import FactName
from gateway.openapi.views import HistoryItem
from tests.builders import NOW, a_payment

ROOT = Path(domain.__file__).parent.parent

# These texts are in our database and in answers to callers. Both still contain a text that is
# removed here.
TEXTS = {
    "accepted", "claimed", "claim_lost", "acknowledged", "refused", "not_acted", "outcome_unknown",
    "lease_expired", "too_old", "cancelled_by_caller", "no_result_confirmed", "resolved_paid",
    "resolved_unpaid", "success_reported", "failure_reported", "awaits_confirmation",
    "success_without_receipt", "amount_differs", "amount_not_certain", "ids_differ",
    "receipt_of_another_payment", "contradiction", "needs_a_person", "account_not_configured",
    "reviewed", "inquiry_asked_for", "requeued", "restored",
}  # fmt: skip

# Finds the values that a statement inserts, in a text whose white space is folded.
ENTRY_INSERT = re.compile(
    r"INSERT INTO mkwanja\.payment_history \((?P<columns>[^)]*)\) SELECT (?P<values>.*?) FROM "
)

PAYMENT = a_payment()
INQUIRY = StoreInquiry(Inquiry(1, NOW))
ANSWER = StoreAnswer(Inquiry(1, NOW, InquiryOutcome.NO_RESULT))
OPEN, CLOSE = OpenBreaker("result 2001"), CloseBreaker(NOW)
JUDGE = JudgeOperation(
    OperationAnswer(operation=Operation.B2C, health=OperationHealth.WORKS, since=NOW)
)
PROBE, ANNOUNCE = ProbeOperation(Operation.B2C), AnnounceEvent(EventType.FAILED)
ENTRY = NewEntry(HistoryEntry.REFUSED)


def test_the_texts_of_the_history_never_change() -> None:
    assert {entry.value for entry in HistoryEntry} == TEXTS


def test_every_fact_has_an_entry_with_its_text() -> None:
    assert [NewEntry.of_fact(fact).name.value for fact in FactName] == [
        fact.value for fact in FactName
    ]


def test_every_disposition_in_the_history_has_an_entry_with_its_text() -> None:
    texts = {Disposition(each).value for each in get_args(EntryDisposition)}
    assert {HistoryEntry(text).value for text in texts} == texts


def test_each_text_matches_the_pattern_in_openapi() -> None:
    pattern = HistoryItem.model_json_schema()["properties"]["what"]["pattern"]
    assert [entry for entry in HistoryEntry if not re.search(pattern, entry.value)] == []


def test_the_runbook_explains_entries_that_exist() -> None:
    table = (
        (ROOT / "docs" / "runbook" / "README.md")
        .read_text()
        .split("| `what` in its history |")[1]
        .split("\n\n")[0]
    )
    first_cells = [
        line.split("|")[1].split(", once")[0].split(", from")[0] for line in table.splitlines()[2:]
    ]
    named = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) > 10
    assert [name for name in named if name not in TEXTS] == []


def inserted_entries() -> Iterator[str]:
    """Yields the SQL value of the column `what` in each statement that adds a history entry."""
    for path in sorted((ROOT / "domain").rglob("*.py")):
        source = " ".join(path.read_text().split())
        inserts = list(ENTRY_INSERT.finditer(source))
        assert len(inserts) == len(re.findall(r"(?i)into\W+(mkwanja\W+)?payment_history", source))
        for insert in inserts:
            columns, values = insert["columns"].split(", "), insert["values"].split(", ")
            yield values[columns.index("what")]


def test_no_statement_writes_an_entry_that_is_not_a_member() -> None:
    """The value is the parameter `what`, which is a `HistoryEntry`, or it names a member."""
    entries = list(inserted_entries())
    assert len(entries) >= 3
    members = {"what", *(f"'{{HistoryEntry.{name}}}'" for name in HistoryEntry.__members__)}
    assert [entry for entry in entries if entry not in members] == []


def test_every_effect_is_assigned_to_its_statement() -> None:
    payment = a_payment()
    decided = [
        Decided(payment=payment, entry=ENTRY, effects=(ANNOUNCE, INQUIRY, OPEN, JUDGE, PROBE)),
        Decided(payment=payment, effects=(ANSWER, CLOSE)),
        Decided(payment=None),
    ]
    assert {type(effect) for each in decided for effect in each.effects} == set(get_args(Effect))
    assert sort_effects(decided) == BatchEffects(
        inquiries=[(payment, INQUIRY.inquiry)],
        answers=[(payment.id, ANSWER.inquiry)],
        breaker_reasons=[(payment, "result 2001")],
        credential_accepted_at=[NOW],
        operation_answers=[JUDGE.answer],
        probed_operations=[Operation.B2C],
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"payment": None, "entry": ENTRY},
        {"payment": None, "effects": (INQUIRY,)},
        {"payment": PAYMENT, "effects": (ANNOUNCE,)},
        {"payment": PAYMENT, "effects": (INQUIRY, ANSWER)},
        {"payment": PAYMENT, "effects": (OPEN, CLOSE)},
        {"payment": PAYMENT, "effects": (INQUIRY, INQUIRY)},
        {"payment": PAYMENT, "is_message_flagged": True},
    ],
    ids=", ".join,
)
def test_a_decision_that_cannot_be_written_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Decided(**fields)


def test_a_decision_finds_its_own_effects() -> None:
    decided = (
        Decided(payment=PAYMENT, entry=ENTRY)
        .with_effect(ANNOUNCE)
        .with_effect(None)
        .with_effect(JUDGE)
    )
    assert (decided.effect(JudgeOperation), decided.effect(StoreInquiry)) == (JUDGE, None)
    assert decided.effects == (ANNOUNCE, JUDGE)
