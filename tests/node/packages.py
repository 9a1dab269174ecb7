"""Installs the locked packages of Node once, into a cache outside the repository."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
_FILES = ("package.json", "package-lock.json")
_INSTALL_SECONDS = 300


def node_packages() -> Path:
    """The folder with `node_modules`. Skips the test if Node or the packages are not available.

    No script of a package runs during the installation, and npm compares each package with its
    hash in the lock.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no node and npm are installed (apt-get install nodejs npm)")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in _FILES)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mkwanja"
    folder = cache / f"node-{digest[:16]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _install(npm, folder)
    return folder


def _install(npm: str, folder: Path) -> None:
    """Installs beside `folder`, and renames at the end. A run that dies leaves no half a folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        part = Path(beside) / "part"
        part.mkdir()
        for name in _FILES:
            shutil.copy(HERE / name, part)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            command,
            cwd=part,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"npm could not install the locked packages: {done.stderr[-500:]}")
        try:
            part.rename(folder)
        except OSError:  # another process has installed them meanwhile
            if not folder.exists():
                raise
