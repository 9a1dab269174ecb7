"""Which ids in a message contradict a payment, and which ids prove nothing."""

from __future__ import annotations

from domain.attempts import Outcome
from domain.changes import Disposition
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.report import ReportedOutcome
from domain.stages import Stage
from tests.builders import a_payment, a_report, an_attempt
from tests.case_tables import for_each
from tests.decisions import payment_of
from tests.unit.deciding import ACKNOWLEDGED, OWN_ID, UNKNOWN, decide_callback

MADE_BY_DARAJA = ("originator_conversation_id", "9a1e-4c22-8d0f-1b2c3d4e5f60112233")
SECOND_OF_DARAJA = ("originator_conversation_id", "9a1e-4c22-8d0f-1b2c3d4e5f60112234")
OUR_CONVERSATION = ("conversation_id", "AG_1")
UNKNOWN_CONVERSATION = ("conversation_id", "AG_9")


@for_each("kind", [Kind.WITHDRAWAL, Kind.BILL_PAYMENT])
@for_each("is_answer", [False, True])
@for_each("outcome", [ReportedOutcome.SUCCESS, ReportedOutcome.FAILURE])
@for_each(
    ("ids", "is_believed"),
    [
        ({MADE_BY_DARAJA, OUR_CONVERSATION}, True),
        ({MADE_BY_DARAJA, UNKNOWN_CONVERSATION}, False),
        ({MADE_BY_DARAJA}, False),
        ({MADE_BY_DARAJA, SECOND_OF_DARAJA, OUR_CONVERSATION}, False),
        ({MADE_BY_DARAJA, OUR_CONVERSATION, UNKNOWN_CONVERSATION}, False),
    ],
)
def test_an_unknown_originator_id_does_not_contradict_our_conversation_id(
    ids: set[tuple[str, str]],
    is_believed: bool,
    outcome: ReportedOutcome,
    is_answer: bool,
    kind: Kind,
) -> None:
    """The portal's sample of a result has an originator id that Daraja made (daraja.md §4.3)."""
    our_id = OWN_ID[1] if kind is Kind.WITHDRAWAL else "9d20-1"
    attempt = an_attempt(ACKNOWLEDGED, conversation_id="AG_1", originator_conversation_id=our_id)
    payment = a_payment(kind=kind, stage=Stage.AWAITING_RESULT, attempts=(attempt,))
    paid_or_failed = {
        ReportedOutcome.SUCCESS: InquiryOutcome.PAID,
        ReportedOutcome.FAILURE: InquiryOutcome.FAILED,
    }
    inquiry_outcome = paid_or_failed[outcome] if is_answer else None
    report = a_report(outcome, ids=frozenset(ids), inquiry_outcome=inquiry_outcome)
    decision = decide_callback(payment, report)
    assert (decision.disposition == Disposition.IDS_DIFFER) is not is_believed
    assert payment_of(decision).stage.is_final is is_believed
    assert not decision.ids & {MADE_BY_DARAJA, SECOND_OF_DARAJA}  # no inquiry may use such an id


def test_an_originator_id_of_another_payment_contradicts_our_conversation_id() -> None:
    attempt = an_attempt(ACKNOWLEDGED, conversation_id="AG_1")
    payment = a_payment(kind=Kind.WITHDRAWAL, stage=Stage.AWAITING_RESULT, attempts=(attempt,))
    report = a_report(ids=frozenset({MADE_BY_DARAJA, OUR_CONVERSATION}))
    decision = decide_callback(payment, report, ids_of_others=frozenset({MADE_BY_DARAJA}))
    assert decision.disposition is Disposition.IDS_DIFFER


def test_a_failure_without_our_own_id_accounts_for_one_send_only() -> None:
    attempts = (an_attempt(ACKNOWLEDGED, conversation_id="AG_1"), an_attempt(UNKNOWN, number=2))
    payment = a_payment(kind=Kind.WITHDRAWAL, stage=Stage.IN_DOUBT, attempts=attempts)
    ids = frozenset({MADE_BY_DARAJA, OUR_CONVERSATION})
    decision = decide_callback(payment, a_report(ReportedOutcome.FAILURE, ids=ids))
    assert decision.disposition == Disposition.NOT_ALL_ACCOUNTED_FOR
    assert [attempt.outcome for attempt in payment_of(decision).attempts] == [
        Outcome.FAILED,
        UNKNOWN,
    ]
