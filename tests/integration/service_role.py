"""The role that an operator makes for the processes (docs/database-roles.md), on a test's
server.
"""

from __future__ import annotations

import re
import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from domain.adapters.postgres.rights import SERVICE_ROLE
from tests.paths import ROOT
from tests.stack.databases import connection
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer


async def made_service_role(server: PostgresServer | GivenPostgres) -> str:
    """Makes it, or gives it another password; the password.

    Skips where the server is not ours to make roles on.
    """
    password = secrets.token_urlsafe(18)
    as_documented = re.search(
        r"```sql\n(.*?)```", (ROOT / "docs" / "database-roles.md").read_text(), re.DOTALL
    )
    assert as_documented is not None
    make = as_documented[1].replace("choose-a-password", password)
    assert password in make
    try:
        async with connection(server.admin_url) as admin:
            if await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", SERVICE_ROLE):
                make = f"ALTER ROLE {SERVICE_ROLE} PASSWORD '{password}'"
            await admin.execute(make)
    except asyncpg.InsufficientPrivilegeError:
        pytest.skip("the given database does not let us make roles")
    return password


def as_service(url: str, password: str) -> str:
    """The same database, for the service's role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{SERVICE_ROLE}:{password}@{host}"))
