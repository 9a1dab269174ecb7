"""Scenarios of inquiries about a payment: STK query (daraja.md §3), Transaction Status (§6.1).

catalogue.py has the scenarios that any call may have. Among them are those by which an inquiry is
lost, delayed, refused or answered twice.
"""

from tests.simulator.script import Script, quirk, refusal

QUERY = frozenset({"stk_query"})
STATUS = frozenset({"status"})

QUERIES = (
    quirk("in_flight_a", None, QUERY, "200 with ResultCode 4999, in every state of the payment."),
    quirk("query_contradicts", None, QUERY,
        "200 with params.code and params.desc, in every state of the payment. Default: 0 if it"
        " failed," " else 1037."),
    quirk("query_codes_in_turn", None, QUERY,
        "200 with each of params.codes ([1032, 1037]) in turn, starting again after the last."
        " Each payment starts with the first."),
    quirk("query_foreign_ids", None, QUERY,
        "A true answer with ids of another payment: params.of (any of its ids), or by default"
        " unknown ids."),
    refusal("in_flight_b", None, "200 with an empty 500.001.1001.", QUERY),
    refusal("in_flight_c", None, "500 being processed.", QUERY),
    refusal("stray_500", None, "500 for a known id.", QUERY),
    refusal("query_too_early", None, "400 for a known id.", QUERY),
    refusal("query_unknown", None, "500 The transaction does not Exist.", QUERY),
)  # fmt: skip

STATUSES = (
    Script(name="not_found", apis=STATUS,
        sentence="The result says that the transaction does not exist: 2032 after 85 s, or"
        " SFC_IC0003 (params.code, or "
        "drawn by the switch `seed`). params.desc replaces the text."),
    Script(name="status_receiver_invalid", apis=STATUS, code="SFC_IC0003",
        sentence="SFC_IC0003 with `Receiver party is invalid.`, which does not mean that the"
        " payment was not found."),
    quirk("status_value", None, STATUS,
        "The result has params.status (Pending) as TransactionStatus, in every state of the"
        " payment."),
    quirk("status_conflicting", None, STATUS,
        "The result has TransactionStatus twice: params.status (default: the truth), then"
        " params.second" " (default: the contrary)."),
    quirk("status_missing_parameters", None, STATUS,
        "The keys in params.without ([TransactionStatus]) are missing. The keys in"
        " params.valueless have no Value. " "With params.absent the container is missing."),
    quirk("spaced_keys", None, STATUS,
        "A true answer with the keys `Originator Conversation ID` and `Conversation ID`."),
    quirk("status_missing_receipt", None, STATUS, "A true answer without ReceiptNo."),
    quirk("status_wrong_amount", None, STATUS,
        "A true answer with another amount: params.amount, or by default one shilling more."),
    quirk("status_foreign_ids", None, STATUS,
        "The parameters have ids of another payment: params.of (any of its ids), or by default"
        " unknown ids."),
)  # fmt: skip

INQUIRIES = (*QUERIES, *STATUSES)
