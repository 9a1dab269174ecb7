"""A typed client can be generated from the document, and the type checker finds wrong calls of it.

`make demo` sends its requests through this client.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from gateway.openapi.document import document
from tests.paths import ROOT
from tests.stack.lending import Lending
from tests.stack.shape import Shape
from tests.stack.stack import Stack
from tests.stack.typed_client import PACKAGE, generate_client

_USING = (ROOT / "docs" / "using.md").read_text()
(_SHOWN,) = re.findall(r"```python\n(.*?)```", _USING, re.DOTALL)


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated package. The generator warns about no part of the document."""
    folder: Path = tmp_path_factory.mktemp("client") / "generated"
    generate_client(orjson.dumps(document()), folder)
    return folder


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    async with lending.stack(Shape(processes=("web",))) as stack:
        yield stack


def _mypy(client_folder: Path, *files: Path | str) -> str:
    """What mypy prints about these files with the settings of this project."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(client_folder / "cache"), *map(str, files)]
    environment = {**os.environ, "MYPYPATH": f"{client_folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        command, cwd=client_folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.whole
def test_the_generated_client_and_the_demo_have_no_fault_of_types(client_folder: Path) -> None:
    """The settings of this project are strict, and apply to the generated files too."""
    printed = _mypy(client_folder, PACKAGE, ROOT / "tests" / "stack" / "demo_story.py")
    assert printed.startswith("Success"), printed


@pytest.mark.whole
def test_the_types_of_the_client_show_a_wrong_call(client_folder: Path, tmp_path: Path) -> None:
    """A misspelt field, an amount as text, a missing key, and an answer that may be a problem."""
    right = _SHOWN
    assert _mypy(client_folder, _written(tmp_path, right)).startswith("Success")
    for old, new in (
        ("phone_number=", "phone="),
        ("amount=250", 'amount="250"'),
        (', x_idempotency_key="order-42"', ""),
        ("isinstance(answer, Deposit)", "answer is not None"),
    ):
        assert old in right
        printed = _mypy(client_folder, _written(tmp_path, right.replace(old, new)))
        assert "error:" in printed, new


def _written(folder: Path, program: str) -> Path:
    file = folder / "pay.py"
    file.write_text(program)
    return file


def test_the_shown_program_makes_a_payment_with_the_client(
    client_folder: Path, tmp_path: Path, stack: Stack
) -> None:
    """It shows the payment, or says why the service refused it."""
    file = _written(tmp_path, _SHOWN)
    environment = {**os.environ, "PYTHONPATH": str(client_folder)}
    token, forged = stack.issuer.user_token(), stack.issuer.mint(role="nobody")

    def run(token: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(file), stack.web_url, token]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done, again, refused = run(token), run(token), run(forged)
    assert re.fullmatch(r"[0-9a-f-]{36} pending\n", done.stdout), done.stderr
    assert again.stdout == done.stdout
    assert refused.returncode == 1
    assert "not_permitted" in refused.stderr
