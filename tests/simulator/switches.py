"""The simulator's switches: what Daraja enforces for all calls, and how fast time passes.

Code reads them as attributes. `change` rejects unknown names and wrong values, and lists the
permitted ones.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from tests.simulator.chaos import check_plan
from tests.simulator.script import CALLS

CHOICES: dict[str, tuple[str, ...]] = {
    "token_policy": ("invalidate_previous", "keep_all"),
    "in_flight_shape": ("A", "B", "C", "random"),
    "duplicate_ocid": ("sync", "async"),
}


@dataclass(slots=True)
class Switches:
    """Every switch with its default. A comment begins with its section of daraja.md."""

    time_scale: float = 1.0  # Daraja's own delays are multiplied by this; params.seconds never are
    magic: bool = True  # magic phone numbers and amounts choose scenarios
    seed: int = 0  # forms.py: draws the form of an answer that was seen in several forms
    # chaos.py: random scenarios for calls that match no rule
    chaos: dict[str, object] | None = None
    # §1: by the official FAQ a new token ends the previous one; no source recorded this
    token_policy: str = "invalidate_previous"
    token_ttl_seconds: int = 3599  # §1
    # §1: APIs that the app may not use, although its token is valid (forms.py)
    missing_products: tuple[str, ...] = ()
    subscriber_lock: bool = True  # §2.2: one live prompt per line
    in_flight_shape: str = "A"  # §3
    stray_500: float = 0.0  # §3: share of queries of known ids that get a 500 without a reason
    duplicate_ocid: str = "sync"  # §4.2: 500.002.1001 at once, or result 15 later
    utility_balance: int = 10_000_000_000  # §4.7: the balance that B2C pays from, in shillings
    working_balance: int = 10_000_000_000  # §5: the balance that B2B pays from
    initiator_locked: bool = False  # §4.5: set by three wrong credentials
    # Results and timeout messages wait until the control API releases them.
    hold_callbacks: bool = False
    # phones.py: how many real seconds a person has to answer a prompt on a page
    answered_by_hand: bool = False
    prompt_seconds: float = 60.0

    def to_json(self) -> dict[str, object]:
        """All switches by name."""
        return asdict(self)

    def change(self, wanted: Mapping[str, object]) -> None:
        """Set the named switches, all or none. Raises ValueError with the reason."""
        known = {field.name for field in fields(self)}
        for name, value in wanted.items():
            if name not in known:
                raise ValueError(f"unknown switch {name!r}. Known: {', '.join(sorted(known))}")
            self._check(name, value)
        for name, value in wanted.items():
            setattr(self, name, _convert(value, like=getattr(self, name)))

    def _check(self, name: str, value: object) -> None:
        current = getattr(self, name)
        if name == "chaos":
            if value is not None:
                check_plan(value)
        elif name == "missing_products":
            if not isinstance(value, list | tuple) or not CALLS.issuperset(value):
                raise ValueError(
                    f"missing_products must be a list of some of {', '.join(sorted(CALLS))}"
                )
        elif name in CHOICES:
            if value not in CHOICES[name]:
                raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}")
        elif isinstance(current, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false")
        elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{name} must be a number from 0")
        elif isinstance(current, int) and not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number")


def _convert(value: object, *, like: object) -> object:
    """Convert a value to the switch's type.

    A plan is copied. A plan that is set again is therefore a new object, and its draws begin again.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(like, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    return float(value) if isinstance(like, float) and isinstance(value, int | float) else value
