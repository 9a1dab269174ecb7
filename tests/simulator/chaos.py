"""Chaos: a call that matches no rule gets a random scenario, the same in every run of a plan.

A plan is the value of the switch `chaos`: `{"seed": 7, "rates": {"cut_before_acting": 0.03}}`. A
rate is the share of an API's calls that get the scenario. It counts only for the scenario's own
APIs. All other calls are approved. Optional are `params` by scenario, and `apis`, which limits
chaos to some APIs. The n-th call of an API always draws the same scenario.
"""

import random
from collections.abc import Mapping
from itertools import accumulate

from tests.simulator.catalogue import CATALOGUE
from tests.simulator.script import ALL, Script

ROUNDING = 1e-9  # rates are sums of decimal fractions


class PlanError(ValueError):
    """The plan is invalid. The message has the reason."""


class Chaos:
    """A plan. Each API has its own generator, so its calls do not change another API's draws."""

    def __init__(self, plan: Mapping[str, object]) -> None:
        """Begin a plan that `check_plan` accepted."""
        self.plan = plan
        rates, params, apis = plan["rates"], plan.get("params", {}), plan.get("apis", ALL)
        assert isinstance(rates, dict)
        assert isinstance(params, dict)
        assert isinstance(apis, list | frozenset)
        self.params: dict[str, dict[str, object]] = params
        self._generators = {api: random.Random(f"{plan['seed']}/{api}") for api in ALL}
        self._lots = {api: _lots(api, rates) if api in apis else [] for api in ALL}

    def draw(self, api: str) -> Script | None:
        """Draw the scenario of the next call. None means the ordinary course."""
        point = self._generators[api].random()
        return next((script for bound, script in self._lots[api] if point < bound), None)


def check_plan(plan: object) -> None:
    """Raise PlanError if the plan is invalid."""
    if not isinstance(plan, dict):
        raise PlanError('chaos must be null or {"seed": 7, "rates": {scenario: share of calls}}')
    unknown = set(plan) - {"seed", "rates", "params", "apis"}
    if unknown:
        raise PlanError(
            f"chaos has no member {', '.join(sorted(map(str, unknown)))}."
            " Its members are seed, rates, params, apis"
        )
    seed = plan.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise PlanError("chaos.seed must be a whole number")
    apis = plan.get("apis", sorted(ALL))
    if (
        not isinstance(apis, list)
        or not apis
        or not all(isinstance(api, str) and api in ALL for api in apis)
    ):
        raise PlanError(f"chaos.apis must be a list of some of {', '.join(sorted(ALL))}")
    rates, params = plan.get("rates"), plan.get("params", {})
    _check_rates(rates)
    if not isinstance(params, dict) or not all(
        isinstance(value, dict) for value in params.values()
    ):
        raise PlanError("chaos.params must have an object for each scenario")
    assert isinstance(rates, dict)
    without_rate = set(params) - set(rates)
    if without_rate:
        raise PlanError(
            f"chaos.params has scenarios without a rate: {', '.join(sorted(without_rate))}"
        )
    for api in apis:
        total = sum(rate for name, rate in rates.items() if api in CATALOGUE[name].apis)
        if total > 1 + ROUNDING:
            raise PlanError(f"chaos.rates of {api} add up to {total:g}, which is more than 1")


def _check_rates(rates: object) -> None:
    if not isinstance(rates, dict):
        raise PlanError("chaos.rates must be an object of scenarios and shares of calls")
    for name, rate in rates.items():
        if name not in CATALOGUE:
            raise PlanError(
                f"chaos.rates has an unknown scenario, {name!r}. Known: {', '.join(CATALOGUE)}"
            )
        # This comparison also rejects NaN, which JSON parsers accept.
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise PlanError(f"chaos.rates: the rate of {name} must be a number from 0 to 1")


def _lots(api: str, rates: Mapping[str, float]) -> list[tuple[float, Script]]:
    """Return the upper bound of each scenario's share, in the catalogue's order.

    The order in the plan therefore does not matter.
    """
    scripts = [script for name, script in CATALOGUE.items() if name in rates and api in script.apis]
    return list(zip(accumulate(rates[script.name] for script in scripts), scripts, strict=True))
