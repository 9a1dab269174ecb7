"""A package index on this machine, over real HTTP, that tells of vulnerabilities what a test wants it to tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

JINJA = {
    "id": "PYSEC-2019-217",
    "aliases": ["CVE-2019-10906", "GHSA-462w-v97r-4m45"],
    "summary": "Sandbox escape",
    "details": "str.format_map",
    "fixed_in": ["2.10.1"],
    "withdrawn": None,
}


# A page that comes a byte at a time, without an end: no single wait is long.
TRICKLE = object()


def known(name: str, **fields: Any) -> dict[str, Any]:
    """A vulnerability as an index tells it."""
    return {"id": name, "aliases": [], "summary": "harm", "details": None, "fixed_in": ["9.9"], **fields}


class LocalIndex:
    """`pages` are its answers by path below `/pypi/`; bytes are sent as they are, and None is never answered."""

    def __init__(self) -> None:
        self.url = ""
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []
        self.authorizations: set[str | None] = set()
        self._never = asyncio.Event()

    def tell(self, name: str, version: str, vulnerabilities: object = (), *, by_version: bool = True) -> None:
        """Makes a page as a well-kept index has it: for the version, or for the project, whose newest that version is."""
        path = f"{name}/{version}/json" if by_version else f"{name}/json"
        listed = [*vulnerabilities] if isinstance(vulnerabilities, tuple) else vulnerabilities
        self.pages[path] = {"info": {"name": name, "version": version}, "vulnerabilities": listed}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.match_info["path"])
        self.authorizations.add(request.headers.get("Authorization"))
        page = self.pages.get(request.match_info["path"], 404)
        if page is None:
            await self._never.wait()
        if page is TRICKLE:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.05)
        if isinstance(page, int):
            return web.Response(status=page)
        return web.Response(body=page if isinstance(page, bytes) else json.dumps(page).encode())


@asynccontextmanager
async def local_index() -> AsyncIterator[LocalIndex]:
    """One that knows of a vulnerability everybody knows, and of nothing else."""
    index = LocalIndex()
    index.tell("jinja2", "2.10", (JINJA,))
    app = web.Application()
    app.router.add_get("/some/mirror/pypi/{path:.+}", index.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    index.url = f"http://127.0.0.1:{runner.addresses[0][1]}/some/mirror/simple/"
    try:
        yield index
    finally:
        await runner.cleanup()
