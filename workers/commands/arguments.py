"""The arguments that several commands share, and their checks."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar
from uuid import UUID

from domain.values import is_receipt, parse_reason
from workers.commands.command import WRONG_INPUT

_T = TypeVar("_T")

ITEMS_MAX = 1_000


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a wrong argument in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(WRONG_INPUT)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_unmask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unmask", action="store_true", help="print whole phone numbers")


def add_payment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("payment_id", metavar="PAYMENT_ID", type=payment_id)


def add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "payment",
        metavar="PAYMENT",
        type=_search_text,
        help="the payment's id, receipt, account reference, idempotency key, phone number, or an"
        " id that Daraja gave",
    )


def add_reason(parser: argparse.ArgumentParser, text: str | None = None) -> None:
    parser.add_argument("--reason", required=True, type=reason, help=text)


def add_operator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--operator", help="your name (default: your login name)")


def operator_name(arguments: argparse.Namespace) -> str:
    """The name that the history records."""
    return arguments.operator or _login_name()


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def payment_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "not a payment's id; `show` finds it by receipt, reference or phone number"
        ) from None


def _search_text(text: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= 255 or not text.isprintable():
        raise argparse.ArgumentTypeError("give 1 to 255 printable characters")
    return text


def reason(text: str) -> str:
    try:
        return parse_reason(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "give the reason in 3 to 500 printable characters"
        ) from None


def amount(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError("not an amount in whole shillings, such as 400")
    return int(text)


def receipt(text: str) -> str:
    text = text.strip().upper()
    if not is_receipt(text):
        raise argparse.ArgumentTypeError("not an M-PESA receipt number, such as UC14KD82QZ")
    return text


def limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= ITEMS_MAX:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to {ITEMS_MAX}")
    return int(text)


def position(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError("not the position of an event, such as 1204")
    return int(text)


def checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """A type of argparse from a parser that raises ValueError with a text for people."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
