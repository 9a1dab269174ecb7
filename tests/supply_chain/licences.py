"""The licences of the locked packages, as pip-licenses reads them from the installed packages.

It needs no network.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable

from tests.supply_chain.policy import Licences


def installed_licences() -> dict[str, str]:
    """The licence of each installed package, by the package's name in the lock file."""
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed"]
    command += ["--with-system"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {re.sub(r"[-_.]+", "-", entry["Name"]).lower(): entry["License"] for entry in listed}


def check_licences(
    locked: Iterable[str], found: dict[str, str], licences: Licences
) -> tuple[list[str], str]:
    """A line for each licence that is not agreed to, and a summary with the unchecked packages.

    pip-licenses could compare by itself, but its `--allow-only` accepts a package if *one* of its
    licences is allowed.
    """
    judged = sorted(set(locked) & found.keys())
    red = [
        f"{package}: its licence {found[package]!r} is not agreed to"
        for package in judged
        if found[package] not in licences.allowed
        and licences.packages.get(package) != found[package]
    ]
    summary = f"licences: {len(red)} red, {len(judged)} packages"
    if missing := sorted(set(locked) - found.keys()):
        summary += f"; not installed here: {', '.join(missing)}"
    if unlocked := sorted(found.keys() - set(locked)):
        summary += f"; installed here but not locked, so not judged: {', '.join(unlocked)}"
    return red, summary
