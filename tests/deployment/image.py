"""The Dockerfile as these tests read it, and folders with the files and packages of the image."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tests.paths import ROOT
from tests.supply_chain.policy import locked_versions

DOCKERFILE = ROOT / "Dockerfile"
PRODUCT_LOCK = ROOT / "deploy" / "requirements-product.lock"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the build: its base, and its instructions as (name, rest of the line)."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, instruction: str) -> list[str]:
        """What follows each instruction of this name."""
        return [rest for name, rest in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        """What follows the last instruction of this name, which is the one in force."""
        return self.all(instruction)[-1]

    def argv(self, instruction: str) -> list[str]:
        """The command of a CMD, ENTRYPOINT or HEALTHCHECK in exec form."""
        command: list[str] = json.loads(re.sub(r"^.*?\bCMD ", "", self.last(instruction)))
        return command


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text())).splitlines()
    instructions = [line.strip().partition(" ")[::2] for line in lines if line.strip()]
    found: dict[str, Stage] = {}
    for name, rest in instructions:
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found[stage] = Stage(stage, base, ())
        else:
            last = list(found.values())[-1]
            found[last.name] = Stage(last.name, last.base, (*last.instructions, (name, rest)))
    return found


def copied_files() -> list[str]:
    """The paths of the repository that the running image has."""
    copies = stages()["service"].all("COPY")
    return [path for copy in copies if "--from" not in copy for path in copy.split()[:-1]]


def make_application(folder: Path) -> None:
    """Copies the files of the image's application to `folder`."""
    for path in copied_files():
        source, target = ROOT / path, folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def link_packages(folder: Path) -> set[str]:
    """Links the files of the image's packages into `folder`. Returns the names of the packages.

    They are the packages of the lock that are installed here. Others are for other systems.
    """
    linked = set()
    for package in locked_versions(PRODUCT_LOCK):
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            continue
        linked.add(package)
        for file in installed.files or ():
            if ".." in file.parts:
                continue  # a program beside Python
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(str(installed.locate_file(file)))
    return linked


def python(*arguments: str) -> list[str]:
    """The command that starts Python without the packages of the tests."""
    return [sys.executable, "-S", *arguments]
