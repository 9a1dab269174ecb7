"""The Dockerfile: it was not built here, so these tests read it and play its parts."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.deployment.image import DOCKERFILE, copied_files, make_application, stages
from tests.paths import ROOT
from tests.stack.environment import bare
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process, procfile_commands

SERVICE = stages()["service"]
COMMANDS = procfile_commands(ROOT / "Procfile")


def test_the_image_runs_as_a_user_without_rights() -> None:
    """The number is fixed, so that a host can grant it files."""
    user, group = SERVICE.last("USER").split(":")
    assert user == group == "10001"
    assert f"--uid {user}" in SERVICE.all("RUN")[0]
    after = [name for name, _ in SERVICE.instructions]
    assert not {"RUN", "COPY"} & set(after[after.index("USER") :])


def test_the_commands_are_in_exec_form_so_that_the_process_gets_the_signals() -> None:
    assert SERVICE.argv("CMD") == COMMANDS["web"].split()
    assert SERVICE.last("STOPSIGNAL") == "SIGTERM"
    assert SERVICE.all("ENTRYPOINT") == []


def test_only_the_first_stage_has_tools_that_install() -> None:
    assert "uninstall" in SERVICE.all("RUN")[0]
    assert not re.search(r"apt-get|pip install|curl|wget|git ", " ".join(SERVICE.all("RUN")))
    assert [copy for copy in SERVICE.all("COPY") if "--from" in copy] == [
        "--from=build /venv /venv"
    ]
    [install] = [run for run in stages()["build"].all("RUN") if " install " in run]
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(install.split())


def test_the_image_has_no_test_no_document_and_no_secret() -> None:
    """It names the files that it copies, so a file of the folder cannot slip in."""
    copied = copied_files()
    assert {"alembic", "domain", "gateway", "workers", "alembic.ini"} <= set(copied)
    assert all((ROOT / path).exists() for path in copied)
    assert not re.search(r"\.env|tests|docs|(?m:^(COPY|ADD) \.\s)|ADD ", " ".join(copied))
    assert "\nADD" not in DOCKERFILE.read_text()


@pytest.mark.whole
async def test_the_health_check_follows_the_process(tmp_path: Path) -> None:
    """It fails before the start and after the end. Neither PostgreSQL nor Redis is there."""
    make_application(tmp_path)
    port = reserve_port()
    env = {
        **bare(),
        "PORT": str(port),
        "DATABASE_URL": "postgresql://mkwanja:secret@127.0.0.1:1/mkwanja",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "JWT_ISSUER": "https://issuer.example",
        "JWT_SECRET": "only-the-tests-use-this-secret-of-many-characters",
    }
    log = tmp_path / "web.log"
    web = Process("web", SERVICE.argv("CMD"), env=env, log=log, cwd=tmp_path)
    assert await _check(env) != 0
    await web.start()
    await web.wait_ready(f"http://127.0.0.1:{port}/healthz")
    assert await _check(env) == 0
    assert await web.terminate() == 0
    assert await _check(env) != 0
    release_port(port)


async def _check(env: dict[str, str]) -> int:
    """The exit status of the image's health check."""
    _, *arguments = SERVICE.argv("HEALTHCHECK")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=env, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


def test_each_stage_installs_its_packages_for_its_own_python() -> None:
    """The lock has packages for old patch versions of Python, as Debian has one."""
    found = stages()
    assert found["base"].base == "python:3.11-slim-bookworm"
    assert (found["build"].base, found["service"].base) == ("base", "base")
    [install] = found["backup"].all("RUN")
    assert "python3 -m pip install" in install
    assert found["backup"].all("COPY")[1:] == ["--from=service /app /app"]
