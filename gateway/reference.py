"""`/docs`: the API reference. Swagger UI renders it in the reader's browser from `/openapi.json`.

The service itself serves all files, so the page loads nothing from another host. Swagger UI comes
from the locked package `mkdocs-swagger-ui-tag`, of which only its copy of Swagger UI is used. A
test compares the copy with the official release.

A reader can send requests from the page with a pasted token. The page holds the token in memory
only, and the browser lets the page send requests to this service only (`_POLICY`).
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from aiohttp import hdrs, web

PACKAGE = "mkdocs-swagger-ui-tag"
# The files of Swagger UI that the page loads: the path below `/docs`, and the path in the package.
SWAGGER_UI_FILES = {
    "swagger-ui.css": "mkdocs_swagger_ui_tag/swagger-ui/stylesheets/swagger-ui.css",
    "swagger-ui-bundle.js": "mkdocs_swagger_ui_tag/swagger-ui/javascripts/swagger-ui-bundle.js",
}

# `style-src 'self'` is enough, because Swagger UI sets inline styles by script (CSSOM), which the
# policy permits. `data:` is for the icons in its style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Caches may store the files, but ask before each use whether they have changed.
    hdrs.CACHE_CONTROL: "public, no-cache",
    hdrs.VARY: hdrs.ACCEPT_ENCODING,
}

# All addresses are relative, so the page also works below a prefix of a proxy.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mkwanja: API reference</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<script src="docs/swagger-ui-bundle.js" defer></script>
<script src="docs/start.js" defer></script>
</head>
<body>
<noscript>This page needs JavaScript. The same facts are in <a href="openapi.json">openapi.json</a>.
</noscript>
<main id="reference"></main>
</body>
</html>
"""

# `validatorUrl` is null because Swagger UI otherwise asks an online service about the document.
_START = """"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  persistAuthorization: false,
  queryConfigEnabled: false,
  validatorUrl: null,
});
"""

_CONTENT_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

PATHS = ("/docs", "/docs/start.js", *(f"/docs/{name}" for name in SWAGGER_UI_FILES))


@dataclass(frozen=True, slots=True)
class _File:
    content_type: str
    etag: str
    body: bytes
    gzipped: bytes


class Reference:
    """The page and its files. They are read and compressed once, at the first request."""

    def __init__(self) -> None:
        self._reading: asyncio.Task[Mapping[str, _File]] | None = None

    def add_routes(self, app: web.Application) -> None:
        for path in PATHS:
            app.router.add_get(path, self._handler(path))

    def _handler(self, path: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def get(request: web.Request) -> web.Response:
            """GET /docs, and the files that the page loads"""
            return _answer(request, (await self._read_files())[path])

        return get

    async def _read_files(self) -> Mapping[str, _File]:
        """The files by path. A request that is cancelled does not cancel the reading."""
        if self._reading is None or (self._reading.done() and self._reading.exception()):
            # In a thread, because compressing takes a tenth of a second.
            self._reading = asyncio.create_task(asyncio.to_thread(_read_files))
        return await asyncio.shield(self._reading)


def _read_files() -> dict[str, _File]:
    package = distribution(PACKAGE)
    bodies = {"/docs": _PAGE.encode(), "/docs/start.js": _START.encode()}
    for name, path in SWAGGER_UI_FILES.items():
        bodies[f"/docs/{name}"] = Path(str(package.locate_file(path))).read_bytes()
    return {path: _file(path, body) for path, body in bodies.items()}


def _file(path: str, body: bytes) -> _File:
    return _File(
        content_type=_CONTENT_TYPES[path.rpartition(".")[2] if "." in path else "html"],
        etag=hashlib.sha256(body).hexdigest()[:32],
        body=body,
        gzipped=gzip.compress(body, mtime=0),
    )


def _answer(request: web.Request, file: _File) -> web.Response:
    """The file, compressed if the client accepts it, or 304 if the client's copy is the same."""
    is_gzipped = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower()
    # The two forms have different bytes, so each has an ETag of its own (RFC 9110 §8.8.3.3).
    etag = f'"{file.etag}-gzip"' if is_gzipped else f'"{file.etag}"'
    headers = {**_HEADERS, hdrs.ETAG: etag}
    known = {each.strip() for each in request.headers.get(hdrs.IF_NONE_MATCH, "").split(",")}
    if etag in known or f"W/{etag}" in known:
        return web.Response(status=304, headers=headers)
    if is_gzipped:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(
        body=file.gzipped if is_gzipped else file.body,
        content_type=file.content_type,
        charset="utf-8",
        headers=headers,
    )
