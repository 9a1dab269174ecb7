"""The licences of what the lock names, as the installed packages tell them (read by pip-licenses).

What is deployed may have a licence on the list `allowed`; what only development needs, also one on `development`.
What is deployed is what the installed metadata says that pyproject's dependencies need, however indirectly. A licence
that is not understood is red, like one that is not on the list.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, Licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply_chain.policy import LicenceException, Licences, Policy

_LICENSING: Any = Licensing()  # type: ignore[no-untyped-call]


def deployed(pyproject: Path) -> set[str]:
    """The canonical names of all that the service needs to run here, by the metadata of what is installed."""
    wanted = [Requirement(text) for text in tomllib.loads(pyproject.read_text())["project"]["dependencies"]]
    found: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            key = canonicalize_name(requirement.name), extra
            if key not in found:
                found.add(key)
                wanted += _needed_by(requirement.name, extra)
    return {name for name, _ in found}


def _needed_by(name: str, extra: str) -> list[Requirement]:
    try:
        needed = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return []  # it is for another system; and if it is not, it is missed among the licences
    return [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]


def installed() -> dict[str, str]:
    """What each installed package says its licence is, by canonical name."""
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed", "--with-system"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {canonicalize_name(entry["Name"]): entry["License"] for entry in listed}


def is_allowed(licence: str, allowed: set[str], names: dict[str, str]) -> bool:
    """Whether one may use what says `licence`, keeping to licences on the list. Several, by semicolons, all hold."""
    expressions = [names.get(part.strip(), part.strip()) for part in licence.split(";")]
    if not all(expressions):
        return False
    try:
        parsed = _LICENSING.parse(" AND ".join(f"({expression})" for expression in expressions))
    except (ExpressionError, ValueError, LookupError):  # the last for what the library does not expect
        return False
    # By its whole text: a licence with an exception to it is not the licence alone.
    values = {each: _LICENSING.TRUE if str(each) in allowed else _LICENSING.FALSE for each in parsed.symbols}
    return bool(parsed.subs(values, simplify=True) == _LICENSING.TRUE)


@dataclass(slots=True)
class Inspection:
    """What came of it. `red` has a line for each reason to stop."""

    total: int
    deployed: int
    red: list[str] = field(default_factory=list)
    excepted: int = 0
    not_installed: list[str] = field(default_factory=list)
    not_locked: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        packages = f"{self.total} packages, {self.deployed} of them deployed"
        line = f"licences: {len(self.red)} red, {self.excepted} excepted, {packages}"
        named = (
            ("not installed here", self.not_installed),
            ("here without being locked, so not judged", self.not_locked),
        )
        notes = [f"{what}: {', '.join(names)}" for what, names in named if names]
        return f"{line} ({'; '.join(notes)})" if notes else line


def inspect(
    locked: set[str], licences: dict[str, str], deployed_names: set[str], policy: Policy, *, today: date
) -> Inspection:
    """Judges the licence of each package of the lock."""
    result = Inspection(len(locked & licences.keys()), len(locked & licences.keys() & deployed_names))
    result.not_installed = sorted(locked - licences.keys())
    result.not_locked = sorted(licences.keys() - locked)
    used: set[LicenceException] = set()
    for package in sorted(locked & licences.keys()):
        licence = licences[package]
        if is_allowed(licence, _allowed(policy.licences, package in deployed_names), policy.licences.names):
            continue
        for exception in policy.licence_exceptions:
            if (exception.package, exception.licence) == (package, licence) and exception.fault(today) is None:
                used.add(exception)
                result.excepted += 1
                break
        else:
            where = "what is deployed" if package in deployed_names else "development"
            result.red.append(f"{package}: its licence {licence!r} is not on the list for {where}")
    for exception in policy.licence_exceptions:
        title = f"the exception of {exception.licence!r} for {exception.package}"
        if fault := exception.fault(today):
            result.red.append(f"{title} {fault}")
        elif exception not in used and exception.package not in result.not_installed:
            result.red.append(f"{title} is not needed: take it out")
    return result


def _allowed(licences: Licences, is_deployed: bool) -> set[str]:
    return {*licences.allowed, *(() if is_deployed else licences.development)}
