"""`events`: the events of the feed, and new ones as they come."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from domain.adapters.postgres.feed import Feed, ListedEvent
from domain.adapters.postgres.storytelling import mask_view
from workers.commands import arguments as given
from workers.commands.command import DONE, Call, Command, WrongInput
from workers.commands.output import Output

_POLL_SECONDS = 1.0
_HEADERS = ("position", "time", "event", "payment", "kind", "KES", "result")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--after",
        type=given.position,
        metavar="POSITION",
        help="print events after this position (default: the newest events)",
    )
    parser.add_argument("--limit", type=given.limit, default=20)
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on with new events until Ctrl-C; with --json one event a line",
    )
    given.add_unmask(parser)
    given.add_json(parser)


async def _run(call: Call) -> int:
    feed, arguments, output = Feed(call.database), call.arguments, call.output
    after = arguments.after
    if after is None:
        after = await feed.position_before_last(arguments.limit)
    elif after > (newest := (await feed.end()).position):
        raise WrongInput(
            f"no event has the position {after}; the newest has {newest}. If you have read up to"
            f" {after}, the database was restored since: read again from an earlier position"
        )
    events = await feed.page(after=after, limit=arguments.limit, owner=None)
    items = [_event_view(event, unmask=arguments.unmask) for event in events]
    after = events[-1].position if events else after
    if not arguments.follow:
        if output.is_json:
            output.print_json({"events": items, "next_after": after})
        else:
            output.print_table(_HEADERS, [_event_row(item) for item in items])
        return DONE
    output.print_line("  ".join(_HEADERS))
    while True:
        for item in items:
            _print_event(output, item)
        output.flush()
        if len(events) < arguments.limit:
            await asyncio.sleep(_POLL_SECONDS)
        events = await feed.page(after=after, limit=arguments.limit, owner=None)
        items = [_event_view(event, unmask=arguments.unmask) for event in events]
        after = events[-1].position if events else after


def _event_view(event: ListedEvent, *, unmask: bool) -> dict[str, Any]:
    """An event with its position. Its other members are those that subscribers get."""
    body = json.loads(event.body)
    return {"position": event.position, "event": body if unmask else mask_view(body)}


def _event_row(item: dict[str, Any]) -> tuple[str, ...]:
    event = item["event"]
    payment = event["data"]
    failure = payment["failure"]
    return (
        str(item["position"]),
        event["time"],
        event["type"].rpartition(".")[2],
        event["subject"],
        payment["kind"].replace("_", " "),
        f"{payment['amount']:,}",
        failure["reason"] if failure else payment["receipt"] or "",
    )


def _print_event(output: Output, item: dict[str, Any]) -> None:
    if output.is_json:
        output.print_json_line(item)
    else:
        output.print_line("  ".join(_event_row(item)))


EVENTS = Command("events", "print events, and new ones as they come", _add_arguments, _run)
