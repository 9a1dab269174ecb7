"""The catalogue of scenarios, by name. A scenario is what happens to one call.

A call without another scenario gets `APPROVE`. `number` is the magic number: phone 2547000000NN or
amount 249,9NN chooses the scenario for a payment. scenarios.py chooses the scenario of each call.
"""

from tests.simulator.inquiries import INQUIRIES
from tests.simulator.script import (
    ALL,
    ASYNC,
    B2C_SHAPED,
    CALLS,
    PAYMENTS,
    PAYOUTS,
    STK,
    Script,
    quirk,
    refusal,
)

APPROVE = Script(
    name="approve",
    number=0,
    apis=ALL,
    sentence="The customer enters the PIN, or the payout succeeds. Money moves, with one result.",
)

# The customer or the provider decides.
OUTCOMES = (
    APPROVE,
    Script(name="cancel", number=10, apis=STK, code=1032,
        sentence="The customer dismisses the prompt."),
    Script(name="ignore", number=11, apis=STK, code=1037,
        sentence="The customer does not answer the prompt."),
    Script(name="wrong_pin", number=12, apis=STK, code=2001,
        sentence="The customer enters a wrong PIN."),
    Script(name="insufficient_funds", number=13, apis=PAYMENTS, code=1,
        sentence="The paying account has insufficient funds."),
    Script(name="duplicate_ocid_async", number=34, apis=B2C_SHAPED, code=15,
        sentence="Accepted, then result 15: Duplicate OriginatorConversationID."),
    Script(name="unknown_code", number=54, apis=PAYMENTS, code=7777,
        sentence="The result has an undocumented code. No money moves."),
    Script(name="result_code", apis=ALL - {"oauth", "stk_query"}, code=17,
        sentence="The result has params.code and params.desc. Money moves if the code is 0."),
    Script(name="unregistered_recipient", number=58, apis=PAYOUTS, code=2040,
        sentence="The recipient is not a registered customer."),
    Script(name="invalid_recipient", number=59, apis=PAYOUTS, code="SFC_IC0003",
        sentence="The receiver party is invalid. The code is a string."),
    Script(name="credential_refused", number=65, apis=ASYNC, code=2001,
        sentence="Accepted, then a result about the credential: params.code (2001; or 8006, 18,"
        " 20, 21, 22). No money moves."),
    Script(name="late_success_after_failure", number=45, apis=PAYMENTS, code=1037, payout_code=1,
        success_after_seconds=60.0,
        sentence="The result is a failure. Much later money moves, and a second result is a"
        " success."),
    Script(name="failure_then_success", number=46, apis=PAYMENTS, code=1037, payout_code=1,
        success_after_seconds=0.0,
        sentence="Money moves. The first result is a failure, and a success follows at once."),
)  # fmt: skip

# How and when the result is delivered.
DELIVERIES = (
    Script(name="slow", number=14, apis=ALL, answer_seconds=3.0,
        sentence="The call has its effect at once, but its answer comes after params.seconds"
        " (3, real)."),
    Script(name="slow_result", number=15, apis=PAYMENTS | {"status"}, result_seconds=90.0,
        sentence="The result comes after params.seconds (real). Default: 90 scaled seconds."),
    Script(name="duplicate_callbacks", number=16, apis=PAYMENTS | {"status"}, callbacks=3,
        sentence="The result is delivered params.count (3) times at once."),
    Script(name="callback_before_answer", number=17, apis=PAYMENTS | {"status"},
        callback_first=True, sentence="The result is delivered before the call is answered."),
    Script(name="lost_callback", number=18, apis=PAYMENTS | {"status"}, callbacks=0,
        sentence="Money moves, and no result is ever delivered."),
    Script(name="held_callback", number=66, apis=PAYMENTS | {"status"}, held=True,
        sentence="Money moves, and the result is held until `POST /_control/callbacks/release`."),
    Script(name="timeout_message", number=55, apis=ASYNC, timeout_message=True, result_seconds=5.0,
        sentence="Daraja echoes the request to QueueTimeOutURL. The result follows."),
    Script(name="timeout_message_only", number=56, apis=ASYNC, timeout_message=True,
        result_follows=False,
        sentence="Daraja echoes the request to QueueTimeOutURL. No result follows, and no money"
        " moves."),
    quirk("wrong_amount", 47, PAYMENTS,
        "The result has another amount: params.amount, or by default one shilling more."),
    quirk("receipt_under_amount", None, PAYOUTS,
        "The result repeats its receipt under the name of the amount."),
    quirk("result_names_another_id", None, PAYOUTS,
        "The result's OriginatorConversationID is that of another payment: params.of (any of"
        " its ids)," " or by default an unknown id."),
    quirk("missing_metadata", 48, PAYMENTS,
        "A success without items. With params.absent the container is missing too."),
    quirk("missing_receipt", 49, PAYMENTS, "A success without a receipt."),
    quirk("string_date", 50, PAYMENTS,
        "The result's date is a string instead of a number, or has another format."),
    quirk("balance_without_value", 51, STK,
        "Balance has no Value. This is also the default shape."),
    Script(name="single_object_parameter", number=52, apis=PAYOUTS, code=2040,
        quirks=frozenset({"single_object_parameter"}),
        sentence="ResultParameter is one object, not a list. The result is a failure, unless"
        " params.code is 0.",
    ),
    quirk("string_codes", 53, PAYMENTS | {"status"}, "ResultCode and ResultType are strings."),
    quirk("missing_value", 60, PAYOUTS, "Some items have no Value, and ReferenceItem is a list."),
    quirk("masked_phone", 61, STK, "PhoneNumber is masked."),
    quirk("shuffled_items", 62, PAYMENTS, "The items are in another order."),
)  # fmt: skip

# The connection or the answer fails, with or without an effect of the call.
ANSWERS = (
    Script(name="answer_lost_after_acting", number=19, apis=ALL, answer="cut",
        sentence="The call has its effect, and the connection is reset. The result still comes."),
    Script(name="answer_and_callback_lost", number=20, apis=PAYMENTS | {"status"}, answer="cut",
        callbacks=0,
        sentence="The call has its effect, the connection is reset, and no result is delivered."),
    Script(name="internal_error_after_acting", number=28, apis=ALL, answer="internal_error",
        sentence="The call has its effect, and its answer is 500.003.1001."),
    Script(name="redirect_after_acting", number=36, apis=ALL, answer="redirect",
        sentence="The call has its effect, and its answer is 302 to an address where no server"
        " listens."),
    Script(name="html_200", number=38, apis=ALL, answer="html_200",
        sentence="The call has its effect, and its answer is 200 with HTML."),
    Script(name="garbage_200", number=41, apis=ALL, answer="garbage_200",
        sentence="The call has its effect, and its answer is 200 with truncated JSON."),
    Script(name="empty_200", number=42, apis=ALL, answer="empty_200",
        sentence="The call has its effect, and its answer is 200 without a body."),
    Script(name="connection_refused", number=22, apis=ALL, acts=False, answer="cut", once=True,
        times=1,
        sentence="The listener and all connections close for params.seconds (3, real; null:"
        " until opened)."),
    Script(name="token_expired", number=44, apis=CALLS, acts=False, answer="token_expired",
        once=True, times=1, sentence="One call gets this API's answer to an invalid token."),
    refusal("token_refused", None,
        "One call gets an answer to an invalid token: params.form, or drawn by `seed` (forms.py).",
        CALLS),
    refusal("product_missing", None,
        "The app lacks this product, but its token is valid: params.form, or drawn by `seed`"
        " (forms.py).", CALLS),
    refusal("cut_before_acting", 21, "The connection is reset. No effect.", answer="cut",
        once=True),
    refusal("spike_arrest_apigee", 23, "429 with the gateway's own fault.", once=True),
    refusal("spike_arrest_json", 24, "500.003.02 Spike Arrest Violation.", once=True),
    refusal("quota", 25, "500.003.03 Quota Violation.", once=True),
    refusal("system_busy", 26, "500.003.02 System is busy.", once=True),
    refusal("internal_error_without_acting", 27, "500.003.1001. No effect.",
        answer="internal_error", once=True),
    refusal("maintenance", 32, "503 with 500.002.1001 maintenance.", once=True),
    refusal("redirect_without_acting", 37, "302. No effect.", answer="redirect", once=True),
    refusal("merchant_missing", 29, "500.001.1001 Merchant does not exist.", STK | {"stk_query"}),
    refusal("wrong_credentials", 30, "500.001.1001 Wrong credentials.", STK | {"stk_query"}),
    refusal("subscriber_locked", 31, "500.001.1001 Unable to lock subscriber.", STK),
    refusal("duplicate_ocid", 33, "500.002.1001 Duplicate. No effect.", B2C_SHAPED),
    refusal("invalid_request", 35, "400.002.02 for params.field (Amount)."),
    refusal("our_field_refused", 71,
        "400.002.02 for a field of the client's settings: params.form, or drawn by `seed`"
        " (forms.py).", PAYMENTS),
    refusal("refused_otherwise", 72,
        "No effect, and an envelope that is not Daraja's: params.form, or drawn by `seed`"
        " (forms.py).", PAYMENTS),
    Script(name="number_refused", number=73, apis=PAYMENTS, quirks=frozenset({"number_refused"}),
        sentence="An Amount that is a JSON number gets a plain-text 422. A string is accepted."),
    Script(
        name="special_characters_fail",
        number=74,
        apis=PAYMENTS,
        quirks=frozenset({"special_characters_fail"}),
        sentence="Accepted. If a free text has `@`, `#` or `&`, no money moves and no result"
        " follows.",
    ),
    refusal("html_403", 39, "403 with the HTML page of a firewall."),
    refusal("html_503", 40, "503 with HTML."),
    refusal("error_envelope_200", 43, "200 with an error envelope."),
    refusal("gateway_403", 63, "403.002.1001: not allowed at the gateway.", PAYOUTS),
    refusal("system_internal_error", 64, "500.002.1001 System internal error.",
        PAYOUTS | {"status"}),
)  # fmt: skip

CATALOGUE: dict[str, Script] = {
    script.name: script for script in (*OUTCOMES, *DELIVERIES, *ANSWERS, *INQUIRIES)
}
