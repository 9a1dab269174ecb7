"""What a scenario is: one script for one call, and which APIs it is for.

The scripts themselves are in catalogue.py and, for questions about a payment, in inquiries.py.
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

    Seconds of `answer_seconds` are real, the others are Daraja's and are scaled.
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
    once: bool = (
        False  # by magic number: only a reference's first call meets it, so that a retry gets on
    )
    times: int | None = None  # what a rule's `times` is if the control call does not say


def quirk(name: str, number: int | None, apis: frozenset[str], sentence: str) -> Script:
    """A result that is peculiar in one way, which bears the scenario's name."""
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
    """A call that has no effect, and the answer that it gets."""
    return Script(
        name=name,
        number=number,
        apis=apis,
        sentence=sentence,
        acts=False,
        answer=answer or name,
        once=once,
    )
