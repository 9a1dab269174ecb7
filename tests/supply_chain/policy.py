"""Reads docs/supply-chain.toml: the accepted licences, and exceptions with a reason and an end."""

from __future__ import annotations

import re
import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = ROOT / "requirements.lock"
POLICY = ROOT / "docs" / "supply-chain.toml"
# A person must look at an exception again within a year.
EXCEPTION_DAYS_MAX = 366


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class VulnerabilityException(_Table):
    """A vulnerability that is accepted from `since` to `until`, both included.

    `id` is its CVE, GHSA or PYSEC.
    """

    id: Annotated[str, Field(min_length=1)]
    package: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]  # as the lock spells it
    reason: Annotated[str, Field(min_length=20)]
    since: date
    until: date

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if not self.since <= self.until <= self.since + timedelta(days=EXCEPTION_DAYS_MAX):
            raise ValueError(f"until must be 0 to {EXCEPTION_DAYS_MAX} days after since")
        return self


class Licences(_Table):
    """The accepted texts, as pip-licenses prints them: for every package, or for one package."""

    allowed: Annotated[list[str], Field(min_length=1)]
    packages: dict[str, str] = {}


class Policy(_Table):
    """The whole file."""

    licences: Licences
    vulnerability_exceptions: list[VulnerabilityException] = []


def read_policy(path: Path = POLICY) -> Policy:
    """Reads the policy. Raises OSError, or ValueError with a line for each fault."""
    return Policy.model_validate(tomllib.loads(path.read_text()))


def locked_versions(path: Path = LOCK) -> dict[str, str]:
    """Every package of a lock file with its version, including those for other systems.

    Raises OSError or ValueError.
    """
    lines = [line for line in path.read_text().splitlines() if re.match(r"[^\s#]", line)]
    form = re.compile(r"([a-z0-9-]+)(?:\[[\w,-]+\])?==([\w.!+]+)(?: ; [^\\]+)?(?: \\)?")
    pinned = [form.fullmatch(line) for line in lines]
    if not lines or not all(pinned):
        raise ValueError(f"{path.name}: not a lock: a line names no package with one version")
    return {match[1]: match[2] for match in pinned if match}
