"""Wrong values as a page shows them: the field, what is wrong, and what the operator gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.adapters.masking import mask_text
from domain.errors import FieldError

_SHOWN_LENGTH_MAX = 60
# What the operator did not type: sealed or encoded by us.
_UNREADABLE = frozenset({"who", "cursor", "form_token"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong value. `given` is empty if it is not worth showing."""

    name: str
    detail: str
    given: str = ""


def show_faults(
    errors: Sequence[FieldError],
    given: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[Fault]:
    """The faults as a page shows them. `given` has the values, `labels` the names on the page."""
    faults = []
    for error in errors:
        name = error.pointer.removeprefix("?")
        value = "" if name in _UNREADABLE else (given or {}).get(name, "")
        label = (labels or {}).get(name, name)
        shown = _shortened(label) or "A parameter without a name"
        faults.append(Fault(shown, error.detail, _shortened(value)))
    return faults


def _shortened(text: str) -> str:
    """`text` masked and on one short line."""
    shown = mask_text(text) if text.isprintable() else ascii(mask_text(text))[1:-1]
    return shown if len(shown) <= _SHOWN_LENGTH_MAX else f"{shown[:_SHOWN_LENGTH_MAX]}…"
