"""The story of one payment: who did what, when, in plain sentences, for an operator.

Pure. `tell_story` makes a `Story` from a `PaymentRecord`: the payment with everything that is
stored about it. The command `explain` and the console print the same story. They call it like this:

    record = await StoryReader(database).read(payment_id)    # postgres/storytelling.py
    if record is not None:                                    # None: there is no such payment
        story = tell_story(record)

`StoryReader.read` masks phone numbers unless it is called with `unmask=True`. A `Story` has:

* `summary`: one sentence about what the payment is and where it stands.
* `outlook`: one sentence about what happens next, and what may hold it up.
* `lines`: the `StoryLine`s, oldest first. Each has `at`, `actor`, `sentence` and `details` (a
  mapping of names to short texts).
* `explanation`: for a failed payment, what the failure means and what the customer and the operator
  can do, in English and Swahili (`domain/explanations`). Else None.

`record.messages` has the raw bytes of each callback, for a page that shows them.
"""

from __future__ import annotations

from domain.story.outlook import describe_due_step, describe_holds
from domain.story.records import (
    PaymentRecord,
    StoredEntry,
    StoredExchange,
    StoredInquiry,
    StoredMessage,
)
from domain.story.sentences import Actor
from domain.story.telling import Story, StoryLine, story_view, tell_story

__all__ = [
    "Actor",
    "PaymentRecord",
    "StoredEntry",
    "StoredExchange",
    "StoredInquiry",
    "StoredMessage",
    "Story",
    "StoryLine",
    "describe_due_step",
    "describe_holds",
    "story_view",
    "tell_story",
]
