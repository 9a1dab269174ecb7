"""What a failure or a result code of Daraja means, for a person, in English and Swahili.

Pure. `explain_failure` says what happened, and what the customer and the operator can do.
`explain_code` says what a code means, also a code that ends no payment. The same code may mean
different things for a deposit (a customer pays) and for a payout (we pay).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from domain.explanations.codes import DEPOSIT_CODES, PAYOUT_CODES
from domain.explanations.reasons import PAYOUT_REASONS, REASONS
from domain.explanations.words import Explanation, Words
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind

__all__ = [
    "Explanation",
    "Words",
    "explain_code",
    "explain_failure",
    "explain_reason",
    "explanation_view",
]


def explain_failure(failure: Failure, kind: Kind) -> Explanation:
    """What `failure` of a payment of `kind` means. Daraja's code says it most precisely."""
    explanation = explain_reason(failure.reason, kind)
    meaning = explain_code(failure.provider_code, kind) if failure.provider_code else None
    return explanation if meaning is None else replace(explanation, meaning=meaning)


def explain_reason(reason: FailureReason, kind: Kind) -> Explanation:
    """What a payment of `kind` with this failure reason means."""
    is_payout = RULES[kind].moves_money_out
    return (PAYOUT_REASONS.get(reason) if is_payout else None) or REASONS[reason]


def explain_code(code: str, kind: Kind) -> Words | None:
    """What the result code `code` means for a payment of `kind`, or None if it is not known."""
    return (PAYOUT_CODES if RULES[kind].moves_money_out else DEPOSIT_CODES).get(code)


def explanation_view(explanation: Explanation) -> dict[str, Any]:
    """`explanation` as a JSON object: each part in `en` and `sw`."""
    return {
        "meaning": explanation.meaning.view(),
        "customer": explanation.customer.view(),
        "operator": explanation.operator.view(),
    }
