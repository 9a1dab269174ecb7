"""Reports the open payments that former accounts sent.

If the worker has no credentials of a former account, it cannot inquire about these payments.
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
_INTERVAL_SECONDS = 300.0


async def watch_former_accounts(accounts: Accounts, own: Collection[Account]) -> None:
    """Logs once how many payments of former accounts are open. Then keeps the metric up to date.

    The function runs until it is cancelled. `own`: the accounts that are configured now.
    """
    is_logged = False
    while True:
        try:
            open_payments = await accounts.open_payments()
        except StoreUnavailable:
            await asyncio.sleep(_FIRST_WAIT_SECONDS)
            continue
        former = {
            account: payments
            for account, payments in open_payments.items()
            if account is not None and account not in own
        }
        observability.payments_of_former_accounts.set(sum(former.values()))
        for account, payments in () if is_logged else former.items():
            log.warning("payments_of_former_account", payments=payments, **account_fields(account))
        is_logged = True
        await asyncio.sleep(_INTERVAL_SECONDS)


def account_fields(account: Account) -> dict[str, str]:
    """Returns the parts of `account` that are set, by name."""
    parts = {
        "base_url": account.base_url,
        "app": account.app,
        "shortcode": account.shortcode,
        "initiator": account.initiator,
    }
    return {name: value for name, value in parts.items() if value is not None}
