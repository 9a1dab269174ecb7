"""The functions that a release installs in the database.

Each of them stands beside the code that calls it.
"""

from __future__ import annotations

from domain.adapters.postgres.accepting import ACCEPT
from domain.adapters.postgres.functions import Function

FUNCTIONS: tuple[Function, ...] = (ACCEPT,)
