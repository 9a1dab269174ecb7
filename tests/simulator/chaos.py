"""Chaos: calls that meet no rule draw a scenario by lot. The n-th call of an API always draws the
same.

A plan is the value of the switch `chaos`: `{"seed": 7, "rates": {"cut_before_acting": 0.03}}`. A
rate is the share of an API's calls that meet the scenario; a scenario counts only where its API
knows it. What is left of 1 is approval. Optional: `params` by scenario, and `apis` that alone meet
chaos.
"""

import random
from collections.abc import Mapping
from itertools import accumulate

from tests.simulator.catalogue import CATALOGUE
from tests.simulator.script import ALL, Script

ROUNDING = 1e-9  # rates are sums of decimal fractions


class PlanError(ValueError):
    """A plan that makes no sense; the message says why."""


class Chaos:
    """One plan, and one generator for each API: calls of another do not shift what is drawn."""

    def __init__(self, plan: Mapping[str, object]) -> None:
        """Begin a plan that `check_plan` let pass."""
        self.plan = plan
        rates, params, apis = plan["rates"], plan.get("params", {}), plan.get("apis", ALL)
        assert isinstance(rates, dict)
        assert isinstance(params, dict)
        assert isinstance(apis, list | frozenset)
        self.params: dict[str, dict[str, object]] = params
        self._generators = {api: random.Random(f"{plan['seed']}/{api}") for api in ALL}
        self._lots = {api: _lots(api, rates) if api in apis else [] for api in ALL}

    def draw(self, api: str) -> Script | None:
        """The scenario that this call meets; None is what happens when nothing was chosen."""
        point = self._generators[api].random()
        return next((script for bound, script in self._lots[api] if point < bound), None)


def check_plan(plan: object) -> None:
    """Let it pass, or say what is wrong with it."""
    if not isinstance(plan, dict):
        raise PlanError('chaos is null or {"seed": 7, "rates": {scenario: share of calls}}')
    unknown = set(plan) - {"seed", "rates", "params", "apis"}
    if unknown:
        raise PlanError(
            f"chaos has no {', '.join(sorted(map(str, unknown)))}; it has seed, rates, params, apis"
        )
    seed = plan.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise PlanError("chaos.seed is a whole number")
    apis = plan.get("apis", sorted(ALL))
    if (
        not isinstance(apis, list)
        or not apis
        or not all(isinstance(api, str) and api in ALL for api in apis)
    ):
        raise PlanError(f"chaos.apis is a list of some of {', '.join(sorted(ALL))}")
    rates, params = plan.get("rates"), plan.get("params", {})
    _check_rates(rates)
    if not isinstance(params, dict) or not all(
        isinstance(value, dict) for value in params.values()
    ):
        raise PlanError("chaos.params has an object for each scenario")
    assert isinstance(rates, dict)
    without_rate = set(params) - set(rates)
    if without_rate:
        raise PlanError(
            f"chaos.params is for scenarios that have a rate, unlike {', '.join(sorted(without_rate))}"
        )
    for api in apis:
        total = sum(rate for name, rate in rates.items() if api in CATALOGUE[name].apis)
        if total > 1 + ROUNDING:
            raise PlanError(f"chaos.rates of {api} add up to {total:g}, which is more than 1")


def _check_rates(rates: object) -> None:
    if not isinstance(rates, dict):
        raise PlanError("chaos.rates is an object: scenario and share of calls")
    for name, rate in rates.items():
        if name not in CATALOGUE:
            raise PlanError(f"chaos.rates: no scenario {name!r}; there are {', '.join(CATALOGUE)}")
        # Written so that NaN, which JSON parsers let through, is refused too.
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise PlanError(f"chaos.rates: the rate of {name} is a number from 0 to 1")


def _lots(api: str, rates: Mapping[str, float]) -> list[tuple[float, Script]]:
    """Where each scenario's share ends.

    In the catalogue's order: that of the plan does not matter.
    """
    scripts = [script for name, script in CATALOGUE.items() if name in rates and api in script.apis]
    return list(zip(accumulate(rates[script.name] for script in scripts), scripts, strict=True))
