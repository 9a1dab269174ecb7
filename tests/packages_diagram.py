"""A picture of the packages and their imports, made from the code.

`python -m tests.packages_diagram` writes docs/architecture/packages.md. It reads the imports of
every module of the product, so the picture cannot differ from the code.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.paths import ROOT

PATH = ROOT / "docs" / "architecture" / "packages.md"

# Each package, and what its modules do.
PACKAGES = {
    "gateway": "the web process and the callback receiver: start, routes, handlers",
    "gateway.auth": "authentication: tokens and their keys",
    "gateway.console": "the pages for operators at /console",
    "gateway.edge": "the first checks of each connection and request: limits, HTTP, problems",
    "gateway.openapi": "/openapi.json and /asyncapi.json",
    "gateway.schemas": "the bodies and parameters that callers send, one module for each kind",
    "gateway.webhooks": "the routes of webhook endpoints",
    "workers": "the worker process and the sweeper",
    "workers.commands": "the operator's commands",
    "workers.webhooks": "webhooks: finds what is due, sends it, records it",
    "workers.doctor": "checks of the settings and of every server that the service needs",
    "workers.backup": "saves the database, and restores it so that it pays nothing again",
    "domain": "the pure core: payment, stages, rules, errors, policy",
    "domain.kinds": "the properties of each kind of payment",
    "domain.lifecycle": "accept, submit, inquire, record, reconcile, resolve, announce",
    "domain.story": "tells the story of one payment, for operators",
    "domain.explanations": "what failures and result codes mean, in English and Swahili",
    "domain.webhooks": "webhooks: endpoints, retries, signatures, the addresses that may be called",
    "domain.adapters": "shared by all adapters: batching, masking, logs and metrics, JSON",
    "domain.adapters.daraja": "requests to Daraja, and its answers and callbacks",
    "domain.adapters.postgres": "tables and statements",
    "domain.adapters.redis": "queue, rates, copies of answers, publishing",
    "domain.adapters.settings": "the environment",
    "domain.adapters.webhooks": "requests to endpoints, and the sealing of their keys",
}
# Almost all packages import these, and the arrows to these would hide all other arrows.
_NOT_DRAWN = ("domain", "domain.kinds", "domain.adapters")
_GROUPS = ("gateway", "workers", "domain")

_TEXT = """# Packages and their imports

`python -m tests.packages_diagram` writes this page from the imports in the code, and a test
compares them. An arrow leads from a package to a package that it imports. Arrows to {not_drawn}
are left out of the picture, because almost every package imports these. The table has them.

```mermaid
flowchart TD
{nodes}
{edges}
```

| package | has | imports |
|---|---|---|
{rows}

`gateway` and `workers` never import each other. The three adapters that speak to the outside
(Daraja, Postgres, Redis) do not import each other. `make check` enforces both (import-linter, in
[pyproject.toml](../../pyproject.toml)).
"""


def document() -> str:
    """The whole of packages.md."""
    imports = package_imports()
    return _TEXT.format(
        not_drawn=", ".join(f"`{name}`" for name in _NOT_DRAWN),
        nodes="\n".join(_nodes()),
        edges="\n".join(_edges(imports)),
        rows="\n".join(_rows(imports)),
    )


def package_imports() -> Mapping[str, set[str]]:
    """The packages of ours that each package imports."""
    imports: dict[str, set[str]] = defaultdict(set)
    for group in _GROUPS:
        for path in sorted((ROOT / group).rglob("*.py")):
            package = ".".join(path.parent.relative_to(ROOT).parts)
            imports[package] |= {
                _package_of(name)
                for name in _imported_names(path)
                if name.split(".")[0] in _GROUPS and _package_of(name) != package
            }
    return imports


def _imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _package_of(name: str) -> str:
    """The innermost package in the dotted name of a module or of a name in a module."""
    parts = name.split(".")
    lengths = range(len(parts), 0, -1)
    return next(".".join(parts[:n]) for n in lengths if ROOT.joinpath(*parts[:n]).is_dir())


def _nodes() -> Iterator[str]:
    for group in _GROUPS:
        yield f'    subgraph {group}_group ["{group}/"]'
        for name in PACKAGES:
            if name.split(".")[0] == group and name not in _NOT_DRAWN:
                yield f"        {_node(name)}[{name}]"
        yield "    end"


def _edges(imports: Mapping[str, set[str]]) -> Iterator[str]:
    for name in PACKAGES:
        for imported in sorted(imports[name]):
            if not {name, imported} & set(_NOT_DRAWN):
                yield f"    {_node(name)} --> {_node(imported)}"


def _node(name: str) -> str:
    return name.replace(".", "_")


def _rows(imports: Mapping[str, set[str]]) -> Iterator[str]:
    for name, has in PACKAGES.items():
        imported = ", ".join(f"`{each}`" for each in sorted(imports[name]))
        yield f"| `{name}` | {has} | {imported} |"


if __name__ == "__main__":
    PATH.write_text(document())
