"""A fast `dataclasses.replace` for payments, because a million lives make many copies.

`dataclasses.replace` looks up each field by name and calls `__init__`. Here the copy is generated
code. Nothing else of the core changes, and a test compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from domain import attempts, payment, stamp
from domain.lifecycle import (
    inquiry_changes,
    judge_report,
    reconcile,
    record_answer,
    resolve,
    submit,
)

_USERS = (
    attempts, payment, stamp, inquiry_changes, judge_report,
    reconcile, record_answer, resolve, submit,
)  # fmt: skip


def _copier(kind: type) -> Callable[..., Any]:
    """Generate `replace` for the frozen dataclass `kind`: one assignment for each slot."""
    names = [field.name for field in dataclasses.fields(kind)]
    lines = [
        f" set_{name}(new, changed.pop('{name}') if '{name}' in changed else old.{name})"
        for name in names
    ]
    source = "\n".join(["def copy(old, changed):", " new = make(kind)", *lines, " return new"])
    scope: dict[str, Any] = {"make": object.__new__, "kind": kind}
    scope |= {f"set_{name}": getattr(kind, name).__set__ for name in names}
    exec(source, scope)  # noqa: S102 - of our own field names
    copier: Callable[..., Any] = scope["copy"]
    return copier


_COPIERS = {kind: _copier(kind) for kind in (payment.Payment, attempts.Attempt)}


def swift_replace(old: Any, **changed: Any) -> Any:
    """Copy `old` with changes, as `dataclasses.replace` does."""
    copier = _COPIERS.get(type(old))
    if copier is None:
        return dataclasses.replace(old, **changed)
    new = copier(old, changed)
    if changed:
        raise TypeError(f"no such fields: {sorted(changed)}")
    return new


@contextmanager
def swiftly() -> Iterator[None]:
    """Let the core use `swift_replace` inside the block."""
    earlier = {module: vars(module)["replace"] for module in _USERS if "replace" in vars(module)}
    for module in earlier:
        vars(module)["replace"] = swift_replace
    try:
        yield
    finally:
        for module, replace in earlier.items():
            vars(module)["replace"] = replace
