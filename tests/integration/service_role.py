"""Creates the database role of the processes, as operators do by docs/database-roles.md."""

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


async def create_service_role(server: PostgresServer | GivenPostgres) -> str:
    """Create the role, or set a new password for it, and return the password.

    Skips the test if the given server does not let us create roles.
    """
    password = secrets.token_urlsafe(18)
    documented = re.search(
        r"```sql\n(.*?)```", (ROOT / "docs" / "database-roles.md").read_text(), re.DOTALL
    )
    assert documented is not None
    sql = documented[1].replace("choose-a-password", password)
    assert password in sql
    try:
        async with connection(server.admin_url) as admin:
            if await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", SERVICE_ROLE):
                sql = f"ALTER ROLE {SERVICE_ROLE} PASSWORD '{password}'"
            await admin.execute(sql)
    except asyncpg.InsufficientPrivilegeError:
        pytest.skip("the given database does not let us create roles")
    return password


def as_service(url: str, password: str) -> str:
    """Return the URL of the same database for the service's role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{SERVICE_ROLE}:{password}@{host}"))
