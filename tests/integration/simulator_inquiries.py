"""Inquiries to the simulator about a payment, and their answers."""

from typing import Any

from tests.simulator.probe import Probe

NOT_FOUND = {
    2032: "The transaction receipt number does not exist.",
    "SFC_IC0003": "The transaction does not exist",
}


async def inquire(probe: Probe, **changes: object) -> dict[str, Any]:
    """Send an inquiry, wait until no result is pending, and return its only result."""
    probe.receiver.received.clear()
    answer = await probe.status(**changes)
    assert answer.status == 200
    await probe.simulator.idle()
    (received,) = probe.receiver.received
    result: dict[str, Any] = received.body["Result"]
    assert result["ConversationID"] == answer.body["ConversationID"]
    assert result["OriginatorConversationID"] == answer.body["OriginatorConversationID"]
    return result


def values_of(result: dict[str, Any], key: str) -> list[object]:
    """Return every value of a parameter, in order."""
    items = result["ResultParameters"]["ResultParameter"]
    return [item.get("Value") for item in items if item["Key"] == key]


async def finish_payout(probe: Probe, **changes: object) -> dict[str, Any]:
    """Send a payout, wait for its end, paid or not, and return its acknowledgement."""
    body: dict[str, Any] = (await probe.b2c(**changes)).body
    await probe.simulator.idle()
    return body


async def finish_push(probe: Probe, **changes: object) -> dict[str, Any]:
    """Send a push, wait for its end, paid or not, and return its answer."""
    body: dict[str, Any] = (await probe.stk(**changes)).body
    await probe.simulator.idle()
    return body
