"""Every point exists, every mistake is an error, and no process can be stopped outside tests."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.layout import PRODUCT
from tests.paths import ROOT
from tests.proof.failpoints.arming import Arming, found, located, take_away
from tests.proof.failpoints.points import CHECKS, POINTS, FailpointError


@pytest.mark.parametrize("target", [point.target for point in POINTS.values()])
def test_every_point_is_the_boundary_of_a_function(target: str) -> None:
    """If product code moves a function, this test fails, and no other test waits in vain."""
    assert callable(located(target)[2])


@pytest.mark.parametrize("name", CHECKS)
def test_every_replacement_fits_what_it_replaces(name: str) -> None:
    """If the product spells a condition in another way, this test fails.

    Otherwise a scenario would run with the protection, and prove nothing.
    """
    owner, attribute, original = found(CHECKS[name].target)
    try:
        take_away(name)
        replacement = found(CHECKS[name].target)[2]
        assert type(replacement) is type(original)
        assert replacement is not original
    finally:
        setattr(owner, attribute, original)


def test_every_crash_point_of_the_design_has_a_point() -> None:
    """Each crash point of rules.md §23 has at least one failpoint."""
    assert {point.crash_point for point in POINTS.values()} == set(range(1, 13))


def test_product_code_knows_nothing_of_failpoints() -> None:
    """No product file and no line of the Procfile names tests or failpoints.

    No package contains them either.
    """
    for file in [*PRODUCT, ROOT / "Procfile"]:
        text = file.read_text()
        assert "failpoint" not in text.lower(), file
        assert not re.search(r"(?m)^\s*(from|import) tests\b|python -m tests\b", text), file
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert packages == ["domain*", "gateway*", "workers*"]


@pytest.mark.parametrize(
    "text",
    [
        "claimed:kill",
        "claimed_before_call",
        "claimed_before_call:stop",
        "claimed_before_call:kill:2",
        "claimed_before_call:kill:2:apart",
        "claimed_before_call:kill::together",
        "claimed_before_call:kill:2:together:",
        "claimed_before_call:tell",
        "sent_before_answer:kill",
    ],
)
def test_a_misspelt_arming_is_an_error(text: str) -> None:
    """If a misspelt arming were ignored, its test would pass because nothing happened."""
    with pytest.raises(FailpointError):
        Arming.read(text)


def test_a_misspelt_check_is_an_error() -> None:
    with pytest.raises(FailpointError, match="fence_check"):
        take_away("fence")


@pytest.mark.parametrize(
    "target",
    ["domain.nothing:Fence.check", "domain.fence:Fence.nothing", "domain.fence:Fence",
     "domain.fence:Fence.seconds_left", "domain.adapters.postgres.engine:Database.transaction"],
)  # fmt: skip
def test_a_target_that_is_no_function_is_refused(target: str) -> None:
    """A class, a property and a context manager have no single beginning and end."""
    with pytest.raises(FailpointError, match=target):
        located(target)
