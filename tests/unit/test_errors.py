"""The classes of errors form the tree that `domain/errors.py` draws, and do not know HTTP."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from domain import errors
from tests.case_tables import for_each

ROOT = Path(errors.__file__).parent.parent
PRODUCT = sorted(
    path for package in ("domain", "gateway", "workers") for path in (ROOT / package).rglob("*.py")
)
NAMES = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.PaymentServiceError)
}


def parents_in_drawing() -> dict[str, str]:
    """The parent of each error in the drawing in `domain/errors.py`. The root has no parent."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"((?:[│ ]   )*)[├└]── (\w+)", line)
        if line == errors.PaymentServiceError.__name__:
            above = [line]
        elif found:
            depth = 1 + len(found[1]) // 4
            above = [*above[:depth], found[2]]
            assert found[2] not in parents, f"{found[2]} is twice in the drawing"
            parents[found[2]] = above[depth - 1]
    return parents


def test_the_drawing_of_the_errors_is_the_tree_of_their_classes() -> None:
    parents = {
        name: vars(errors)[name].__base__.__name__
        for name in NAMES - {errors.PaymentServiceError.__name__}
    }
    assert parents_in_drawing() == parents


@for_each("name", sorted(NAMES - {"InvalidRequest", "LimitExceeded", "RateLimited", "Refused"}))
def test_the_message_of_an_error_is_one_line(name: str) -> None:
    assert "\n" not in vars(errors)[name]().message


@for_each("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_error_joins_the_tree_in_another_file(path: Path) -> None:
    if path == Path(errors.__file__):
        return
    classes = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    bases = {
        name: {ast.unparse(base).split(".")[-1] for base in node.bases}
        for node in classes
        if (name := node.name)
    }
    assert [name for name, of in bases.items() if of & NAMES] == []


def test_the_errors_know_nothing_about_http() -> None:
    tree = ast.parse(inspect.getsource(errors))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"__future__", "dataclasses", "datetime", "domain.failures"}
    assert [name for name in names if re.search(r"http|status|header", name, re.IGNORECASE)] == []
