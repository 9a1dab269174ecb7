"""The advisory locks: their numbers, what each protects, and which transactions lock it.

Each lock is held until COMMIT, because a transaction-mode pooler keeps no session for longer.
A lock's name is either one bigint or two integers. A name of one form never equals a name of the
other form. A test (`tests/unit/test_single_homes.py`) ensures that no other file names a lock.
"""

from __future__ import annotations

# Migrations. `alembic upgrade head` locks it exclusively, so that two runs of the command at the
# same time do not run a migration twice.
MIGRATION = 4_711_254_001

# The order of the feed. A process that lists events locks it exclusively, so this process sees all
# events that were listed before.
FEED = 4_711_254_002

# The brakes that stop payouts. A claim of a payout locks it in shared mode. A change of a brake
# locks it exclusively, so the change sees every earlier claim. Row locks do not work here:
# PostgreSQL grants new share locks ahead of a waiting exclusive lock, so overlapping claims could
# block the change of a brake for ever.
BRAKES = 4_711_254_003

# The limits of callers and phone numbers. `LIMITS` is the first of the lock's two numbers. The
# second is computed from the caller or the phone number. A request gets this lock exclusively
# before the request reads what is used. Only its holder changes a meter.
LIMITS = 4_711

# The upkeep of partitions. One process at a time makes or drops them, and none during a migration.
UPKEEP = 4_711_254_004

LOCK_MIGRATION = f"pg_advisory_xact_lock({MIGRATION})"
LOCK_FEED = f"pg_advisory_xact_lock({FEED})"
LOCK_BRAKES = f"pg_advisory_xact_lock({BRAKES})"
LOCK_BRAKES_SHARED = f"pg_advisory_xact_lock_shared({BRAKES})"
LOCK_LIMIT = f"pg_advisory_xact_lock({LIMITS}, number)"  # `number` is a column of the query

TRY_LOCK_UPKEEP = f"pg_try_advisory_xact_lock({UPKEEP})"
LOCK_UPKEEP = f"pg_advisory_xact_lock({UPKEEP})"


def waited_for_an_advisory_lock(error: BaseException) -> bool:
    """Whether a function failed at an advisory lock, by the server's report of where it was."""
    return "pg_advisory_xact_lock" in (getattr(error, "context", None) or "")
