"""The advisory locks: the number of each, what it guards, and who takes it in which mode.

Each is held until the COMMIT, because a transaction-mode pooler keeps no session for longer.
PostgreSQL has two spaces of numbers that never meet: of one bigint, and of two integers.
`tests/unit/test_single_homes.py` sees that no other file names one.
"""

from __future__ import annotations

# Migrations. A release takes it exclusively, so that two releases at once do not run one migration
# twice.
MIGRATION = 4_711_254_001

# The order of the feed. The process that lists events takes it exclusively, so that it sees what
# was listed before.
FEED = 4_711_254_002

# The brakes that stop payouts. A claim of a payout takes it in shared mode, a change of a brake
# takes it exclusively, and so knows of every claim before it. Row locks do not work here:
# PostgreSQL grants new share locks ahead of a waiting exclusive one, so overlapping claims could
# keep a brake from being set for ever.
BRAKES = 4_711_254_003

# The allowances of callers and phones: the first of two numbers, the second follows from what is
# counted. A request that takes of a limit locks it exclusively before it counts.
LIMITS = 4_711

TAKE_MIGRATION = f"pg_advisory_xact_lock({MIGRATION})"
TAKE_FEED = f"pg_advisory_xact_lock({FEED})"
TAKE_BRAKES = f"pg_advisory_xact_lock({BRAKES})"
TAKE_BRAKES_SHARED = f"pg_advisory_xact_lock_shared({BRAKES})"
TAKE_LIMIT = f"pg_advisory_xact_lock({LIMITS}, number)"  # `number`: a column of the query
