"""Lets web pages of the origins in CORS_ALLOWED_ORIGINS send requests, but without cookies."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp_cors
from aiohttp import hdrs, web

# The headers of an answer that a page may read.
_EXPOSED = (
    "Location",
    "Idempotency-Replayed",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
_ALLOWED = (
    "Authorization",
    "Content-Type",
    "X-Idempotency-Key",
    "Idempotency-Key",
    "Last-Event-ID",
)
# Browsers cache the answer to a preflight request for this long. A change of CORS_ALLOWED_ORIGINS
# therefore takes up to ten minutes to reach each browser.
_PREFLIGHT_SECONDS = 600


def allow_origins(app: web.Application, origins: Sequence[str], prefix: str) -> None:
    """Lets pages of `origins` call every route of `app` under `prefix`.

    Without origins it changes nothing, and no page may send requests.
    """
    if not origins:
        return
    options = {
        "allow_credentials": False,
        "allow_headers": _ALLOWED,
        "expose_headers": _EXPOSED,
        "max_age": _PREFLIGHT_SECONDS,
    }
    cors = aiohttp_cors.setup(app)
    for route in list(app.router.routes()):
        # aiohttp adds HEAD to every GET. Pages do not need it.
        resource = route.resource
        if (
            resource is not None
            and resource.canonical.startswith(prefix)
            and route.method != hdrs.METH_HEAD
        ):
            cors.add(route, dict.fromkeys(origins, options))
    app.on_response_prepare.append(_add_vary)


async def _add_vary(_request: web.Request, response: web.StreamResponse) -> None:
    """Adds `Vary: Origin`, so that no cache returns the answer of one origin to another."""
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
