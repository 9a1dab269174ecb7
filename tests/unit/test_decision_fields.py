"""A decision has only the fields that it records: what another decision would drop is refused."""

from __future__ import annotations

from typing import Any

import pytest

from domain.errors import InvalidRequest
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from tests.builders import PAYMENT_ID, RECEIPT
from tests.case_tables import for_each


@for_each("decision", [each for each in OperatorDecision if each is not OperatorDecision.PAID])
@for_each(
    "fields, pointers",
    [
        ({"receipt": RECEIPT}, ["receipt"]),
        ({"receipt": ""}, ["receipt"]),
        ({"amount_kes": 400}, ["amount"]),
        ({"receipt": RECEIPT, "amount_kes": 400}, ["receipt", "amount"]),
    ],
)
def test_only_the_decision_paid_may_have_a_receipt_and_an_amount(
    decision: OperatorDecision, fields: dict[str, Any], pointers: list[str]
) -> None:
    """An operator who gives a receipt may mean `paid`, so no other decision drops it."""
    resolution = Resolution(
        decision=decision, reason="statement of 1 March", operator="wanjiku", **fields
    )
    with pytest.raises(InvalidRequest) as caught:
        resolution_change(PAYMENT_ID, resolution)
    assert [fault.pointer for fault in caught.value.errors] == pointers
    assert all("only with the decision 'paid'" in fault.detail for fault in caught.value.errors)
