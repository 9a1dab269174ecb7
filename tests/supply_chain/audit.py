"""The audit: what is known of the versions in the lock, and whether it was let pass.

Every package of the lock is asked about, also those for other systems than this. Red: a vulnerability that is not
excepted, and an exception that is over or no longer needed. A package of which the index told nothing is named as
not audited. An empty list counts only from an index that was seen to know anything at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version
from pip_audit._audit import Auditor
from pip_audit._dependency_source import DependencySource
from pip_audit._fix import ResolvedFixVersion
from pip_audit._service.interface import Dependency, ResolvedDependency, SkippedDependency, VulnerabilityResult
from pip_requirements_parser import RequirementsFile

from tests.supply_chain.index import NOT_IN_TIME, UNREACHABLE, Index
from tests.supply_chain.policy import VulnerabilityException


class Lock(DependencySource):
    """The versions that a lock file names, whatever system they are for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def versions(self) -> dict[str, Version]:
        """By canonical name. Raises ValueError for a line that does not name exactly one version."""
        file = RequirementsFile.from_file(str(self._path))
        found: dict[str, Version] = {}
        for requirement in file.requirements:
            if requirement.name is None or not requirement.is_pinned:
                raise ValueError(f"{self._path.name}: not one version: {requirement.line}")
            found[canonicalize_name(requirement.name)] = Version(requirement.get_pinned_version)
        if file.invalid_lines or not found:
            raise ValueError(f"{self._path.name}: cannot be read as a lock")
        return found

    def collect(self) -> Iterator[Dependency]:
        for name, version in self.versions().items():
            yield ResolvedDependency(name, version)

    def fix(self, fix_version: ResolvedFixVersion) -> None:
        raise NotImplementedError("`make lock` writes the lock")


@dataclass(slots=True)
class Audit:
    """What came of it. `red` has a line for each reason to stop."""

    total: int
    red: list[str] = field(default_factory=list)
    findings: int = 0
    excepted: int = 0
    not_audited: dict[str, str] = field(default_factory=dict)  # package: why

    def summary(self) -> str:
        """One line."""
        findings = f"{self.findings} finding{'' if self.findings == 1 else 's'}"
        line = (
            f"audit: {findings}, {self.excepted} excepted, {len(self.not_audited)} of {self.total} packages not audited"
        )
        if not self.not_audited:
            return line
        by_reason: dict[str, list[str]] = {}
        for name, reason in sorted(self.not_audited.items()):
            by_reason.setdefault(reason, []).append(name)
        if len(self.not_audited) == self.total and len(by_reason) == 1:
            return f"{line} ({next(iter(by_reason))})"
        groups = (f"{reason}: {', '.join(names)}" for reason, names in by_reason.items())
        return f"{line} ({'; '.join(groups)})"


def audit(lock: Lock, index: Index, exceptions: list[VulnerabilityException], *, today: date) -> Audit:
    """Asks the index about the lock, and judges what it says."""
    versions = lock.versions()
    result = Audit(total=len(versions))
    met: set[tuple[str, str]] = set()
    told: set[str] = set()
    ignorance = index.ignorance()
    if ignorance in {UNREACHABLE, NOT_IN_TIME}:
        result.not_audited = dict.fromkeys(versions, ignorance)
    else:
        answers = [*Auditor(index).audit(lock)]
        if any(vulnerabilities for _, vulnerabilities in answers):
            ignorance = None
        for spec, vulnerabilities in answers:
            if isinstance(spec, SkippedDependency):
                result.not_audited[spec.name] = spec.skip_reason
            elif ignorance and not vulnerabilities:
                result.not_audited[spec.name] = ignorance
            else:
                told.add(spec.name)
            for vulnerability in _once(vulnerabilities):
                excepting = _exception(exceptions, spec.name, vulnerability, today)
                if excepting is None:
                    result.findings += 1
                    result.red.append(_line(spec.name, versions[spec.name], vulnerability))
                else:
                    met.add((excepting.package, excepting.id))
    result.excepted = len(met)
    result.red.sort()
    for exception in exceptions:
        title = f"the exception of {exception.id} for {exception.package}"
        if fault := exception.fault(today):
            result.red.append(f"{title} {fault}")
        elif exception.package not in versions:
            result.red.append(f"{title} is for a package that the lock does not name: take it out")
        elif exception.package in told and (exception.package, exception.id) not in met:
            result.red.append(f"{title} is for a vulnerability that it does not have: take it out")
    return result


def _once(vulnerabilities: list[VulnerabilityResult]) -> list[VulnerabilityResult]:
    """Without those that are another by another name: pip-audit leaves some of them."""
    found: list[VulnerabilityResult] = []
    for vulnerability in vulnerabilities:
        if not any(vulnerability.alias_of(other) for other in found):
            found.append(vulnerability)
    return found


def _exception(
    exceptions: list[VulnerabilityException], package: str, vulnerability: VulnerabilityResult, today: date
) -> VulnerabilityException | None:
    for exception in exceptions:
        is_meant = exception.package == package and vulnerability.has_any_id({exception.id})
        if is_meant and exception.fault(today) is None:
            return exception
    return None


def _line(package: str, version: Version, vulnerability: VulnerabilityResult) -> str:
    names = " ".join([vulnerability.id, *sorted(vulnerability.aliases)])
    remedy = ", ".join(str(version) for version in vulnerability.fix_versions) or "none known"
    # Printable: it is the index's text, and goes to a terminal.
    text = "".join(letter if letter.isprintable() else " " for letter in vulnerability.description)[:200]
    return f"{package} {version}: {names} (mended in: {remedy}): {text}"
