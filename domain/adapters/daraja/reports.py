"""Reading Daraja's callbacks: every known shape of the same message becomes one `Report`, and anything else none.

Nothing here raises for what a body holds: it came from outside, and storing it must never fail. The operation alone
decides how a body is read (design.md, "Callbacks").
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from domain.adapters.daraja.result_codes import (
    STATUS_COMPLETED,
    SUCCESS_CODE,
    code_text,
    failure_of,
    failure_of_status,
    refuses_credential,
)
from domain.adapters.strict_json import Unreadable, parse
from domain.attempts import IdKind, ProviderId, ProviderIds
from domain.callback_address import Operation, is_timeout
from domain.inquiry import Verdict
from domain.report import Report, Word
from domain.values import Kind, is_receipt

UNREADABLE = Report(word=Word.UNREADABLE)

# "Not found" is one of these codes with a text that says so (daraja.md §6.1). SFC_IC0003 also says that our operator is
# unknown, so the code alone proves nothing.
_NOT_FOUND_CODES = frozenset({"2032", "SFC_IC0003"})
_NOT_FOUND = re.compile(r"transaction.*(does not|doesn't|not) (exist|found)", re.IGNORECASE | re.DOTALL)
_NOT_FOUND_CHARACTERS_MAX = 500  # a sentence of Daraja's is shorter, and the pattern takes the square of a longer one

# Names are compared by their letters: older results write "Originator Conversation ID" (daraja.md §4.3).
_STK_IDS = {"checkoutrequestid": IdKind.CHECKOUT_REQUEST, "merchantrequestid": IdKind.MERCHANT_REQUEST}
_PAYOUT_IDS = {"originatorconversationid": IdKind.ORIGINATOR_CONVERSATION, "conversationid": IdKind.CONVERSATION}
_TARGET_IDS = {**_PAYOUT_IDS, "originalconversationid": IdKind.ORIGINATOR_CONVERSATION}

_PLAIN_NUMBER = re.compile(r"\d{1,12}(\.\d{1,4})?", re.ASCII)


def read_report(operation: str, body: bytes) -> Report:
    """What `body` says, read as a message of `operation`."""
    try:
        message = parse(body)
    except Unreadable:
        return UNREADABLE
    try:
        match operation:
            case Operation.DEPOSIT:
                return _deposit_report(message)
            case Operation.WITHDRAWAL:
                return _payout_report(Kind.WITHDRAWAL, message)
            case Operation.BILL_PAYMENT:
                return _payout_report(Kind.BILL_PAYMENT, message)
            case _ if is_timeout(operation):
                return _timeout_report(message)
            case _:
                return _status_report(message)
    except _OtherShape:
        return UNREADABLE


class _OtherShape(Exception):
    """The message is not of the shape that its operation has."""


def _deposit_report(message: Any) -> Report:
    """STK callback (daraja.md §2.3)."""
    callback = _mapping(_mapping(_mapping(message).get("Body")).get("stkCallback"))
    code = _code(callback)
    ids = _ids(callback, _STK_IDS)
    items = _items(callback.get("CallbackMetadata"), "Item", "Name")
    return _report(Kind.DEPOSIT, code, ids, _amounts(items), _receipt(items.get("mpesareceiptnumber", [])), None)


def _payout_report(kind: Kind, message: Any) -> Report:
    """B2C and B2B result (daraja.md §4.3, §5)."""
    result = _mapping(_mapping(message).get("Result"))
    code = _code(result)
    ids = _ids(result, _PAYOUT_IDS)
    parameters = _items(result.get("ResultParameters"), "ResultParameter", "Key")
    receipt = _receipt([*parameters.get("transactionreceipt", []), result.get("TransactionID")])
    name = next(iter(parameters.get("receiverpartypublicname", [])), None)
    return _report(kind, code, ids, _amounts(parameters), receipt, _recipient_name(name))


def _status_report(message: Any) -> Report:
    """Transaction Status result (daraja.md §6.1). Its envelope is about the question; its parameters about the payment."""
    result = _mapping(_mapping(message).get("Result"))
    code = _code(result)
    if code != SUCCESS_CODE:
        is_not_found = code in _NOT_FOUND_CODES and _says_not_found(result.get("ResultDesc"))
        verdict = Verdict.NOT_FOUND if is_not_found else Verdict.NO_ANSWER
        return Report(word=Word.UNDECIDED, code=code, verdict=verdict, refuses_credential=refuses_credential(code))
    parameters = _items(result.get("ResultParameters"), "ResultParameter", "Key")
    named = [(id_kind, value) for name, id_kind in _TARGET_IDS.items() for value in parameters.get(name, [])]
    if not all(is_provider_id(value) for _, value in named):
        raise _OtherShape  # it names something, and it cannot be told whether that is the payment
    ids = frozenset(named)
    common: dict[str, Any] = {"ids": ids, **_amounts(parameters)}
    statuses = parameters.get("transactionstatus", [])
    status = statuses[0] if statuses and all(value == statuses[0] for value in statuses) else None
    if status == STATUS_COMPLETED:
        return Report(
            word=Word.SUCCESS,
            code=status,
            verdict=Verdict.PAID,
            receipt=_receipt(parameters.get("receiptno", [])),
            recipient_name=_recipient_name(next(iter(parameters.get("creditpartyname", [])), None)),
            **common,
        )
    failure = failure_of_status(status) if isinstance(status, str) else None
    if failure is not None:
        return Report(word=Word.FAILURE, code=failure.provider_code, failure=failure, verdict=Verdict.FAILED, **common)
    # Not final, or nothing that we know; but Daraja found it.
    return Report(word=Word.UNDECIDED, code=code_text(status), verdict=Verdict.UNDER_WAY, ids=ids)


def _says_not_found(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= _NOT_FOUND_CHARACTERS_MAX and _NOT_FOUND.search(text) is not None


def _timeout_report(message: Any) -> Report:
    """Queue timeout (daraja.md §4.4): an echo of our request, or a Result. Either way it says only: slow."""
    body = _mapping(message)
    inner = body.get("Result", body)
    return Report(
        word=Word.TIMEOUT,
        ids=_ids(_mapping(inner), _PAYOUT_IDS),
    )


def _report(
    kind: Kind,
    code: str,
    ids: ProviderIds,
    amounts: dict[str, Any],
    receipt: str | None,
    recipient_name: str | None,
) -> Report:
    if code == SUCCESS_CODE:
        return Report(word=Word.SUCCESS, code=code, ids=ids, receipt=receipt, recipient_name=recipient_name, **amounts)
    failure = failure_of(kind, code)
    if failure is None:
        return Report(word=Word.UNDECIDED, code=code, ids=ids)
    # A failure has no receipt, whatever its TransactionID looks like (daraja.md §4.3); an amount must still agree.
    return Report(
        word=Word.FAILURE,
        code=code,
        failure=failure,
        ids=ids,
        refuses_credential=kind is not Kind.DEPOSIT and refuses_credential(code),
        **amounts,
    )


def _code(message: Mapping[str, Any]) -> str:
    code = code_text(message.get("ResultCode"))
    if code is None:
        raise _OtherShape
    return code


def _ids(message: Mapping[str, Any], names: Mapping[str, IdKind]) -> ProviderIds:
    found = set[ProviderId]()
    for name, value in message.items():
        id_kind = names.get(_letters(name))
        if id_kind is None or value in (None, ""):
            continue
        if not is_provider_id(value):
            raise _OtherShape
        found.add((id_kind, value))
    return frozenset(found)


def is_provider_id(value: Any) -> bool:
    """Ids are opaque, up to 64 characters of ours to keep (daraja.md §2.2)."""
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()


def _items(container: Any, list_name: str, key_name: str) -> dict[str, list[Any]]:
    """Values by the letters of their names, in order of appearance.

    One object may stand for a list, items may lack a value, and names may repeat.
    """
    values: dict[str, list[Any]] = defaultdict(list)
    items = container.get(list_name) if isinstance(container, Mapping) else None
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, Mapping) and isinstance(item.get(key_name), str) and item.get("Value") not in (None, ""):
            values[_letters(item[key_name])].append(item["Value"])
    return values


def _letters(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalpha())


def _amounts(parameters: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The part of a `Report` that says how much. All numbers must agree; what is no number is noted and left out.

    Daraja has been seen to put a receipt under an amount's name (daraja.md §4.3).
    """
    values = [*parameters.get("transactionamount", []), *parameters.get("amount", [])]
    numbers = [number for value in values if (number := _number(value)) is not None]
    return {
        "has_amount": bool(numbers),
        "amount": numbers[0] if numbers and all(number == numbers[0] for number in numbers) else None,
        "ignores_amount": len(numbers) < len(values),
    }


def _number(value: Any) -> Decimal | None:
    if isinstance(value, str):
        return Decimal(value) if _PLAIN_NUMBER.fullmatch(value) else None
    return Decimal(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else None


def _receipt(values: list[Any]) -> str | None:
    """The one receipt that all of `values` name, or None."""
    named = [value for value in values if value is not None]
    if not named or any(value != named[0] for value in named):
        return None
    return named[0] if isinstance(named[0], str) and is_receipt(named[0]) else None


def _recipient_name(value: Any) -> str | None:
    """The name in `254711000111 - JANE DOE` or `888880 - SUPPLIER LTD`."""
    if not isinstance(value, str) or " - " not in value:
        return None
    name = value.split(" - ", 1)[1].strip()[:100]
    return name if name and name.isprintable() else None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _OtherShape
    return value
