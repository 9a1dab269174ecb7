"""`explain`: the whole story of a payment on one screen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from domain.adapters.postgres.storytelling import StoryReader
from domain.explanations import Words
from domain.story import PaymentRecord, Story, story_view, tell_story
from workers.commands import arguments as given
from workers.commands.command import DONE, REFUSED, Call, Command
from workers.commands.output import Cell, Output, shorten
from workers.commands.payments import find_payments, print_payments

# The JSON document has the whole texts.
_DETAIL_CHARACTERS_MAX = 100


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    given.add_search(parser)
    given.add_unmask(parser)
    given.add_json(parser)


async def _run(call: Call) -> int:
    found = await find_payments(call)
    if len(found) > 1:
        _refuse_several(call, [str(payment.id) for payment in found])
        print_payments(call.output, found)
        return REFUSED
    if not found:
        return REFUSED
    reader = StoryReader(call.database)
    record = await reader.read(found[0].id, unmask=call.arguments.unmask)
    assert record is not None  # noqa: S101 - payments are never deleted
    story = tell_story(record)
    if call.output.is_json:
        call.output.print_json(story_view(story))
    else:
        _print_story(call.output, story, record)
    return DONE


def _refuse_several(call: Call, ids: list[str]) -> None:
    text = f"{len(ids)} payments match; explain one of them by its id"
    call.output.print_failure(text, {"payment_ids": ids})


def _print_story(output: Output, story: Story, record: PaymentRecord) -> None:
    output.print_line(story.summary, style="bold")
    output.print_line(story.outlook)
    output.print_line(f"payment {story.payment_id}, created {record.payment.created_at:%Y-%m-%d}")
    output.print_line()
    rows: list[tuple[Cell, ...]] = []
    day = ""
    for line in story.lines:
        at = f"{line.at:%H:%M:%S}.{line.at.microsecond // 1000:03}"
        if f"{line.at:%Y-%m-%d}" != day:
            day = f"{line.at:%Y-%m-%d}"
            at = f"{day} {at}"
        rows.append((f"{at:>23}", line.actor.value, (line.sentence, _describe(line.details))))
    output.print_table((f"{'time (UTC)':>23}", "actor", "what happened"), rows)
    if story.explanation is not None:
        for title, words in (
            ("What it means", story.explanation.meaning),
            ("What the customer can do", story.explanation.customer),
            ("What you can do", story.explanation.operator),
        ):
            _print_words(output, title, words)


def _print_words(output: Output, title: str, words: Words) -> None:
    output.print_line()
    output.print_line(title, style="bold")
    output.print_line(f"  {words.english}")
    output.print_line(f"  {words.swahili}")


def _describe(details: Mapping[str, str]) -> str:
    parts = (f"{name}: {shorten(text, _DETAIL_CHARACTERS_MAX)}" for name, text in details.items())
    return f"({'; '.join(parts)})" if details else ""


EXPLAIN = Command(
    "explain",
    "tell a payment's whole story: every request, answer, callback and decision",
    _add_arguments,
    _run,
)
