"""Attempts: one for each claim, and what came of it.

Pure. What is known of an attempt only grows: a later word replaces an earlier one where it says
more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from domain.account import Account


class IdKind(StrEnum):
    """The kinds of id by which Daraja knows a send.

    Which API gives which: daraja.md §2.1, §4.2, §5.
    """

    CHECKOUT_REQUEST = "checkout_request_id"
    MERCHANT_REQUEST = "merchant_request_id"
    CONVERSATION = "conversation_id"
    ORIGINATOR_CONVERSATION = "originator_conversation_id"


ProviderId: TypeAlias = tuple[IdKind, str]
ProviderIds: TypeAlias = frozenset[ProviderId]


class Outcome(StrEnum):
    """What came of one attempt.

    An attempt without one is under way, or its worker is gone: it may have acted.
    """

    NOT_ACTED = (
        "not_acted"  # proved without effect: nothing was written, or Daraja refused before acting
    )
    REFUSED = "refused"  # Daraja said no
    FAILED = "failed"  # Daraja's result said no
    ACKNOWLEDGED = "acknowledged"  # Daraja has it
    RESENDABLE = "resendable"  # too busy to say; the same id may be sent again
    DUPLICATE = "duplicate"  # Daraja had this id before
    UNKNOWN = "unknown"  # no definite answer

    @property
    def is_accounted_for(self) -> bool:
        """Whether this attempt is known to have moved no money."""
        return self in (Outcome.NOT_ACTED, Outcome.REFUSED, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim and what came of it. `provider_ids` holds the ids that Daraja gave it, by kind of
    id.

    Times are the database's; `ended_at` is when its outcome was last learned. `account` None: the
    attempt is older than the column that keeps it, so that nothing proves which account sent it.
    """

    id: UUID
    number: int
    outcome: Outcome | None = None
    provider_ids: ProviderIds = frozenset()
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    account: Account | None = None

    @property
    def is_accounted_for(self) -> bool:
        return self.outcome is not None and self.outcome.is_accounted_for

    @property
    def inquiry_account(self) -> Account | None:
        """The account to ask Daraja as; None if it is not known, or if the attempt never reached
        Daraja.

        What never reached Daraja is in no account's records. Any account may ask about it, to learn
        about its credential.
        """
        return None if self.outcome is Outcome.NOT_ACTED and not self.provider_ids else self.account


# A later word about an attempt replaces an earlier one only where it says more.
_WEIGHT: Mapping[Outcome | None, int] = {
    None: 0,
    Outcome.UNKNOWN: 1,
    Outcome.RESENDABLE: 2,
    Outcome.DUPLICATE: 2,
    Outcome.ACKNOWLEDGED: 2,
    Outcome.NOT_ACTED: 3,
    Outcome.REFUSED: 3,
    Outcome.FAILED: 4,
}


def merge_outcome(
    attempts: tuple[Attempt, ...],
    outcome: Outcome | None,
    *,
    attempt_id: UUID | None,
    is_about_all: bool,
) -> tuple[Attempt, ...]:
    """`attempts` once `outcome` is known of the one that `about` names, or of all."""
    if outcome is None:
        return attempts
    return tuple(
        replace(attempt, outcome=outcome)
        if (is_about_all or attempt.id == attempt_id)
        and _WEIGHT[outcome] > _WEIGHT[attempt.outcome]
        else attempt
        for attempt in attempts
    )
