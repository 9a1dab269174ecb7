"""Checks the address of callbacks: Daraja's rules, and whether it is reached from outside."""

from __future__ import annotations

from urllib.parse import urlsplit

from domain.adapters.settings.common import read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import LOCAL_HOSTS, CallbackAddressSettings
from workers.doctor.findings import Finding, failed, ok, skipped, warning
from workers.doctor.requests import NoAnswer, get

_CHECK = "callback address"
_CAVEAT = (
    "The request came from this machine, not from Safaricom. A firewall may still refuse "
    "Safaricom's addresses."
)
_REMEDY = (
    "Check the name, the certificate, the proxy (docs/deployment/proxy.md) and that the callback "
    "receiver runs. If only this machine cannot reach its own public address, try from another."
)


async def check_callback_address() -> list[Finding]:
    """The findings about CALLBACK_BASE_URL."""
    try:
        url = read_settings(CallbackAddressSettings).callback_base_url
    except SettingsError:
        return [skipped(_CHECK, "CALLBACK_BASE_URL")]
    findings = []
    if urlsplit(url).hostname in LOCAL_HOSTS:
        findings.append(
            warning(
                _CHECK,
                "CALLBACK_BASE_URL names this machine, so no other machine can reach it",
                "Set the public address of the callback receiver.",
            )
        )
    try:
        answer = await get(f"{url}/healthz")
    except NoAnswer as error:
        return [*findings, failed(_CHECK, f"CALLBACK_BASE_URL is not reachable: {error}", _REMEDY)]
    if answer.status != 200:
        text = f"{{CALLBACK_BASE_URL}}/healthz is answered with HTTP {answer.status}"
        return [*findings, failed(_CHECK, text, _REMEDY)]
    text = f"it follows Daraja's rules, and the receiver answers. {_CAVEAT}"
    return [*findings, ok(_CHECK, text)]
