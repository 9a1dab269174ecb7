"""The files of the repository, for tests that read them all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT


def files() -> dict[str, str]:
    """The text of each file that git tracks or does not ignore, by the file's name."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this folder is no git checkout")
    paths = {name: ROOT / name for name in listed.decode().split("\0") if name}
    return {name: _text(path) for name, path in paths.items() if path.is_file()}


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
