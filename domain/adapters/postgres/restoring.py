"""What makes a restored database pay nothing again, as a script for the restore's own transaction.

The restore of a backup is one transaction (`workers/backup/command.py`). Its last statements are
these, so no process ever sees a restored database without them (rules.md §17).

A payment that is `accepted` in the backup may have been sent after the backup was made. Nothing in
the database shows it. Therefore the script flags each such payment for review. No worker sends a
flagged payment or fails it as too old, its caller cannot cancel it, and a person settles it by
M-PESA's statement. A payment that an earlier restore has flagged is flagged again, because the wait
for the result of a lost send begins again.

A withdrawal in doubt can be sent again under its own id, by evidence that may be older than a send
after the backup. Therefore the script adds a send of which nothing is known to each withdrawal that
is in doubt or on its way. No account is proved to have made that send, so no worker sends the
withdrawal again (rules.md §16). Workers inquire about it as always.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from domain.adapters.postgres.brakes import KILL_SWITCH, SET
from domain.adapters.postgres.statements import Statement, sql
from domain.attempts import Outcome
from domain.changes import HistoryEntry
from domain.kinds import kinds_that
from domain.stages import Stage
from domain.times import TIME_FOR_A_PERSON

_FLAG_UNSENT = sql(f"""
WITH flagged AS (
    UPDATE mkwanja.payments SET needs_review = true, next_step_at = now() + :wait,
        sequence = sequence + 1, updated_at = now()
    WHERE stage = '{Stage.ACCEPTED}' RETURNING *
)
INSERT INTO mkwanja.payment_history
    (id, payment_id, sequence, recorded_at, what, previous_stage, stage, detail)
SELECT gen_random_uuid(), id, sequence, updated_at, '{HistoryEntry.RESTORED}', stage, stage,
    :detail
FROM flagged
""")

_SENT_AGAIN_IN_DOUBT = ", ".join(
    f"'{kind}'" for kind in kinds_that(lambda rules: rules.can_be_sent_again)
)
# A payment with a send that may have acted, and whose account is not known, is never sent again, so
# one such send is enough.
_ADD_UNKNOWN_SENDS = sql(f"""
WITH changed AS (
    UPDATE mkwanja.payments AS payment SET sequence = sequence + 1, updated_at = now()
    WHERE stage IN ('{Stage.SUBMITTING}', '{Stage.IN_DOUBT}') AND kind IN ({_SENT_AGAIN_IN_DOUBT})
        AND NOT EXISTS (
            SELECT FROM mkwanja.attempts WHERE payment_id = payment.id AND account IS NULL
                AND outcome IS DISTINCT FROM '{Outcome.NOT_ACTED}')
    RETURNING *, gen_random_uuid() AS unknown_send
), added AS (
    INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at, outcome, ended_at)
    SELECT unknown_send, id,
        1 + (SELECT count(*) FROM mkwanja.attempts WHERE payment_id = changed.id), updated_at,
        '{Outcome.UNKNOWN}', updated_at
    FROM changed
)
INSERT INTO mkwanja.payment_history
    (id, payment_id, sequence, recorded_at, what, previous_stage, stage, attempt_id, detail)
SELECT gen_random_uuid(), id, sequence, updated_at, '{HistoryEntry.RESTORED}', stage, stage,
    NULL, :detail
FROM changed
""")


def protection_script(backup: str) -> str:
    """SQL that stops payouts, and protects the payments that may have been sent since the backup.

    `backup` describes the backup for people. The caller's transaction must own the tables.
    """
    reason = f"restored from {backup}"
    stop_payouts = {
        "is_engaged": "true",
        "reason": _literal(reason),
        "names": _literal(f"{{{KILL_SWITCH}}}"),
        "operator": "NULL",  # the restore sets the brake
    }
    detail = {"detail": _literal(json.dumps({"reason": reason}))}
    flag_unsent = {"wait": f"interval '{TIME_FOR_A_PERSON.days} days'", **detail}
    statements = [
        _executed(SET, stop_payouts),
        _executed(_FLAG_UNSENT, flag_unsent),
        _executed(_ADD_UNKNOWN_SENDS, detail),
    ]
    return "\n".join(statements) + "\n"


def _executed(statement: Statement, values: Mapping[str, str]) -> str:
    """A script that executes `statement`. `values` are SQL."""
    arguments = ", ".join(statement.order(values))
    prepared = f"PREPARE protection AS {statement.text};"
    return f"{prepared}\nEXECUTE protection({arguments});\nDEALLOCATE protection;"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
