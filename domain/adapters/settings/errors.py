"""The error that stops a process at its start. Every adapter may import this module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SettingsError(Exception):
    """The process cannot start with these settings. The message names every fault in one line."""


@contextmanager
def raise_as_settings_error(name: str) -> Iterator[None]:
    """Turns a ValueError in the block into a SettingsError that names the setting `name`.

    Use it for faults that `read_settings` cannot find, for example because only a connection shows
    them.
    """
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"cannot start; settings invalid: {name} ({error})") from None
