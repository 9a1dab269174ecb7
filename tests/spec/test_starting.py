"""The start of processes: missing and invalid settings, and a project with its legacy secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.paths import ROOT
from tests.spec.conftest import a_system
from tests.stack.client import Client
from tests.stack.environment import bare
from tests.stack.processes import Process, procfile_commands
from tests.stack.starter import Starter

_SERVERS = {
    "DATABASE_URL": "postgresql://user@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}

_MISSING = {
    "release": ["DATABASE_URL"],
    "web": ["DATABASE_URL", "REDIS_URL", "JWT_ISSUER", "JWT_JWKS_URL"],
    "callbacks": ["DATABASE_URL", "REDIS_URL", "CALLBACK_SECRETS"],
    "worker": [
        *(
            "DATABASE_URL",
            "REDIS_URL",
            "DARAJA_BASE_URL",
            "DARAJA_CONSUMER_KEY",
            "DARAJA_CONSUMER_SECRET",
        ),
        *(
            "DARAJA_SHORTCODE",
            "DARAJA_PASSKEY",
            "DARAJA_INITIATOR_NAME",
            "DARAJA_INITIATOR_PASSWORD",
        ),
        *("DARAJA_CERTIFICATE_FILE", "CALLBACK_BASE_URL", "CALLBACK_SECRETS"),
    ],
}

_SECRET = "s3cr3t"

# Each value is invalid, and each that may be a secret holds one.
_INVALID: Mapping[str, Mapping[str, str]] = {
    "release": {"DATABASE_URL": f"mysql://root:{_SECRET}@localhost/db"},
    "web": {
        "DATABASE_URL": f"mysql://root:{_SECRET}@localhost/db",
        "REDIS_URL": f"memcached://:{_SECRET}@localhost",
        "DATABASE_POOL_SIZE": "0",
        "LOG_LEVEL": "LOUD",
        "PORT": "70000",
        "JWT_JWKS_URL": "ftp://keys.example",
        "JWT_SECRET": f"{_SECRET}-short",
    },
    "callbacks": {
        "DATABASE_URL": f"postgresql://user:{_SECRET}@",
        "REDIS_URL": f"redis-{_SECRET}",
        "PORT": "http",
        "CALLBACK_SECRETS": f"{_SECRET}, ",
        "CALLBACK_ALLOWED_NETWORKS": "196.201.214.200/99",
        "TRUSTED_PROXIES": "everybody",
    },
    "worker": {
        "DATABASE_URL": f"postgresql://user:{_SECRET}@host:port/db",
        "REDIS_URL": f"http://:{_SECRET}@localhost",
        "DARAJA_BASE_URL": "sandbox.safaricom.co.ke",
        "DARAJA_SHORTCODE": "paybill",
        "DARAJA_TILL": "12",
        "DARAJA_PAYOUT_SHORTCODE": "payouts",
        "DARAJA_CERTIFICATE_FILE": "/nowhere/certificate.pem",
        "DARAJA_REQUESTS_PER_SECOND": "none",
        "CALLBACK_BASE_URL": "http://pay.example",
        "CALLBACK_SECRETS": f"long-enough-{_SECRET},{_SECRET}",
        "SWEEP_INTERVAL_SECONDS": "0",
        "SUBMITTING_LEASE_SECONDS": "2",
        "INQUIRY_FIRST_AFTER_SECONDS": "-1",
        "INQUIRY_INTERVAL_MAX_SECONDS": "0",
        "DEPOSIT_EXPIRES_AFTER_SECONDS": "soon",
        "PAYOUT_EXPIRES_AFTER_SECONDS": "0",
        "BILL_EXPIRES_AFTER_SECONDS": "0",
    },
}

_JWT_PREFIX = "eyJ"  # `{"` in base64
_LEGACY_SECRET = "a-legacy-secret-of-at-least-32-characters"


async def _start_process(name: str, env: Mapping[str, str], folder: Path) -> Process:
    command = procfile_commands(ROOT / "Procfile")[name]
    process = Process(
        name,
        command,
        env={**bare(), **env},
        log=folder / f"{name}.log",
        cwd=ROOT,
        starter=Starter.of_this_process,
    )
    await process.start()
    return process


async def _refusal(name: str, env: Mapping[str, str], folder: Path) -> str:
    """Returns the one line that the process printed before it refused to start."""
    process = await _start_process(name, env, folder)
    code = await process.wait(within_seconds=30)
    assert code > 0
    [line] = process.log_text().splitlines()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize("name", _MISSING)
async def test_missing_settings_stop_a_process_with_one_line(name: str, tmp_path: Path) -> None:
    """The line names every missing setting as the documentation does, and no other setting."""
    line = await _refusal(name, {}, tmp_path)
    assert [setting for setting in _MISSING[name] if setting not in line] == []
    others = {setting for settings in _MISSING.values() for setting in settings} - set(
        _MISSING[name]
    )
    assert [setting for setting in others if setting in line] == []


@pytest.mark.parametrize("name", _INVALID)
async def test_invalid_settings_stop_a_process_with_one_line(name: str, tmp_path: Path) -> None:
    """The line names every invalid setting, and no value that might be a secret."""
    line = await _refusal(name, _INVALID[name], tmp_path)
    assert [setting for setting in _INVALID[name] if setting not in line] == []
    assert _SECRET not in line


async def test_missing_and_invalid_settings_are_named_together(tmp_path: Path) -> None:
    """The line names all faults at once. An empty value counts as missing."""
    line = await _refusal("callbacks", {**_SERVERS, "PORT": "0", "CALLBACK_SECRETS": ""}, tmp_path)
    assert "CALLBACK_SECRETS" in line
    assert "PORT" in line
    assert "DATABASE_URL" not in line


async def test_a_project_with_only_a_legacy_secret_can_use_the_service() -> None:
    """With JWT_SECRET and no key set, only tokens signed with the secret are accepted."""
    web_env = {"JWT_JWKS_URL": None, "JWT_SECRET": _LEGACY_SECRET}
    async with a_system(processes=("web",), process_env={"web": web_env}) as system:
        issuer, body = system.stack.issuer, {"amount": 15, "phone_number": "0711000111"}
        async with Client(
            system.stack.web_url, issuer.mint_with_secret(_LEGACY_SECRET)
        ) as legacy_user:
            (await legacy_user.pay("/v1/deposits", body)).expect(202)
        async with Client(
            system.stack.web_url, issuer.mint_with_secret(_LEGACY_SECRET.upper())
        ) as stranger:
            (await stranger.pay("/v1/deposits", body)).expect(401)
        (await system.user.pay("/v1/deposits", body)).expect(401)
        assert _LEGACY_SECRET not in system.stack.logs()["web.1"]


async def test_no_process_prints_its_secrets() -> None:
    """After a payment of each kind, no log has a secret, also at the level DEBUG."""
    async with a_system(env={"LOG_LEVEL": "DEBUG"}, release=True) as system:
        for payment_id in [
            await system.deposit(),
            await system.withdrawal(),
            await system.bill_payment(),
        ]:
            assert (await system.settled(payment_id))["status"] == "success"
        urls = [item["url"] for item in (await system.control("GET", "/callbacks"))["items"]]
        worker_env = system.stack.env("worker")
        secrets = {
            *(
                worker_env[name]
                for name in (
                    "DARAJA_CONSUMER_SECRET",
                    "DARAJA_PASSKEY",
                    "DARAJA_INITIATOR_PASSWORD",
                )
            ),
            *(worker_env["DARAJA_CONSUMER_KEY"], worker_env["CALLBACK_SECRETS"]),
            *filter(
                None,
                (urlsplit(worker_env[name]).password for name in ("DATABASE_URL", "REDIS_URL")),
            ),
            *(url.rpartition("/")[2] for url in urls),
            _JWT_PREFIX,
        }
        assert len(urls) == 3
        logs = system.stack.logs()
        for name in ("web.1", "callbacks.1", "worker.1", "release"):
            assert [secret for secret in secrets if secret in logs[name]] == []
