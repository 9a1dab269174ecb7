"""What must be so when a batch has settled: the ends of the table, and I1 to I7 by the judge of
finished runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.proof.crash.patience import patiently
from tests.proof.crash.paying import Wish
from tests.proof.crash.postman import Postman
from tests.proof.crash.sites import Site
from tests.proof.crash.table import End, Kind
from tests.proof.invariants import gather, judge
from tests.proof.soak.evidence import Witness
from tests.proof.soak.listening import Listener
from tests.spec.playing import look
from tests.spec.system import System

_STATE = "SELECT * FROM mkwanja.payments WHERE id = ANY($1::uuid[])"


async def settled(system: System, wishes: Sequence[Wish], postman: Postman) -> None:
    """Waits until every payment has come to its end, and nothing is owed or on its way any more."""
    await patiently(
        lambda: differences(system, wishes), lambda found: not found, "the ends of the table"
    )
    await postman.delivered()
    ids = [wish.payment_id for wish in wishes]
    owed = "SELECT id FROM mkwanja.payments WHERE id = ANY($1::uuid[]) AND event_due IS NOT NULL"
    await patiently(
        lambda: system.rows(owed, ids), lambda rows: not rows, "every event on record as published"
    )


async def differences(system: System, wishes: Sequence[Wish]) -> list[str]:
    """What is not yet, or not, as the table says."""
    rows = {
        str(row["id"]): row
        for row in await system.rows(_STATE, [wish.payment_id for wish in wishes])
    }
    return [
        f"{wish.label} ({wish.payment_id}) is {row['stage']}, {row['failure_reason']}, review {row['needs_review']}"
        for wish in wishes
        if not _has_ended(wish.end, row := rows[wish.payment_id])
    ]


def _has_ended(end: End, row: Any) -> bool:
    match end:
        case End.PAID:
            return bool(row["stage"] == "succeeded")
        case End.NO_RESULT | End.NO_RESULT_AND_NONE:
            return bool(
                row["failure_reason"] == "no_result_confirmed" and not row["failure_safe_to_retry"]
            )
        case End.REVIEW | End.REVIEW_AND_NONE:
            return bool(row["stage"] == "in_doubt" and row["needs_review"])


async def times_heard(system: System, wish: Wish) -> int:
    """How often Daraja was asked for it.

    Where a token was refused, M-PESA saw nothing (daraja.md §1).
    """
    requests = (await system.control("GET", "/requests?path=request"))["items"]
    return sum(
        wish.payment_id in str(item["body"]) and item["scenario"] is not None for item in requests
    )


async def assert_all_is_well(
    system: System, site: Site, wishes: Sequence[Wish], postman: Postman, listener: Listener
) -> None:
    """The ends once more, money, sends, and the seven invariants."""
    assert await differences(system, wishes) == []
    ids = {wish.payment_id for wish in wishes}
    seen = await look(system, {wish.payment_id: wish.payment_id for wish in wishes})
    for wish in wishes:
        is_moved = wish.end not in (End.NO_RESULT_AND_NONE, End.REVIEW_AND_NONE)
        assert seen[wish.payment_id].moved == is_moved, (wish.label, seen[wish.payment_id])
        if wish.kind is not Kind.WITHDRAWAL:  # nothing keeps Daraja from doing these twice
            assert await times_heard(system, wish) == is_moved, wish.label
    witness = Witness(
        told=[told for wish in wishes for told in wish.told],
        seen={
            wish.payment_id: [(await system.payment(wish.payment_id))["stage"]] for wish in wishes
        },
        heard=[heard for heard in listener.heard if json.loads(heard.body)["subject"] in ids],
    )
    evidence = await gather(system.stack, witness)
    bad = [
        finding
        for finding in judge(evidence).unexplained
        if finding.payment_id in ids | {"unknown"}
    ]
    # The judge explains what waits for a person; the table says which payments those are, so only
    # the rest is bad.
    assert not bad, "\n".join(finding.text() for finding in bad)
    events = [
        entry
        for entry in evidence.history
        if entry.payment_id in ids and entry.event_body is not None
    ]
    heard = {heard.event_id for heard in witness.heard}
    assert {entry.id for entry in events} <= heard, "an event was never heard"
    if site.name == "12 at 5":
        first = dict(reversed(evidence.attempts))
        frozen = [wish for wish in wishes if not wish.is_bystander]
        assert {first[wish.payment_id] for wish in frozen} == {"not_acted"}, (
            "it woke up past its deadline, and sent"
        )
    if site.crash_point == 10:
        assert all(entry.publications == 1 for entry in events), (
            "each is recorded once, though published twice"
        )
    kept = Counter((item.payment_id, item.operation, item.sha256) for item in evidence.callbacks)
    for payment_id, operation, body in postman.stored:
        mark = (payment_id, operation, hashlib.sha256(body).hexdigest())
        assert kept[mark] > 0, f"a copy of {operation} was answered 200 and is not on record"
        kept[mark] -= 1
