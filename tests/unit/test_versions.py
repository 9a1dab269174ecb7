"""The versions of dependencies: bounds in pyproject.toml, locked and installed versions."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
from jose import backends
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply_chain.policy import ROOT, locked_versions

# The newest versions with known flaws that affect this service: no bound may permit them.
NEWEST_VULNERABLE = {
    "aiohttp": {
        "3.8.5": "CVE-2023-47627: headers that two parsers read differently",
        "3.13.2": "CVE-2025-69223 to 69229: unlimited decompression, chunks of quadratic cost",
        "3.13.3": "CVE-2026-22815: unlimited trailers; CVE-2026-34525: two Host headers",
        "3.14.3": "CVE-2026-69243: a request smuggled behind a WebSocket upgrade",
    },
    "python-jose": {
        "3.3.0": "CVE-2024-33663: a public key used as a shared secret; CVE-2024-33664"
    },
    "redis": {"4.5.4": "CVE-2023-28859: an answer given to another request after a cancellation"},
    "cryptography": {
        "42.0.3": "CVE-2024-26130: a crash on a key that does not fit its certificate"
    },
}


def requirements() -> dict[str, Requirement]:
    """The requirements in pyproject.toml, of the service and of development, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {canonicalize_name(each.name): each for each in map(Requirement, texts)}


@pytest.mark.parametrize(
    ("name", "vulnerable"),
    [(name, text) for name, versions in NEWEST_VULNERABLE.items() for text in versions],
)
def test_no_bound_permits_a_version_known_to_be_vulnerable(name: str, vulnerable: str) -> None:
    assert not requirements()[name].specifier.contains(vulnerable, prereleases=True)


def test_the_lock_satisfies_every_bound() -> None:
    locked = locked_versions()
    outside = {
        name: locked.get(name, "not in the lock")
        for name, requirement in requirements().items()
        if name not in locked or not requirement.specifier.contains(locked[name])
    }
    assert outside == {}


def test_every_dependency_of_the_service_has_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {
        text: {each.operator for each in Requirement(text).specifier}
        for text in project["dependencies"]
    }
    assert {text for text, operators in bounds.items() if ">=" not in operators} == set()


def test_every_package_in_the_lock_has_a_hash_and_none_has_an_address() -> None:
    """pip runs with --require-hashes, and rejects a package whose hash is not in the lock."""
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked_versions())
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert "--require-hashes --no-deps -r requirements.lock" in (ROOT / "Makefile").read_text()


def test_the_installed_versions_are_the_locked_versions() -> None:
    locked = locked_versions()
    running = {name: version(name) for name in NEWEST_VULNERABLE}
    assert running == {name: locked[name] for name in NEWEST_VULNERABLE}


def test_jose_checks_signatures_with_cryptography_and_not_with_ecdsa() -> None:
    """docs/supply-chain.toml accepts the flaw of `ecdsa` for this reason."""
    used = {backends.ECKey, backends.RSAKey, backends.HMACKey}
    assert {key.__module__ for key in used} == {"jose.backends.cryptography_backend"}
