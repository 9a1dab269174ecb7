"""What makes a restored database pay nothing again, as a script for the restore's own transaction.

The restore of a backup is one transaction (`workers/backup/command.py`). Its last statements are
these, so no process ever sees a restored database without them (rules.md §17).

A payment that is `accepted` in the backup may have been sent after the backup was made. Nothing in
the database shows it. Therefore the script flags each such payment for review. No worker sends a
flagged payment, its caller cannot cancel it, and a person settles it by M-PESA's statement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

from domain.adapters.postgres.brakes import KILL_SWITCH, SET
from domain.adapters.postgres.statements import Statement, sql
from domain.changes import HistoryEntry
from domain.stages import Stage

# The sweeper must never fail a flagged payment as unsent, because the restore has lost the record
# that would show that Daraja paid it. So no step of it is due in a person's lifetime.
TIME_FOR_A_PERSON = timedelta(days=36_500)

_FLAG_UNSENT = sql(f"""
WITH flagged AS (
    UPDATE mkwanja.payments SET needs_review = true, next_step_at = now() + :wait,
        sequence = sequence + 1, updated_at = now()
    WHERE stage = '{Stage.ACCEPTED}'
        AND (NOT needs_review OR next_step_at <= now() + interval '1 day') RETURNING *
)
INSERT INTO mkwanja.payment_history
    (id, payment_id, sequence, recorded_at, what, previous_stage, stage, detail)
SELECT gen_random_uuid(), id, sequence, updated_at, '{HistoryEntry.NEEDS_A_PERSON}', stage, stage,
    :detail
FROM flagged
""")


def protection_script(backup: str) -> str:
    """SQL that stops payouts, and flags the payments that may have been sent since the backup.

    `backup` describes the backup for people. The caller's transaction must own the tables.
    """
    reason = f"restored from {backup}"
    stop_payouts = {
        "is_engaged": "true",
        "reason": _literal(reason),
        "names": _literal(f"{{{KILL_SWITCH}}}"),
        "operator": "NULL",  # the restore sets the brake
    }
    flag_unsent = {
        "wait": f"interval '{TIME_FOR_A_PERSON.days} days'",
        "detail": _literal(json.dumps({"reason": reason})),
    }
    return f"{_executed(SET, stop_payouts)}\n{_executed(_FLAG_UNSENT, flag_unsent)}\n"


def _executed(statement: Statement, values: Mapping[str, str]) -> str:
    """A script that executes `statement`. `values` are SQL."""
    arguments = ", ".join(statement.order(values))
    prepared = f"PREPARE protection AS {statement.text};"
    return f"{prepared}\nEXECUTE protection({arguments});\nDEALLOCATE protection;"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
