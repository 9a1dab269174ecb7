"""Which versions of aiohttp may run: those that all our tests ran with.

Two modules use parts of aiohttp that its documentation does not promise:
`gateway/edge/aiohttp_internals.py` for what comes in, and `domain/adapters/daraja/wire.py` for what
goes out. A version in which such a part means something else could lose a protection without any
error. So each process checks the version before it does anything.
"""

from __future__ import annotations

import re

import aiohttp

from domain.adapters.settings.errors import SettingsError

# Both included. `pyproject.toml` has the same bounds, and the lock file names the last one.
TESTED_FIRST = (3, 14, 5)
TESTED_LAST = (3, 14, 5)

_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)


def require_tested_aiohttp() -> None:
    """Raises SettingsError if the installed aiohttp is no release within the tested range."""
    release = _RELEASE.fullmatch(aiohttp.__version__)
    if release is None or not TESTED_FIRST <= tuple(map(int, release.groups())) <= TESTED_LAST:
        raise SettingsError(
            f"cannot start; aiohttp {aiohttp.__version__} is installed, and only {_format_tested_range()} is tested "
            "(install what requirements.lock names)"
        )


def _format_tested_range() -> str:
    """As `3.14.5`, or `3.14.5 to 3.14.7`."""
    first, last = (".".join(map(str, release)) for release in (TESTED_FIRST, TESTED_LAST))
    return first if first == last else f"{first} to {last}"
