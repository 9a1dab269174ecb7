"""The forms in which the simulator's Transaction Status says one fact (daraja.md §4.3, §6.1)."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.test_simulator_inquiries import NOT_FOUND, ask, paid, told
from tests.simulator.probe import Probe, probing

# Of our stand-in for Daraja, and no promise of ours: the sample leaves them to `make test-all`.
pytestmark = pytest.mark.whole


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[Probe]:
    """One simulator for this file: making its key pair takes a moment."""
    async with probing() as probe:
        yield probe


@pytest_asyncio.fixture
async def probe(running: Probe) -> Probe:
    """The same simulator as if it had just started."""
    await running.begin_anew()
    return running


async def test_a_seed_draws_between_the_two_forms_of_not_found(probe: Probe) -> None:
    """The switch chooses one of them for all questions, and a scenario for one question."""
    seen = [(await ask(probe, TransactionID="UC17KX20PM"))["ResultCode"] for _ in range(8)]
    assert set(seen) == {2032, "SFC_IC0003"}
    for code in (2032, "SFC_IC0003"):
        probe.simulator.switches.change({"not_found_code": str(code)})
        result = await ask(probe, TransactionID="UC17KX20PM")
        assert result["ResultDesc"] == NOT_FOUND[result["ResultCode"]]
        assert result["ResultCode"] == code
        assert "ResultParameters" not in result
        probe.simulator.switches.change({"not_found_code": "random"})
        probe.simulator.scenario("not_found", times=1, params={"code": code})
        assert (await ask(probe, TransactionID="UC17KX20PM"))["ResultCode"] == code


async def test_the_target_s_ids_may_be_written_with_blanks(probe: Probe) -> None:
    """As in results of 2017."""
    acknowledged = await paid(probe, OriginatorConversationID="p1")
    probe.simulator.scenario("spaced_keys", times=1)
    result = await ask(probe, OriginatorConversationID="p1")
    assert told(result, "Originator Conversation ID") == ["p1"]
    assert told(result, "Conversation ID") == [acknowledged["ConversationID"]]
