"""The simulator's chaos, over HTTP: random scenarios, repeatable draws, and invalid plans."""

from collections import Counter

import aiohttp
import pytest

from tests.simulator.probe import PATHS, Answer, Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

HALF = {"seed": 7, "rates": {"internal_error_after_acting": 0.25, "html_503": 0.25}}
ALWAYS = {"seed": 1, "rates": {"html_503": 1.0}}


async def met(probe: Probe, path: str = "b2c") -> list[str]:
    """Return the recorded scenario of each call."""
    items = (await probe.control("GET", f"/requests?path={path}")).body["items"]
    return [item["scenario"] for item in items]


async def set_plan(probe: Probe, plan: object) -> Answer:
    """Set the plan through the control API."""
    return await probe.control("POST", "/switches", {"chaos": plan})


async def test_a_seed_draws_the_same_scenarios_again_whatever_other_apis_are_called(
    probe: Probe,
) -> None:
    """A new plan starts its draws anew. The payouts of a soak meet the same faults in each run."""
    drawn = []
    for seed, inquires in ((7, False), (7, True), (8, False)):
        await probe.control("DELETE", "/requests")
        assert (await set_plan(probe, {**HALF, "seed": seed})).status == 200
        for _ in range(30):
            if inquires:
                await probe.send("status", OriginatorConversationID="p1")
            await probe.send("b2c")
        drawn.append(await met(probe))
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == {"approve", "internal_error_after_acting", "html_503"}


async def test_a_scenario_is_drawn_only_for_its_own_apis(probe: Probe) -> None:
    """Each API gets its full share, so rates of different APIs do not add up."""
    rates = {"cancel": 1.0, "query_unknown": 1.0, "duplicate_ocid": 1.0, "not_found": 1}
    await set_plan(probe, {"seed": 1, "rates": rates})
    checkout = (await probe.send("stk")).body["CheckoutRequestID"]
    await probe.send("stk_query", CheckoutRequestID=checkout)
    await probe.send("b2b")
    await probe.send("b2c")
    await probe.send("status", OriginatorConversationID="p1")
    expected = ["cancel", "query_unknown", "approve", "duplicate_ocid", "not_found"]
    assert await met(probe, "/mpesa/") == expected


async def test_rates_are_shares_of_the_calls(probe: Probe) -> None:
    """Each fault meets about a quarter of the calls. The seed is fixed, so nothing is random."""
    await set_plan(probe, HALF)
    for _ in range(400):
        await probe.send("b2c")
    counts = Counter(await met(probe))
    assert 70 < counts["internal_error_after_acting"] < 130
    assert 70 < counts["html_503"] < 130


async def test_chaos_applies_to_calls_without_a_rule_or_a_magic_number_until_it_is_turned_off(
    probe: Probe,
) -> None:
    for turn_off in (lambda: set_plan(probe, None), probe.simulator.reset):
        await set_plan(probe, ALWAYS)
        probe.simulator.scenario("approve", reference="p1", times=1)
        assert (await probe.send("b2c", OriginatorConversationID="p1")).status == 200
        assert (await probe.send("b2c", PartyB="254700000023")).status == 429
        assert (await probe.send("b2c")).status == 503
        await turn_off()
        assert (await probe.send("b2c")).status == 200
        await probe.simulator.reset()


async def test_only_the_named_apis_get_chaos_with_the_given_params(probe: Probe) -> None:
    """For example, a soak may exclude tokens."""
    await set_plan(probe, {**ALWAYS, "apis": ["b2c"], "params": {"html_503": {"act": True}}})
    assert (await probe.fetch_token()).status == 200
    assert (await probe.send("stk")).status == 200
    assert (await probe.send("b2c", OriginatorConversationID="p1")).status == 503
    await probe.simulator.idle()
    assert probe.simulator.ledger.count("p1") == 1


async def test_money_still_moves_at_most_once_for_an_id(probe: Probe) -> None:
    """The test is a careless client, which sends each id again and again."""
    scenarios = ["answer_lost_after_acting", "cut_before_acting", "system_busy", "lost_callback"]
    await set_plan(probe, {"seed": 3, "rates": dict.fromkeys(scenarios, 0.2)})
    bodies = [probe.body("b2c") for _ in range(30)]
    for _ in range(6):
        for body in bodies:
            try:
                await probe.call(PATHS["b2c"], body)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                continue
    await probe.simulator.idle()
    counts = {entry["count"] for entry in probe.simulator.ledger.by_reference().values()}
    assert counts == {1}


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (7, "chaos must be null or"),
        ({"rates": {}}, "chaos.seed must be a whole number"),
        ({"seed": 7}, "chaos.rates must be an object"),
        ({"seed": 7, "rates": {"no_such": 0.1}}, "unknown scenario, 'no_such'"),
        ({"seed": 7, "rates": {"html_503": 1.1}}, "html_503 must be a number from 0 to 1"),
        ({"seed": 7, "rates": {"html_503": float("nan")}}, "html_503 must be a number from 0 to 1"),
        ({"seed": 7, "rates": {"html_503": 0.6, "html_200": 0.5}}, "add up to 1.1"),
        ({"seed": 7, "rates": {}, "apis": ["c2b"]}, "chaos.apis must be a list of some of"),
        ({"seed": 7, "rates": {}, "params": {"slow": {"seconds": 1}}}, "without a rate: slow"),
        ({"seed": 7, "rates": {}, "colour": "red"}, "chaos has no member colour"),
    ],
)
async def test_an_invalid_plan_is_refused_with_the_reason_and_changes_nothing(
    probe: Probe, plan: object, says: str
) -> None:
    await set_plan(probe, HALF)
    answer = await set_plan(probe, plan)
    assert answer.status == 400
    assert says in answer.body["error"]
    assert (await probe.control("GET", "/switches")).body["chaos"] == HALF
