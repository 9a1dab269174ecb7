"""Tables of cases that one test plays one after the other.

A test of a pure function then costs no more than its calls. Use `@for_each("a, b", cases)` in place
of `@pytest.mark.parametrize`. It names each case that fails, and does not stop at the first. A test
that needs fixtures is parametrized instead, because each case needs its own fixtures.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

_PRINTED_MAX = 20


def for_each(
    names: str | Sequence[str],
    cases: Iterable[Any],
    *,
    ids: Callable[[Any], object] | Iterable[object] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Plays the test with each case, and fails once, with the message of each failing case.

    `names`, `cases` and `ids` are as for `pytest.mark.parametrize`. Under several tables, the test
    plays every combination of their cases.
    """
    columns = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = [_case(columns, case) for case in cases]
    assert table, "a table without a case tests nothing"
    case_names = _ids(columns, table, ids)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        own: list[tuple[str, dict[str, Any]]] = [
            (name, dict(zip(columns, values, strict=True)))
            for name, (values, _) in zip(case_names, table, strict=True)
        ]
        earlier: list[tuple[str, dict[str, Any]]] = getattr(test, "_cases", [("", {})])
        played = getattr(test, "_played", test)
        all_cases = [
            ("-".join(filter(None, (name, first))), {**values, **more})
            for first, values in earlier
            for name, more in own
        ]

        @functools.wraps(played)
        def play_all() -> None:
            _play(played, all_cases)

        parameters = inspect.signature(played).parameters
        missing = parameters.keys() - all_cases[0][1].keys()
        play_all.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter for name, parameter in parameters.items() if name in missing]
        )
        play_all._cases = all_cases  # type: ignore[attr-defined]
        play_all._played = played  # type: ignore[attr-defined]
        return play_all

    return decorate


def _play(test: Callable[..., None], cases: list[tuple[str, dict[str, Any]]]) -> None:
    failures: list[tuple[str, Exception]] = []
    for name, values in cases:
        try:
            test(**values)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - the next case follows
            failures.append((name, error))  # type: ignore[arg-type]
    if failures:
        lines = [
            f"[{name}] {type(error).__name__}: {error}" for name, error in failures[:_PRINTED_MAX]
        ]
        more = [f"and {len(failures) - _PRINTED_MAX} more"] if len(failures) > _PRINTED_MAX else []
        message = "\n".join([f"{len(failures)} of {len(cases)} cases failed:", *lines, *more])
        raise AssertionError(message) from failures[0][1]


def _case(names: Sequence[str], case: Any) -> tuple[tuple[Any, ...], str | None]:
    if (
        hasattr(case, "values") and hasattr(case, "marks") and hasattr(case, "id")
    ):  # pytest.param(…)
        assert not case.marks, "a case of a table cannot have a mark"
        return tuple(case.values), None if case.id is None else str(case.id)
    return ((case,) if len(names) == 1 else tuple(case)), None


def _ids(
    names: Sequence[str],
    table: Sequence[tuple[tuple[Any, ...], str | None]],
    ids: Callable[[Any], object] | Iterable[object] | None,
) -> list[str]:
    """The name of each case, for messages."""
    given = None if ids is None or callable(ids) else [str(one) for one in ids]
    case_names = []
    for number, (values, own) in enumerate(table):
        assert len(values) == len(names), (
            f"case {number} has {len(values)} values for {len(names)} names"
        )
        if own is not None:
            case_names.append(own)
        elif given is not None:
            case_names.append(given[number])
        else:
            case_names.append(
                "-".join(str(ids(value)) if callable(ids) else _short(value) for value in values)
            )
    return case_names


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
