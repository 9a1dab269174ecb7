"""Which scenario a call meets: the newest rule that matches it, else its magic number, else chaos's
lot, else approval.

Rules come from the control API or from a test. A rule never applies to an API that its scenario
does not know, so a rule for any API is spent only where it means something.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.simulator.catalogue import APPROVE, CATALOGUE
from tests.simulator.chaos import Chaos
from tests.simulator.script import ALL, PAYMENTS, Code, Script
from tests.simulator.switches import Switches
from tests.simulator.validation import as_amount, as_text

Shelf = tuple[str, str | int | None]  # a field of Match and its value: where a rule is looked for

MAGIC_PHONE = "2547000000"
MAGIC_AMOUNT = 249_900  # near the largest amount, where ordinary tests do not go by chance
MAGIC: dict[int, Script] = {s.number: s for s in CATALOGUE.values() if s.number is not None}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a call is about, as far as it says so before it is validated."""

    phone_number: str = ""
    party: str = ""
    amount: int | None = None
    references: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A scenario with the parameters it was asked for with."""

    script: Script
    params: Mapping[str, object] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether the request has its effect."""
        wanted = self.params.get("act")
        return wanted if isinstance(wanted, bool) else self.script.acts

    @property
    def seconds(self) -> float | None:
        """Real seconds, if they were asked for."""
        return self.number("seconds")

    def number(self, name: str) -> float | None:
        """A numeric parameter."""
        value = self.params.get(name)
        return (
            float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        )

    def names(self, name: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        """A parameter that is a list, as texts."""
        value = self.params.get(name)
        return tuple(str(one) for one in value) if isinstance(value, list | tuple) else otherwise

    def code(self, *, payout: bool) -> Code:
        """The result code."""
        wanted = self.params.get("code")
        if isinstance(wanted, int | str) and not isinstance(wanted, bool):
            return wanted
        if payout and self.script.payout_code is not None:
            return self.script.payout_code
        return self.script.code

    @property
    def copies(self) -> int:
        """How often the result is delivered."""
        wanted = self.number("count")
        return (
            int(wanted)
            if wanted is not None and self.script.callbacks > 1
            else self.script.callbacks
        )

    def has(self, quirk: str) -> bool:
        """Whether the result has this peculiarity of shape."""
        return quirk in self.script.quirks


ORDINARY = Choice(APPROVE)


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule applies to; what is not said matches everything."""

    api: str = "any"
    phone_number: str | None = None
    party: str | None = None
    amount: int | None = None
    reference: str | None = None
    url_contains: str | None = None

    def covers(self, api: str, facts: Facts) -> bool:
        """Whether a call is meant."""
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
        """Whether nothing narrows it."""
        return self == Match()

    @classmethod
    def of(cls, wanted: Mapping[str, object]) -> "Match":
        """From a control call; a ValueError says what is wrong."""
        unknown = set(wanted) - {
            "api",
            "phone_number",
            "party",
            "amount",
            "reference",
            "url_contains",
        }
        if unknown:
            raise ValueError(f"no match by {', '.join(sorted(unknown))}")
        api = wanted.get("api", "any")
        if not isinstance(api, str) or api not in ALL | {"any"}:
            raise ValueError(f"match.api is one of any, {', '.join(sorted(ALL))}")
        amount = wanted.get("amount")
        if amount is not None and as_amount(amount) is None:
            raise ValueError("match.amount is a whole number")
        return cls(
            api=api,
            phone_number=as_text(wanted.get("phone_number")),
            party=as_text(wanted.get("party")),
            amount=as_amount(amount),
            reference=as_text(wanted.get("reference")),
            url_contains=as_text(wanted.get("url_contains")),
        )


@dataclass(slots=True, eq=False)
class Rule:
    """A scenario for calls that match; `times` counts down to nothing, None is for ever."""

    choice: Choice
    match: Match
    times: int | None

    def is_meant(self, api: str, facts: Facts) -> bool:
        """Whether a call meets it."""
        return api in self.choice.script.apis and self.match.covers(api, facts)

    def shown(self) -> dict[str, object]:
        """As the control API prints it."""
        match = {name: getattr(self.match, name) for name in Match.__slots__}
        return {
            "scenario": self.choice.script.name,
            "match": {name: value for name, value in match.items() if value is not None},
            "times": self.times,
            "params": dict(self.choice.params),
        }


class Rules:
    """The rules in force, found by what they match: a call looks at few of them, however many
    there are.
    """

    def __init__(self) -> None:
        self._serials = itertools.count(1)
        self._all: dict[int, Rule] = {}
        self._shelves: dict[Shelf, dict[int, Rule]] = {}

    def add(self, rule: Rule) -> None:
        """The newest rule."""
        serial = next(self._serials)
        self._all[serial] = rule
        self._shelves.setdefault(_shelf_of(rule.match), {})[serial] = rule

    def take(self, api: str, facts: Facts) -> Rule | None:
        """The newest that this call meets, used once."""
        found: list[tuple[int, Rule]] = []
        for shelf in _shelves_for(facts):
            rules = self._shelves.get(shelf, {})
            meant = ((n, r) for n, r in reversed(rules.items()) if r.is_meant(api, facts))
            found += itertools.islice(meant, 1)
        if not found:
            return None
        serial, rule = max(found, key=lambda one: one[0])
        self._spend(serial, rule)
        return rule

    def _spend(self, serial: int, rule: Rule) -> None:
        if rule.times is None:
            return
        rule.times -= 1
        if rule.times == 0:
            del self._all[serial]
            shelf = _shelf_of(rule.match)
            del self._shelves[shelf][serial]
            if not self._shelves[shelf]:
                del self._shelves[shelf]

    def clear(self) -> None:
        """Drop all of them."""
        self._all.clear()
        self._shelves.clear()

    def shown(self) -> list[dict[str, object]]:
        """Newest first."""
        return [rule.shown() for rule in reversed(self._all.values())]


def _shelf_of(match: Match) -> Shelf:
    """By the narrowest thing that it names; what names nothing, or only a part of the address,
    is on one shelf.
    """
    for name in ("reference", "phone_number", "party", "amount"):
        value = getattr(match, name)
        if value is not None:
            return name, value
    return "", None


def _shelves_for(facts: Facts) -> set[Shelf]:
    return {
        *(("reference", reference) for reference in facts.references),
        ("phone_number", facts.phone_number),
        ("party", facts.party),
        ("amount", facts.amount),
        ("", None),
    }


class Scenarios:
    """What each call meets."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._rules = Rules()
        self._met: set[tuple[str, str, tuple[str, ...]]] = set()
        self._chaos: Chaos | None = None

    def add(
        self, name: str, match: Match, *, times: int | None, params: Mapping[str, object]
    ) -> Rule:
        """Add a rule, which outranks the earlier ones; a ValueError says what is wrong."""
        script = CATALOGUE.get(name)
        if script is None:
            raise ValueError(f"no scenario {name!r}; there are {', '.join(CATALOGUE)}")
        if match.api != "any" and match.api not in script.apis:
            raise ValueError(f"{name} is for {', '.join(sorted(script.apis))}")
        if times is not None and times < 1:
            raise ValueError("times is a whole number from 1, or null")
        rule = Rule(Choice(script, dict(params)), match, times)
        self._rules.add(rule)
        return rule

    def choose(self, api: str, facts: Facts) -> Choice:
        """The scenario that this call meets."""
        rule = self._rules.take(api, facts)
        if rule is not None:
            return rule.choice
        by_number = (
            self._by_number(api, facts) if self._switches.magic and api in PAYMENTS else None
        )
        return by_number or self._by_lot(api)

    def _by_lot(self, api: str) -> Choice:
        plan = self._switches.chaos
        if plan is None:
            return ORDINARY
        if (
            self._chaos is None or self._chaos.plan is not plan
        ):  # a plan that is set again begins again
            self._chaos = Chaos(plan)
        script = self._chaos.draw(api)
        return (
            ORDINARY if script is None else Choice(script, self._chaos.params.get(script.name, {}))
        )

    def _by_number(self, api: str, facts: Facts) -> Choice | None:
        script = _magic_of(facts)
        if script is None or api not in script.apis:
            return None
        if script.once:
            meeting = (api, script.name, facts.references)
            if meeting in self._met:
                return ORDINARY
            self._met.add(meeting)
        return Choice(script)

    def clear(self) -> None:
        """Forget all rules, and who met which magic number."""
        self._rules.clear()
        self._met.clear()

    def shown(self) -> dict[str, object]:
        """Rules, catalogue and magic numbers."""
        return {
            "rules": self._rules.shown(),
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


def _magic_of(facts: Facts) -> Script | None:
    if facts.amount is not None and facts.amount > MAGIC_AMOUNT:
        by_amount = MAGIC.get(facts.amount - MAGIC_AMOUNT)
        if by_amount is not None:
            return by_amount
    phone = facts.phone_number
    if len(phone) == 12 and phone.startswith(MAGIC_PHONE) and phone[-2:].isdecimal():
        return MAGIC.get(int(phone[-2:]))
    return None


def magic_phone_number(script: Script) -> str | None:
    """The phone number that chooses it, where a payment to or from a phone can."""
    if script.number is None or not script.apis & {"stk", "b2c", "b2pochi"}:
        return None
    return f"{MAGIC_PHONE}{script.number:02}"


def magic_amount(script: Script) -> int | None:
    """The amount that chooses it."""
    return MAGIC_AMOUNT + script.number if script.number else None
