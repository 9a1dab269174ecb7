"""The plain service in Go (`go_peer`), if this machine can build it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.paths import ROOT
from tests.stack.environment import bare as bare_environment
from tests.stack.identity import Issuer
from tests.stack.install import temporary_folder
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process

_SOURCE = ROOT / "tests/benchmarks/go_peer"


@asynccontextmanager
async def go_service(
    database_url: str, redis_url: str, issuer: Issuer
) -> AsyncIterator[Process | None]:
    """Builds and runs the service. Yields None if Go or one of its modules is missing."""
    folder = temporary_folder()
    port = reserve_port()
    try:
        program = await _build(folder.path)
        if program is None:
            yield None
            return
        process = Process(
            "go_peer",
            [
                *(str(program), database_url, redis_url, str(port)),
                *(issuer.jwks_url, issuer.url),
            ],
            env=bare_environment(),
            log=folder.path / "go_peer.log",
            cwd=ROOT,
        )
        process.url = f"http://127.0.0.1:{port}"
        try:
            await process.start()
            await process.wait_logged("ready")
            yield process
        finally:
            await process.kill()
    finally:
        release_port(port)
        folder.remove()


async def _build(folder: Path) -> Path | None:
    go = shutil.which("go", path=os.environ.get("PATH", "") + ":/usr/local/go/bin")
    if go is None:
        sys.stderr.write("no Go is installed, so there is no Go service beside us\n")
        return None
    program = folder / "go_peer"
    build = await asyncio.create_subprocess_exec(go, "build", "-o", program, ".", cwd=_SOURCE)
    if await build.wait() != 0:
        sys.stderr.write("the Go service could not be built\n")
        return None
    return program
