"""Checks the settings of each process, as the process itself does at its start."""

from __future__ import annotations

from collections.abc import Mapping

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import ProcessSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.web import IngressSettings
from domain.adapters.settings.worker import WorkerSettings
from workers.doctor.findings import Finding, failed, ok

PROCESSES: Mapping[str, type[ProcessSettings]] = {
    "web": IngressSettings,
    "callbacks": CallbackSettings,
    "worker": WorkerSettings,
}


async def check_settings(process: str) -> list[Finding]:
    """The findings about the settings of `process` in this environment."""
    check = f"settings of {process}"
    try:
        read_settings(PROCESSES[process])
    except SettingsError as error:
        text = str(error).removeprefix("cannot start; settings ")
        return [failed(check, text, "Set them as .env.example describes. The process would stop.")]
    return [ok(check, "complete and valid")]
