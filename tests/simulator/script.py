"""The type of a scenario: a script for one call, and the APIs that it applies to.

The scripts are in catalogue.py and, for inquiries about a payment, in inquiries.py.
"""

from dataclasses import dataclass, field

Code = int | str

STK = frozenset({"stk"})
B2C_SHAPED = frozenset({"b2c", "b2pochi"})  # with an OriginatorConversationID (§4, §5)
PAYOUTS = B2C_SHAPED | {"b2b"}
PAYMENTS = STK | PAYOUTS
ASYNC = PAYOUTS | {"status"}  # APIs that answer twice: at once, and by result
CALLS = ASYNC | {"stk", "stk_query"}
ALL = CALLS | {"oauth"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One scenario.

    `answer_seconds` are real. All other seconds are Daraja's, and are scaled.
    """

    name: str
    sentence: str
    apis: frozenset[str]
    number: int | None = None
    acts: bool = True  # whether the request has its effect; params.act overrides
    answer: str | None = None  # a name in answers.py; None is the API's own answer
    answer_seconds: float = 0.0
    code: Code = 0
    payout_code: Code | None = None  # where a payout's code differs from STK's
    result_seconds: float | None = None
    callbacks: int = 1
    callback_first: bool = False
    held: bool = False  # the result waits until the control API releases it
    quirks: frozenset[str] = field(default_factory=frozenset)  # names that results.py knows
    timeout_message: bool = False
    result_follows: bool = True
    success_after_seconds: float | None = None
    # If a magic number chooses it, it meets only a reference's first call, so a retry succeeds.
    once: bool = False
    times: int | None = None  # the default of a rule's `times`


def quirk(name: str, number: int | None, apis: frozenset[str], sentence: str) -> Script:
    """Return a scenario whose result has one peculiarity, named as the scenario."""
    return Script(name=name, number=number, apis=apis, sentence=sentence, quirks=frozenset({name}))


def refusal(
    name: str,
    number: int | None,
    sentence: str,
    apis: frozenset[str] = ALL,
    *,
    answer: str | None = None,
    once: bool = False,
) -> Script:
    """Return a scenario whose call has no effect and gets a fixed answer."""
    return Script(
        name=name,
        number=number,
        apis=apis,
        sentence=sentence,
        acts=False,
        answer=answer or name,
        once=once,
    )
