"""Transaction Status: the inquiry about a payout, and its result (daraja.md §6.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from domain.adapters.daraja.answers import parse_json_object, read_error
from domain.adapters.daraja.messages import (
    PAYOUT_IDS,
    UnexpectedShape,
    is_provider_id,
    read_amounts,
    read_items,
    read_receipt,
    read_recipient_name,
    read_result_code,
    require_mapping,
)
from domain.adapters.daraja.requests import SHORTCODE_TYPE, Api, RequestSettings, message_address
from domain.adapters.daraja.result_codes import (
    SUCCESS_CODE,
    Codes,
    Ending,
    code_text,
    find_failure,
    refuses_credential,
)
from domain.attempts import IdKind
from domain.callback_address import status_operation
from domain.evidence import InquiryOutcome
from domain.failures import FailureReason
from domain.operations import Operation
from domain.payment import Payment
from domain.report import Report, ReportedOutcome

STATUS = Api(Operation.STATUS, "/mpesa/transactionstatus/v1/query", "ConversationID")

# `read_status_acknowledgement` returns this if Daraja accepted the inquiry.
ACKNOWLEDGED = "acknowledged"

# An answer means "not found" only if it has one of these codes and a text of that meaning
# (daraja.md §6.1). The code alone proves nothing, because SFC_IC0003 also means that our operator
# does not exist.
_NOT_FOUND_CODES = frozenset({"2032", "SFC_IC0003"})
_NOT_FOUND = re.compile(
    r"transaction.*(does not|doesn't|not) (exist|found)", re.IGNORECASE | re.DOTALL
)
# Daraja's sentences are shorter. A longer text is not searched, because the time of the pattern
# grows with the square of the length.
_NOT_FOUND_CHARACTERS_MAX = 500

_TARGET_IDS = {**PAYOUT_IDS, "originalconversationid": IdKind.ORIGINATOR_CONVERSATION}

_F = FailureReason

# The values of the parameter `TransactionStatus` that end a payment as failed (daraja.md §6.1).
_FAILURES: Codes = {
    "Failed": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "Cancelled": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "Declined": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "Expired": Ending(_F.EXPIRED, safe_to_retry=False),
    "Reversed": Ending(_F.REVERSED, safe_to_retry=False),
}
_COMPLETED = "Completed"


def status_body(
    payment: Payment, originator_id: str, number: int, settings: RequestSettings, *, credential: str
) -> Mapping[str, Any]:
    """Return the request body of inquiry `number` about a payout (daraja.md §6.1)."""
    return {
        "Initiator": settings.initiator_name,
        "SecurityCredential": credential,
        "CommandID": "TransactionStatusQuery",
        # Sources disagree about the key's name, so both are sent (daraja.md §6.1).
        "OriginalConversationID": originator_id,
        "OriginatorConversationID": originator_id,
        "PartyA": settings.payout_shortcode,
        "IdentifierType": SHORTCODE_TYPE,
        "ResultURL": message_address(payment, settings, status_operation(number)),
        "QueueTimeOutURL": message_address(
            payment, settings, status_operation(number, for_timeout=True)
        ),
        "Remarks": "Status",
        "Occasion": "",
    }


def read_status_acknowledgement(status: int, body: bytes) -> str:
    """Return ACKNOWLEDGED if Daraja accepted the inquiry, else a text for the record.

    Daraja sends the result to the inquiry's own address. The result may come even if this answer is
    an error.
    Raises TokenRefused, ProductRefused and Throttled.
    """
    message = parse_json_object(body)
    if (
        message is not None
        and 200 <= status < 300
        and code_text(message.get("ResponseCode")) == SUCCESS_CODE
    ):
        return ACKNOWLEDGED
    code, _ = read_error(status, body, message)
    return f"not acknowledged: {code or status}"


def read_status_result(message: Any) -> Report:
    """Read a Transaction Status result (daraja.md §6.1). Raises UnexpectedShape.

    The result's envelope is about the inquiry, and its parameters are about the payment.
    """
    result = require_mapping(require_mapping(message).get("Result"))
    code = read_result_code(result)
    if code != SUCCESS_CODE:
        is_not_found = code in _NOT_FOUND_CODES and _is_not_found_text(result.get("ResultDesc"))
        inquiry_outcome = InquiryOutcome.NOT_FOUND if is_not_found else InquiryOutcome.NO_ANSWER
        return Report(
            outcome=ReportedOutcome.UNDECIDED,
            code=code,
            inquiry_outcome=inquiry_outcome,
            refuses_credential=refuses_credential(code),
        )
    parameters = read_items(result.get("ResultParameters"), "ResultParameter", "Key")
    target_ids = [
        (id_kind, value)
        for name, id_kind in _TARGET_IDS.items()
        for value in parameters.get(name, [])
    ]
    # We do not use a result with an id that we cannot read, because it might be the id of another
    # payment.
    if not all(is_provider_id(value) for _, value in target_ids):
        raise UnexpectedShape
    ids = frozenset(target_ids)
    common: dict[str, Any] = {"ids": ids, **read_amounts(parameters)}
    statuses = parameters.get("transactionstatus", [])
    status = statuses[0] if statuses and all(value == statuses[0] for value in statuses) else None
    if status == _COMPLETED:
        return Report(
            outcome=ReportedOutcome.SUCCESS,
            code=status,
            inquiry_outcome=InquiryOutcome.PAID,
            receipt=read_receipt(parameters.get("receiptno", [])),
            recipient_name=read_recipient_name(
                next(iter(parameters.get("creditpartyname", [])), None)
            ),
            **common,
        )
    failure = find_failure(_FAILURES, status) if isinstance(status, str) else None
    if failure is not None:
        return Report(
            outcome=ReportedOutcome.FAILURE,
            code=failure.provider_code,
            failure=failure,
            inquiry_outcome=InquiryOutcome.FAILED,
            **common,
        )
    # The status is not final or not known to us, but Daraja found the payment.
    return Report(
        outcome=ReportedOutcome.UNDECIDED,
        code=code_text(status),
        inquiry_outcome=InquiryOutcome.UNDER_WAY,
        ids=ids,
    )


def _is_not_found_text(text: Any) -> bool:
    return (
        isinstance(text, str)
        and len(text) <= _NOT_FOUND_CHARACTERS_MAX
        and _NOT_FOUND.search(text) is not None
    )
