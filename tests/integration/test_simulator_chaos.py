"""The simulator's chaos, over HTTP: random scenarios, repeatable draws, and invalid plans."""

import aiohttp
import pytest

from tests.simulator.probe import PATHS, Answer, Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

HALF = {"seed": 7, "rates": {"internal_error_after_acting": 0.25, "html_503": 0.25}}


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
