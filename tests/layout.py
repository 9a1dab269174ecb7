"""The files of the repository, for the tests of its layout."""

from __future__ import annotations

from tests.paths import ROOT

PRODUCT = sorted(
    path
    for package in ("domain", "gateway", "workers", "alembic")
    for path in (ROOT / package).rglob("*.py")
)

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PURE = sorted(
    path
    for package in ("domain", "domain/lifecycle", "domain/story", "domain/explanations")
    for path in (ROOT / package).glob("*.py")
)
