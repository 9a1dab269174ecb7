"""The simulator's scenarios: the answer, the money and the results of each."""

import aiohttp
import pytest

from tests.paths import ROOT
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

# API, scenario, the answer's status and error code, movements of money, codes of the results.
EFFECTS: list[tuple[str, str, str, int, list[object]]] = [
    ("stk", "approve", "200", 1, [0]),
    ("stk", "cancel", "200", 0, [1032]),
    ("stk", "ignore", "200", 0, [1037]),
    ("stk", "wrong_pin", "200", 0, [2001]),
    ("stk", "insufficient_funds", "200", 0, [1]),
    ("stk", "unknown_code", "200", 0, [7777]),
    ("stk", "late_success_after_failure", "200", 1, [1037, 0]),
    ("stk", "failure_then_success", "200", 1, [1037, 0]),
    ("stk", "duplicate_callbacks", "200", 1, [0, 0, 0]),
    ("stk", "callback_before_answer", "200", 1, [0]),
    ("stk", "lost_callback", "200", 1, []),
    ("stk", "answer_lost_after_acting", "cut", 1, [0]),
    ("stk", "answer_and_callback_lost", "cut", 1, []),
    ("stk", "internal_error_after_acting", "500 500.003.1001", 1, [0]),
    ("stk", "redirect_after_acting", "302", 1, [0]),
    ("stk", "html_200", "200", 1, [0]),
    ("stk", "garbage_200", "200", 1, [0]),
    ("stk", "empty_200", "200", 1, [0]),
    ("stk", "cut_before_acting", "cut", 0, []),
    ("stk", "html_403", "403", 0, []),
    ("stk", "html_503", "503", 0, []),
    ("stk", "token_expired", "404 404.001.03", 0, []),
    ("b2c", "unregistered_recipient", "200", 0, [2040]),
    ("b2c", "invalid_recipient", "200", 0, ["SFC_IC0003"]),
    ("b2c", "credential_refused", "200", 0, [2001]),
    ("b2c", "duplicate_ocid_async", "200", 0, [15]),
    ("b2c", "timeout_message", "200", 1, ["timeout", 0]),
    ("b2c", "timeout_message_only", "200", 0, ["timeout"]),
    ("b2c", "duplicate_ocid", "500 500.002.1001", 0, []),
    ("b2c", "spike_arrest_apigee", "429", 0, []),
    ("b2c", "spike_arrest_json", "500 500.003.02", 0, []),
    ("b2c", "quota", "500 500.003.03", 0, []),
    ("b2c", "system_busy", "500 500.003.02", 0, []),
    ("b2c", "internal_error_without_acting", "500 500.003.1001", 0, []),
    ("b2c", "maintenance", "503 500.002.1001", 0, []),
    ("b2c", "invalid_request", "400 400.002.02", 0, []),
    ("b2c", "error_envelope_200", "200 500.003.1001", 0, []),
    ("b2c", "gateway_403", "403 403.002.1001", 0, []),
    ("b2c", "token_expired", "401 401.002.01", 0, []),
    ("b2b", "approve", "200", 1, ["0"]),
    ("b2b", "credential_refused", "200", 0, [2001]),
    ("b2pochi", "approve", "200", 1, [0]),
    ("status", "approve", "200", 0, [0]),
    ("status", "duplicate_callbacks", "200", 0, [0, 0, 0]),
    ("status", "lost_callback", "200", 0, []),
    ("status", "timeout_message", "200", 0, ["timeout", 0]),
    ("status", "timeout_message_only", "200", 0, ["timeout"]),
    ("status", "credential_refused", "200", 0, [2001]),
    ("status", "answer_lost_after_acting", "cut", 0, [0]),
    ("status", "html_200", "200", 0, [0]),
    ("status", "html_503", "503", 0, []),
    ("stk_query", "in_flight_a", "200", 0, []),
    ("stk_query", "in_flight_b", "200 500.001.1001", 0, []),
    ("stk_query", "in_flight_c", "500 500.001.1001", 0, []),
    ("stk_query", "stray_500", "500 500.001.1001", 0, []),
    ("stk_query", "query_too_early", "400 400.002.02", 0, []),
    ("stk_query", "query_unknown", "500 500.001.1001", 0, []),
    ("stk_query", "cut_before_acting", "cut", 0, []),
]


async def earlier_payment(probe: Probe, api: str) -> dict[str, object]:
    """Finish a payment for an inquiry, and return the field that names the payment."""
    if api == "status":
        await probe.finish("b2c", OriginatorConversationID="p1")
        return {"OriginatorConversationID": "p1"}
    if api == "stk_query":
        pushed = await probe.finish("stk")
        return {"CheckoutRequestID": pushed["CheckoutRequestID"]}
    return {}


@pytest.mark.parametrize(("api", "scenario", "answer", "payments", "results"), EFFECTS)
async def test_each_scenario_answers_moves_money_and_reports_as_its_row_says(
    probe: Probe, api: str, scenario: str, answer: str, payments: int, results: list[object]
) -> None:
    """The next call succeeds, so the scenario leaves nothing behind."""
    target = await earlier_payment(probe, api)
    probe.receiver.received.clear()
    before = len(probe.simulator.ledger.movements)
    probe.simulator.scenario(scenario, api=api, times=1)
    try:
        answered = await probe.send(api, **target)
        code = answered.body.get("errorCode", "") if answered.body else ""
        assert f"{answered.status} {code}".strip() == answer
    except CUT:
        assert answer == "cut"
        assert probe.simulator.traffic.arrivals[-1].fault == "connection cut"
    await probe.simulator.idle()
    assert len(probe.simulator.ledger.movements) - before == payments
    assert probe.receiver.codes == results
    assert (await probe.send(api, **target)).status == 200


def test_the_readme_lists_every_scenario_with_its_number() -> None:
    """The rows are in the catalogue's order."""
    text = (ROOT / "tests" / "simulator" / "README.md").read_text(encoding="utf-8")
    lines = text.partition("| scenario | NN |")[2].splitlines()
    cells = [line.split("|") for line in lines if line.startswith("| `")]
    scripts = CATALOGUE.values()
    numbers = [(s.name, "" if s.number is None else f"{s.number:02}") for s in scripts]
    rows = [(name.strip(" `"), number.strip()) for _, name, number, *_ in cells]
    assert rows == numbers
