"""Where the repository is, and how tests name its files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def name(path: Path) -> str:
    """The path from the root of the repository."""
    return str(path.relative_to(ROOT))
