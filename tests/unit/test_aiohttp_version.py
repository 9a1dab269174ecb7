"""No process starts with an untested version of aiohttp."""

from __future__ import annotations

import re
import tomllib

import aiohttp
import pytest
from packaging.requirements import Requirement

from domain.adapters.aiohttp_version import TESTED_FIRST, TESTED_LAST, require_tested_aiohttp
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.settings.errors import SettingsError
from tests.supply_chain.policy import ROOT, locked_versions

FIRST, LAST = (".".join(map(str, release)) for release in (TESTED_FIRST, TESTED_LAST))
OTHERS = (
    "3.14.4",
    "3.14.6",
    "3.14.50",
    "3.15.0",
    "3.13.9",
    f"{LAST}rc1",
    f"{LAST}.post1",
    "3.14",
    "",
)


@pytest.mark.parametrize("version", OTHERS)
def test_a_version_outside_the_tested_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """The message is one line: the installed version, the tested range and the remedy."""
    monkeypatch.setattr(aiohttp, "__version__", version)
    with pytest.raises(
        SettingsError,
        match=rf"^cannot start; aiohttp {re.escape(version)} is .*{FIRST}.*requirements\.lock\)$",
    ):
        require_tested_aiohttp()


@pytest.mark.parametrize("version", [FIRST, LAST])
def test_both_ends_of_the_tested_range_are_accepted(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(aiohttp, "__version__", version)
    require_tested_aiohttp()


def test_pyproject_and_the_lock_have_the_tested_range() -> None:
    """The tests run with the version in the lock file, so the tested range ends there."""
    texts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [bounds] = [each.specifier for each in map(Requirement, texts) if each.name == "aiohttp"]
    assert {str(bound) for bound in bounds} == {f">={FIRST}", f"<={LAST}"}
    assert locked_versions()["aiohttp"] == LAST


async def test_no_request_goes_to_daraja_with_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our requests use private parts of aiohttp, which reads the answers."""
    monkeypatch.setattr(aiohttp, "__version__", "3.15.0")
    with pytest.raises(SettingsError, match=r"aiohttp 3\.15\.0"):
        DarajaSession()
