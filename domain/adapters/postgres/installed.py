"""The functions that `alembic upgrade head` installs in the database.

Each of them stands beside the code that calls it.
"""

from __future__ import annotations

from domain.adapters.postgres.accepting import ACCEPT
from domain.adapters.postgres.claiming import CLAIMING_FUNCTIONS
from domain.adapters.postgres.expired_keys import DELETE_KEYS
from domain.adapters.postgres.feed import LIST_EVENTS
from domain.adapters.postgres.functions import Function
from domain.adapters.postgres.loading import LOAD
from domain.adapters.postgres.old_deliveries import DELETE_DELIVERIES, END_DELIVERIES
from domain.adapters.postgres.outbox import TAKE_TURN
from domain.adapters.postgres.partitions import DROP_PARTITIONS, MAKE_PARTITIONS
from domain.adapters.postgres.reading import READ
from domain.adapters.postgres.writing import WRITE

FUNCTIONS: tuple[Function, ...] = (
    ACCEPT,
    *CLAIMING_FUNCTIONS,
    LOAD,
    WRITE,
    LIST_EVENTS,
    TAKE_TURN,
    READ,
    MAKE_PARTITIONS,
    DROP_PARTITIONS,
    DELETE_KEYS,
    END_DELIVERIES,
    DELETE_DELIVERIES,
)
