"""Why a process does not start. It knows no setting, so that every adapter may use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SettingsError(Exception):
    """The process cannot start with these settings; the message is one line that names every
    fault.
    """


@contextmanager
def impossible(name: str) -> Iterator[None]:
    """Around what first understands a setting in full: its ValueError stops the process in the
    setting's name.
    """
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"cannot start; settings impossible: {name} ({error})") from None
