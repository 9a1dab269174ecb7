"""A person answers the prompts of the simulated customers, on a page of the simulator."""

from __future__ import annotations

import pytest

from tests.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.simulator.probe import Probe, eventually

# These tests start servers or programs of their own, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


PHONE = "254711000111"


async def ask(probe: Probe, **changes: object) -> str:
    """Sends a deposit that a person has to answer. Returns the id of its prompt."""
    await probe.control("POST", "/switches", {"answered_by_hand": True})
    answer = await probe.send("stk", PhoneNumber=PHONE, **changes)
    prompt_id: str = answer.body["CheckoutRequestID"]
    await eventually(
        lambda: prompt_id in [prompt["id"] for prompt in probe.simulator.phones.to_json()]
    )
    return prompt_id


@pytest.mark.parametrize(
    ("name", "code"), [("approve", 0), ("cancel", 1032), ("wrong_pin", 2001), ("ignore", 1037)]
)
async def test_the_result_is_what_the_person_does_with_the_prompt(
    probe: Probe, name: str, code: int
) -> None:
    prompt_id = await ask(probe, Amount=250)
    assert probe.receiver.codes == []
    answer = await probe.control("POST", f"/phones/{prompt_id}", {"answer": name})
    assert answer.status == 200
    await probe.simulator.idle()
    assert probe.receiver.codes == [code]
    moved = [movement.amount for movement in probe.simulator.ledger.movements]
    assert moved == ([250] if name == "approve" else [])


async def test_a_prompt_without_an_answer_ends_as_not_answered(probe: Probe) -> None:
    await probe.control("POST", "/switches", {"prompt_seconds": 0.2})
    prompt_id = await ask(probe)
    await probe.simulator.idle()
    assert probe.receiver.codes == [1037]
    late = await probe.control("POST", f"/phones/{prompt_id}", {"answer": "approve"})
    assert (late.status, late.body) == (400, {"error": "this prompt does not wait any more"})
    assert probe.simulator.ledger.movements == []


async def test_an_unknown_answer_is_refused_and_the_prompt_still_waits(probe: Probe) -> None:
    prompt_id = await ask(probe)
    wrong = await probe.control("POST", f"/phones/{prompt_id}", {"answer": "yes"})
    assert (wrong.status, wrong.body["error"]) == (
        400,
        "answer must be one of approve, cancel, wrong_pin, ignore",
    )
    state = (await probe.control("GET", "/phones/state")).body
    assert [prompt["phone_number"] for prompt in state["prompts"]] == [PHONE]


async def test_a_magic_number_and_a_rule_still_choose_what_happens(probe: Probe) -> None:
    await probe.control("POST", "/switches", {"answered_by_hand": True})
    await probe.finish("stk", PhoneNumber="254700000010")
    rule = {"scenario": "ignore", "match": {"reference": "INV7"}}
    await probe.control("POST", "/scenarios", rule)
    await probe.finish("stk", AccountReference="INV7")
    assert probe.receiver.codes == [1032, 1037]


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_a_person_answers_a_prompt_on_the_page_and_sees_the_money_that_moved(
    probe: Probe,
) -> None:
    async with open_tab() as tab:
        await tab.page.goto(f"{probe.simulator.control_url}/_control/phones")
        await ask(probe, Amount=250, AccountReference="INV7")
        phone = tab.page.get_by_role("article", name=f"Phone {PHONE}")
        await phone.get_by_text("pay KES 250").wait_for()
        await phone.get_by_role("button", name="Enter PIN").click()
        await probe.simulator.idle()
        (movement,) = probe.simulator.ledger.movements
        await tab.page.get_by_role("cell", name=movement.receipt).wait_for()
        assert await phone.count() == 0
        await tab.page.get_by_text("Show the numbers").click()
        assert await tab.page.get_by_role("cell", name="254700000010").count() == 1
        assert tab.complaints == []
