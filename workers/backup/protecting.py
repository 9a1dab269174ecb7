"""Stops payouts in a restored database and flags its unsent payments, and says which database."""

from __future__ import annotations

from typing import Any

from domain.adapters.postgres.restoring import protection_script
from domain.adapters.postgres.urls import read_database_url
from workers.backup.programs import BackupError

DESCRIPTION_EXAMPLE = "the snapshot of 07:00"

_SHOWN_MAX = 50
_FLAGGED = """
SELECT id, kind, amount_kes FROM mkwanja.payments
WHERE stage = 'accepted' AND needs_review ORDER BY created_at, id
"""
_HOW_TO_UNDO = (
    'to undo it, first compare with M-PESA\'s statement (docs/runbook, "Restore a backup"). Then'
    ' `python -m workers payouts start --reason "…"` starts payouts, and'
    ' `python -m workers resolve ID reviewed --reason "…"` lets a worker send a flagged payment. It'
    " cannot be undone that no worker repeats a withdrawal that is being sent or in doubt now"
)


def check_description(text: str) -> None:
    """Raises BackupError if `text` does not describe a restored database in some words.

    A single word is probably the name of a database. The description chooses no database, so the
    person would change another database than the one that they mean.
    """
    if not text.isprintable() or not 3 <= len(text) <= 200 or len(text.split()) < 2:
        raise BackupError(
            "describe what was restored in several words, in 3 to 200 printable characters, for"
            f" example '{DESCRIPTION_EXAMPLE}'. The description chooses no database: the command"
            " changes the database in DATABASE_URL"
        )


async def protect_database(connection: Any, description: str) -> None:
    """Protects the database. `description` says for the history what was restored."""
    await connection.execute(protection_script(description))  # one message is one transaction


async def print_protection(connection: Any, url: str) -> None:
    """Prints which database was changed, what was done to it, and how to undo that."""
    database = await connection.fetchval("SELECT current_database()")
    flagged = await connection.fetch(_FLAGGED)
    print(f"changed: the database {database} at {_name_hosts(url)}")
    print("payouts are stopped (kill switch)")
    print(f"flagged for review, because they may have been sent since the backup: {len(flagged)}")
    for row in flagged[:_SHOWN_MAX]:
        print(f"  {row['kind']} {row['id']} of KES {row['amount_kes']}")
    if len(flagged) > _SHOWN_MAX:
        print(f"  and {len(flagged) - _SHOWN_MAX} more: GET /v1/payments?needs_review=true")
    print(_HOW_TO_UNDO)


def _name_hosts(url: str) -> str:
    """The hosts of the URL with their ports, and no other part of it."""
    return " or ".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in read_database_url(url).hosts
    )
