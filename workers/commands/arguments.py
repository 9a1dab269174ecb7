"""The arguments that several commands share, and their checks."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn, TypeVar
from uuid import UUID

from domain.attempts import IdKind
from domain.values import (
    REASON_LENGTH,
    is_receipt,
    parse_operator,
    parse_reason,
    parse_storable_text,
)
from workers.commands.command import WRONG_INPUT
from workers.commands.output import print_failure, printable

_T = TypeVar("_T")

ITEMS_MAX = 1_000

_ID_EXAMPLE = "01a229b2-5bfc-740c-85fb-0c45ba617188"
PAYMENT_NAMES = (
    "its id, M-PESA receipt, account reference, idempotency key, phone number, or an id that"
    f" Daraja gave ({', '.join(kind.value for kind in IdKind)})"
)
HOW_TO_FIND = (
    f"A payment's id looks like {_ID_EXAMPLE}. `show` finds a payment by {PAYMENT_NAMES}."
    " `list` prints the newest payments"
)
# The cursor of `GET /v1/events` and of the event stream. Its first number is the position.
_API_CURSOR = re.compile(r"events-(\d{1,18})(-[0-9a-f]+)?")


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports a wrong argument in one line, with exit code 2."""

    # What to say if the first unknown argument is no option.
    about_positional: str | None = None

    def error(self, message: str) -> NoReturn:
        text = printable(f"{self.prog}: {message} (see {self.prog} --help)")
        print_failure(text, {"error": text}, is_json="--json" in sys.argv[1:])
        sys.exit(WRONG_INPUT)

    def parse_known_args(  # type: ignore[override]  # argparse's overloads differ in the namespace
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses unknown arguments in the parser of the command, which names the command."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self.about_positional and not unknown[0].startswith("-"):
            self.error(self.about_positional)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_unmask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unmask", action="store_true", help="print whole phone numbers")


def add_payment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "payment_id", metavar="PAYMENT_ID", type=payment_id, help="the payment's id; see `show`"
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "payment", metavar="PAYMENT", type=_search_text, help=f"the payment, by {PAYMENT_NAMES}"
    )


def refuse_search(parser: argparse.ArgumentParser) -> None:
    """Explains an argument PAYMENT to a person who gives it to a command that has none."""
    assert isinstance(parser, OneLineParser)  # noqa: S101
    parser.about_positional = f"this command takes no payment. {HOW_TO_FIND}"


def add_reason(parser: argparse.ArgumentParser, text: str | None = None) -> None:
    parser.add_argument("--reason", required=True, type=reason, help=text)


def add_operator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--operator", type=_operator, help="your name (default: your login name)")


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
        raise argparse.ArgumentTypeError(f"not a payment's id. {HOW_TO_FIND}") from None


def endpoint_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"not an endpoint's id, which looks like {_ID_EXAMPLE}. `webhooks list` prints all"
        ) from None


def _search_text(text: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= 255 or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"give 1 to 255 printable characters, which name a payment by {PAYMENT_NAMES}"
        )
    return text


def word(text: str) -> str:
    """A word of our own in any spelling: `Bill-Payment` is `bill_payment`."""
    return text.strip().lower().replace("-", "_")


def text_of_payment(text: str) -> str:
    """A text that is compared with a column of payments."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be blank; leave it out to find all payments")
    try:
        return parse_storable_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def reason(text: str) -> str:
    try:
        return parse_reason(text)
    except ValueError as error:
        length = len(text.strip())
        is_length_right = REASON_LENGTH[0] <= length <= REASON_LENGTH[1]
        counted = "" if is_length_right else f"; this one has {length}"
        raise argparse.ArgumentTypeError(
            f"the reason {error}{counted}. Say why, for example 'ticket 9'"
        ) from None


def _operator(text: str) -> str:
    try:
        return parse_operator(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"your name {error}. Without --operator, your login name is recorded"
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
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    cursor = _API_CURSOR.fullmatch(text.strip())
    if cursor is not None:
        raise argparse.ArgumentTypeError(
            f"this is a cursor of the API; its position is {cursor[1]}, so give --after {cursor[1]}"
        )
    raise argparse.ArgumentTypeError(
        "not the position of an event, such as 1204. `events` prints the positions of the newest"
        " events. In a cursor of the API, the position is the first number"
    )


def moment(text: str) -> datetime:
    """A time with its zone, or a day, which begins at midnight UTC."""
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if len(text) == len("2026-03-01") else at
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(
        "not a day, such as 2026-03-01, or a time with its zone, such as 2026-03-01T07:15:00Z"
    )


def checked(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """A type of argparse from a parser that raises ValueError with a text for people."""

    def convert(text: str) -> _T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
