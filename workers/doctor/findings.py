"""What a check found, and what the operator can do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of one check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    # The check is not possible, because a setting that it needs is missing or invalid. The check of
    # the settings has failed then.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a check. `text` and `remedy` quote no value that may be a secret."""

    check: str
    state: State
    text: str
    remedy: str | None = None


def ok(check: str, text: str) -> Finding:
    return Finding(check, State.OK, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, State.WARNING, text, remedy)


def failed(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, State.FAILED, text, remedy)


def skipped(check: str, setting: str) -> Finding:
    return Finding(check, State.SKIPPED, f"not checked, because {setting} is not usable")
