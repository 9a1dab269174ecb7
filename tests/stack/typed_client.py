"""The typed client `mkwanja_client`, generated from a document by openapi-python-client.

The package is not committed. It is made in a second, without a network.
"""

import json
import subprocess
import sys
from pathlib import Path

# By default the generator formats the package, which takes longer than making it.
_CONFIG: dict[str, list[str]] = {"post_hooks": []}
PACKAGE = "mkwanja_client"


class NotGeneratedError(Exception):
    """The generator failed, or could not express a part of the document."""


def generate_client(document: bytes, folder: Path) -> None:
    """Writes the package for this document into `folder`. Raises NotGeneratedError."""
    folder.mkdir(exist_ok=True)
    (folder / "openapi.json").write_bytes(document)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    program = str(Path(sys.executable).with_name("openapi-python-client"))
    command = [program, "generate", "--fail-on-warning", "--path", "openapi.json"]
    command += ["--config", "config.json", "--meta", "none", "--output-path", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotGeneratedError(f"{done.stdout}{done.stderr}")
