"""REDIS_CA_FILE, and the secrets in REDIS_URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import read_settings
from domain.adapters.settings.errors import SettingsError
from tests.integration.redis_as_sold import self_signed

Monkey = pytest.MonkeyPatch


def _settings(monkeypatch: Monkey, **values: str) -> CallbackSettings:
    monkeypatch.setenv("DATABASE_URL", "postgresql://mkwanja:Db-Passw0rd@db.example/mkwanja")
    monkeypatch.setenv("CALLBACK_SECRETS", "Callback-S3cret-1")
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return read_settings(CallbackSettings)


def test_a_ca_file_is_read_with_a_url_by_tls(monkeypatch: Monkey, tmp_path: Path) -> None:
    file, _ = self_signed(tmp_path, "r.example")
    settings = _settings(monkeypatch, REDIS_CA_FILE=str(file), REDIS_URL="rediss://r.example")
    assert settings.redis_ca_file == file


def test_a_ca_file_without_tls_stops_the_start(monkeypatch: Monkey, tmp_path: Path) -> None:
    """The operator would believe that the traffic is protected."""
    file, _ = self_signed(tmp_path, "r.example")
    with pytest.raises(
        SettingsError, match=r"^cannot start; settings invalid: REDIS_CA_FILE \([^\n]*\)$"
    ):
        _settings(monkeypatch, REDIS_CA_FILE=str(file), REDIS_URL="redis://r.example")


@pytest.mark.parametrize("content", [None, "", "no certificate", "key"])
def test_a_wrong_ca_file_stops_the_start(
    monkeypatch: Monkey, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "wrong.pem"
    if content == "key":
        file = self_signed(tmp_path, "r.example")[1]
    elif content is not None:
        file.write_text(content)
    with pytest.raises(
        SettingsError, match=r"^cannot start; settings invalid: REDIS_CA_FILE \([^\n]*\)$"
    ):
        _settings(monkeypatch, REDIS_CA_FILE=str(file), REDIS_URL="rediss://r.example")


def test_passwords_of_sentinels_are_secrets(monkeypatch: Monkey) -> None:
    url = (
        "redis+sentinel://:S3rver-Passw0rd@a:1,b:2/payments/0?sentinel_password=Sent1nel%2FPassw0rd"
    )
    secrets = set(_settings(monkeypatch, REDIS_URL=url).secrets)
    assert {"S3rver-Passw0rd", "Sent1nel%2FPassw0rd", "Sent1nel/Passw0rd"} <= secrets
