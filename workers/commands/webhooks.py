"""`webhooks`: the endpoints of backends, their deliveries, and a switch for each endpoint."""

from __future__ import annotations

import argparse
from typing import Any

from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from domain.adapters.postgres.webhook_overview import EndpointLine, WebhookOverview
from domain.values import split_caller_key
from domain.views import timestamp
from domain.webhooks.endpoint import Delivery, EndpointStatus, StatusReason
from workers.commands import arguments as given
from workers.commands.command import DONE, REFUSED, Call, Command
from workers.commands.output import clock


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    shown = actions.add_parser("list", help="print all endpoints, with their owners and states")
    deliveries = actions.add_parser("deliveries", help="print the newest deliveries of an endpoint")
    deliveries.add_argument("--limit", type=given.limit, default=20)
    enable = actions.add_parser(
        "enable", help="send to the endpoint again, first what it missed meanwhile"
    )
    disable = actions.add_parser("disable", help="send nothing to the endpoint; its owner may undo")
    for action in (deliveries, enable, disable):
        action.add_argument("endpoint_id", metavar="ENDPOINT_ID", type=given.endpoint_id)
    for action in (shown, deliveries, enable, disable):
        given.add_json(action)


async def _run(call: Call) -> int:
    if call.arguments.action == "list":
        return await _list(call)
    owner = await WebhookOverview(call.database).owner(call.arguments.endpoint_id)
    if owner is None:
        call.output.print_failure("there is no such endpoint; `webhooks list` prints all")
        return REFUSED
    if call.arguments.action == "deliveries":
        return await _print_deliveries(call, owner)
    return await _switch(call, owner)


async def _list(call: Call) -> int:
    endpoints = await WebhookOverview(call.database).endpoints()
    if call.output.is_json:
        call.output.print_json({"endpoints": [_endpoint_view(each) for each in endpoints]})
    elif not endpoints:
        call.output.print_line("there are no endpoints")
    else:
        call.output.print_table(
            ("endpoint", "owner", "status", "failing since (UTC)", "waiting", "url"),
            [
                (
                    str(each.id),
                    split_caller_key(each.caller_key)[1],
                    f"{each.status} ({each.status_reason})" if each.status_reason else each.status,
                    clock(each.failing_since),
                    str(each.waiting),
                    each.url,
                )
                for each in endpoints
            ],
        )
    return DONE


def _endpoint_view(endpoint: EndpointLine) -> dict[str, Any]:
    issuer, subject = split_caller_key(endpoint.caller_key)
    failing_since = endpoint.failing_since
    return {
        "id": str(endpoint.id),
        "owner": {"issuer": issuer, "subject": subject},
        "url": endpoint.url,
        "status": endpoint.status.value,
        "status_reason": endpoint.status_reason,
        "failing_since": None if failing_since is None else timestamp(failing_since),
        "created_at": timestamp(endpoint.created_at),
        "waiting": endpoint.waiting,
    }


async def _print_deliveries(call: Call, owner: str) -> int:
    arguments = call.arguments
    deliveries = await WebhookEndpoints(call.database).page(
        owner, arguments.endpoint_id, before=None, limit=arguments.limit
    )
    if call.output.is_json:
        call.output.print_json({"deliveries": [_delivery_view(each) for each in deliveries]})
        return DONE
    call.output.print_table(
        ("number", "created (UTC)", "event", "payment", "status", "attempts", "last attempt"),
        [
            (
                str(each.number),
                clock(each.created_at),
                each.event_type,
                str(each.payment_id or ""),
                each.status.value,
                str(len(each.attempts)),
                _describe_last_attempt(each),
            )
            for each in deliveries
        ],
    )
    return DONE


def _describe_last_attempt(delivery: Delivery) -> str:
    if not delivery.attempts:
        return ""
    last = delivery.attempts[-1]
    status = f" (HTTP {last.http_status})" if last.http_status is not None else ""
    return f"{clock(last.attempted_at)} {last.outcome}{status}"


def _delivery_view(delivery: Delivery) -> dict[str, Any]:
    next_at = delivery.next_attempt_at
    return {
        "number": delivery.number,
        "cause": delivery.cause.value,
        "event_id": str(delivery.event_id),
        "event_type": delivery.event_type,
        "payment_id": None if delivery.payment_id is None else str(delivery.payment_id),
        "status": delivery.status.value,
        "created_at": timestamp(delivery.created_at),
        "next_attempt_at": None if next_at is None else timestamp(next_at),
        "attempts": [
            {
                "number": attempt.number,
                "at": timestamp(attempt.attempted_at),
                "outcome": attempt.outcome.value,
                "http_status": attempt.http_status,
                "milliseconds": attempt.milliseconds,
            }
            for attempt in delivery.attempts
        ],
    }


async def _switch(call: Call, owner: str) -> int:
    is_enabled = call.arguments.action == "enable"
    status = EndpointStatus.ENABLED if is_enabled else EndpointStatus.DISABLED
    endpoint = await WebhookEndpoints(call.database).change(
        owner,
        call.arguments.endpoint_id,
        {"status": status.value},
        disabled_by=StatusReason.BY_OPERATOR,
    )
    text = (
        "the endpoint is enabled; it gets what it missed within seconds"
        if is_enabled
        else "the endpoint is disabled; its events wait until it is enabled"
    )
    call.output.print_result(text, {"id": str(endpoint.id), "status": endpoint.status.value})
    return DONE


WEBHOOKS = Command(
    "webhooks", "show the endpoints of backends, and switch them on or off", _add_arguments, _run
)
