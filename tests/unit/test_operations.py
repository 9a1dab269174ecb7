"""Operations: the health that an answer shows, and inquiries while an operation is held."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain import errors
from domain.adapters.daraja.deposit import STK_QUERY
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.status import STATUS
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.operations import (
    OPERATION_OF_INQUIRY_STEP,
    Operation,
    OperationHealth,
    health_from_answer,
)
from domain.stages import Stage
from tests.builders import NOW, a_due_payment
from tests.case_tables import for_each
from tests.decisions import inquiry_of, probed_operation_of
from tests.unit.deciding import decide_inquiry

WORKS, NONE = OperationHealth.WORKS, None
HEALTH_AFTER: list[tuple[ProviderError | None, OperationHealth | None]] = [
    (None, WORKS),
    (DuplicateSubmission(), WORKS),
    *(
        (
            Refused(Failure(reason, True)),
            OperationHealth.SETTINGS_REFUSED if reason is FailureReason.CONFIGURATION else WORKS,
        )
        for reason in FailureReason
    ),
    (ProductRefused(), OperationHealth.PRODUCT_REFUSED),
    (TokenRefused(), NONE),
    (Unreachable(), NONE),
    (errors.DeadlinePassed(), NONE),
    (errors.Draining(), NONE),
    (Throttled(), NONE),
    (Resendable(), NONE),
    (OutcomeUnknown(), NONE),
    (ProviderError(), NONE),
]


@for_each(("error", "health"), HEALTH_AFTER, ids=lambda value: type(value).__name__)
def test_each_class_of_answer_shows_the_health_of_its_operation(
    error: ProviderError | None, health: OperationHealth | None
) -> None:
    assert health_from_answer(error) is health


def test_every_class_of_provider_error_is_in_the_table() -> None:
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ProviderError)
    ]
    assert {type(error) for error, _ in HEALTH_AFTER} >= set(classes)


def test_every_kind_is_sent_by_an_operation_and_every_operation_is_one_api() -> None:
    sending = [rules.operation for rules in RULES.values()]
    assert sorted({*sending, *OPERATION_OF_INQUIRY_STEP.values()}) == sorted(Operation)
    assert len(set(sending)) == len(sending)
    apis = [page.api for page in PAGES.values()] + [STK_QUERY, STATUS]
    assert sorted(api.operation for api in apis) == sorted(Operation)


HELD: dict[str, Any] = {"held_operations": frozenset({Operation.STK_QUERY})}
PROBED = {**HELD, "probes_due": frozenset({Operation.STK_QUERY})}
ANOTHER = {"held_operations": frozenset(Operation) - {Operation.STK_QUERY}}


@pytest.mark.parametrize(
    ("held", "is_stored", "probe"),
    [(HELD, False, None), (PROBED, True, Operation.STK_QUERY), (ANOTHER, True, None)],
)
@pytest.mark.parametrize("is_probe", [False, True])
def test_an_inquiry_waits_for_its_own_held_operation_or_is_its_probe(
    held: dict[str, Any], is_stored: bool, probe: Operation | None, is_probe: bool
) -> None:
    """This also holds for an inquiry that probes the breaker."""
    payment = a_due_payment(Kind.DEPOSIT)
    decided = decide_inquiry(payment, is_probe=is_probe, **held)
    assert (inquiry_of(decided) is not None, probed_operation_of(decided)) == (is_stored, probe)
    if not is_stored:
        assert decided.payment == payment  # the due time stays


def test_no_deposit_fails_for_silence_while_its_inquiries_are_held() -> None:
    """No inquiry is sent, so no answer counts as silence, even after a month."""
    payment = a_due_payment(Kind.DEPOSIT, Stage.AWAITING_RESULT)
    assert decide_inquiry(payment, now=NOW + timedelta(days=30), **HELD).payment == payment
