"""The compose file runs the commands of the Procfile, with time to drain and without rights."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio import Redis

from tests.deployment.image import stages
from tests.paths import ROOT
from tests.stack.install import valkey_program
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process, procfile_commands

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
COMMANDS = procfile_commands(ROOT / "Procfile")
PROCESSES = sorted(set(COMMANDS) - {"release"})


@pytest.mark.parametrize("name", COMMANDS)
def test_a_service_runs_the_command_of_the_procfile_with_its_own_settings(name: str) -> None:
    """A process gets the secrets that it needs, and not those of the others."""
    service = SERVICES[name]
    assert service["command"] == COMMANDS[name].split()
    assert service["env_file"] == ["deploy/env/common.env", f"deploy/env/{name}.env"]
    assert "deploy/env/" in (ROOT / ".gitignore").read_text().splitlines()
    assert not {"environment"} & set(service) or service["environment"].keys() <= {
        "PORT",
        "WORKER_METRICS_PORT",
    }


def test_the_document_says_into_which_file_each_part_of_the_settings_goes() -> None:
    example = (ROOT / ".env.example").read_text()
    parts = set(re.findall(r"^# --- ([a-z ]+[a-z])", example, re.MULTILINE))
    table = (ROOT / "docs" / "deployment" / "container.md").read_text().split("### Start")[0]
    placed = {
        file: set(re.findall(r"\*([a-z ]+)\*(?!\*)", text))
        for file, text in re.findall(r"^\| `(\w+)\.env` \|(.*)$", table, re.MULTILINE)
    }
    assert placed.keys() == {"common", "postgres", *COMMANDS}
    assert set().union(*placed.values()) == parts
    for name in PROCESSES:
        assert {part for part in parts if name in part.split(" and ")} == placed[name]


def test_compose_starts_what_the_procfile_has_and_two_servers() -> None:
    started = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert started == {*COMMANDS, "postgres", "redis"}
    assert {service["build"]["target"] for service in SERVICES.values() if "build" in service} <= (
        stages().keys()
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_drains_at_a_stop_and_starts_again_after_any_end(name: str) -> None:
    """A process drains in 20 s. It starts when the release has migrated the database."""
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) >= 25
    assert service["depends_on"] == {"release": {"condition": "service_completed_successfully"}}
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_container_has_no_right_and_no_writable_file_of_its_own(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "volumes" not in service


def test_the_release_waits_for_postgres_and_is_not_repeated() -> None:
    release = SERVICES["release"]
    assert release["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert release["restart"] == "no"


@pytest.mark.parametrize("name", ["web", "callbacks"])
def test_a_port_is_published_for_the_proxy_on_this_machine_only(name: str) -> None:
    """The health check of the image asks at PORT."""
    port = SERVICES[name]["environment"]["PORT"]
    assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "healthcheck" not in SERVICES[name]
    assert port in stages()["service"].last("EXPOSE").split()


def test_the_servers_are_not_published() -> None:
    assert [name for name in ("postgres", "redis") if "ports" in SERVICES[name]] == []


def test_the_worker_is_healthy_if_its_metrics_answer() -> None:
    check = SERVICES["worker"]["healthcheck"]["test"]
    port = SERVICES["worker"]["environment"]["WORKER_METRICS_PORT"]
    assert check[:3] == ["CMD", "python", "-c"]
    assert f"'127.0.0.1', {port}," in check[3]
    compile(check[3], "health check", "exec")


def test_the_backup_has_the_programs_of_the_servers_version() -> None:
    assert SERVICES["postgres"]["image"] == stages()["backup"].base


async def test_valkey_accepts_the_arguments_of_its_service(tmp_path: Path) -> None:
    """It answers, and evicts when it is full, as docs/deployment/redis.md asks."""
    _, *arguments = SERVICES["redis"]["command"]
    port = reserve_port()
    program = [str(valkey_program()), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    log = tmp_path / "valkey.log"
    server = Process("valkey", program, env={"PATH": os.defpath}, log=log, cwd=tmp_path)
    await server.start()
    await server.wait_logged("Ready to accept connections")
    async with Redis.from_url(f"redis://127.0.0.1:{port}") as client:
        policy = await client.config_get("maxmemory*")
        assert await client.config_get("save") == {"save": ""}
    assert (policy["maxmemory"], policy["maxmemory-policy"]) == (str(256 * 2**20), "allkeys-lru")
    assert await server.terminate() == 0
    release_port(port)


def test_no_secret_is_in_the_compose_file() -> None:
    text = json.dumps(COMPOSE)
    assert not re.search(r"(?i)password|secret|passkey|postgres(ql)?://", text)
