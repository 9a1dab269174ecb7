"""docs/supply-chain.toml: the licences that we accept, and the exceptions. Each has a reason and an end."""

from __future__ import annotations

import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Self

from packaging.utils import canonicalize_name
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parent.parent.parent
POLICY = ROOT / "docs" / "supply-chain.toml"
# Whoever let something pass looks at it again within a year.
EXCEPTION_DAYS_MAX = 366


class PolicyUnreadable(Exception):
    """The policy is not what it should be; the message has a line for every fault."""


def _canonical(name: str) -> str:
    if name != canonicalize_name(name):
        raise ValueError(f"is spelt {canonicalize_name(name)!r} in the lock")
    return name


Package = Annotated[str, Field(min_length=1), AfterValidator(_canonical)]
Text = Annotated[str, Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Exception(_Table):
    """Something that would be red, let pass from `since` to `until`, both included."""

    package: Package
    reason: Annotated[str, Field(min_length=20)]
    since: date
    until: date

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if not self.since <= self.until <= self.since + timedelta(days=EXCEPTION_DAYS_MAX):
            raise ValueError(f"until must be 0 to {EXCEPTION_DAYS_MAX} days after since")
        return self

    def fault(self, today: date) -> str | None:
        """Why it counts no more, or not yet."""
        if today > self.until:
            return f"ended on {self.until}: look at it again"
        if today < self.since:
            return f"begins on {self.since}, which is to come"
        return None


class VulnerabilityException(_Exception):
    """`id` is any of the names of the vulnerability: CVE, GHSA or PYSEC."""

    id: Text


class LicenceException(_Exception):
    """`licence` is the licence as the package tells it, letter by letter."""

    licence: Text


class Licences(_Table):
    """`allowed` may be anywhere, `development` only in what is not deployed: SPDX identifiers.

    `names` has the SPDX expression for what publishers write who do not use SPDX's own names.
    """

    allowed: Annotated[list[Text], Field(min_length=1)]
    development: list[Text]
    names: dict[str, Text]


class Policy(_Table):
    """The whole file."""

    licences: Licences
    vulnerability_exceptions: list[VulnerabilityException] = []
    licence_exceptions: list[LicenceException] = []

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = [(exception.package, exception.id) for exception in self.vulnerability_exceptions]
        keys += [(exception.package, exception.licence) for exception in self.licence_exceptions]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"excepted twice: {sorted(twice)}")
        return self


def read_policy(path: Path = POLICY) -> Policy:
    """The file's content. Raises PolicyUnreadable, which names every fault."""
    try:
        return Policy.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise PolicyUnreadable(f"{path.name}: {error}") from None
        faults = error.errors(include_url=False, include_input=False)
        lines = (f"{path.name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise PolicyUnreadable("\n".join(lines)) from None
