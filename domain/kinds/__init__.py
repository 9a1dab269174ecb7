"""The kinds of payment, one page each. The rest of the code reads `RULES` and names no kind.

docs/architecture/kinds.md says how to add a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from domain.kinds.bill_payment import BILL_PAYMENT
from domain.kinds.deposit import DEPOSIT
from domain.kinds.pochi_payment import POCHI_PAYMENT
from domain.kinds.rules import PAYMENT_MAX_KES, Default, Kind, KindRules, Reference
from domain.kinds.withdrawal import WITHDRAWAL

__all__ = ["PAYMENT_MAX_KES", "RULES", "Default", "Kind", "KindRules", "Reference", "kinds_that"]

RULES: Mapping[Kind, KindRules] = {
    rules.kind: rules for rules in (DEPOSIT, WITHDRAWAL, BILL_PAYMENT, POCHI_PAYMENT)
}

# A kind without a page stops every process at its start.
assert set(RULES) == set(Kind), "each kind needs its page here"  # noqa: S101


def kinds_that(has: Callable[[KindRules], bool]) -> list[Kind]:
    """The kinds for whose rules `has` is true."""
    return [kind for kind, rules in RULES.items() if has(rules)]
