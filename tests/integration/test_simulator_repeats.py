"""The calls that use up an OriginatorConversationID in the simulator, over HTTP (daraja.md §4.2).

The service depends on this: it may send a withdrawal of unknown outcome again with the same id, and
the withdrawal then pays at most once.
"""

import asyncio
import contextlib
import json
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.simulator.probe import PATHS, Probe, eventually

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

PATH = PATHS["b2c"]
P1 = {"OriginatorConversationID": "p1"}
NOT_FOUND = {2032, "SFC_IC0003"}
LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


async def send(probe: Probe, body: dict[str, object]) -> None:
    """Send a payout, whose answer may be lost, and wait until it has ended."""
    with contextlib.suppress(*LOST):
        await probe.call(PATH, body)
    await probe.simulator.idle()


@pytest.mark.parametrize(
    ("scenario", "params"),
    [
        ("cut_before_acting", {}),
        ("html_503", {}),
        ("html_200", {"act": False}),
        ("token_expired", {}),
        ("invalid_request", {}),
    ],
)
async def test_a_call_without_effect_leaves_no_trace(
    probe: Probe, scenario: str, params: dict[str, object]
) -> None:
    """Daraja has no transaction, and the same id pays when a call succeeds."""
    probe.simulator.scenario(scenario, api="b2c", times=1, params=params)
    body = probe.body("b2c", **P1)
    await send(probe, body)
    assert not probe.receiver.received
    assert (await probe.inquire(**P1))["ResultCode"] in NOT_FOUND
    assert (await probe.call(PATH, body)).status == 200
    await probe.simulator.idle()
    assert probe.simulator.ledger.count("p1") == 1


async def test_an_aborted_request_leaves_no_trace(probe: Probe) -> None:
    """The body had arrived except its last byte."""
    body = probe.body("b2c", **P1)
    content = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: daraja\r\nAuthorization: Bearer {probe.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content) + 1}\r\n\r\n"
    )
    address = urlsplit(probe.simulator.base_url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head.encode() + content)
    await writer.drain()
    writer.close()
    await eventually(lambda: PATH in [arrival.path for arrival in probe.simulator.traffic.arrivals])
    arrival = probe.simulator.traffic.arrivals[-1]
    await eventually(lambda: arrival.fault is not None or arrival.status is not None)
    assert (arrival.fault, arrival.bytes_received) == (
        "request aborted by the client",
        len(content),
    )
    assert (await probe.call(PATH, body)).status == 200


@pytest.mark.parametrize(
    ("scenario", "params", "payments"),
    [
        ("approve", {}, 1),
        ("answer_lost_after_acting", {}, 1),
        ("system_busy", {"act": True}, 1),  # contradicts the meaning of "busy"
        ("lost_callback", {}, 1),
        ("insufficient_funds", {}, 0),
        ("credential_refused", {}, 0),
        ("duplicate_ocid_async", {}, 0),
        ("timeout_message_only", {}, 0),
    ],
)
async def test_an_accepted_call_uses_up_its_id(
    probe: Probe, scenario: str, params: dict[str, object], payments: int
) -> None:
    """The id stays used after any outcome and any number of resends."""
    probe.simulator.scenario(scenario, api="b2c", times=1, params=params)
    body = probe.body("b2c", **P1)
    await send(probe, body)
    for _ in range(3):
        answer = await probe.call(PATH, body)
        assert answer.error == (500, "500.002.1001", "Duplicate OriginatorConversationID.")
        await probe.simulator.idle()
    assert probe.simulator.ledger.count("p1") == payments


@pytest.mark.parametrize(
    "changes",
    [
        {"SecurityCredential": "bm90IGEgY3JlZGVudGlhbA=="},
        {"InitiatorName": "a stranger"},
        {"Amount": 9},
        {"PartyB": "254211000111"},
    ],
)
async def test_a_call_that_is_refused_after_acceptance_uses_up_its_id(
    probe: Probe, changes: dict[str, object]
) -> None:
    """The duplicate check comes first, so a corrected request is refused too."""
    await send(probe, probe.body("b2c", **P1, **changes))
    assert probe.receiver.codes in ([2001], [2], ["SFC_IC0003"])
    answer = await probe.send("b2c", **P1)
    assert answer.error[1] == "500.002.1001"
    assert not probe.simulator.ledger.movements


async def test_each_short_code_has_its_own_ids(probe: Probe) -> None:
    """A send from one short code uses up no id of another short code (§4.2).

    An inquiry of the other short code does not find the send.
    """
    await send(probe, probe.body("b2c", **P1, PartyA="600111"))
    assert probe.receiver.codes == [2028]
    assert (await probe.inquire(**P1))["ResultCode"] in NOT_FOUND
    assert (await probe.send("b2c", **P1)).status == 200
    await probe.simulator.idle()
    assert (await probe.inquire(**P1))["ResultCode"] == 0
    again = await probe.send("b2c", **P1, PartyA="600111")
    assert again.error[1] == "500.002.1001"
    assert probe.simulator.ledger.count("p1") == 1


async def test_a_repeat_while_the_first_is_under_way_is_a_duplicate(probe: Probe) -> None:
    """The first call uses up its id at the moment of its acceptance."""
    probe.simulator.scenario("slow_result", api="b2c", params={"seconds": 600}, times=1)
    assert (await probe.send("b2c", **P1)).status == 200
    assert (await probe.send("b2c", **P1)).error[1] == "500.002.1001"


async def test_a_repeated_id_may_be_refused_by_result_15(probe: Probe) -> None:
    """Result 15 is another form of the same refusal. The first payment does not change."""
    probe.simulator.switches.change({"duplicate_ocid": "async"})
    for _ in range(2):
        await probe.finish("b2c", **P1)
    assert probe.receiver.codes == [0, 15]
    assert probe.simulator.ledger.count("p1") == 1
