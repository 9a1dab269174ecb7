"""Answers that were seen in several forms. Each call gets one form, drawn by the switch `seed`.

The n-th draw of a scenario is the same under the same seed, independent of other calls.
`params.form` chooses a form.
"""

import random
import re
from collections.abc import Mapping, Sequence

from tests.simulator.shapes import Identities, Reply, reply
from tests.simulator.switches import Switches
from tests.simulator.validation import Body

ELEMENT = "The element AccountReference is invalid."

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

    def reply(
        self, scenario: str, *, api: str, params: Mapping[str, object], ids: Identities
    ) -> Reply:
        """Return the answer of `scenario` in one of its forms."""
        if scenario == "refused_otherwise":
            return OTHER_ENVELOPES[self.form(scenario, tuple(OTHER_ENVELOPES), params)]
        assert scenario == "our_field_refused", scenario
        field = self.form(f"{scenario}/{api}", OUR_FIELDS[api], params)
        return ids.error(400, "400.002.02", f"Bad Request - Invalid {field}")

    def form(self, draw: str, forms: Sequence[str], params: Mapping[str, object]) -> str:
        """Return `params.form` if it is set, else one of `forms` from the series named `draw`."""
        wanted = params.get("form")
        if isinstance(wanted, str):
            return wanted
        seed = int(self._switches.seed)
        generator = self._generators.setdefault((seed, draw), random.Random(f"{seed}/{draw}"))
        return generator.choice(forms)

    def clear(self) -> None:
        """Start all series of draws again."""
        self._generators.clear()


def is_number(body: Body) -> bool:
    """Whether the amount is a JSON number, which an independent server refuses (§2.1)."""
    return isinstance(body.get("Amount"), int | float)


def has_special_characters(body: Body) -> bool:
    """Whether a free text has characters that made requests fail silently (§2.2)."""
    return any(SPECIAL.search(str(body.get(field, ""))) for field in TEXTS)
