"""The rules of the layout that import-linter cannot express. They need no server."""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import aiohttp
import pytest

from domain.adapters.postgres.tables import REVISION
from tests import diagram, packages_diagram
from tests.layout import PRODUCT, PURE, TESTS
from tests.paths import ROOT, name

DARAJA = ROOT / "domain" / "adapters" / "daraja"
LINES_MAX = 410


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Every name that a file defines, with its line.

    Names from elsewhere are not the file's choice.
    """
    for node in ast.walk(tree(path)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case _:
                pass


def texts(path: Path) -> Iterator[tuple[str, int]]:
    """Every string of a file with its line, except docstrings, which may use any word."""
    prose = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and id(node) not in prose:
            if isinstance(node.value, str):
                yield node.value, node.lineno
            if isinstance(node.value, bytes):
                yield node.value.decode("latin-1"), node.lineno


@pytest.mark.parametrize("path", PURE, ids=name)
def test_the_core_of_domain_imports_no_library_that_does_io(path: Path) -> None:
    allowed = {*sys.stdlib_module_names, "domain", "structlog", "orjson", "uuid_utils"}
    assert [
        module
        for module in imports(path)
        if module.split(".")[0] not in allowed or module.startswith("domain.adapters")
    ] == []


def test_only_the_settings_read_the_environment() -> None:
    pattern = re.compile(r"\benviron\b|\bgetenv\b|\bBaseSettings\b|\bdotenv\b")
    found = [name(path) for path in PRODUCT if pattern.search(path.read_text())]
    # `programs.py` reads no setting. It gives its own environment to PostgreSQL's programs.
    assert found == ["domain/adapters/settings/common.py", "workers/backup/programs.py"]


def test_only_one_module_imports_arq() -> None:
    """That module contains arq's job format, its key names and its private parts (ADR 15)."""
    modules = [(name(path), each.split(".")[0]) for path in PRODUCT for each in imports(path)]
    assert {file for file, module in modules if module == "arq"} == {
        "domain/adapters/redis/arq_queue.py"
    }


# The modules that may use private parts of aiohttp: one for requests to us, one for our own.
INSIDE_AIOHTTP = ["domain/adapters/daraja/wire.py", "gateway/edge/aiohttp_internals.py"]
AIOHTTP_MODULES = {
    "aiohttp",
    *(f"aiohttp.{module.name}" for module in pkgutil.iter_modules(aiohttp.__path__)),
}
# `http_exceptions` has only exception classes. By them the log decides which messages quote the
# peer.
PUBLIC = {
    f"aiohttp{module}" for module in ("", ".abc", ".hdrs", ".typedefs", ".web", ".http_exceptions")
}


def touches_inside_of_aiohttp(path: Path) -> bool:
    """Whether a file uses undocumented parts of aiohttp.

    It imports such a module, extends a class of it, or silences ruff about `_x`.
    """
    names = [module for module in imports(path) if module.split(".")[0] == "aiohttp"]
    modules = AIOHTTP_MODULES & {*names, *(each.rpartition(".")[0] for each in names)}
    roots = {each.rpartition(".")[2] for each in names}
    extended = {
        ast.unparse(base)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split(".")[0] in roots
    }
    return (
        bool(modules - PUBLIC or extended - {"AbstractAccessLogger"})
        or "noqa: SLF001" in path.read_text()
    )


def test_two_modules_use_private_parts_of_aiohttp() -> None:
    """ruff (SLF001) reports a use of another object's `_x`. Only these modules may silence it."""
    assert [name(path) for path in PRODUCT if touches_inside_of_aiohttp(path)] == INSIDE_AIOHTTP


def run_by_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run at import: all except the bodies of functions."""
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield inner
            yield from run_by_import(inner)


def test_no_import_changes_another_module() -> None:
    """At import no module assigns to an attribute or calls setattr."""
    found = [
        f"{name(path)}: {ast.unparse(node)}"
        for path in PRODUCT
        for node in run_by_import(tree(path))
        if (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del))
        or (isinstance(node, ast.Name) and node.id in {"setattr", "delattr"})
    ]
    assert found == []


_LEVELS = {"debug", "info", "warning", "error", "exception"}


def _log_calls(
    node: ast.AST, arguments: frozenset[str] = frozenset()
) -> Iterator[tuple[ast.Call, frozenset[str]]]:
    """Each call that logs, with the arguments of the functions around it."""
    for inner in ast.iter_child_nodes(node):
        around = arguments
        match inner:
            case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
                around |= {each.arg for each in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=level)):
                if level in _LEVELS:
                    yield inner, around
            case _:
                pass
        yield from _log_calls(inner, around)


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_a_log_line_about_a_payment_has_its_id(path: Path) -> None:
    """A function that gets one payment logs `payment_id`, so one search finds all its lines."""
    found = [
        f"{name(path)}:{call.lineno}"
        for call, around in _log_calls(tree(path))
        if around & {"payment", "payment_id"}
        and not {"payment_id", None} & {keyword.arg for keyword in call.keywords}
    ]
    assert found == []


def daraja_names() -> set[str]:
    """The field names of Daraja's messages, as its adapter spells them."""
    words = {text for path in DARAJA.glob("*.py") for text, _ in texts(path)}
    return {
        word
        for word in words
        if re.fullmatch(r"(?:[A-Z][a-z0-9]+){2,}(?:ID|URL)?|[A-Z]\w*(?:ID|URL)", word)
    }


def test_only_its_adapter_uses_the_field_names_of_daraja() -> None:
    """The receiver's answer is an exception, because Daraja requires its body."""
    names = daraja_names() - {"PhoneNumber"}  # it is also our own word
    assert {"CheckoutRequestID", "SecurityCredential", "ResultCode", "ResultURL"} <= names
    found = [
        f"{name(path)}:{line} {text}"
        for path in PRODUCT
        if path.parent != DARAJA
        for text, line in [*texts(path), *identifiers(path)]
        if names & set(re.findall(r"\w+", text))
        and text != '{"ResultCode": 0, "ResultDesc": "Accepted"}'
    ]
    assert found == []


def test_a_file_of_tests_is_imported_nowhere() -> None:
    """Files of tests share code only through helper modules."""
    assert [
        f"{name(path)}: {module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for module in imports(path)
        if module.startswith("tests.")
        and any(part.startswith("test_") for part in module.split("."))
    ] == []


def test_no_product_code_knows_that_it_is_tested() -> None:
    pattern = re.compile(
        r"\b(pytest|unittest|is_test\w*|testing|test_mode|simulat\w*|sandbox|mock\w*)\b",
        re.IGNORECASE,
    )
    found = [
        f"{name(path)}:{line} {text}"
        for path in PRODUCT
        for text, line in [*texts(path), *identifiers(path), *((one, 0) for one in imports(path))]
        if pattern.search(text.replace(".", " "))
    ]
    assert found == []


# docs/glossary.md: do not say transaction for a payment, webhook for a callback, or gateway for
# Daraja. The files of a word's own meaning may use it.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "webhook": (
        "domain/webhooks/",
        "domain/adapters/webhooks/",
        "domain/adapters/postgres/webhook_",
        "domain/adapters/postgres/tables.py",
        "domain/adapters/observability.py",
        "domain/adapters/settings/",
        "gateway/webhooks/",
        "gateway/openapi/asyncapi.py",
        "gateway/openapi/examples.py",
        "gateway/routes.py",
        "gateway/ingress.py",
        "workers/webhooks/",
        "workers/commands/webhooks.py",
        "workers/commands/running.py",
        "workers/main.py",
    ),
    "hook": (),
    "transaction": ("domain/adapters/postgres/", "alembic/"),
    "txn": (),
    "gateway": (),
    "msisdn": (),
}


def test_no_identifier_uses_a_word_that_means_something_else_here() -> None:
    found = [
        f"{name(path)}:{line} {identifier}"
        for path in PRODUCT
        for identifier, line in identifiers(path)
        for word in re.findall(r"[a-z]+|[A-Z]+[a-z]*", identifier)
        if not name(path).startswith(FORBIDDEN.get(word.lower(), ("",)))
    ]
    assert found == []


def test_no_function_only_handles_or_processes() -> None:
    """The verb of a function must say what it does."""
    found = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in PRODUCT
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and re.match(r"_*(handle|process)(_|$)", node.name)
    ]
    assert found == []


@pytest.mark.parametrize("path", [*PRODUCT, *(ROOT / "tests").rglob("*.py")], ids=name)
def test_no_file_is_longer_than_the_limit(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert (ast.get_docstring(tree(path)) or "").strip(), f"{name(path)} has no docstring"


def test_alembics_folder_is_no_package() -> None:
    """A package `alembic` would hide the library of the same name."""
    assert list((ROOT / "alembic").rglob("__init__.py")) == []


def test_the_code_needs_the_newest_revision_of_the_schema() -> None:
    revisions: dict[str, str | None] = {}
    for path in sorted((ROOT / "alembic" / "versions").glob("*.py")):
        text = path.read_text()
        found = re.search(r'^revision\b.*?= "(\w+)"', text, re.MULTILINE)
        before = re.search(r'^down_revision\b.*?= (?:"(\w+)"|None)', text, re.MULTILINE)
        assert found, name(path)
        assert before, name(path)
        assert path.name.startswith(found[1])
        revisions[found[1]] = before[1]
    assert set(revisions) - set(revisions.values()) == {REVISION}


def test_the_stages_document_is_the_table_in_the_code() -> None:
    """After a change of the table, `python -m tests.diagram` writes the document again."""
    assert diagram.PATH.read_text() == diagram.document()


def test_the_document_of_the_packages_has_the_imports_of_the_code() -> None:
    """After a change of the imports, `python -m tests.packages_diagram` writes it again."""
    assert set(packages_diagram.package_imports()) == set(packages_diagram.PACKAGES)
    assert packages_diagram.PATH.read_text() == packages_diagram.document()


def test_each_line_of_the_procfile_is_one_simple_command() -> None:
    """The process itself must get the signals, so there is no assignment, pipe, list or shell."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["release", "web", "callbacks", "worker"]
    for line in lines:
        command = line.split(": ", 1)[1]
        assert not re.search(r"[|&;<>$`(){}\"'\\=*]", command), line
        assert command.split()[0] in {"python", "alembic"}


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_a_test_states_a_behaviour_by_its_name_or_docstring(path: Path) -> None:
    found = [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
        and len(node.name.split("_")) < 1 + 3
    ]
    assert found == []
