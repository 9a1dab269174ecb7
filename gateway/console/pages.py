"""Renders the pages, and serves their style sheet and script.

Templates escape every value. The browser runs only our script file, and applies only our style
sheet: the content security policy forbids everything else. The files have hashes in their names, so
browsers cache them for good.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from domain.adapters.masking import mask_text
from domain.values import NAIROBI

if TYPE_CHECKING:
    from gateway.console.visits import Visit

_FOLDER = Path(__file__).parent
STATIC = "/console/static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src"
        " 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_CACHED_FOR_GOOD = "public, max-age=31536000, immutable"


class Pages:
    """The templates and files of the console, read once."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in (_FOLDER / "static").iterdir()}
        self._hashed_names = {
            name: _hashed_name(name, content) for name, content in self._files.items()
        }
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters |= {
            "when": format_time,
            "day_and_time": format_day_and_time,
            "kes": format_kes,
            "words": format_words,
            "masked": mask_text,
            "without": _without,
            "counted": format_count,
            "duration": format_seconds,
        }
        self._templates.globals["asset"] = lambda name: f"{STATIC}/{self._hashed_names[name]}"

    def render(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(**values)

    def response(
        self, template: str, *, status: int = 200, visit: Visit | None = None, **values: Any
    ) -> web.Response:
        """A page of the console, with the headers that keep it safe."""
        text = self.render(template, visit=visit, **values)
        return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)

    async def file(self, request: web.Request) -> web.Response:
        """GET /console/static/{name}"""
        hashed_name = request.match_info["name"]
        for name, known in self._hashed_names.items():
            if known == hashed_name:
                return web.Response(
                    body=self._files[name],
                    content_type=_TYPES[Path(name).suffix],
                    headers={"Cache-Control": _CACHED_FOR_GOOD},
                )
        raise web.HTTPNotFound


def format_time(at: datetime) -> str:
    """A time in Nairobi, to the second: 14:05:09."""
    return f"{at.astimezone(NAIROBI):%H:%M:%S}"


def format_day_and_time(at: datetime) -> str:
    """A time in Nairobi with its day: 1 Mar 2026 14:05:09."""
    local = at.astimezone(NAIROBI)
    return f"{local.day} {local:%b %Y %H:%M:%S}"


def format_kes(amount: int) -> str:
    return f"{amount:,}"


def format_count(count: int, one: str, many: str | None = None) -> str:
    """A number of things: 1 callback, 2 callbacks."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def format_words(name: str) -> str:
    """A name of ours as words: bill_payment is "bill payment", TokenRefused "token refused"."""
    return _CAPITAL_INSIDE.sub(" ", name).replace("_", " ").lower()


# Each unit, in seconds, and from when on a duration is shown in it.
_UNITS = ((86_400, 172_800, "days"), (3_600, 7_200, "h"), (60, 120, "min"))


def format_seconds(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 3 h, 2 days."""
    for size, shown_from, unit in _UNITS:
        if seconds >= shown_from:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _without(details: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in details.items() if name not in names}


def _hashed_name(name: str, content: bytes) -> str:
    stem, suffix = Path(name).stem, Path(name).suffix
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
