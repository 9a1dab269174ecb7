"""The parts that Daraja's results are made of, each in every shape that was seen of it (daraja.md
§2.3, §4.3).

What a whole message is made of stands on the page of its kind (`deposit.py`, `withdrawal.py`, …)
and in `status.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
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

# Names are compared by their letters: older results write "Originator Conversation ID" (daraja.md
# §4.3).
PAYOUT_IDS = {
    "originatorconversationid": IdKind.ORIGINATOR_CONVERSATION,
    "conversationid": IdKind.CONVERSATION,
}

_PLAIN_NUMBER = re.compile(r"\d{1,12}(\.\d{1,4})?", re.ASCII)


class UnexpectedShape(Exception):
    """The message is not of the shape that its operation has."""


def read_payout_result(message: Any, failures: Codes) -> Report:
    """The result of B2C and of what is shaped like it (daraja.md §4.3, §5). Raises UnexpectedShape."""
    result = require_mapping(require_mapping(message).get("Result"))
    parameters = read_items(result.get("ResultParameters"), "ResultParameter", "Key")
    code = read_result_code(result)
    found = judge_result(
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
    return replace(
        found,
        refuses_credential=found.outcome is ReportedOutcome.FAILURE and refuses_credential(code),
    )


def judge_result(
    code: str,
    failures: Codes,
    ids: ProviderIds,
    amounts: dict[str, Any],
    *,
    receipt: str | None,
    recipient_name: str | None = None,
) -> Report:
    """What a result with `code` says: success, one of `failures`, or nothing that decides."""
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
    # A failure has no receipt, whatever its TransactionID looks like (daraja.md §4.3); an amount
    # must still agree.
    return Report(outcome=ReportedOutcome.FAILURE, code=code, failure=failure, ids=ids, **amounts)


def read_timeout(message: Any) -> Report:
    """Queue timeout (daraja.md §4.4): an echo of our request, or a Result.

    Either way it says only: slow.
    """
    body = require_mapping(message)
    inner = body.get("Result", body)
    return Report(outcome=ReportedOutcome.TIMEOUT, ids=read_ids(require_mapping(inner), PAYOUT_IDS))


def read_result_code(message: Mapping[str, Any]) -> str:
    """The result's code as text. Raises UnexpectedShape."""
    code = code_text(message.get("ResultCode"))
    if code is None:
        raise UnexpectedShape
    return code


def read_ids(message: Mapping[str, Any], names: Mapping[str, IdKind]) -> ProviderIds:
    """The ids in `message`, as (kind of id, value); `names` gives the kind for a field's letters.

    Raises UnexpectedShape.
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
    """Ids are opaque, up to 64 characters of ours to keep (daraja.md §2.2)."""
    return (
        isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()
    )


def read_items(container: Any, list_name: str, key_name: str) -> dict[str, list[Any]]:
    """Values by the letters of their names, in order of appearance.

    One object may stand for a list, items may lack a value, and names may repeat.
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
    """The part of a `Report` that says how much. All numbers must agree; what is no number is noted
    and left out.

    Daraja has been seen to put a receipt under an amount's name (daraja.md §4.3).
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
    """The one receipt that all of `values` name, or None."""
    named = [value for value in values if value is not None]
    if not named or any(value != named[0] for value in named):
        return None
    return named[0] if isinstance(named[0], str) and is_receipt(named[0]) else None


def read_recipient_name(value: Any) -> str | None:
    """The name in `254711000111 - JANE DOE` or `888880 - SUPPLIER LTD`."""
    if not isinstance(value, str) or " - " not in value:
        return None
    name = value.split(" - ", 1)[1].strip()[:100]
    return name if name and name.isprintable() else None


def require_mapping(value: Any) -> Mapping[str, Any]:
    """`value`, if it is an object. Raises UnexpectedShape."""
    if not isinstance(value, dict):
        raise UnexpectedShape
    return value


def _normalize_name(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalpha())


def _parse_number(value: Any) -> Decimal | None:
    if isinstance(value, str):
        return Decimal(value) if _PLAIN_NUMBER.fullmatch(value) else None
    return (
        Decimal(value)
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool)
        else None
    )
