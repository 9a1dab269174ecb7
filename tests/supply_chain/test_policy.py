"""docs/supply-chain.toml is read strictly: what is let pass is said in full, or is red."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.supply_chain.policy import PolicyUnreadable, read_policy

LICENCES = '[licences]\nallowed = ["MIT"]\ndevelopment = []\nnames = {}\n'
EXCEPTION = {
    "id": '"CVE-1"',
    "package": '"some-package"',
    "reason": '"a reason of some length"',
    "since": "2026-01-01",
    "until": "2026-12-31",
}


def text(**changes: str | None) -> str:
    lines = [f"{name} = {value}" for name, value in {**EXCEPTION, **changes}.items() if value is not None]
    return LICENCES + "\n".join(["[[vulnerability_exceptions]]", *lines, ""])


def read(path: Path, content: str) -> None:
    path.write_text(content)
    read_policy(path)


def test_the_policy_of_this_repository_is_read() -> None:
    assert read_policy().licences.allowed


def test_an_exception_with_all_it_needs_is_read(tmp_path: Path) -> None:
    read(tmp_path / "policy.toml", text())


MALFORMED = {
    "no toml": ("[", "policy.toml"),
    "nothing": ("", "licences"),
    "no licences": (LICENCES.replace('"MIT"', ""), "licences.allowed"),
    "a misspelt table": (LICENCES + "[[vulnerability_exception]]\n", "vulnerability_exception:"),
    "no id": (text(id=None), "0.id"),
    "an empty id": (text(id='""'), "0.id"),
    "no package": (text(package=None), "0.package"),
    "a package in another spelling": (text(package='"Some_Package"'), "'some-package'"),
    "no reason": (text(reason=None), "0.reason"),
    "a reason that is none": (text(reason='"false positive"'), "0.reason"),
    "no beginning": (text(since=None), "0.since"),
    "no end": (text(until=None), "0.until"),
    "an end that is text": (text(until='"2026-12-31"'), "0.until"),
    "an end before the beginning": (text(until="2025-12-31"), "days after since"),
    "an end that is too far away": (text(until="2027-01-03"), "days after since"),
    "a misspelt field": (text(expires="2026-12-31"), "0.expires"),
    "the same twice": (text() + text().removeprefix(LICENCES), "excepted twice"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_red_and_named(tmp_path: Path, case: str) -> None:
    content, named = MALFORMED[case]
    with pytest.raises(PolicyUnreadable, match=r"policy\.toml") as refused:
        read(tmp_path / "policy.toml", content)
    assert named in str(refused.value)


def test_every_fault_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnreadable) as refused:
        read(tmp_path / "policy.toml", text(id=None, reason='"short"', until='"never"'))
    assert len(str(refused.value).splitlines()) == 3


def test_a_policy_that_is_not_there_is_red(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnreadable):
        read_policy(tmp_path / "policy.toml")
