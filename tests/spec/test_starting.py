"""The start of processes: missing or invalid settings, and a project with a legacy secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.paths import ROOT
from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.environment import bare
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process, procfile_commands
from tests.stack.starter import Starter

_SECRET = "s3cr3t"
_LEGACY_SECRET = "a-legacy-secret-of-at-least-32-characters"
_JWT_PREFIX = "eyJ"  # `{"` in base64

# The invalid settings of each process, and the names of its missing settings. Each value that may
# contain a secret contains `_SECRET`.
_FAULTS: dict[str, tuple[dict[str, str], set[str]]] = {
    "release": ({"DATABASE_URL": f"mysql://root:{_SECRET}@localhost/db"}, set()),
    "web": (
        {
            "REDIS_URL": f"memcached://:{_SECRET}@localhost",
            "LOG_LEVEL": "LOUD",
            "PORT": "70000",
            "JWT_SECRET": f"{_SECRET}-short",
        },
        {"DATABASE_URL", "JWT_ISSUER"},
    ),
    "callbacks": (
        {
            "DATABASE_URL": f"postgresql://user:{_SECRET}@",
            "PORT": "http",
            "CALLBACK_SECRETS": f"{_SECRET}, ",
            "CALLBACK_ALLOWED_NETWORKS": "196.201.214.200/99",
            "TRUSTED_PROXIES": "everybody",
        },
        {"REDIS_URL"},
    ),
    "worker": (
        {
            "REDIS_URL": f"http://:{_SECRET}@localhost",
            "DARAJA_BASE_URL": "sandbox.safaricom.co.ke",
            "DARAJA_SHORTCODE": "paybill",
            "CALLBACK_BASE_URL": "http://pay.example",
            "CALLBACK_SECRETS": f"long-enough-{_SECRET},{_SECRET}",
            "SUBMITTING_LEASE_SECONDS": "2",
        },
        {
            *("DATABASE_URL", "DARAJA_CONSUMER_KEY", "DARAJA_CONSUMER_SECRET", "DARAJA_PASSKEY"),
            *("DARAJA_INITIATOR_NAME", "DARAJA_INITIATOR_PASSWORD", "DARAJA_CERTIFICATE_FILE"),
        },
    ),
}


@pytest.mark.parametrize("name", _FAULTS)
async def test_missing_and_invalid_settings_stop_a_process_with_one_line(
    name: str, tmp_path: Path
) -> None:
    """The line names all these settings at once, and shows no value that may be a secret."""
    invalid, missing = _FAULTS[name]
    process = Process(
        name,
        procfile_commands(ROOT / "Procfile")[name],
        env={**bare(), **invalid},
        log=tmp_path / f"{name}.log",
        cwd=ROOT,
        starter=Starter.of_this_process,
    )
    await process.start()
    assert await process.wait(within_seconds=30) > 0
    [line] = process.log_text().splitlines()
    assert "Traceback" not in line
    assert _SECRET not in line
    known = set().union(*(settings.keys() | names for settings, names in _FAULTS.values()))
    assert {setting for setting in known if setting in line} == invalid.keys() | missing


@pytest.mark.whole
async def test_each_process_logs_why_it_cannot_use_its_servers() -> None:
    """It starts, and tries again: a person may repair PostgreSQL or Redis while it runs."""
    async with a_system(processes=("web", "callbacks", "worker")) as system:
        stack = system.stack
        wrong = {
            name: urlsplit(stack.env("worker")[name])._replace(netloc=netloc).geturl()
            for name, netloc in (
                ("DATABASE_URL", f"mkwanja:{_SECRET}@no-such-host.invalid"),
                ("REDIS_URL", f"default:{_SECRET}@no-such-host.invalid"),
            )
        }
        expected = {
            "postgres_away": "the host name in DATABASE_URL does not resolve",
            "redis_away": "the host name in REDIS_URL does not resolve",
        }
        for name in ("web", "callbacks", "worker"):
            log = await _log_until(system, name, wrong, expected)
            assert _SECRET not in log
            assert "Traceback" not in log


async def _log_until(
    system: System, name: str, env: Mapping[str, str], expected: Mapping[str, str]
) -> str:
    """The log of a process with `env`, when it has named each expected problem."""
    port = reserve_port()
    process = Process(
        name,
        procfile_commands(ROOT / "Procfile")[name],
        env={**system.stack.env(name), **env, "PORT": str(port)},
        log=system.stack.folder / f"{name}.wrong.log",
        cwd=ROOT,
        starter=Starter.of_this_process,
    )
    await process.start()
    try:
        await system.eventually(
            lambda: _problems(process.log_text()).items() >= expected.items(),
            awaited=f"{name} names each problem",
        )
        return process.log_text()
    finally:
        await process.kill()
        release_port(port)


def _problems(log: str) -> dict[str, str]:
    """The problem that each event of the log names."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {line["event"]: line["problem"] for line in lines if "problem" in line}


async def test_a_project_with_only_a_legacy_secret_can_use_the_service() -> None:
    """With JWT_SECRET and no key set, only tokens signed with the secret are accepted."""
    web_env = {"JWT_JWKS_URL": None, "JWT_SECRET": _LEGACY_SECRET}
    async with a_system(processes=("web",), process_env={"web": web_env}) as system:
        issuer, body = system.stack.issuer, {"amount": 15, "phone_number": "0711000111"}
        for secret, status in ((_LEGACY_SECRET, 202), (_LEGACY_SECRET.upper(), 401)):
            async with Client(system.stack.web_url, issuer.mint_with_secret(secret)) as user:
                (await user.pay("/v1/deposits", body)).expect(status)
        (await system.user.pay("/v1/deposits", body)).expect(401)
        assert _LEGACY_SECRET not in system.stack.logs()["web.1"]


async def test_no_process_prints_its_secrets() -> None:
    """After three payments, no log contains a secret, even at the level DEBUG."""
    async with a_system(env={"LOG_LEVEL": "DEBUG"}, release=True) as system:
        for pay in (system.deposit, system.withdrawal, system.bill_payment):
            assert (await system.settled(await pay()))["status"] == "success"
        urls = [item["url"] for item in (await system.control("GET", "/callbacks"))["items"]]
        assert len(urls) == 3
        env = system.stack.env("worker")
        names = {
            name for name in env if name.endswith(("_SECRET", "_SECRETS", "_KEY", "_PASSWORD"))
        }
        secrets = {
            *(env[name] for name in names | {"DARAJA_PASSKEY"}),
            *filter(None, (urlsplit(env[name]).password for name in ("DATABASE_URL", "REDIS_URL"))),
            *(url.rpartition("/")[2] for url in urls),
            _JWT_PREFIX,
        }
        assert len(names) >= 4
        logs = system.stack.logs()
        for name in ("web.1", "callbacks.1", "worker.1", "release"):
            assert [secret for secret in secrets if secret in logs[name]] == []
