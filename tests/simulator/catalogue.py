"""Every scenario by name: what happens to one call that meets it.

`APPROVE` is what happens when nothing else was chosen. `number` is the magic number: phone
2547000000NN or amount 249,9NN chooses the scenario for a payment. How one is chosen is in
scenarios.py.
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
    sentence="The customer enters the PIN, or the payout goes through: money moves and is told once.",
)

# What the customer or the provider decides.
OUTCOMES = (
    APPROVE,
    Script(
        name="cancel", number=10, apis=STK, code=1032, sentence="The customer dismisses the prompt."
    ),
    Script(name="ignore", number=11, apis=STK, code=1037, sentence="Nobody answers the prompt."),
    Script(
        name="wrong_pin",
        number=12,
        apis=STK,
        code=2001,
        sentence="The customer enters a wrong PIN.",
    ),
    Script(
        name="insufficient_funds",
        number=13,
        apis=PAYMENTS,
        code=1,
        sentence="The account that pays holds too little.",
    ),
    Script(
        name="duplicate_ocid_async",
        number=34,
        apis=B2C_SHAPED,
        code=15,
        sentence="Accepted, then result 15: Duplicate OriginatorConversationID.",
    ),
    Script(
        name="unknown_code",
        number=54,
        apis=PAYMENTS,
        code=7777,
        sentence="The result carries a code that no table knows; no money moves.",
    ),
    Script(
        name="result_code",
        apis=ALL - {"oauth", "stk_query"},
        code=17,
        sentence="The result carries params.code and params.desc; money moves if the code is 0.",
    ),
    Script(
        name="unregistered_recipient",
        number=58,
        apis=PAYOUTS,
        code=2040,
        sentence="The recipient is not a registered customer.",
    ),
    Script(
        name="invalid_recipient",
        number=59,
        apis=PAYOUTS,
        code="SFC_IC0003",
        sentence="The receiver party is invalid; the code is a string.",
    ),
    Script(
        name="credential_refused",
        number=65,
        apis=ASYNC,
        code=2001,
        sentence="Accepted, then a result about the credential: params.code (2001; 8006, 18, 20, 21, 22). Nothing moves.",
    ),
    Script(
        name="late_success_after_failure",
        number=45,
        apis=PAYMENTS,
        code=1037,
        payout_code=1,
        success_after_seconds=60.0,
        sentence="A failure is told, and long after it money moves and success is told.",
    ),
    Script(
        name="failure_then_success",
        number=46,
        apis=PAYMENTS,
        code=1037,
        payout_code=1,
        success_after_seconds=0.0,
        sentence="Money moves; a failure is told first and the success right behind it.",
    ),
)

# How and when it is told.
TELLING = (
    Script(
        name="slow",
        number=14,
        apis=ALL,
        answer_seconds=3.0,
        sentence="The answer comes after params.seconds (3, real) although the call had its effect at once.",
    ),
    Script(
        name="slow_result",
        number=15,
        apis=PAYMENTS | {"status"},
        result_seconds=90.0,
        sentence="The result comes after params.seconds (real; else 90 scaled).",
    ),
    Script(
        name="duplicate_callbacks",
        number=16,
        apis=PAYMENTS | {"status"},
        callbacks=3,
        sentence="The result is delivered params.count (3) times at once.",
    ),
    Script(
        name="callback_before_answer",
        number=17,
        apis=PAYMENTS | {"status"},
        callback_first=True,
        sentence="The result is delivered, and only then the call is answered.",
    ),
    Script(
        name="lost_callback",
        number=18,
        apis=PAYMENTS | {"status"},
        callbacks=0,
        sentence="Money moves and no result is ever delivered.",
    ),
    Script(
        name="held_callback",
        number=66,
        apis=PAYMENTS | {"status"},
        held=True,
        sentence="Money moves and the result is held back until `POST /_control/callbacks/release`.",
    ),
    Script(
        name="timeout_message",
        number=55,
        apis=ASYNC,
        timeout_message=True,
        result_seconds=5.0,
        sentence="The request is echoed to QueueTimeOutURL, and the result follows.",
    ),
    Script(
        name="timeout_message_only",
        number=56,
        apis=ASYNC,
        timeout_message=True,
        result_follows=False,
        sentence="The request is echoed to QueueTimeOutURL and nothing follows; no money moves.",
    ),
    quirk(
        "wrong_amount",
        47,
        PAYMENTS,
        "The result names another amount (params.amount, else one more).",
    ),
    quirk(
        "receipt_under_amount",
        None,
        PAYOUTS,
        "The result has its receipt a second time, under the name of the amount.",
    ),
    quirk(
        "result_names_another_id",
        None,
        PAYOUTS,
        "The result's OriginatorConversationID is params.of (any id of a payment), else one that nobody has.",
    ),
    quirk(
        "missing_metadata",
        48,
        PAYMENTS,
        "A success without items; params.absent drops the container.",
    ),
    quirk("missing_receipt", 49, PAYMENTS, "A success without a receipt."),
    quirk(
        "string_date",
        50,
        PAYMENTS,
        "The result's date is a string where it is a number by default.",
    ),
    quirk(
        "balance_without_value", 51, STK, "Balance has no Value; this is the default shape anyway."
    ),
    Script(
        name="single_object_parameter",
        number=52,
        apis=PAYOUTS,
        code=2040,
        quirks=frozenset({"single_object_parameter"}),
        sentence="ResultParameter is one object and not a list; a failure unless params.code says 0.",
    ),
    quirk("string_codes", 53, PAYMENTS | {"status"}, "ResultCode and ResultType are strings."),
    quirk("missing_value", 60, PAYOUTS, "Some items have no Value, and ReferenceItem is a list."),
    quirk("masked_phone", 61, STK, "PhoneNumber is masked."),
    quirk("shuffled_items", 62, PAYMENTS, "The items come in another order."),
)

# What happens to the connection or the answer, after or without acting.
ANSWERS = (
    Script(
        name="answer_lost_after_acting",
        number=19,
        apis=ALL,
        answer="cut",
        sentence="The call has its effect and the connection is reset; the result still comes.",
    ),
    Script(
        name="answer_and_callback_lost",
        number=20,
        apis=PAYMENTS | {"status"},
        answer="cut",
        callbacks=0,
        sentence="The call has its effect, the connection is reset, and no result is delivered.",
    ),
    Script(
        name="internal_error_after_acting",
        number=28,
        apis=ALL,
        answer="internal_error",
        sentence="The call has its effect and is answered 500.003.1001.",
    ),
    Script(
        name="redirect_after_acting",
        number=36,
        apis=ALL,
        answer="redirect",
        sentence="The call has its effect and is answered 302 to an address where nothing listens.",
    ),
    Script(
        name="html_200",
        number=38,
        apis=ALL,
        answer="html_200",
        sentence="Has its effect; 200 with HTML.",
    ),
    Script(
        name="garbage_200",
        number=41,
        apis=ALL,
        answer="garbage_200",
        sentence="Has its effect; 200 with JSON that ends too soon.",
    ),
    Script(
        name="empty_200",
        number=42,
        apis=ALL,
        answer="empty_200",
        sentence="Has its effect; 200, no body.",
    ),
    Script(
        name="connection_refused",
        number=22,
        apis=ALL,
        acts=False,
        answer="cut",
        once=True,
        times=1,
        sentence="The listener closes, connections too, for params.seconds (3, real; null: until opened).",
    ),
    Script(
        name="token_expired",
        number=44,
        apis=CALLS,
        acts=False,
        answer="token_expired",
        once=True,
        times=1,
        sentence="One call gets this API's answer to an invalid token.",
    ),
    refusal(
        "token_refused",
        None,
        "One call gets the answer to an invalid token: params.form, else drawn by `seed` (doors.py).",
        CALLS,
    ),
    refusal(
        "product_missing",
        None,
        "The app lacks this product though its token is good: params.form, else drawn by `seed` (doors.py).",
        CALLS,
    ),
    refusal(
        "cut_before_acting", 21, "The connection is reset, nothing done.", answer="cut", once=True
    ),
    refusal("spike_arrest_apigee", 23, "429 with the gateway's own fault.", once=True),
    refusal("spike_arrest_json", 24, "500.003.02 Spike Arrest Violation.", once=True),
    refusal("quota", 25, "500.003.03 Quota Violation.", once=True),
    refusal("system_busy", 26, "500.003.02 System is busy.", once=True),
    refusal(
        "internal_error_without_acting",
        27,
        "500.003.1001, nothing done.",
        answer="internal_error",
        once=True,
    ),
    refusal("maintenance", 32, "503 with 500.002.1001 maintenance.", once=True),
    refusal("redirect_without_acting", 37, "302, nothing done.", answer="redirect", once=True),
    refusal("merchant_missing", 29, "500.001.1001 Merchant does not exist.", STK | {"stk_query"}),
    refusal("wrong_credentials", 30, "500.001.1001 Wrong credentials.", STK | {"stk_query"}),
    refusal("subscriber_locked", 31, "500.001.1001 Unable to lock subscriber.", STK),
    refusal("duplicate_ocid", 33, "500.002.1001 Duplicate, nothing done.", B2C_SHAPED),
    refusal("invalid_request", 35, "400.002.02 for params.field (Amount)."),
    refusal(
        "our_field_refused",
        71,
        "400.002.02 for a field of ours: params.form, else drawn by `seed`.",
        PAYMENTS,
    ),
    refusal(
        "refused_otherwise",
        72,
        "Nothing done, and an envelope that is not Daraja's: params.form, else drawn by `seed` (forms.py).",
        PAYMENTS,
    ),
    Script(
        name="number_refused",
        number=73,
        apis=PAYMENTS,
        quirks=frozenset({"number_refused"}),
        sentence="An Amount that is a JSON number gets a plain-text 422, as from an independent server; a string passes.",
    ),
    Script(
        name="special_characters_fail",
        number=74,
        apis=PAYMENTS,
        quirks=frozenset({"special_characters_fail"}),
        sentence="Accepted; if a free text has `@`, `#` or `&`, nothing follows: no money, no result.",
    ),
    refusal("html_403", 39, "403 with the HTML of a firewall in front."),
    refusal("html_503", 40, "503 with HTML."),
    refusal("error_envelope_200", 43, "200 with an error envelope."),
    refusal("gateway_403", 63, "403.002.1001: not allowed at the gateway.", PAYOUTS),
    refusal(
        "system_internal_error", 64, "500.002.1001 System internal error.", PAYOUTS | {"status"}
    ),
)

CATALOGUE: dict[str, Script] = {
    script.name: script for script in (*OUTCOMES, *TELLING, *ANSWERS, *INQUIRIES)
}
