"""Transaction Status (daraja.md §6.1): an inquiry that is answered by a result of its own.

ResultCode 0 means that the inquiry worked. The payment's state is a parameter. Both names of the
identifier are accepted, because sources differ on it. The ids in the envelope belong to the
inquiry, and the ids in the parameters to the payment.
"""

import random
from dataclasses import dataclass

from tests.simulator.book import Payment
from tests.simulator.parts import Parts
from tests.simulator.payouts import acknowledgement
from tests.simulator.results import (
    DONE,
    PAYOUT_TEXTS,
    QUEUE_TIMEOUT_ITEM,
    Item,
    envelope,
    find_text,
    reported_amount,
)
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import Code
from tests.simulator.shapes import Reply, format_timestamp, nairobi_now, placeholder_receipt
from tests.simulator.validation import (
    Body,
    InvalidFieldError,
    as_text,
    one_of,
    remarks,
    required_text,
    shortcode,
    url,
)

RESULT_SECONDS = (2.0, 4.0)  # §6.1: asynchronous like payouts


@dataclass(frozen=True, slots=True)
class NotFound:
    """One of the two forms of Daraja's answer that a transaction does not exist (§6.1)."""

    code: Code
    text: str
    seconds: tuple[float, float]


# Results of 2017 have these names (§4.3).
SPACED = {
    "OriginatorConversationID": "Originator Conversation ID",
    "ConversationID": "Conversation ID",
}

NOT_FOUND = {
    # It was recorded twice, after 85 s.
    "2032": NotFound(2032, "The transaction receipt number does not exist.", (80.0, 90.0)),
    "SFC_IC0003": NotFound("SFC_IC0003", "The transaction does not exist", RESULT_SECONDS),
}


@dataclass(frozen=True, slots=True)
class Inquiry:
    """An inquiry that was acknowledged.

    `ids` are the inquiry's own ConversationID and OriginatorConversationID.
    """

    body: Body
    choice: Choice
    ids: tuple[str, str]
    refusal: Code | None
    not_found: NotFound  # the form of the answer if the payment is not found


class TransactionStatus:
    """`POST /mpesa/transactionstatus/v1/query`."""

    api = "status"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def facts(self, body: Body) -> Facts:
        """Return the facts of the inquiry's payment, which choose the scenario."""
        payment = self._find_payment(body)
        target_ids = tuple(filter(None, _read_target_ids(body)))
        address = str(body.get("ResultURL", ""))
        if payment is None:
            return Facts(references=target_ids, url=address)
        facts = payment.facts()
        return Facts(
            facts.phone_number, facts.party, facts.amount, (*facts.references, *target_ids), address
        )

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Accept the inquiry."""
        required_text(body, "Initiator")
        required_text(body, "SecurityCredential")
        one_of(body, "CommandID", ("TransactionStatusQuery",))
        receipt, originator_id = _read_target_ids(body)
        if not receipt and not originator_id:
            raise InvalidFieldError("TransactionID")
        party = shortcode(body, "PartyA")
        one_of(body, "IdentifierType", ("4",))
        url(body, "ResultURL")
        url(body, "QueueTimeOutURL")
        remarks(body)
        refusal = self._parts.initiator.refusal(
            str(body["Initiator"]), str(body["SecurityCredential"])
        )
        if refusal is None and party not in self._parts.merchant.shortcodes:
            refusal = 2028
        inquiry_ids = (self._parts.ids.conversation_id(), self._parts.ids.request_id())
        inquiry = Inquiry(body, choice, inquiry_ids, refusal, self._not_found_form(choice))
        if choice.script.callback_first:
            await self._send_result(inquiry)
        else:
            self._parts.courier.start_soon(self._send_result_later(inquiry))
        return acknowledgement(*inquiry_ids)

    def _not_found_form(self, choice: Choice) -> NotFound:
        wanted = str(choice.params.get("code"))
        return (
            NOT_FOUND.get(wanted)
            or NOT_FOUND[self._parts.forms.draw("not_found", tuple(NOT_FOUND), {})]
        )

    def _is_not_found(self, inquiry: Inquiry) -> bool:
        if inquiry.refusal is not None:
            return False
        code = inquiry.choice.code(payout=True)
        return inquiry.choice.script.name == "not_found" or (
            code == 0 and self._find_payment(inquiry.body) is None
        )

    async def _send_result_later(self, inquiry: Inquiry) -> None:
        body, choice = inquiry.body, inquiry.choice
        script = choice.script
        if script.result_seconds is None or script.timeout_message:
            is_slow = self._is_not_found(inquiry)
            await self._parts.courier.pause(
                random.uniform(*(inquiry.not_found.seconds if is_slow else RESULT_SECONDS))
            )
        if script.timeout_message:
            await self._parts.courier.post(str(body["QueueTimeOutURL"]), body)
            if not script.result_follows:
                return
        if script.result_seconds is not None:
            await self._parts.courier.pause(script.result_seconds, real=choice.seconds)
        await self._send_result(inquiry)

    async def _send_result(self, inquiry: Inquiry) -> None:
        choice, address = inquiry.choice, str(inquiry.body["ResultURL"])
        await self._parts.courier.post(
            address, self._result(inquiry), copies=choice.copies, hold=choice.script.held
        )

    def _result(self, inquiry: Inquiry) -> dict[str, object]:
        body, choice, refusal = inquiry.body, inquiry.choice, inquiry.refusal
        conversation_id, originator_id = inquiry.ids
        payment = self._find_payment(body)
        code = choice.code(payout=True) if refusal is None else refusal
        desc = as_text(choice.params.get("desc")) if refusal is None else None
        text = find_text(PAYOUT_TEXTS, code, desc)
        parameters: object = None
        if self._is_not_found(inquiry):
            code, text = inquiry.not_found.code, inquiry.not_found.text if desc is None else desc
        elif code == 0 and payment is not None:
            text = DONE
            if not (
                choice.has("status_missing_parameters") and choice.params.get("absent") is True
            ):
                parameters = self._parameters(payment, choice)
        return envelope(
            choice=choice,
            code=code,
            kind=0,
            desc=text,
            originator_id=originator_id,
            conversation_id=conversation_id,
            transaction_id=placeholder_receipt(nairobi_now()),
            parameters=parameters,
            references=QUEUE_TIMEOUT_ITEM,
        )

    def _find_payment(self, body: Body) -> Payment | None:
        receipt, originator_id = _read_target_ids(body)
        if receipt:
            # A receipt is unique for all short codes.
            return self._parts.book.by_receipt.get(receipt)
        payment = self._parts.book.by_originator_id(
            originator_id, payer=as_text(body.get("PartyA")) or ""
        )
        outcome = payment.outcome if payment is not None else None
        if outcome is not None and str(outcome.code) == "15" and not outcome.moved:
            # A scenario answered the first call with 15, so there is no transaction, not even a
            # failed one.
            return None
        return payment

    def _parameters(self, payment: Payment, choice: Choice) -> list[Item]:
        """Build the parameters about the payment, changed by the scenario."""
        status = str(
            choice.params.get("status", "Pending" if choice.has("status_value") else payment.state)
        )
        provider_id, originator_id = self._reported_ids(payment, choice)
        items: list[Item] = [
            *_parties(payment),
            {"Key": "OriginatorConversationID", "Value": originator_id},
            {"Key": "InitiatedTime", "Value": int(format_timestamp(payment.accepted_at))},
            {"Key": "TransactionReason"},
            {"Key": "TransactionStatus", "Value": status},
            {"Key": "Amount", "Value": float(reported_amount(choice, payment.amount))},
            {"Key": "ConversationID", "Value": provider_id},
        ]
        if payment.outcome is not None:
            items.append(
                {"Key": "FinalisedTime", "Value": int(format_timestamp(payment.outcome.at))}
            )
        receipt = self._reported_receipt(payment, status, choice)
        if receipt:
            items.append({"Key": "ReceiptNo", "Value": receipt})
        if choice.has("spaced_keys"):
            items = [{**item, "Key": SPACED.get(str(item["Key"]), item["Key"])} for item in items]
        if choice.has("status_conflicting"):
            second = choice.params.get("second", "Failed" if status == "Completed" else "Completed")
            items.append({"Key": "TransactionStatus", "Value": second})
        if choice.has("status_missing_parameters"):
            items = _remove_parameters(items, choice)
        return items

    def _reported_ids(self, payment: Payment, choice: Choice) -> tuple[str, str]:
        if not choice.has("status_foreign_ids"):
            return payment.ids
        other = self._parts.book.find(choice.params.get("of", ""))
        if other is not None:
            return other.ids
        return self._parts.ids.conversation_id(), self._parts.ids.request_id()

    def _reported_receipt(self, payment: Payment, status: str, choice: Choice) -> str | None:
        """Return the receipt if money moved, or a false one if only the status is Completed."""
        if choice.has("status_missing_receipt"):
            return None
        if payment.outcome is not None and payment.outcome.moved:
            return payment.outcome.receipt
        return self._parts.ids.receipt() if status == "Completed" else None


def _read_target_ids(body: Body) -> tuple[str, str]:
    """Return the receipt and the OriginatorConversationID of the inquiry. Either may be empty."""
    originator_id = as_text(body.get("OriginalConversationID")) or as_text(
        body.get("OriginatorConversationID")
    )
    return as_text(body.get("TransactionID")) or "", originator_id or ""


def _parties(payment: Payment) -> list[Item]:
    """Return both parties. The second DebitPartyName names the other side (§6.1)."""
    ours = f"{payment.payer} - SIMULATED LTD"
    theirs = f"{payment.party} - {'SUPPLIER LTD' if payment.kind == 'b2b' else 'JANE DOE'}"
    debit, credit = (theirs, ours) if payment.kind == "stk" else (ours, theirs)
    account, charges, reason = {
        "stk": ("MMF Account For Customer", "", "Pay Bill Online"),
        "b2c": (
            "Utility Account",
            "Fee For B2C Payment|KES|22.40",
            "Business Payment to Customer via API",
        ),
        "b2b": ("Working Account", "", "Business Pay Bill via API"),
        "b2pochi": ("Utility Account", "", "Business Pay to Pochi via API"),
    }[payment.kind]
    return [
        {"Key": "DebitPartyName", "Value": debit},
        {"Key": "DebitPartyName", "Value": credit},
        {"Key": "DebitAccountType", "Value": account},
        {"Key": "DebitPartyCharges", "Value": charges},
        {"Key": "ReasonType", "Value": reason},
    ]


def _remove_parameters(items: list[Item], choice: Choice) -> list[Item]:
    """Remove the keys in params.without, and the values of those in params.valueless."""
    without = choice.names(
        "without", () if "valueless" in choice.params else ("TransactionStatus",)
    )
    valueless = choice.names("valueless", ())
    return [
        {"Key": item["Key"]} if item["Key"] in valueless else item
        for item in items
        if item["Key"] not in without
    ]
