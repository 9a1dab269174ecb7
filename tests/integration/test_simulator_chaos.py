"""The simulator's chaos, over HTTP: random scenarios, repeatable draws, and invalid plans."""

from collections import Counter
from typing import Any

import aiohttp
import pytest

from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

HALF = {"seed": 7, "rates": {"internal_error_after_acting": 0.25, "html_503": 0.25}}


async def met(probe: Probe, path: str = "b2c") -> list[str]:
    """Return the recorded scenario of each call."""
    items = (await probe.control("GET", f"/requests?path={path}")).body["items"]
    return [item["scenario"] for item in items]


async def set_plan(probe: Probe, plan: object) -> Any:
    """Set the plan through the control API."""
    return await probe.control("POST", "/switches", {"chaos": plan})


async def pay(probe: Probe, count: int) -> None:
    """Send payouts one after the other."""
    for _ in range(count):
        await probe.b2c()


class TestLots:
    """The scenario that a call draws."""

    async def test_the_same_plan_draws_the_same_scenarios(self, probe: Probe) -> None:
        """Setting the plan again starts it again. Another seed draws other scenarios."""
        drawn = []
        for seed in (7, 7, 8):
            await probe.control("DELETE", "/requests")
            assert (await set_plan(probe, {**HALF, "seed": seed})).status == 200
            await pay(probe, 40)
            drawn.append(await met(probe))
        assert drawn[0] == drawn[1] != drawn[2]
        assert set(drawn[0]) == {"approve", "internal_error_after_acting", "html_503"}

    async def test_calls_of_another_api_do_not_change_the_draws(self, probe: Probe) -> None:
        """So the payouts of a soak meet the same faults with any number of inquiries."""
        await set_plan(probe, HALF)
        await pay(probe, 20)
        alone = await met(probe)
        await probe.control("DELETE", "/requests")
        await set_plan(probe, HALF)
        for _ in range(20):
            await probe.status(OriginatorConversationID="p1")
            await probe.b2c()
        assert await met(probe) == alone

    async def test_a_scenario_is_drawn_only_for_its_own_apis(self, probe: Probe) -> None:
        """Each API gets its full share."""
        rates = {
            "cancel": 1.0,
            "query_unknown": 1.0,
            "insufficient_funds": 0.0,
            "duplicate_ocid": 1.0,
            "not_found": 1,
        }
        await set_plan(probe, {"seed": 1, "rates": rates})
        checkout = (await probe.stk()).body["CheckoutRequestID"]
        await probe.query(checkout)
        await probe.b2b()
        await probe.b2c()
        await probe.status(OriginatorConversationID="p1")
        assert await met(probe, "/mpesa/") == [
            "cancel",
            "query_unknown",
            "approve",
            "duplicate_ocid",
            "not_found",
        ]

    async def test_rates_are_shares(self, probe: Probe) -> None:
        """About a quarter each. The seed is fixed, so this never fails by chance."""
        await set_plan(probe, HALF)
        await pay(probe, 400)
        counts = Counter(await met(probe))
        assert 70 < counts["internal_error_after_acting"] < 130
        assert 70 < counts["html_503"] < 130

    async def test_a_rule_and_a_magic_number_go_before_chaos(self, probe: Probe) -> None:
        """Chaos applies only to calls with neither."""
        await set_plan(probe, {"seed": 1, "rates": {"html_503": 1.0}})
        probe.simulator.scenario("approve", reference="p1")
        assert (await probe.b2c(OriginatorConversationID="p1")).status == 200
        assert (await probe.b2c(PartyB="254700000023")).status == 429
        assert (await probe.b2c()).status == 503

    async def test_only_the_named_apis_get_chaos_with_the_given_params(self, probe: Probe) -> None:
        """For example, a soak may exclude tokens."""
        plan = {
            "seed": 1,
            "rates": {"html_503": 1.0},
            "apis": ["b2c"],
            "params": {"html_503": {"act": True}},
        }
        await set_plan(probe, plan)
        assert (await probe.fetch_token()).status == 200
        assert (await probe.stk()).status == 200
        assert (await probe.b2c(OriginatorConversationID="p1")).status == 503
        await probe.simulator.idle()
        assert probe.simulator.ledger.count("p1") == 1

    async def test_chaos_is_turned_off_by_null_and_by_a_reset(self, probe: Probe) -> None:
        """Null turns chaos off."""
        for end in ({"chaos": None}, None):
            await set_plan(probe, {"seed": 1, "rates": {"html_503": 1.0}})
            assert (await probe.b2c()).status == 503
            await (
                probe.simulator.reset() if end is None else probe.control("POST", "/switches", end)
            )
            assert (await probe.b2c()).status == 200

    async def test_money_still_moves_at_most_once_for_an_id(self, probe: Probe) -> None:
        """Even if a client without knowledge sends the id again and again."""
        rates = {
            "answer_lost_after_acting": 0.2,
            "cut_before_acting": 0.2,
            "system_busy": 0.2,
            "lost_callback": 0.2,
        }
        await set_plan(probe, {"seed": 3, "rates": rates})
        bodies = [probe.b2c_body() for _ in range(30)]
        for _ in range(6):
            for body in bodies:
                try:
                    await probe.call("/mpesa/b2c/v3/paymentrequest", body)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    continue
        await probe.simulator.idle()
        counts = {entry["count"] for entry in probe.simulator.ledger.by_reference().values()}
        assert counts == {1}


class TestPlans:
    """Valid and invalid plans."""

    @pytest.mark.parametrize(
        ("plan", "says"),
        [
            (7, "chaos must be null or"),
            ({"rates": {}}, "chaos.seed must be a whole number"),
            ({"seed": "7", "rates": {}}, "chaos.seed must be a whole number"),
            ({"seed": 7}, "chaos.rates must be an object"),
            ({"seed": 7, "rates": {"no_such": 0.1}}, "unknown scenario, 'no_such'"),
            (
                {"seed": 7, "rates": {"html_503": -0.1}},
                "rate of html_503 must be a number from 0 to 1",
            ),
            (
                {"seed": 7, "rates": {"html_503": 1.1}},
                "rate of html_503 must be a number from 0 to 1",
            ),
            (
                {"seed": 7, "rates": {"html_503": float("nan")}},
                "rate of html_503 must be a number from 0 to 1",
            ),
            (
                {"seed": 7, "rates": {"html_503": True}},
                "rate of html_503 must be a number from 0 to 1",
            ),
            ({"seed": 7, "rates": {"html_503": 0.6, "html_200": 0.5}}, "add up to 1.1"),
            ({"seed": 7, "rates": {}, "apis": ["c2b"]}, "chaos.apis must be a list of some of"),
            ({"seed": 7, "rates": {}, "params": {"slow": {"seconds": 1}}}, "without a rate: slow"),
            ({"seed": 7, "rates": {}, "colour": "red"}, "chaos has no member colour"),
        ],
    )
    async def test_an_invalid_plan_is_refused_and_changes_nothing(
        self, probe: Probe, plan: object, says: str
    ) -> None:
        """The answer has the reason."""
        await set_plan(probe, HALF)
        answer = await set_plan(probe, plan)
        assert answer.status == 400
        assert says in answer.body["error"]
        assert (await probe.control("GET", "/switches")).body["chaos"] == HALF

    async def test_shares_of_different_apis_do_not_add_up(self, probe: Probe) -> None:
        """A deposit cannot be a duplicate, so both rates may be 1. Fractions may add up to 1."""
        rates = {"cancel": 1.0, "duplicate_ocid": 1.0}
        assert (await set_plan(probe, {"seed": 7, "rates": rates})).status == 200
        tenths = dict.fromkeys(
            [
                "slow",
                "html_200",
                "html_403",
                "html_503",
                "quota",
                "system_busy",
                "empty_200",
                "garbage_200",
            ],
            0.1,
        )
        assert (
            await set_plan(probe, {"seed": 7, "rates": {**tenths, "maintenance": 0.2}})
        ).status == 200
