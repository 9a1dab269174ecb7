"""Reads the parts of Daraja's results, in every shape that was seen (daraja.md §2.3, §4.3).

The module of a kind (`deposit.py`, `withdrawal.py`, …) reads that kind's whole message, and
`status.py` reads an answer to a Transaction Status inquiry.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from domain.adapters.daraja.result_codes import (
    SUCCESS_CODE,
    Codes,
    code_text,
    find_failure,
    refuses_credential,
)
from domain.attempts import IdKind, ProviderId, ProviderIds
from domain.report import Report, ReportedOutcome
from domain.values import is_receipt

# Names are compared by their letters only, because older results write "Originator Conversation ID"
# (daraja.md §4.3).
PAYOUT_IDS = {
    "originatorconversationid": IdKind.ORIGINATOR_CONVERSATION,
    "conversationid": IdKind.CONVERSATION,
}

# Daraja uses a few dozen names. A hostile sender can use any number of names, so at most 256 are
# remembered, and only short ones.
_REMEMBERED = 256
_REMEMBERED_LENGTH_MAX = 64

_PLAIN_NUMBER = re.compile(r"\d{1,12}(\.\d{1,4})?", re.ASCII)


class UnexpectedShape(Exception):
    """The message does not have the shape of its operation."""


def read_payout_result(message: Any, failures: Codes) -> Report:
    """Read a result of B2C, B2B or B2Pochi (daraja.md §4.3, §5). Raises UnexpectedShape."""
    result = require_mapping(require_mapping(message).get("Result"))
    parameters = read_items(result.get("ResultParameters"), "ResultParameter", "Key")
    code = read_result_code(result)
    report = judge_result(
        code,
        failures,
        read_ids(result, PAYOUT_IDS),
        read_amounts(parameters),
        receipt=read_receipt(
            [*parameters.get("transactionreceipt", []), result.get("TransactionID")]
        ),
        recipient_name=read_recipient_name(
            next(iter(parameters.get("receiverpartypublicname", [])), None)
        ),
    )
    if report.outcome is ReportedOutcome.FAILURE and refuses_credential(code):
        return replace(report, refuses_credential=True)
    return report


def judge_result(
    code: str,
    failures: Codes,
    ids: ProviderIds,
    amounts: dict[str, Any],
    *,
    receipt: str | None,
    recipient_name: str | None = None,
) -> Report:
    """Return the report of a result: a success, one of `failures`, or undecided."""
    if code == SUCCESS_CODE:
        return Report(
            outcome=ReportedOutcome.SUCCESS,
            code=code,
            ids=ids,
            receipt=receipt,
            recipient_name=recipient_name,
            **amounts,
        )
    failure = find_failure(failures, code)
    if failure is None:
        return Report(outcome=ReportedOutcome.UNDECIDED, code=code, ids=ids)
    # A failure has no receipt, even if its TransactionID looks like one (daraja.md §4.3). The
    # report contains the amount, because a failure with another amount does not end the payment.
    return Report(outcome=ReportedOutcome.FAILURE, code=code, failure=failure, ids=ids, **amounts)


def read_timeout(message: Any) -> Report:
    """Read a queue timeout (daraja.md §4.4): an echo of our request, or a Result.

    Both forms mean only that Daraja's queue is slow.
    """
    body = require_mapping(message)
    inner = body.get("Result", body)
    return Report(outcome=ReportedOutcome.TIMEOUT, ids=read_ids(require_mapping(inner), PAYOUT_IDS))


def read_result_code(message: Mapping[str, Any]) -> str:
    """Return the result's code as text. Raises UnexpectedShape."""
    code = code_text(message.get("ResultCode"))
    if code is None:
        raise UnexpectedShape
    return code


def read_ids(message: Mapping[str, Any], names: Mapping[str, IdKind]) -> ProviderIds:
    """Return the ids in `message` as pairs of kind and value.

    `names` maps a field's letters to the kind of id. Raises UnexpectedShape.
    """
    found = set[ProviderId]()
    for name, value in message.items():
        id_kind = names.get(_normalize_name(name))
        if id_kind is None or value in (None, ""):
            continue
        if not is_provider_id(value):
            raise UnexpectedShape
        found.add((id_kind, value))
    return frozenset(found)


def is_provider_id(value: Any) -> bool:
    """Whether `value` can be an id: opaque text of up to 64 characters (daraja.md §2.2)."""
    return (
        isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()
    )


def read_items(container: Any, list_name: str, key_name: str) -> dict[str, list[Any]]:
    """Return the values of a list of named items, grouped by the letters of the names.

    A list of one item may come as a bare object, items may have no value, and names may repeat
    (daraja.md §4.3).
    """
    values: dict[str, list[Any]] = defaultdict(list)
    items = container.get(list_name) if isinstance(container, Mapping) else None
    for item in items if isinstance(items, list) else [items]:
        if (
            isinstance(item, Mapping)
            and isinstance(item.get(key_name), str)
            and item.get("Value") not in (None, "")
        ):
            values[_normalize_name(item[key_name])].append(item["Value"])
    return values


def read_amounts(parameters: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the amount fields of a `Report`. If the numbers differ, `amount` is None.

    A value that is not a number is left out, and `has_ignored_amount` is set, because a receipt was
    seen under an amount's name (daraja.md §4.3).
    """
    values = [*parameters.get("transactionamount", []), *parameters.get("amount", [])]
    numbers = [number for value in values if (number := _parse_number(value)) is not None]
    return {
        "has_amount": bool(numbers),
        "amount": numbers[0]
        if numbers and all(number == numbers[0] for number in numbers)
        else None,
        "has_ignored_amount": len(numbers) < len(values),
    }


def read_receipt(values: list[Any]) -> str | None:
    """Return the receipt if all of `values` name the same one, else None."""
    receipts = [value for value in values if value is not None]
    if not receipts or any(receipt != receipts[0] for receipt in receipts):
        return None
    return receipts[0] if isinstance(receipts[0], str) and is_receipt(receipts[0]) else None


def read_recipient_name(value: Any) -> str | None:
    """Return the name in `254711000111 - JANE DOE` or `888880 - SUPPLIER LTD`, or None."""
    if not isinstance(value, str) or " - " not in value:
        return None
    name = value.split(" - ", 1)[1].strip()[:100]
    return name if name and name.isprintable() else None


def require_mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object. Raises UnexpectedShape."""
    if not isinstance(value, dict):
        raise UnexpectedShape
    return value


def _normalize_name(name: str) -> str:
    return _normalize_short(name) if len(name) <= _REMEMBERED_LENGTH_MAX else _normalize(name)


def _normalize(name: str) -> str:
    return "".join(filter(str.isalpha, name.casefold()))


_normalize_short = lru_cache(maxsize=_REMEMBERED)(_normalize)


def _parse_number(value: Any) -> Decimal | None:
    if isinstance(value, str):
        return Decimal(value) if _PLAIN_NUMBER.fullmatch(value) else None
    return (
        Decimal(value)
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool)
        else None
    )
