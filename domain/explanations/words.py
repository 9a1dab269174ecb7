"""A text in two languages, and an explanation made of such texts. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """One text in English and in Swahili."""

    english: str
    swahili: str

    def view(self) -> dict[str, str]:
        """This text as a JSON object, by the languages' codes."""
        return {"en": self.english, "sw": self.swahili}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What happened, and what each person can do. `customer` speaks to the customer."""

    meaning: Words
    customer: Words
    operator: Words
