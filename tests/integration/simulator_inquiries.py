"""Inquiries to the simulator about a payment, and their answers."""

from typing import Any

from tests.simulator.probe import Probe

NOT_FOUND = {
    2032: "The transaction receipt number does not exist.",
    "SFC_IC0003": "The transaction does not exist",
}


async def ask(probe: Probe, **changes: object) -> dict[str, Any]:
    """Wait until no result is pending, and return the inquiry's only result."""
    probe.receiver.received.clear()
    answer = await probe.status(**changes)
    assert answer.status == 200
    await probe.simulator.idle()
    (received,) = probe.receiver.received
    result: dict[str, Any] = received.body["Result"]
    assert result["ConversationID"] == answer.body["ConversationID"]
    assert result["OriginatorConversationID"] == answer.body["OriginatorConversationID"]
    return result


def told(result: dict[str, Any], key: str) -> list[object]:
    """Return every value of a parameter, in order."""
    items = result["ResultParameters"]["ResultParameter"]
    return [item.get("Value") for item in items if item["Key"] == key]


async def paid(probe: Probe, **changes: object) -> dict[str, Any]:
    """Finish a payout, paid or not, and return its acknowledgement."""
    body: dict[str, Any] = (await probe.b2c(**changes)).body
    await probe.simulator.idle()
    return body


async def prompted(probe: Probe, **changes: object) -> dict[str, Any]:
    """Finish a push, paid or not, and return its answer."""
    body: dict[str, Any] = (await probe.stk(**changes)).body
    await probe.simulator.idle()
    return body
