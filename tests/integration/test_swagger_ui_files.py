"""The files of Swagger UI that we serve are those of its official release, byte for byte."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from pathlib import Path

from gateway.reference import PACKAGE, SWAGGER_UI_FILES
from tests.node.packages import node_packages


def test_the_files_of_swagger_ui_are_those_of_its_official_release() -> None:
    """The Python package that carries them is by another author.

    If a new version of it brings a newer Swagger UI, name that version in `tests/node`.
    """
    official = node_packages() / "node_modules" / "swagger-ui-dist"
    version = json.loads((official / "package.json").read_text())["version"]
    for name, path in SWAGGER_UI_FILES.items():
        ours = Path(str(distribution(PACKAGE).locate_file(path))).read_bytes()
        assert ours == (official / name).read_bytes(), (name, version)
