"""Chooses a call's scenario, by the newest matching rule, a magic number or chaos, else approval.

Rules come from the control API or from a test. A rule applies only to the APIs of its scenario, so
calls of other APIs do not use up its `times`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.simulator.catalogue import APPROVE, CATALOGUE
from tests.simulator.chaos import Chaos
from tests.simulator.script import ALL, PAYMENTS, Code, Script
from tests.simulator.switches import Switches
from tests.simulator.validation import Body, as_amount, as_text

MAGIC_PHONE = "2547000000"
MAGIC_AMOUNT = 249_900  # near the largest amount, so ordinary tests do not use it by chance
MAGIC: dict[int, Script] = {s.number: s for s in CATALOGUE.values() if s.number is not None}


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a call that choose its scenario, read before the call is validated."""

    phone_number: str = ""
    party: str = ""
    amount: int | None = None
    references: tuple[str, ...] = ()
    url: str = ""

    @classmethod
    def of(cls, body: Body, phone_number: str, party: str, reference: str, url: str) -> "Facts":
        """Read the facts from these fields of a body."""

        def text(field: str) -> str:
            return as_text(body.get(field)) or ""

        amount = as_amount(body.get("Amount"))
        return cls(text(phone_number), text(party), amount, (text(reference),), text(url))


@dataclass(frozen=True, slots=True)
class Choice:
    """A scenario and its parameters."""

    script: Script
    params: Mapping[str, object] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether the request has its effect."""
        wanted = self.params.get("act")
        return wanted if isinstance(wanted, bool) else self.script.acts

    @property
    def seconds(self) -> float | None:
        """The parameter `seconds`, in real seconds."""
        return self.number("seconds")

    def number(self, name: str) -> float | None:
        """Return a parameter that is a number, else None."""
        value = self.params.get(name)
        return (
            float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        )

    def names(self, name: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        """Return a parameter that is a list, as texts."""
        value = self.params.get(name)
        return tuple(str(one) for one in value) if isinstance(value, list | tuple) else otherwise

    def code(self, *, payout: bool) -> Code:
        """Return the result code."""
        wanted = self.params.get("code")
        if isinstance(wanted, int | str) and not isinstance(wanted, bool):
            return wanted
        if payout and self.script.payout_code is not None:
            return self.script.payout_code
        return self.script.code

    @property
    def copies(self) -> int:
        """The number of deliveries of the result."""
        wanted = self.number("count")
        return (
            int(wanted)
            if wanted is not None and self.script.callbacks > 1
            else self.script.callbacks
        )

    def has(self, quirk: str) -> bool:
        """Whether the scenario has this peculiarity."""
        return quirk in self.script.quirks


ORDINARY = Choice(APPROVE)


@dataclass(frozen=True, slots=True)
class Match:
    """The calls that a rule applies to. A field that is not set matches every call."""

    api: str = "any"
    phone_number: str | None = None
    party: str | None = None
    amount: int | None = None
    reference: str | None = None
    url_contains: str | None = None

    def covers(self, api: str, facts: Facts) -> bool:
        """Whether a call matches."""
        return (
            self.api in {"any", api}
            and self.phone_number in {None, facts.phone_number}
            and self.party in {None, facts.party}
            and self.amount in {None, facts.amount}
            and (self.reference is None or self.reference in facts.references)
            and (self.url_contains is None or self.url_contains in facts.url)
        )

    @property
    def is_everything(self) -> bool:
        """Whether it matches every call."""
        return self == Match()

    @classmethod
    def of(cls, wanted: Mapping[str, object]) -> "Match":
        """Read the match of a control call. Raises ValueError with the reason."""
        unknown = set(wanted) - set(cls.__slots__)
        if unknown:
            raise ValueError(f"match has an unknown member: {', '.join(sorted(unknown))}")
        api = wanted.get("api", "any")
        if not isinstance(api, str) or api not in ALL | {"any"}:
            raise ValueError(f"match.api must be one of any, {', '.join(sorted(ALL))}")
        amount = as_amount(wanted.get("amount"))
        if amount is None and wanted.get("amount") is not None:
            raise ValueError("match.amount must be a whole number")
        names = ("phone_number", "party", "reference", "url_contains")
        return cls(api, amount=amount, **{name: as_text(wanted.get(name)) for name in names})


@dataclass(slots=True, eq=False)
class Rule:
    """A scenario for matching calls. `times` counts down to 0; None means for ever."""

    choice: Choice
    match: Match
    times: int | None

    def applies_to(self, api: str, facts: Facts) -> bool:
        """Whether a call matches the rule, and is of an API of its scenario."""
        return api in self.choice.script.apis and self.match.covers(api, facts)

    def to_json(self) -> dict[str, object]:
        """Return the rule as the control API prints it."""
        match = {name: getattr(self.match, name) for name in Match.__slots__}
        return {
            "scenario": self.choice.script.name,
            "match": {name: value for name, value in match.items() if value is not None},
            "times": self.times,
            "params": dict(self.choice.params),
        }


class Scenarios:
    """Chooses the scenario of each call."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._rules: list[Rule] = []  # oldest first
        self._met: set[tuple[str, str, tuple[str, ...]]] = set()
        self._chaos: Chaos | None = None

    def add(
        self, name: str, match: Match, *, times: int | None, params: Mapping[str, object]
    ) -> Rule:
        """Add a rule. It goes before all earlier rules. Raises ValueError with the reason."""
        script = CATALOGUE.get(name)
        if script is None:
            raise ValueError(f"unknown scenario {name!r}. Known: {', '.join(CATALOGUE)}")
        if match.api != "any" and match.api not in script.apis:
            raise ValueError(f"{name} applies only to {', '.join(sorted(script.apis))}")
        if times is not None and times < 1:
            raise ValueError("times must be a whole number from 1, or null")
        rule = Rule(Choice(script, dict(params)), match, times)
        self._rules.append(rule)
        return rule

    def choose(self, api: str, facts: Facts) -> Choice:
        """Choose the scenario of this call."""
        for rule in reversed(self._rules):
            if rule.applies_to(api, facts):
                if rule.times is not None:
                    rule.times -= 1
                    if rule.times == 0:
                        self._rules.remove(rule)
                return rule.choice
        by_number = None
        if self._switches.magic and api in PAYMENTS:
            by_number = self._by_number(api, facts)
        return by_number or self._draw(api)

    def _draw(self, api: str) -> Choice:
        plan = self._switches.chaos
        if plan is None:
            return ORDINARY
        # A plan that is set again is a new object, so its draws begin again.
        if self._chaos is None or self._chaos.plan is not plan:
            self._chaos = Chaos(plan)
        script = self._chaos.draw(api)
        return (
            ORDINARY if script is None else Choice(script, self._chaos.params.get(script.name, {}))
        )

    def _by_number(self, api: str, facts: Facts) -> Choice | None:
        script = _find_magic(facts)
        if script is None or api not in script.apis:
            return None
        if script.once:
            meeting = (api, script.name, facts.references)
            if meeting in self._met:
                return ORDINARY
            self._met.add(meeting)
        return Choice(script)

    def clear(self) -> None:
        """Forget all rules, and which calls had which magic number."""
        self._rules.clear()
        self._met.clear()

    def to_json(self) -> dict[str, object]:
        """Return the rules, the catalogue and the magic numbers."""
        return {
            "rules": [rule.to_json() for rule in reversed(self._rules)],
            "catalogue": [
                {
                    "scenario": script.name,
                    "sentence": script.sentence,
                    "apis": sorted(script.apis),
                    "magic_phone_number": magic_phone_number(script),
                    "magic_amount": magic_amount(script),
                }
                for script in CATALOGUE.values()
            ],
        }


def _find_magic(facts: Facts) -> Script | None:
    if facts.amount is not None and facts.amount > MAGIC_AMOUNT:
        by_amount = MAGIC.get(facts.amount - MAGIC_AMOUNT)
        if by_amount is not None:
            return by_amount
    phone = facts.phone_number
    if len(phone) == 12 and phone.startswith(MAGIC_PHONE) and phone[-2:].isdecimal():
        return MAGIC.get(int(phone[-2:]))
    return None


def magic_phone_number(script: Script) -> str | None:
    """Return the phone number that chooses the scenario, or None if no phone number can."""
    if script.number is None or not script.apis & {"stk", "b2c", "b2pochi"}:
        return None
    return f"{MAGIC_PHONE}{script.number:02}"


def magic_amount(script: Script) -> int | None:
    """Return the amount that chooses the scenario."""
    return MAGIC_AMOUNT + script.number if script.number else None
