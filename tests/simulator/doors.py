"""Refusals by Daraja's gateway, before M-PESA sees a call (daraja.md §1).

The gateway refuses an invalid token, or a product that the app lacks. Both refusals were seen in
several forms, and they share some forms: a missing product can look like an invalid token.
"""

from collections.abc import Mapping

from tests.simulator.answers import invalid_token
from tests.simulator.forms import Forms
from tests.simulator.shapes import Identities, Reply, reply

TOKEN_REFUSED, PRODUCT_MISSING = "token_refused", "product_missing"
NO_PRODUCT = "Invalid API call as no apiproduct match found"
APIGEE_CODE = "keymanagement.service.InvalidAPICallAsNoApiProductMatchFound"


def gateway_refusal(
    scenario: str,
    *,
    api: str,
    token: str,
    params: Mapping[str, object],
    forms: Forms,
    ids: Identities,
) -> Reply:
    """Return the refusal in one of its forms: `params.form`, or drawn by the switch `seed`."""
    known = (
        token_refusals(api, token, ids) if scenario == TOKEN_REFUSED else product_refusals(api, ids)
    )
    return known[forms.form(f"{scenario}/{api}", tuple(known), params)]


def token_refusals(api: str, token: str, ids: Identities) -> dict[str, Reply]:
    """Return every known refusal of a token, the API's own one first."""
    return {
        "by_api": invalid_token(api, token, ids),
        "newer": ids.error(401, "401.001", "Invalid Access Token"),
        "bare": ids.error(401, "401", "Unauthorized - Invalid Access Token"),
        "some_sdks": ids.error(401, "401.003.01", "Invalid Access Token"),
        "no_code": reply(
            {"ResponseCode": "", "ResponseDescription": f"Invalid Access Token - {token}"},
            status=401,
        ),
        "empty": Reply(401),
        "page": Reply(401, b"<html><body>401 Authorization Required</body></html>", "text/html"),
    }


def product_refusals(api: str, ids: Identities) -> dict[str, Reply]:
    """Return every known refusal of an app that lacks the product but has a valid token."""
    found = {
        "empty_token": ids.error(401, "401.002.01", "Error Occurred - Invalid Access Token - "),
        "no_apiproduct": reply(
            {"fault": {"faultstring": NO_PRODUCT, "detail": {"errorcode": APIGEE_CODE}}}, status=401
        ),
        "no_code": reply(
            {"ResponseCode": "", "ResponseDescription": "Invalid Access Token - "}, status=401
        ),
        "not_allowed": ids.error(403, "403.002.1001", "Invalid API call"),
    }
    if api in {"stk", "stk_query"}:
        found["until_approved"] = ids.error(404, "404.001.03", "Invalid Access Token")
    return found
