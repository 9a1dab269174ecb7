"""Answers that were seen in several forms. Each call gets one form, drawn by the switch `seed`.

The n-th draw of a scenario is the same under the same seed, independent of other calls.
`params.form` chooses a form. The gateway's refusals of a token and of a product share some forms:
a missing product can look like an invalid token (daraja.md §1).
"""

import random
import re
from collections.abc import Mapping, Sequence

from tests.simulator.script import PAYOUTS
from tests.simulator.shapes import Identities, Reply, invalid_field, reply
from tests.simulator.switches import Switches
from tests.simulator.validation import Body

TOKEN_REFUSED, PRODUCT_MISSING = "token_refused", "product_missing"
VARIED = frozenset({TOKEN_REFUSED, PRODUCT_MISSING, "refused_otherwise", "our_field_refused"})
ELEMENT = "The element AccountReference is invalid."
NO_PRODUCT = "Invalid API call as no apiproduct match found"
APIGEE_CODE = "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound"

# Refusals that are not in Daraja's error envelope (§2.2). The call had no effect. No form has an
# id of a payment.
OTHER_ENVELOPES: dict[str, Reply] = {
    "status_error": reply({"status": "error", "message": ELEMENT, "data": "20"}, status=400),
    "standing_order": reply(
        {
            "requestRefId": "c3d2-11ef-9d13-4a1f5177",
            "responseCode": 400,
            "responseMessage": "Bad Request",
        },
        status=400,
    ),
    "plain_text": Reply(422, b"Unprocessable Entity: invalid request body", "text/plain"),
    "nothing": Reply(404),
    "list": Reply(422, b'[{"loc":["body","Amount"],"msg":"value is not valid"}]'),
    "unknown_code": reply(
        {"errorCode": "BAD_REQUEST", "errorMessage": "The request is not valid"}, status=400
    ),
    "page": Reply(
        404, b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>", "text/html"
    ),
    "length": Reply(411, b"<html><body>Length Required</body></html>", "text/html"),
    "verb": Reply(405, b"Method Not Allowed", "text/plain"),
    "too_large": Reply(413, b"", "text/plain"),
    "media_type": reply(
        {"timestamp": "2026-03-01T07:15:00Z", "error": "Unsupported Media Type"}, status=415
    ),
}

# Fields that come from the client's settings and not from its caller, by API, in the spelling of
# Daraja's messages (§2.2).
OUR_FIELDS: dict[str, Sequence[str]] = {
    "stk": ("CallBackURL", "BusinessShortCode", "Password", "Timestamp", "TransactionType",
            "PartyB", "Call Back URL"),
    "b2c": ("Initiator", "InitiatorName", "SecurityCredential", "PartyA", "ResultURL",
            "QueueTimeOutURL", "CommandID", "OriginatorConversationID"),
    "b2pochi": ("InitiatorName", "SecurityCredential", "PartyA", "ResultURL", "QueueTimeOutURL",
                "CommandID", "OriginatorConversationID"),
    "b2b": ("Initiator", "SecurityCredential", "PartyA", "ResultURL", "QueueTimeOutURL",
            "SenderIdentifierType", "RecieverIdentifierType", "CommandID"),
}  # fmt: skip

NUMBER_REFUSED = Reply(
    422,
    b"Failed to deserialize the JSON body into the target type:"
    b" Amount: invalid type: integer, expected a string",
    "text/plain",
)
TEXTS = ("AccountReference", "TransactionDesc", "Remarks", "Occassion")
SPECIAL = re.compile(r"[@#&]")


class Forms:
    """Draws a form for each call of a scenario."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._generators: dict[tuple[int, str], random.Random] = {}

    def draw(self, series: str, forms: Sequence[str], params: Mapping[str, object]) -> str:
        """Return `params.form` if it is set, else the next one of `forms` in this series."""
        wanted = params.get("form")
        if isinstance(wanted, str):
            return wanted
        seed = self._switches.seed
        generator = self._generators.setdefault((seed, series), random.Random(f"{seed}/{series}"))
        return generator.choice(forms)

    def clear(self) -> None:
        """Start all series of draws again."""
        self._generators.clear()


def known_forms(scenario: str, api: str, token: str, ids: Identities) -> dict[str, Reply]:
    """Return every known form of the answer of a scenario, by its name."""
    match scenario:
        case "refused_otherwise":
            return OTHER_ENVELOPES
        case "our_field_refused":
            return {field: invalid_field(field, ids) for field in OUR_FIELDS[api]}
        case "token_refused":
            return token_refusals(api, token, ids)
        case _:
            return product_refusals(api, ids)


def invalid_token(api: str, token: str, ids: Identities) -> Reply:
    """Return the API's answer to an invalid token (§1). The payout APIs echo the token."""
    if api in PAYOUTS:
        return ids.error(401, "401.002.01", f"Error Occurred - Invalid Access Token - {token}")
    if api == "status":
        return ids.error(400, "400.003.01", "Invalid Access Token")
    return ids.error(404, "404.001.03", "Invalid Access Token")


def token_refusals(api: str, token: str, ids: Identities) -> dict[str, Reply]:
    """Return every known refusal of a token, the API's own one first."""
    return {
        "by_api": invalid_token(api, token, ids),
        "newer": ids.error(401, "401.001", "Invalid Access Token"),
        "bare": ids.error(401, "401", "Unauthorized - Invalid Access Token"),
        "some_sdks": ids.error(401, "401.003.01", "Invalid Access Token"),
        "no_code": _without_code(f"Invalid Access Token - {token}"),
        "empty": Reply(401),
        "page": Reply(401, b"<html><body>401 Authorization Required</body></html>", "text/html"),
    }


def product_refusals(api: str, ids: Identities) -> dict[str, Reply]:
    """Return every known refusal of an app that lacks the product but has a valid token."""
    fault = {"faultstring": NO_PRODUCT, "detail": {"errorcode": APIGEE_CODE}}
    found = {
        "empty_token": ids.error(401, "401.002.01", "Error Occurred - Invalid Access Token - "),
        "no_apiproduct": reply({"fault": fault}, status=401),
        "no_code": _without_code("Invalid Access Token - "),
        "not_allowed": ids.error(403, "403.002.1001", "Invalid API call"),
    }
    if api in {"stk", "stk_query"}:
        found["until_approved"] = ids.error(404, "404.001.03", "Invalid Access Token")
    return found


def _without_code(description: str) -> Reply:
    return reply({"ResponseCode": "", "ResponseDescription": description}, status=401)


def is_number(body: Body) -> bool:
    """Whether the amount is a JSON number, which an independent server refuses (§2.1)."""
    return isinstance(body.get("Amount"), int | float)


def has_special_characters(body: Body) -> bool:
    """Whether a free text has characters that made requests fail silently (§2.2)."""
    return any(SPECIAL.search(str(body.get(field, ""))) for field in TEXTS)
