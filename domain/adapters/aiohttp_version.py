"""Allows only the versions of aiohttp that all our tests ran with.

Two modules use undocumented parts of aiohttp: `gateway/edge/aiohttp_internals.py` for incoming
requests, and `domain/adapters/daraja/wire.py` for outgoing requests. If another version changes
such a part, we could lose a protection without any error. So each process checks the version at its
start.
"""

from __future__ import annotations

import re

import aiohttp

from domain.adapters.settings.errors import SettingsError

# The range includes both versions. `pyproject.toml` has the same bounds, and the lock file the last
# one.
TESTED_FIRST = (3, 14, 5)
TESTED_LAST = (3, 14, 5)

_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)


def require_tested_aiohttp() -> None:
    """Raise SettingsError unless the installed aiohttp is a release within the tested range."""
    release = _RELEASE.fullmatch(aiohttp.__version__)
    if release is None or not TESTED_FIRST <= tuple(map(int, release.groups())) <= TESTED_LAST:
        raise SettingsError(
            f"cannot start; aiohttp {aiohttp.__version__} is installed, and only"
            f" {_format_tested_range()} is tested (install the version in requirements.lock)"
        )


def _format_tested_range() -> str:
    """Return `3.14.5`, or `3.14.5 to 3.14.7`."""
    first, last = (".".join(map(str, release)) for release in (TESTED_FIRST, TESTED_LAST))
    return first if first == last else f"{first} to {last}"
