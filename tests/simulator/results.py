"""Bodies of results, for a CallBackURL or a ResultURL (daraja.md §2.3, §4.3, §5).

The types are as inconsistent as the recorded ones: codes and dates are numbers or text, and items
may have no value. Scenarios vary them further (`Script.quirks`).
"""

import random
from collections.abc import Mapping

from tests.simulator.book import Outcome, Payment
from tests.simulator.scenarios import Choice
from tests.simulator.script import Code
from tests.simulator.shapes import format_timestamp

Item = dict[str, object]
DONE = "The service request is processed successfully."
UNKNOWN = "An undocumented outcome."
QUEUE_TIMEOUT_ITEM: Item = {
    "Key": "QueueTimeoutURL",
    "Value": "https://internal.simulator.test/mpesa/b2cresults/v1/submit",
}

STK_TEXTS: dict[str, str] = {  # §2.4
    "0": DONE,
    "1": "The balance is insufficient for the transaction.",
    "17": "Rule limited.",
    "26": "System busy. The service request is rejected.",
    "1001": "Unable to lock subscriber, a transaction is already in process"
    " for the current subscriber",
    "1019": "Transaction has expired.",
    "1025": "An error occurred while sending a push request.",
    "1032": "Request Cancelled by user.",
    "1037": "No response from user.",
    "2001": "The initiator information is invalid.",
    "2028": "The request is not permitted according to product assignment.",
    "8006": "The security credential is locked.",
    "9999": "An error occurred while sending a push request.",
    "SFC_IC0003": "The operator does not exist.",
}
# STK query and the callback have different texts for 1037 (§2.3).
QUERY_TEXTS = {**STK_TEXTS, "1037": "DS timeout user cannot be reached."}
PAYOUT_TEXTS: dict[str, str] = {  # §4.6
    "0": DONE,
    "1": "The balance is insufficient for the transaction.",
    "2": "Declined due to limit rule: less than the minimum transaction amount.",
    "3": "Declined due to limit rule: greater than the maximum transaction amount.",
    "8": "Declined due to limit rule: would exceed the maximum balance.",
    "11": "The DebitParty is in an invalid state.",
    "15": "Duplicate OriginatorConversationID.",
    "17": "System internal error.",
    "18": "The initiator's password is invalid.",
    "20": "The initiator is unknown.",
    "21": "The initiator is not allowed to initiate this request.",
    "22": "The initiator is not active.",
    "26": "Traffic blocking condition in place.",
    "2001": "The initiator information is invalid.",
    "2028": "The request is not permitted according to product assignment.",
    "2040": "Credit Party customer type can't be supported by the service.",
    "8006": "The security credential is locked.",
    "SFC_IC0003": "Receiver party is invalid.",
}


def build_message(payment: Payment, outcome: Outcome) -> tuple[dict[str, object], dict[str, str]]:
    """Build the body and the headers of one result."""
    match payment.kind:
        case "stk":
            # The only special header that was recorded on a callback. There is no signature (§2.3,
            # §8.2).
            return _stk(payment, outcome), {"BusinessShortCode": payment.payer}
        case "b2c" | "b2pochi":
            return _b2c(payment, outcome), {}
        case "b2b":
            return _b2b(payment, outcome), {}


def find_text(texts: Mapping[str, str], code: Code, given: str | None = None) -> str:
    """Return the text of a code, unless the scenario has its own text."""
    return given if given is not None else texts.get(str(code), UNKNOWN)


def reported_amount(choice: Choice, amount: int) -> int:
    """Return the amount in the result, which a scenario may falsify."""
    if not choice.has("wrong_amount") and not choice.has("status_wrong_amount"):
        return amount
    wanted = choice.number("amount")
    return amount + 1 if wanted is None else int(wanted)


def _arrange_items(choice: Choice, items: list[Item]) -> list[Item]:
    if choice.has("missing_metadata"):
        return []
    if choice.has("shuffled_items"):
        random.shuffle(items)
    return items


def _type_code(choice: Choice, code: Code) -> Code:
    return str(code) if choice.has("string_codes") else code


def _stk(payment: Payment, outcome: Outcome) -> dict[str, object]:
    choice = payment.choice
    callback: dict[str, object] = {
        "MerchantRequestID": payment.originator_id,
        "CheckoutRequestID": payment.provider_id,
        "ResultCode": _type_code(choice, outcome.code),
        "ResultDesc": find_text(STK_TEXTS, outcome.code, outcome.desc),
    }
    if str(outcome.code) == "0" and not (
        choice.has("missing_metadata") and choice.params.get("absent") is True
    ):
        callback["CallbackMetadata"] = {
            "Item": _arrange_items(choice, _stk_items(payment, outcome))
        }
    return {"Body": {"stkCallback": callback}}


def _stk_items(payment: Payment, outcome: Outcome) -> list[Item]:
    choice = payment.choice
    date = format_timestamp(outcome.at)
    line = payment.party
    items: list[Item] = [
        {"Name": "Amount", "Value": float(reported_amount(choice, payment.amount))}
    ]
    if not choice.has("missing_receipt"):
        items.append({"Name": "MpesaReceiptNumber", "Value": outcome.receipt})
    items.append({"Name": "Balance"})  # recorded callbacks have it without a value (§2.3)
    items.append(
        {"Name": "TransactionDate", "Value": date if choice.has("string_date") else int(date)}
    )
    masked = f"{line[:4]} ***** {line[-3:]}"
    items.append(
        {"Name": "PhoneNumber", "Value": masked if choice.has("masked_phone") else int(line)}
    )
    return items


def envelope(
    *,
    choice: Choice,
    code: Code,
    kind: Code,
    desc: str,
    originator_id: str,
    conversation_id: str,
    transaction_id: str,
    parameters: object,
    references: object,
) -> dict[str, object]:
    """Build the `Result` of all payout APIs. Without parameters the container is absent (§4.3)."""
    result: dict[str, object] = {
        "ResultType": _type_code(choice, kind),
        "ResultCode": _type_code(choice, code),
        "ResultDesc": desc,
        "OriginatorConversationID": originator_id,
        "ConversationID": conversation_id,
        "TransactionID": transaction_id,
    }
    if parameters is not None:
        result["ResultParameters"] = {"ResultParameter": parameters}
    result["ReferenceData"] = {"ReferenceItem": references}
    return {"Result": result}


def _payout(
    payment: Payment, outcome: Outcome, *, is_text: bool, parameters: object, references: object
) -> dict[str, object]:
    code = outcome.code
    hides_receipt = payment.choice.has("missing_receipt") and str(code) == "0"
    return envelope(
        choice=payment.choice,
        code=str(code) if is_text else code,
        kind="0" if is_text else 0,
        desc=find_text(PAYOUT_TEXTS, code, outcome.desc),
        originator_id=payment.reported_originator_id or payment.originator_id,
        conversation_id=payment.provider_id,
        transaction_id="" if hides_receipt else outcome.receipt,
        parameters=parameters,
        references=references,
    )


def _success_items(payment: Payment, outcome: Outcome, items: list[Item]) -> object:
    """Build the parameters of a success, in the shape of the scenario."""
    choice = payment.choice
    if choice.has("receipt_under_amount"):
        amount = next(
            item["Key"]
            for item in items
            if "Amount" in str(item["Key"]) and "Balance" not in str(item["Key"])
        )
        items = [*items, {"Key": amount, "Value": outcome.receipt}]
    if choice.has("missing_metadata") and choice.params.get("absent") is True:
        return None
    if choice.has("single_object_parameter"):
        return items[0]
    return _arrange_items(choice, items)


def _b2c(payment: Payment, outcome: Outcome) -> dict[str, object]:
    choice = payment.choice
    lacks_values = choice.has("missing_value")
    references: object = (
        [QUEUE_TIMEOUT_ITEM, {"Key": "Occassion"}] if lacks_values else QUEUE_TIMEOUT_ITEM
    )
    if str(outcome.code) == "0":
        parameters = _success_items(payment, outcome, _b2c_items(payment, outcome))
    elif choice.has("single_object_parameter"):
        parameters = {"Key": "BOCompletedTime", "Value": int(format_timestamp(outcome.at))}
    else:
        parameters = None
    return _payout(payment, outcome, is_text=False, parameters=parameters, references=references)


def _b2c_items(payment: Payment, outcome: Outcome) -> list[Item]:
    choice = payment.choice
    date: object = outcome.at.strftime("%d.%m.%Y %H:%M:%S")
    if choice.has("string_date"):
        date = format_timestamp(outcome.at)  # the field was recorded in this form too
    items: list[Item] = [
        {"Key": "TransactionAmount", "Value": reported_amount(choice, payment.amount)}
    ]
    if not choice.has("missing_receipt"):
        items.append({"Key": "TransactionReceipt", "Value": outcome.receipt})
    items += [
        {"Key": "ReceiverPartyPublicName", "Value": f"{payment.party} - JANE DOE"},
        {"Key": "TransactionCompletedDateTime", "Value": date},
        {"Key": "B2CUtilityAccountAvailableFunds", "Value": float(outcome.balance)},
        {"Key": "B2CWorkingAccountAvailableFunds", "Value": 0.0},
        {"Key": "B2CRecipientIsRegisteredCustomer", "Value": "Y"},
        {"Key": "B2CChargesPaidAccountAvailableFunds", "Value": -120.0},
    ]
    if choice.has("missing_value"):
        del items[-1]["Value"], items[-2]["Value"]
    return items


def _b2b(payment: Payment, outcome: Outcome) -> dict[str, object]:
    references: list[Item] = [
        {"Key": "BillReferenceNumber", "Value": payment.account_reference or ""},
        QUEUE_TIMEOUT_ITEM,
    ]
    if payment.choice.has("missing_value"):
        references.append({"Key": "Occassion"})
    parameters: object = {"Key": "BOCompletedTime", "Value": int(format_timestamp(outcome.at))}
    is_success = str(outcome.code) == "0"
    if is_success:
        parameters = _success_items(payment, outcome, _b2b_items(payment, outcome))
    # The documentation shows strings on success and numbers on failure (§5).
    return _payout(
        payment, outcome, is_text=is_success, parameters=parameters, references=references
    )


def _b2b_items(payment: Payment, outcome: Outcome) -> list[Item]:
    date = format_timestamp(outcome.at)
    amount = reported_amount(payment.choice, payment.amount)
    balance = f"{outcome.balance}.00"
    java = (
        f"{{Amount={{CurrencyCode=KES, MinimumAmount={outcome.balance}00, BasicAmount={balance}}}}}"
    )
    items: list[Item] = [
        {"Key": "DebitAccountBalance", "Value": java},
        {"Key": "Amount", "Value": f"{amount}.00"},
        {
            "Key": "DebitPartyAffectedAccountBalance",
            "Value": f"Working Account|KES|{balance}|{balance}|0.00|0.00",
        },
        {"Key": "TransCompletedTime", "Value": date},
        {"Key": "DebitPartyCharges", "Value": ""},
        {"Key": "ReceiverPartyPublicName", "Value": f"{payment.party} - SUPPLIER LTD"},
        {"Key": "Currency", "Value": "KES"},
        {"Key": "InitiatorAccountCurrentBalance", "Value": java},
    ]
    if payment.choice.has("missing_value"):
        del items[4]["Value"]
    return items
