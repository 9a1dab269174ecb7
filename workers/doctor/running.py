"""Runs the checks at the same time. A check that fails, or hangs, hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from workers.doctor.callbacks import check_callback_address
from workers.doctor.clock import check_clock_of_daraja, check_clock_of_postgres
from workers.doctor.daraja import check_certificate, check_daraja_credentials
from workers.doctor.findings import Finding, failed
from workers.doctor.postgres import check_postgres
from workers.doctor.redis import check_redis
from workers.doctor.settings import PROCESSES, check_settings
from workers.doctor.tokens import check_token_keys

_CHECK_SECONDS_MAX = 20.0

Check = Callable[[], Awaitable[list[Finding]]]

# The checks of the servers, and the processes that need each of them.
_CHECKS: dict[str, tuple[Check, tuple[str, ...]]] = {
    "postgres": (check_postgres, ("web", "callbacks", "worker")),
    "redis": (check_redis, ("web", "callbacks", "worker")),
    "token keys": (check_token_keys, ("web",)),
    "daraja credentials": (check_daraja_credentials, ("worker",)),
    "daraja certificate": (check_certificate, ("worker",)),
    "callback address": (check_callback_address, ("worker",)),
    "clock and PostgreSQL's": (check_clock_of_postgres, ("web", "callbacks", "worker")),
    "clock and Daraja's": (check_clock_of_daraja, ("worker",)),
}


async def run_checks(processes: Sequence[str] = tuple(PROCESSES)) -> list[Finding]:
    """Every finding about what `processes` need, in the order of the list above."""
    checks: list[tuple[str, Check]] = [
        (f"settings of {process}", partial(check_settings, process)) for process in processes
    ]
    checks += [
        (name, check)
        for name, (check, needed_by) in _CHECKS.items()
        if set(needed_by) & set(processes)
    ]
    findings = await asyncio.gather(*(_run(name, check) for name, check in checks))
    return [finding for of_check in findings for finding in of_check]


async def _run(name: str, check: Check) -> list[Finding]:
    try:
        async with asyncio.timeout(_CHECK_SECONDS_MAX):
            return await check()
    except TimeoutError:
        text = f"the check did not end within {_CHECK_SECONDS_MAX:.0f} s"
        return [failed(name, text, "The server hangs, or the network drops packets.")]
    except Exception as error:  # noqa: BLE001 - one check must not hide the others
        text = f"the check itself failed ({type(error).__name__})"
        return [failed(name, text, "Report this as a fault of `doctor`.")]
