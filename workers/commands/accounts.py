"""`accounts`: how many open payments each account has sent."""

from __future__ import annotations

import argparse

from domain.adapters.postgres.accounts import Accounts
from workers.accounts import account_fields
from workers.commands.arguments import add_json
from workers.commands.command import DONE, Call, Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


async def _run(call: Call) -> int:
    open_payments = await Accounts(call.database).open_payments()
    items = []
    for account, payments in open_payments.items():
        fields = account_fields(account) if account is not None else {}
        sent_by = ", ".join(f"{name} {value}" for name, value in fields.items())
        call.output.print_line(
            f"{payments} open: {sent_by or 'sent before accounts were recorded'}"
        )
        items.append({"open": payments, "account": fields or None})
    if not open_payments:
        call.output.print_line("no sent payment is open")
    if call.output.is_json:
        call.output.print_json({"accounts": items})
    return DONE


ACCOUNTS = Command(
    "accounts", "print how many open payments each account has sent", _add_arguments, _run
)
