"""Checks provider_failures.md: each failure has a row with a test, and each named test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.simulator.catalogue import CATALOGUE

_HERE = Path(__file__).parent
_ROWS_OF_THE_CONTRACT = 24  # daraja.md §10
_TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def _rows() -> dict[int, list[str]]:
    """The table's cells, by the row's number."""
    lines = (_HERE / "provider_failures.md").read_text().splitlines()
    cells = (
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if re.match(r"\| \d", line)
    )
    return {int(number): rest for number, *rest in cells}


def test_every_failure_of_the_contract_has_a_row_with_a_test() -> None:
    """Each row of the table in daraja.md is in provider_failures.md once."""
    rows = _rows()
    assert list(rows) == list(range(1, _ROWS_OF_THE_CONTRACT + 1))
    assert [number for number, cells in rows.items() if not _TEST.search(cells[-1])] == []


def test_every_test_that_the_table_names_exists() -> None:
    """A test that was renamed or removed fails here."""
    named = {(file, name) for cells in _rows().values() for file, name in _TEST.findall(cells[-1])}
    missing = {f"{file}::{name}" for file, name in named if name not in _tests_in(_HERE / file)}
    assert missing == set()


def test_the_simulator_has_every_scenario_that_the_table_names() -> None:
    named = {name for cells in _rows().values() for name in re.findall(r"`(\w+)`", cells[1])}
    assert named - set(CATALOGUE) == set()


def _tests_in(file: Path) -> set[str]:
    if not file.exists():
        return set()
    nodes = ast.parse(file.read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
