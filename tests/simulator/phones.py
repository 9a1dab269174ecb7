"""The simulated customers' phones, with prompts that a person answers on a page.

This happens only while the switch `answered_by_hand` is on, and only for a prompt whose scenario
was not chosen by a rule, a magic number or chaos. `phones.html` is the page.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from tests.simulator.book import Payment
from tests.simulator.script import Code
from tests.simulator.switches import Switches

PAGE = Path(__file__).with_suffix(".html")

# What a customer can do with a prompt, and the code of the result (daraja.md §2.4).
NO_ANSWER: Code = 1037
ANSWERS: dict[str, Code] = {"approve": 0, "cancel": 1032, "wrong_pin": 2001, "ignore": NO_ANSWER}


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt on a phone that waits for its answer."""

    payment: Payment
    ends_at: float  # by time.monotonic()
    answer: asyncio.Future[Code]

    def to_json(self) -> dict[str, object]:
        """Return the prompt as the control API prints it."""
        return {
            "id": self.payment.provider_id,
            "phone_number": self.payment.party,
            "amount": self.payment.amount,
            "business": self.payment.payer,
            "account_reference": self.payment.account_reference,
            "seconds_left": max(0, round(self.ends_at - time.monotonic())),
        }


class Phones:
    """The prompts that wait for a person, by CheckoutRequestID."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._prompts: dict[str, Prompt] = {}

    async def ask(self, payment: Payment) -> Code:
        """Show the prompt until a person answers it. Returns the result's code.

        After the switch's `prompt_seconds` the result is that the customer did not answer.
        """
        seconds = self._switches.prompt_seconds
        answer = asyncio.get_running_loop().create_future()
        self._prompts[payment.provider_id] = Prompt(payment, time.monotonic() + seconds, answer)
        try:
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            return NO_ANSWER
        finally:
            del self._prompts[payment.provider_id]

    def answer(self, prompt_id: str, name: object) -> None:
        """Answer a prompt as the customer does. Raises ValueError with the reason."""
        code = ANSWERS.get(str(name))
        if code is None:
            raise ValueError(f"answer must be one of {', '.join(ANSWERS)}")
        prompt = self._prompts.get(prompt_id)
        if prompt is None or prompt.answer.done():
            raise ValueError("this prompt does not wait any more")
        prompt.answer.set_result(code)

    def to_json(self) -> list[dict[str, object]]:
        """Return the prompts that wait, oldest first."""
        return [prompt.to_json() for prompt in self._prompts.values()]
