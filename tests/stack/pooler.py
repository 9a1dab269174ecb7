"""A PgBouncer in transaction mode in front of a PostgreSQL server.

It has two connections to each database. A process that kept something in its session would
therefore soon meet the session of another process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process

SERVER_CONNECTIONS = 2
PROGRAM = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
# With this variable, each stack sends all statements of the service through a PgBouncer of its own.
IS_WANTED = os.environ.get("THROUGH_POOLER") == "1"


@asynccontextmanager
async def pooled_url(database_url: str, folder: Path) -> AsyncIterator[str]:
    """Starts a PgBouncer with its files in `folder`. Yields the database's URL behind it."""
    assert PROGRAM is not None, "no PgBouncer is installed (apt-get install pgbouncer)"
    server, port = urlsplit(database_url), reserve_port()
    configuration = _write_files(server, port, folder)
    user = ["-u", "daemon"] if os.geteuid() == 0 else []  # PgBouncer refuses to run as root
    process = Process(
        "pgbouncer",
        [PROGRAM, *user, str(configuration)],
        env={},
        log=folder / "pgbouncer.log",
        cwd=folder,
    )
    await process.start()
    try:
        await process.wait_logged("process up")
        netloc = f"{server.username}:{server.password}@127.0.0.1:{port}"
        yield server._replace(netloc=netloc).geturl()
    finally:
        await process.terminate()
        release_port(port)


def _write_files(server: SplitResult, port: int, folder: Path) -> Path:
    """Writes the files of a PgBouncer. Returns the path of its configuration."""
    folder.mkdir(exist_ok=True)
    users = folder / "users.txt"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(f"""
[databases]
* = host={server.hostname} port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
server_login_retry = 0.05
""")
    for file in (folder, users, configuration):
        file.chmod(0o755)
    return configuration
