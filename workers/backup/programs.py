"""PostgreSQL's programs: the version that is on the PATH, and the environment that they get."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from urllib.parse import unquote

from domain.adapters.postgres.urls import read_database_url

_PROGRAMS = ("pg_dump", "pg_restore", "psql")
_CONNECT_SECONDS = 10

# libpq's variables for the parameters of a URL. `read_database_url` has checked the values.
_TLS_VARIABLES = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "channel_binding": "PGCHANNELBINDING",
}
# Other drivers' spellings. libpq would connect without the TLS that they ask for.
_OTHER_TLS = ("ssl", "sslaccept", "sslpassword")


class BackupError(Exception):
    """The backup or the restore was refused, or failed. The text says why and what to do."""


async def check_programs(major: int) -> int:
    """Returns `major`, the server's. Raises BackupError if a program is missing or differs."""
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            raise BackupError(f"{program} is not on the PATH; install PostgreSQL {major}'s client")
        printed = await asyncio.to_thread(
            subprocess.check_output, [program, "--version"], text=True
        )
        found = re.search(r"\) (\d+)", printed)
        if found is None or int(found[1]) != major:
            raise BackupError(
                f"the server is PostgreSQL {major}, and the first {program} on the PATH is another"
                f" version ({printed.strip()})"
            )
    return major


def environment(url: str) -> dict[str, str]:
    """The environment of PostgreSQL's programs. Other users can read arguments, but not this."""
    address = read_database_url(url)
    items = [item.partition("=")[::2] for item in url.partition("?")[2].split("&")]
    parameters = {unquote(name): unquote(value) for name, value in items}
    other = [name for name in _OTHER_TLS if name in parameters]
    if other:
        raise BackupError(
            f"PostgreSQL's programs do not know {', '.join(other)} in DATABASE_URL: write sslmode"
        )
    values = {
        "PGHOST": ",".join(host for host, _ in address.hosts),
        "PGPORT": ",".join(str(port) for _, port in address.hosts),
        "PGUSER": address.user,
        "PGPASSWORD": address.password,
        "PGDATABASE": address.database,
        "PGTARGETSESSIONATTRS": address.target_session_attrs,
        "PGAPPNAME": "mkwanja-backup",
        "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
        **{_TLS_VARIABLES[name]: parameters.get(name) for name in _TLS_VARIABLES},
    }
    given = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return given | {name: value for name, value in values.items() if value}
