"""The known vulnerabilities of the locked packages, as pip-audit reports them.

pip-audit says "no known vulnerabilities" even if it got no data. This module counts and names a
package without data as *not audited*. An empty report counts only if the vulnerability service also
reports a famous vulnerability.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.supply_chain.policy import VulnerabilityException

# A package that is not in the lock file, in a version whose vulnerabilities every service reports.
KNOWN_VULNERABLE = "jinja2", "2.10"

_ANSWER_SECONDS = 10
_ALL_SECONDS = 120.0
# The last line of pip-audit's errors if the network or the service failed. Any other failure is
# pip-audit's own.
_SERVICE_FAILED = re.compile(
    r"requests\.exceptions\.|pip_audit\._service\.|your network may be blocking"
)


@dataclass(slots=True)
class Audit:
    """The judged report of pip-audit. `red` has a line for each reason to stop."""

    total: int
    red: list[str] = field(default_factory=list)
    findings: int = 0
    excepted: int = 0
    not_audited: dict[str, str] = field(default_factory=dict)  # package: reason

    def summary(self) -> str:
        """The result as one line."""
        counts = f"{self.findings} findings, {self.excepted} excepted"
        line = f"audit: {counts}, {len(self.not_audited)} of {self.total} packages not audited"
        if len(self.not_audited) == self.total:
            return f"{line} ({'; '.join(sorted(set(self.not_audited.values())))})"
        return f"{line} ({', '.join(sorted(self.not_audited))})" if self.not_audited else line


class ServiceFailed(Exception):
    """pip-audit got no data. The message says why."""


def audit(
    versions: dict[str, str],
    exceptions: Sequence[VulnerabilityException],
    today: date,
    *,
    seconds: float = _ALL_SECONDS,
) -> Audit:
    """Asks pip-audit about `versions`, and judges its report.

    Raises RuntimeError if pip-audit does not work.
    """
    try:
        reported = _report({**versions, KNOWN_VULNERABLE[0]: KNOWN_VULNERABLE[1]}, seconds)
    except ServiceFailed as error:
        reported = {package: {"skip_reason": str(error)} for package in versions}
    return judge(versions, reported, exceptions, today)


def judge(
    versions: dict[str, str],
    reported: dict[str, Any],
    exceptions: Sequence[VulnerabilityException],
    today: date,
) -> Audit:
    """Judges a report of pip-audit, which has an entry for each package."""
    result = Audit(len(versions))
    is_informed = any(entry.get("vulns") for entry in reported.values())
    met: set[VulnerabilityException] = set()
    for package, version in sorted(versions.items()):
        entry = reported[package]
        if "skip_reason" in entry:
            result.not_audited[package] = entry["skip_reason"]
        elif not is_informed:
            result.not_audited[package] = "the service does not report even a famous vulnerability"
        for vulnerability in entry.get("vulns", []):
            ids = {vulnerability["id"], *vulnerability["aliases"]}
            excepting = {each for each in exceptions if each.package == package and each.id in ids}
            met |= excepting
            if any(each.since <= today <= each.until for each in excepting):
                result.excepted += 1
            else:
                result.findings += 1
                result.red.append(_line(package, version, vulnerability))
    for each in exceptions:
        title = f"the exception of {each.id} for {each.package}"
        if not each.since <= today <= each.until:
            result.red.append(f"{title} holds from {each.since} to {each.until}: look at it again")
        elif each not in met and each.package not in result.not_audited:
            result.red.append(f"{title} is not needed: remove it")
    return result


def _report(versions: dict[str, str], seconds: float) -> dict[str, Any]:
    """pip-audit's report, by package.

    pip and its cache are not used, and no marker hides a package of the lock file.
    """
    with TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text("".join(f"{package}=={version}\n" for package, version in versions.items()))
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
        command += ["--format=json", "--aliases=on", "--progress-spinner=off"]
        command += [f"--requirement={pins}", f"--cache-dir={folder}"]
        command += [f"--timeout={_ANSWER_SECONDS}"]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServiceFailed("the service did not answer in time") from None
    if not ended.stdout:
        last = (ended.stderr.splitlines() or [""])[-1]
        if not _SERVICE_FAILED.search(last):
            raise RuntimeError(f"pip-audit failed: {_printable(last)}")
        raise ServiceFailed("the service cannot be reached")
    reported = {entry["name"]: entry for entry in json.loads(ended.stdout)["dependencies"]}
    for entry in reported.values():
        if "skip_reason" in entry:
            entry["skip_reason"] = "the service does not know it"
    if reported.keys() != versions.keys():
        raise RuntimeError(
            f"pip-audit did not report on {sorted(versions.keys() ^ reported.keys())}"
        )
    return reported


def _line(package: str, version: str, vulnerability: dict[str, Any]) -> str:
    names = " ".join([vulnerability["id"], *sorted(vulnerability["aliases"])])
    remedy = ", ".join(vulnerability["fix_versions"]) or "none known"
    description = _printable(vulnerability["description"])[:200]
    return f"{package} {version}: {names} (mended in: {remedy}): {description}"


def _printable(text: str) -> str:
    """The service's text, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
