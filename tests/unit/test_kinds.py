"""Only the pages of the kinds define how kinds differ. Other code reads a property of a kind."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from domain.adapters.daraja.pages import PAGES
from domain.adapters.settings.common import ExpirySettings
from domain.kinds import RULES, Kind, KindRules
from domain.stages import Step
from domain.values import PaymentRequest
from gateway.schemas import SCHEMAS
from tests.paths import ROOT

PRODUCT = [
    path
    for package in ("domain", "gateway", "workers")
    for path in sorted((ROOT / package).rglob("*.py"))
]

# Only these folders of the product may name a kind. Migrations name kinds in SQL.
PAGES_OF_KINDS = ("domain/kinds/", "domain/adapters/daraja/", "gateway/schemas/")
_NAMES_A_KIND = re.compile(r"\bKind\.[A-Z]")
_TEXT_NAMES_A_KIND = re.compile("|".join(f"['\"]{kind}['\"]" for kind in Kind))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_only_the_pages_of_kinds_name_a_kind() -> None:
    found = [
        f"{_name(path)}:{number}: {line.strip()}"
        for path in PRODUCT
        if not _name(path).startswith(PAGES_OF_KINDS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _NAMES_A_KIND.search(line) or _TEXT_NAMES_A_KIND.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("rule", [field.name for field in fields(KindRules)])
def test_each_property_of_a_kind_is_read_somewhere(rule: str) -> None:
    """A property that no code reads could be wrong without effect."""
    readers = [
        _name(path)
        for path in PRODUCT
        if path.parent.name != "kinds" and re.search(rf"\.{rule}\b", path.read_text())
    ]
    inside = re.search(
        rf"self\.{rule}\b", (ROOT / "domain/kinds/rules.py").read_text().split("@property")[-1]
    )
    assert readers or inside, rule


def test_every_kind_has_its_three_pages() -> None:
    assert set(RULES) == set(PAGES) == set(SCHEMAS) == set(Kind)


def test_a_kind_names_only_fields_of_requests() -> None:
    request_fields = {field.name for field in fields(PaymentRequest)}
    for rules in RULES.values():
        assert {*rules.parties, *(name for name, _ in rules.texts)} <= request_fields


def test_a_kind_has_a_reference_only_if_its_requests_have_one() -> None:
    for rules in RULES.values():
        assert (rules.reference is not None) is ("account_reference" in dict(rules.texts))


def test_each_kind_s_expiry_is_a_setting() -> None:
    assert {rules.expiry_setting for rules in RULES.values()} == set(ExpirySettings.model_fields)


def test_no_two_kinds_share_an_operation_or_an_address() -> None:
    """Otherwise we read a result as another kind's, and a hold of one kind stops the other kind."""
    for names in (
        [rules.operation for rules in RULES.values()],
        [schema.path for schema in SCHEMAS.values()],
        [
            name
            for rules in RULES.values()
            for name in (rules.result_operation, rules.timeout_operation)
            if name
        ],
    ):
        assert len(set(names)) == len(names)


def test_a_kind_that_can_be_sent_again_is_inquired_about_by_its_own_id() -> None:
    """Two "not found" answers permit a resend, so they must be about the id of that resend."""
    for rules in RULES.values():
        if rules.can_be_sent_again:
            assert rules.inquiry_id_kind is None
            assert rules.inquiry_step is Step.STATUS
