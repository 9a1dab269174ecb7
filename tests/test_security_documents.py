"""The threat model and SECURITY.md are complete.

Each threat has a control and a test, and each secret has instructions for a change.
"""

from __future__ import annotations

import re

import pytest

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.web import IngressSettings
from domain.adapters.settings.worker import WorkerSettings
from tests.paths import ROOT

THREAT_MODEL = ROOT / "docs" / "threat-model.md"
BOUNDARIES = (
    "Client → ingress",
    "Daraja → callback receiver",
    "Worker → Daraja",
    "Worker → webhook endpoints",
    "Processes → Postgres",
    "Processes → Redis",
    "Operator",
    "Supply chain",
)
COLUMNS = ["id", "threat", "STRIDE", "OWASP", "control", "test"]
AWAITED = "(to be named)"


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", THREAT_MODEL.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows(boundary: str) -> list[list[str]]:
    lines = [line for line in sections()[boundary].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == COLUMNS
    return cells[2:]


LINES = [row for boundary in BOUNDARIES for row in rows(boundary)]


def faults(row: list[str]) -> list[str]:
    if len(row) != len(COLUMNS) or not all(row):
        return ["a cell is empty or missing"]
    _, _, stride, owasp, control, test = row
    found = []
    if not re.fullmatch(r"[STRIDE]", stride):
        found.append("not a letter of STRIDE")
    if not re.fullmatch(r"-|API([1-9]|10)", owasp):
        found.append("not one of the OWASP ten")
    named = re.findall(r"`([\w./-]+\.\w+|Makefile|\.gitignore)(?:::(\w+))?`", control)
    if not any((ROOT / path).is_file() for path, _ in named):
        found.append("no control in the code")
    for path, symbol in named:
        text = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
        definition = rf"^\s*(?:async )?(?:def |class )?{symbol}\b"
        if not text or (symbol and not re.search(definition, text, re.MULTILINE)):
            found.append(f"{path} {symbol} does not exist")
    tests = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", test)
    if not tests:
        found.append("no test")
    if ", ".join(f"`{path}::{name}`" for path, name in tests) != test:
        found.append("the cell of the tests has other text than tests")
    return found


@pytest.mark.parametrize("row", LINES, ids=lambda row: row[0])
def test_every_threat_has_a_control_and_a_test(row: list[str]) -> None:
    """Each row is complete. test_documents.py checks that the named tests exist."""
    assert faults(row) == []


def test_no_two_threats_have_the_same_id() -> None:
    names = [row[0] for row in LINES]
    assert len(set(names)) == len(names)


def test_every_letter_of_stride_and_every_risk_of_the_owasp_ten_occurs() -> None:
    assert {row[2] for row in LINES} == set("STRIDE")
    assert {row[3] for row in LINES} - {"-"} == {f"API{number}" for number in range(1, 11)}


def test_every_boundary_has_a_table_and_awaited_lines_have_their_own_section() -> None:
    """The section "Awaited" is optional, because it goes when its last line goes."""
    expected = {"What is worth attacking", "What is assumed", *BOUNDARIES, "Accepted risks"}
    assert set(sections()) - {"Awaited"} == expected
    assert [
        heading for heading, text in sections().items() if AWAITED in text and heading != "Awaited"
    ] == []


def test_security_says_how_each_secret_is_changed() -> None:
    """The section on changes names every setting that is a secret or contains one."""
    section = (ROOT / "SECURITY.md").read_text().split("## Changing secrets")[1].split("\n## ")[0]
    settings = {
        name.upper()
        for kind in (IngressSettings, CallbackSettings, WorkerSettings)
        for name in kind.model_fields
        if re.search(
            r"secret|password|passkey|consumer_key|certificate|database_url|redis_url|jwks_url",
            name,
        )
    }
    assert len(settings) > 8
    assert {name for name in settings if f"`{name}`" not in section} == set()
