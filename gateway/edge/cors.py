"""Which web pages may call: those of the origins in CORS_ALLOWED_ORIGINS, with a token and never
with cookies.
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp_cors
from aiohttp import hdrs, web

# What a page may read of an answer besides its body.
_EXPOSED = ("Location", "Idempotency-Replayed", "Retry-After", "WWW-Authenticate")
_ALLOWED = ("Authorization", "Content-Type", "X-Idempotency-Key", "Idempotency-Key")
# Browsers ask no oftener than this; a change of the setting is heard after it at the latest.
_PREFLIGHT_SECONDS = 600


def allow_origins(app: web.Application, origins: Sequence[str], prefix: str) -> None:
    """Lets pages of `origins` call every route of `app` under `prefix`.

    Without origins nothing is changed: none may.
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
        # A HEAD that comes with a GET is not asked for by pages.
        resource = route.resource
        if (
            resource is not None
            and resource.canonical.startswith(prefix)
            and route.method != hdrs.METH_HEAD
        ):
            cors.add(route, dict.fromkeys(origins, options))
    app.on_response_prepare.append(_vary)


async def _vary(_request: web.Request, response: web.StreamResponse) -> None:
    """A cache may not give one origin's answer to another; nor one without an origin's."""
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
