"""Every point exists, every mistake is an error, and no process can be stopped outside tests."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.proof.failpoints.arming import Action, Arming, FailpointError, found, located, take_away
from tests.proof.failpoints.points import CHECKS, POINTS
from tests.stack.environment import bare
from tests.stack.processes import Process

_PRODUCT = ("domain", "gateway", "workers", "alembic")
_CRASH_POINTS = range(1, 13)


def _product_files() -> list[Path]:
    return [file for folder in _PRODUCT for file in sorted(ROOT.joinpath(folder).rglob("*.py"))]


def _imported(file: Path) -> set[str]:
    """The packages that a file imports, at any depth of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("name", [*POINTS, *CHECKS])
def test_every_target_exists(name: str) -> None:
    """If product code moved a point, this test fails, and no other test waits in vain."""
    entry = POINTS.get(name) or CHECKS[name]
    assert found(entry.target)[2] is not None
    assert entry.sentence.endswith(".")
    if name in POINTS or not CHECKS[name].by:
        assert callable(located(entry.target)[2])


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if check.by])
def test_every_replacement_fits_what_it_replaces(name: str) -> None:
    """A condition that product code spells otherwise is noticed here, not by a test that proves
    nothing.
    """
    _, _, original = found(CHECKS[name].target)
    replacement = located(CHECKS[name].by)[2](original)
    assert type(replacement) is type(original)
    assert replacement is not original


def test_every_crash_point_of_the_design_has_a_point() -> None:
    """None is forgotten."""
    assert {point.crash_point for point in POINTS.values()} == set(_CRASH_POINTS)


@pytest.mark.parametrize("name", POINTS)
def test_every_point_stands_for_one_of_the_design(name: str) -> None:
    """Points have the numbers of the crash points (rules.md §23)."""
    assert POINTS[name].crash_point in _CRASH_POINTS


def test_product_code_knows_nothing_of_it() -> None:
    """No product file imports tests or mentions failpoints, nor does the Procfile, and no
    package ships them.
    """
    files = _product_files()
    assert len(files) > 20
    for file in files:
        assert "tests" not in _imported(file), file
        assert "failpoint" not in file.read_text().lower(), file
    assert "tests" not in ROOT.joinpath("Procfile").read_text()
    packages = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]["find"]
    assert packages["include"] == ["domain*", "gateway*", "workers*"]


def test_an_arming_is_read() -> None:
    """A point, what happens there, and at which time."""
    assert Arming.read("claimed_before_first_byte:kill:3") == Arming(
        "claimed_before_first_byte", Action.KILL, 3
    )
    assert Arming.read("claimed_before_first_byte:freeze").time == 1
    assert Arming.read("claimed_before_call:kill:9:together") == Arming(
        "claimed_before_call", Action.KILL, 9, True
    )
    assert Arming.read("sent_before_answer:tell").action is Action.TELL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "claimed",
        "claimed:kill",
        "claimed_before_first_byte",
        "claimed_before_first_byte:stop",
        "claimed_before_first_byte:kill:0",
        "claimed_before_first_byte:kill:once",
        "claimed_before_call:kill::together",
        "claimed_before_call:kill:2:apart",
        "claimed_before_call:kill:2:together:",
        "claimed_before_call:tell",
        "sent_before_answer:kill",
    ],
)
def test_a_misspelt_arming_is_an_error(text: str) -> None:
    """Otherwise the test that uses it would pass because nothing happened."""
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


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"FAILPOINT": "nowhere:kill"}, "no point is named 'nowhere'"),
        ({"FAILPOINT_WITHOUT": "nothing"}, "no check is named 'nothing'"),
        ({}, "neither FAILPOINT nor FAILPOINT_WITHOUT is set"),
    ],
)
async def test_a_process_with_a_mistake_does_not_start(
    env: dict[str, str], said: str, tmp_path: Path
) -> None:
    """It ends at once, with one line that says what is wrong."""
    command = [sys.executable, "-m", "tests.proof.failpoints", "workers"]
    process = Process("armed", command, env=bare() | env, log=tmp_path / "armed.log", cwd=ROOT)
    await process.start()
    assert await process.wait(within_seconds=30) == 1
    assert process.log_text().startswith(f"failpoints: {said}")
    assert process.log_text().count("\n") == 1
