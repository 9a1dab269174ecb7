"""A copy of a record equals the copy that `dataclasses.replace` makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from domain.changes import Decided, Disposition, OpenBreaker
from domain.records import replace
from domain.stages import Stage
from tests.builders import NOW, a_payment, an_attempt, an_inquiry


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (a_payment(), {"stage": Stage.SUBMITTING, "lease_until": NOW}),
        (a_payment(), {}),
        (an_attempt(), {"number": 2}),
        (an_inquiry(), {"code": "1"}),
        (OpenBreaker("one"), {"reason": "two"}),
        (Decided(payment=None), {"disposition": Disposition.UNREADABLE}),
    ],
)
def test_a_copy_has_the_new_values_and_the_record_keeps_its_own(
    record: Any, changes: dict[str, Any]
) -> None:
    before = dataclasses.replace(record)
    copy = replace(record, **changes)
    assert copy == dataclasses.replace(record, **changes)
    assert type(copy) is type(record)
    assert record == before


def test_a_field_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        replace(a_payment(), stages=Stage.ACCEPTED)  # type: ignore[call-arg]


def test_the_checks_of_a_record_apply_to_its_copy() -> None:
    with pytest.raises(ValueError, match="disposition"):
        replace(Decided(payment=None), is_message_flagged=True)
