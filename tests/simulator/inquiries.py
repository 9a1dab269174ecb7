"""Scenarios of questions about a payment: STK query (daraja.md §3) and Transaction Status (§6.1).

How a question is lost, delayed, refused or answered twice is not here but in catalogue.py, as for
any call.
"""

from tests.simulator.script import Script, quirk, refusal

QUERY = frozenset({"stk_query"})
STATUS = frozenset({"status"})

QUERIES = (
    quirk("in_flight_a", None, QUERY, "200 with ResultCode 4999, whatever became of the payment."),
    quirk(
        "query_contradicts",
        None,
        QUERY,
        "200 with params.code and params.desc, whatever became of the payment; else 0 if it failed and 1037 if not.",
    ),
    quirk(
        "query_codes_in_turn",
        None,
        QUERY,
        "200 with one of params.codes ([1032, 1037]) after the other, each payment from the first, over and over.",
    ),
    quirk(
        "query_foreign_ids",
        None,
        QUERY,
        "A true answer under ids of another payment: params.of (any id of it), else ids that nobody has.",
    ),
    refusal("in_flight_b", None, "200 with an empty 500.001.1001.", QUERY),
    refusal("in_flight_c", None, "500 being processed.", QUERY),
    refusal("stray_500", None, "500 for a known id.", QUERY),
    refusal("query_too_early", None, "400 for a known id.", QUERY),
    refusal("query_unknown", None, "500 The transaction does not Exist.", QUERY),
)

STATUSES = (
    Script(
        name="not_found",
        apis=STATUS,
        sentence="The result says that the transaction does not exist: 2032 after 85 s, or SFC_IC0003 (params.code, else "
        "drawn by the switch seed; params.desc: in other words).",
    ),
    Script(
        name="status_receiver_invalid",
        apis=STATUS,
        code="SFC_IC0003",
        sentence="SFC_IC0003 with `Receiver party is invalid.`, which does not say that nothing was found.",
    ),
    quirk(
        "status_value",
        None,
        STATUS,
        "The result gives params.status (Pending) as TransactionStatus, whatever became of the payment.",
    ),
    quirk(
        "status_conflicting",
        None,
        STATUS,
        "TransactionStatus comes twice: params.status (the truth), then params.second (Failed, or Completed).",
    ),
    quirk(
        "status_missing_parameters",
        None,
        STATUS,
        "Without the keys in params.without ([TransactionStatus]); those in params.valueless have no Value; "
        "params.absent drops the container.",
    ),
    quirk(
        "spaced_keys",
        None,
        STATUS,
        "A true answer that writes Originator Conversation ID and Conversation ID.",
    ),
    quirk("status_missing_receipt", None, STATUS, "A true answer without ReceiptNo."),
    quirk(
        "status_wrong_amount",
        None,
        STATUS,
        "A true answer with another amount (params.amount, else one more).",
    ),
    quirk(
        "status_foreign_ids",
        None,
        STATUS,
        "The parameters name another payment's ids: params.of (any id of it), else ids that nobody has.",
    ),
)

INQUIRIES = (*QUERIES, *STATUSES)
