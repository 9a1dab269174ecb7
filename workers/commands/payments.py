"""`show` and `list`: payments, found by what an operator has."""

from __future__ import annotations

import argparse
from typing import Any

from domain.adapters.postgres.listing import PageQuery
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.adapters.postgres.searching import PaymentSearch
from domain.adapters.postgres.storytelling import mask_payment
from domain.attempts import Attempt
from domain.kinds import Kind
from domain.payment import Payment
from domain.story.telling import attempt_outcome
from domain.values import parse_written_phone_number, split_caller_key
from domain.views import public_payment, timestamp
from workers.commands import arguments as given
from workers.commands.command import DONE, REFUSED, Call, Command, WrongInput
from workers.commands.output import Output, clock

# More payments than this share a phone number or a reference only by design.
SEARCH_MAX = 50


def _add_show(parser: argparse.ArgumentParser) -> None:
    given.add_search(parser)
    given.add_unmask(parser)
    given.add_json(parser)


async def _show(call: Call) -> int:
    payments = await find_payments(call)
    if payments and call.output.is_json:
        call.output.print_json({"payments": [payment_view(payment) for payment in payments]})
    elif len(payments) == 1:
        _print_payment(call.output, payments[0])
    elif payments:
        print_payments(call.output, payments)
    return DONE if payments else REFUSED


async def find_payments(call: Call) -> list[Payment]:
    """The payments that the argument PAYMENT names. If there are none, prints that."""
    arguments = call.arguments
    found = await PaymentSearch(call.database).find(arguments.payment, limit=SEARCH_MAX)
    if not found:
        call.output.print_failure(f"there is no such payment. {given.HOW_TO_FIND}")
    return found if arguments.unmask else [mask_payment(payment) for payment in found]


def payment_view(payment: Payment) -> dict[str, Any]:
    """A payment as a JSON object: what a backend sees, and what only operators see."""
    issuer, subject = split_caller_key(payment.caller_key)
    next_step, next_at = payment.next_step, payment.next_step_at
    return public_payment(payment, for_backend=True) | {
        "caller": {"issuer": issuer, "subject": subject},
        "expires_at": timestamp(payment.expires_at),
        "next_step": None if next_step is None else next_step.value,
        "next_step_at": None if next_at is None else timestamp(next_at),
        "attempts": [_attempt_view(attempt) for attempt in payment.attempts],
    }


def _attempt_view(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": str(attempt.id),
        "number": attempt.number,
        "outcome": None if attempt.outcome is None else attempt.outcome.value,
        "claimed_at": None if attempt.claimed_at is None else timestamp(attempt.claimed_at),
        "ended_at": None if attempt.ended_at is None else timestamp(attempt.ended_at),
        "short_code": None if attempt.account is None else attempt.account.shortcode,
    }


def _print_payment(output: Output, payment: Payment) -> None:
    view = payment_view(payment)
    del view["attempts"]
    rows = [
        (name.replace("_", " "), _as_text(value))
        for name, value in view.items()
        if value not in (None, {}, [])
    ]
    output.print_table(("", ""), rows)
    if payment.attempts:
        output.print_line()
        output.print_table(
            ("attempt", "claimed (UTC)", "short code", "outcome"),
            [
                (
                    str(attempt.number),
                    clock(attempt.claimed_at),
                    attempt.account.shortcode if attempt.account else "",
                    attempt_outcome(attempt.outcome),
                )
                for attempt in payment.attempts
            ],
        )


def _as_text(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name}: {_as_text(inner)}" for name, inner in value.items())
        case list():
            return " ".join(_as_text(inner) for inner in value)
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def print_payments(output: Output, payments: list[Payment]) -> None:
    """Prints one line for each payment."""
    output.print_table(
        ("payment", "created (UTC)", "kind", "KES", "party", "stage", "result", "review"),
        [
            (
                str(payment.id),
                clock(payment.created_at),
                payment.kind.replace("_", " "),
                f"{payment.request.amount_kes:,}",
                _party(payment),
                payment.stage.replace("_", " "),
                payment.receipt or (payment.failure.reason if payment.failure else ""),
                "yes" if payment.needs_review else "",
            )
            for payment in payments
        ],
    )


def _party(payment: Payment) -> str:
    values = (getattr(payment.request, name) for name in payment.rules.parties)
    return next((value for value in values if value is not None), "")


def _add_list(parser: argparse.ArgumentParser) -> None:
    given.refuse_search(parser)
    parser.add_argument("--kind", type=given.word, choices=[kind.value for kind in Kind])
    parser.add_argument("--status", type=given.word, choices=["pending", "success", "failed"])
    parser.add_argument("--phone-number", type=given.checked(parse_written_phone_number))
    parser.add_argument("--account-reference", type=given.text_of_payment)
    parser.add_argument(
        "--created-after", type=given.moment, metavar="TIME", help="a day, or a time with its zone"
    )
    parser.add_argument("--created-before", type=given.moment, metavar="TIME", help="the same")
    parser.add_argument("--needs-review", action="store_true", help="only flagged payments")
    parser.add_argument("--limit", type=given.limit, default=20)
    given.add_unmask(parser)
    given.add_json(parser)


async def _list(call: Call) -> int:
    arguments = call.arguments
    after, before = arguments.created_after, arguments.created_before
    if after is not None and before is not None and after >= before:
        raise WrongInput(
            "--created-after is not before --created-before, so no payment matches. Swap them"
        )
    equal: dict[str, Any] = {
        "kind": arguments.kind,
        "phone_number": arguments.phone_number,
        "account_reference": arguments.account_reference,
        "needs_review": arguments.needs_review or None,
    }
    query = PageQuery(
        equal={name: value for name, value in equal.items() if value is not None},
        status=arguments.status,
        created_after=after,
        created_before=before,
        limit=arguments.limit,
    )
    payments = await PostgresReadingStore(call.database).page(query)
    if not arguments.unmask:
        payments = [mask_payment(payment) for payment in payments]
    if call.output.is_json:
        call.output.print_json({"payments": [payment_view(payment) for payment in payments]})
    elif payments:
        print_payments(call.output, payments)
    else:
        call.output.print_line("there are no such payments")
    return DONE


SHOW = Command(
    "show",
    "print a payment, found by id, receipt, reference, key, phone number or Daraja's id",
    _add_show,
    _show,
)
LIST = Command(
    "list", "print the newest payments, of a kind, a status or a number", _add_list, _list
)
