"""The full cross product: which combinations exist, how each must end, why the others do not exist.

A combination is a site, a kind of payment, the fate of Daraja's answer, how often the result is
delivered, and whether Redis keeps its data. The answer and the result are those of the send that
Daraja accepted.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.proof.crash.sites import SITES, Site


class Kind(StrEnum):
    """The kinds of payment that are played, by their names in the record."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    BILL_PAYMENT = "bill_payment"


class AnswerFate(StrEnum):
    """Whether Daraja's synchronous answer reaches the worker."""

    KEPT = "kept"
    LOST = "lost"


class Redis(StrEnum):
    """Whether Redis keeps its data while the process is down."""

    KEPT = "kept"
    FLUSHED = "flushed"


CALLBACKS = (0, 1, 3)


class Ending(StrEnum):
    """How a payment must end (rules.md §15)."""

    PAID = "succeeded, and its money moved once"
    NO_RESULT = (
        "failed as no_result_confirmed, not safe to retry; the money moved once, but the service"
        " stored no answer and no result"
    )
    NO_RESULT_AND_NONE = "failed as no_result_confirmed, not safe to retry; no money moved"
    REVIEW = (
        "in doubt and flagged for a person; the money moved once, but the service stored no answer"
        " and no result"
    )
    REVIEW_AND_NONE = "in doubt and flagged for a person; no money moved"


@dataclass(frozen=True, slots=True)
class Combination:
    """A combination. If `ending` is None, it does not exist, and `reason` says why."""

    site: Site
    kind: Kind
    answer: AnswerFate
    callbacks: int
    redis: Redis
    ending: Ending | None = None
    reason: str = ""

    @property
    def ending_if_unread(self) -> Ending | None:
        """The ending if the worker is frozen before it has read Daraja's answer to this send.

        A worker that records the answers to some sends may still wait for the answers to others.
        """
        if self.site.name != "12 recording":
            return self.ending
        return _as_sent(self.kind, AnswerFate.LOST, self.callbacks)

    @property
    def label(self) -> str:
        return f"{self.kind}, answer {self.answer}, {self.callbacks} callbacks"


def _as_sent(kind: Kind, answer: AnswerFate, callbacks: int) -> Ending:
    """The ending if Daraja accepted the send.

    An inquiry needs an id. A withdrawal has its own id. The other kinds get one by Daraja's answer.
    """
    if answer is AnswerFate.KEPT or callbacks or kind is Kind.WITHDRAWAL:
        return Ending.PAID
    return Ending.NO_RESULT if kind is Kind.DEPOSIT else Ending.REVIEW


def _ending_or_reason(site: Site, kind: Kind, answer: AnswerFate, callbacks: int) -> Ending | str:
    """How the combination ends, or why it does not exist."""
    is_kept, is_withdrawal = answer is AnswerFate.KEPT, kind is Kind.WITHDRAWAL
    if site.name == "1" and not (is_kept and callbacks == 1):
        return (
            "nothing is stored yet, so the client's retry is a first request, and the crash does "
            "not affect Daraja's answer or result"
        )
    if site.name == "5" and not is_withdrawal:
        if is_kept or callbacks:
            return (
                "the request never left and is not sent again, so Daraja sends no answer and no "
                "result"
            )
        return Ending.NO_RESULT_AND_NONE if kind is Kind.DEPOSIT else Ending.REVIEW_AND_NONE
    if site.point == "sent_before_answer" and is_kept:
        gone = "continues long after the request's time limit" if site.is_frozen else "is dead"
        return f"the worker that waits for the answer {gone}, so the answer is always lost"
    if site.name == "7":
        return _as_sent(kind, AnswerFate.LOST, callbacks)  # the answer is lost with the process
    if site.name in ("8", "12 finalizing") and not callbacks:
        return "there is no callback to read"
    if site.name == "8":
        # Daraja does not repeat the callback that was read before the crash.
        return _as_sent(kind, answer, callbacks - 1)
    if site.name == "11 worker" and kind is not Kind.DEPOSIT:
        return "Transaction Status answers by a callback: see site 11 callbacks"
    if site.name == "11 callbacks" and kind is Kind.DEPOSIT:
        return "STK query answers at once: see site 11 worker"
    if site.crash_point == 11 and not is_kept and not is_withdrawal:
        return "without an id from the answer there is no inquiry"
    if site.crash_point in (9, 10) or site.name == "12 announcing":
        return _finalized(site, kind, answer, callbacks)
    return _as_sent(kind, answer, callbacks)


def _finalized(site: Site, kind: Kind, answer: AnswerFate, callbacks: int) -> Ending | str:
    ending = _as_sent(kind, answer, callbacks)
    if ending is Ending.REVIEW:
        return "the payment never becomes final, so there is no event"
    by_worker = kind is Kind.DEPOSIT and not callbacks
    if by_worker is not (site.target == "worker"):
        return (
            "the worker finalizes the payment, by STK query or after the result window"
            if by_worker
            else "the callback receiver finalizes the payment"
        )
    return ending


def all_combinations() -> Iterator[Combination]:
    """Every combination of the cross product, including those that do not exist."""
    for site, kind, answer, callbacks, redis in itertools.product(
        SITES, Kind, AnswerFate, CALLBACKS, Redis
    ):
        ending_or_reason = _ending_or_reason(site, kind, answer, callbacks)
        if isinstance(ending_or_reason, Ending):
            yield Combination(site, kind, answer, callbacks, redis, ending=ending_or_reason)
        else:
            yield Combination(site, kind, answer, callbacks, redis, reason=ending_or_reason)


@dataclass(frozen=True, slots=True)
class Batch:
    """Combinations that share one kill, or one freeze."""

    name: str
    site: Site
    redis: Redis
    combinations: Sequence[Combination]


def all_batches() -> list[Batch]:
    """Every combination that exists, in as few kills as possible."""
    groups: dict[tuple[str, Redis, str], list[Combination]] = defaultdict(list)
    for one in all_combinations():
        if one.ending is not None:
            groups[one.site.name, one.redis, one.answer if _is_split(one.site) else ""].append(one)
    return [
        Batch(
            ", ".join(filter(None, [name, f"Redis {redis}", answer and f"answers {answer}"])),
            rows[0].site,
            redis,
            rows,
        )
        for (name, redis, answer), rows in groups.items()
    ]


def _is_split(site: Site) -> bool:
    # At these sites, payments with kept and with lost answers have different batches. A worker
    # holds at most four claims of bill payments. And if the worker finalizes payments, those with
    # an answer end seconds before those without.
    return (site.claims and site.name != "5") or site.name in ("9 worker", "10 worker")


# The batches of `make test` and `make test-all`: each crash point once.
SELECTED = (
    "1, Redis kept",
    "2, Redis flushed",
    "3, Redis flushed",
    "4, Redis flushed",
    "5, Redis kept",
    "6, Redis flushed, answers lost",
    "7, Redis kept, answers kept",
    "8, Redis kept",
    "9 callbacks, Redis flushed",
    "10 callbacks, Redis kept",
    "11 callbacks, Redis kept",
    "12 at 5, Redis flushed, answers kept",
    "12 finalizing, Redis kept",
)


def selected_batches() -> list[Batch]:
    """The batches that `make test` and `make test-all` play."""
    batches = {batch.name: batch for batch in all_batches()}
    return [batches[name] for name in SELECTED]
