"""Says which open payments were sent by an account that is no longer configured: Daraja cannot
be asked about them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from domain.account import Account
from domain.adapters import observability
from domain.adapters.postgres.accounts import Accounts
from domain.errors import StoreUnavailable

log = structlog.get_logger()

_FIRST_WAIT_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 300.0


async def watch_former_accounts(accounts: Accounts, own: Collection[Account]) -> None:
    """Logs them once at start, as soon as Postgres can be read, and keeps the metric until it is
    cancelled.
    """
    is_logged = False
    while True:
        try:
            found = await accounts.open_payments()
        except StoreUnavailable:
            await asyncio.sleep(_FIRST_WAIT_SECONDS)
            continue
        former = {
            account: payments
            for account, payments in found.items()
            if account is not None and account not in own
        }
        observability.payments_of_former_accounts.set(sum(former.values()))
        for account, payments in () if is_logged else former.items():
            log.warning("payments_of_former_account", payments=payments, **account_fields(account))
        is_logged = True
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def account_fields(account: Account) -> dict[str, str]:
    """The parts of `account` that are set."""
    parts = {
        "base_url": account.base_url,
        "app": account.app,
        "shortcode": account.shortcode,
        "initiator": account.initiator,
    }
    return {name: value for name, value in parts.items() if value is not None}
