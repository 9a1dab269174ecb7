"""The simulator's late callbacks, over HTTP: held, and released by a test."""

from typing import Any

import pytest

from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

RELEASE = "/callbacks/release"


async def three_held(probe: Probe) -> list[str]:
    """Finish three payouts with held results, and return the ids of the results in order."""
    await probe.control("POST", "/switches", {"hold_callbacks": True})
    for _ in range(3):
        await probe.b2c()
        await probe.simulator.idle()
    held: list[Any] = (await probe.control("GET", "/callbacks")).body["held"]
    return [delivery["body"]["Result"]["ConversationID"] for delivery in held]


def told(probe: Probe) -> list[str]:
    """Return the ids of the received results, in order."""
    return [received.body["Result"]["ConversationID"] for received in probe.receiver.received]


async def test_a_held_result_is_not_delivered_although_money_moved(probe: Probe) -> None:
    """It is not pending either. Turning the switch off does not release it."""
    held = await three_held(probe)
    await probe.control("POST", "/switches", {"hold_callbacks": False})
    assert len(set(held)) == 3
    assert len(probe.simulator.ledger.movements) == 3
    assert (await probe.control("GET", "")).body == {"open": True, "pending": 0, "held": 3}
    assert (await probe.control("GET", "/callbacks")).body["count"] == 0
    assert not probe.receiver.received


@pytest.mark.parametrize("order", ["in_order", "reversed"])
async def test_held_results_are_released_one_after_the_other(probe: Probe, order: str) -> None:
    """Oldest first or newest first, while the others are still held."""
    held = await three_held(probe)
    answer = await probe.control("POST", RELEASE, {"order": order})
    assert (answer.body["count"], answer.body["held"]) == (3, 0)
    assert [item["status"] for item in answer.body["items"]] == [200] * 3
    assert told(probe) == (held if order == "in_order" else held[::-1])


async def test_held_results_are_released_together(probe: Probe) -> None:
    """No delivery waits for another's answer."""
    held = await three_held(probe)
    probe.receiver.answers_after = 3  # answers none before all have arrived
    answer = await probe.control("POST", RELEASE, {"order": "at_once"})
    assert [item["status"] for item in answer.body["items"]] == [200] * 3
    assert sorted(told(probe)) == sorted(held)


async def test_some_results_are_released_and_the_rest_stays_held(probe: Probe) -> None:
    """By count in the given order, or by a part of the address."""
    held = await three_held(probe)
    await probe.control("POST", RELEASE, {"order": "reversed", "count": 1})
    assert told(probe) == held[2:]
    url = (await probe.control("GET", "/callbacks")).body["held"][1]["url"]
    answer = await probe.control("POST", RELEASE, {"url_contains": url})
    assert (told(probe), answer.body["held"]) == ([held[2], held[1]], 1)


async def test_one_payment_s_result_is_held_by_a_rule(probe: Probe) -> None:
    """The other results are delivered."""
    probe.simulator.scenario("held_callback", reference="p1")
    held = (await probe.b2c(OriginatorConversationID="p1")).body["ConversationID"]
    other = (await probe.b2c()).body["ConversationID"]
    await probe.simulator.idle()
    assert told(probe) == [other]
    await probe.control("POST", RELEASE)
    assert told(probe) == [other, held]


async def test_a_result_is_released_unchanged(probe: Probe) -> None:
    """A failure that a success overtook is still delivered as a failure."""
    probe.simulator.switches.change({"hold_callbacks": True})
    probe.simulator.scenario("failure_then_success", api="stk")
    await probe.stk()
    await probe.simulator.idle()
    await probe.control("POST", RELEASE, {"order": "reversed"})
    codes = [
        received.body["Body"]["stkCallback"]["ResultCode"] for received in probe.receiver.received
    ]
    assert codes == [0, 1037]


async def test_every_kind_of_message_is_held(probe: Probe) -> None:
    """Also timeout messages, copies and answers to inquiries."""
    probe.simulator.switches.change({"hold_callbacks": True})
    probe.simulator.scenario("timeout_message", api="b2c")
    probe.simulator.scenario("duplicate_callbacks", api="stk")
    probe.simulator.scenario("callback_before_answer", api="b2b")
    await probe.b2c()
    await probe.stk()
    await probe.b2b()
    await probe.status(OriginatorConversationID="p1")
    await probe.simulator.idle()
    assert not probe.receiver.received
    await probe.control("POST", RELEASE)
    assert len(probe.receiver.received) == 2 + 3 + 1 + 1


async def test_an_inquiry_s_result_is_held_by_a_rule(probe: Probe) -> None:
    """The payment's own result is delivered."""
    probe.simulator.scenario("held_callback", api="status")
    await probe.b2c(OriginatorConversationID="p1")
    await probe.status(OriginatorConversationID="p1")
    await probe.simulator.idle()
    assert [
        received.path for received in probe.receiver.received if "status" in received.path
    ] == []
    await probe.control("POST", RELEASE, {"url_contains": "/results/status"})
    assert probe.receiver.received[-1].path == "/results/status"


async def test_a_reset_drops_held_results(probe: Probe) -> None:
    """Held callbacks are lost."""
    await three_held(probe)
    await probe.control("POST", "/reset")
    assert (await probe.control("POST", RELEASE)).body["count"] == 0
    assert not probe.receiver.received


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"order": "shuffled"}, "order must be one of in_order, reversed, at_once"),
        ({"count": 0}, "count must be a whole number from 1"),
        ({"url_contains": 7}, "url_contains must be text"),
        ({"colour": "red"}, "unknown member: colour"),
    ],
)
async def test_an_invalid_release_is_refused(probe: Probe, body: object, says: str) -> None:
    """The answer has the reason, and nothing is released."""
    await three_held(probe)
    answer = await probe.control("POST", RELEASE, body)
    assert answer.status == 400
    assert says in answer.body["error"]
    assert len(probe.simulator.courier.held) == 3


async def test_a_result_is_delivered_once_even_if_the_receiver_fails(probe: Probe) -> None:
    """It is delivered only once (§8.3)."""
    await three_held(probe)
    probe.receiver.answer_status = 500
    await probe.control("POST", RELEASE)
    assert len(probe.receiver.received) == 3
    assert (await probe.control("POST", RELEASE)).body["count"] == 0
