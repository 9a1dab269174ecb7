"""The files of the repository, for the tests of its layout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted(
    path
    for package in ("domain", "gateway", "workers", "alembic")
    for path in (ROOT / package).rglob("*.py")
)

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
PURE = sorted([*(ROOT / "domain").glob("*.py"), *(ROOT / "domain" / "lifecycle").glob("*.py")])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))
