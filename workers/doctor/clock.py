"""Compares this machine's clock with PostgreSQL's and with Daraja's.

The database's clock decides leases and due times. The timestamp and the password of an STK push
come from this machine's clock (daraja.md §2.1).
"""

from __future__ import annotations

import time
from datetime import datetime
from email.utils import parsedate_to_datetime

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.inspecting import read_clock
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import DarajaAppSettings
from domain.errors import StoreUnavailable
from workers.doctor.findings import Finding, ok, skipped, warning
from workers.doctor.requests import NoAnswer, get

_DIFFERENCE_MAX_SECONDS = 3.0
_REMEDY = "Let a time service (NTP, chrony) set the clock of this machine."


async def check_clock_of_postgres() -> list[Finding]:
    """The findings about PostgreSQL's clock."""
    check = "clock and PostgreSQL's"
    try:
        url = read_settings(MigrationSettings).database_url
    except SettingsError:
        return [skipped(check, "DATABASE_URL")]
    database = Database(url, pool_size=1, application_name="mkwanja-doctor", has_log=False)
    try:
        await read_clock(database)
        began_at = time.time()
        now = await read_clock(database)
        ended_at = time.time()
    except StoreUnavailable:
        return [skipped(check, "PostgreSQL")]
    finally:
        await database.close()
    return [judge_clock(check, now, began_at, ended_at)]


async def check_clock_of_daraja() -> list[Finding]:
    """The findings about the clock of Daraja, by the header `Date` of an answer."""
    check = "clock and Daraja's"
    try:
        url = read_settings(DarajaAppSettings).daraja_base_url
    except SettingsError:
        return [skipped(check, "DARAJA_BASE_URL")]
    began_at = time.time()
    try:
        answer = await get(f"{url}/")
    except NoAnswer:
        return [skipped(check, "Daraja")]
    ended_at = time.time()
    try:
        now = parsedate_to_datetime(answer.date or "")
    except ValueError:
        return [skipped(check, "the header Date of Daraja's answer")]
    return [judge_clock(check, now, began_at, ended_at, precision_seconds=1.0)]


def judge_clock(
    check: str, now: datetime, began_at: float, ended_at: float, *, precision_seconds: float = 0.0
) -> Finding:
    """Judges the other clock's time `now`, which was read between `began_at` and `ended_at`.

    Those are by this machine's clock. The answer counts as wrong only by the part that the time of
    the request and the precision of `now` do not explain.
    """
    other = now.timestamp()
    early = began_at - (other + precision_seconds)
    late = other - ended_at
    difference = max(early, late, 0.0)
    if difference > _DIFFERENCE_MAX_SECONDS:
        ahead_or_behind = "ahead" if early > late else "behind"
        text = f"this machine's clock is {difference:.0f} s {ahead_or_behind}"
        return warning(check, text, _REMEDY)
    return ok(check, "they agree")
