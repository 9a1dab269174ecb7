"""How to control the simulator: rules, magic numbers, records, held results, the command."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.paths import ROOT
from tests.simulator.probe import PATHS, Probe, probing

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

KEPT = 20
RELEASE = "/callbacks/release"


@pytest.fixture(scope="module")
async def running_probe() -> AsyncIterator[Probe]:
    """One simulator for this file, with few kept records."""
    async with probing(records_max=KEPT) as probe:
        yield probe


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/scenarios", {"scenario": "no_such"}, "scenario must be one of"),
        ("/scenarios", {"scenario": "cancel", "match": {"api": "b2c"}}, "applies only to stk"),
        ("/scenarios", {"scenario": "cancel", "match": {"colour": "red"}}, "unknown member: col"),
        ("/scenarios", {"scenario": "cancel", "times": 0}, "times must be a whole number from 1"),
        ("/switches", {"time_scale": 1.0, "in_flight_shape": "D"}, "must be one of A, B, C"),
        ("/switches", {"time_scale": 1.0, "colour": "red"}, "unknown switch 'colour'"),
        ("/switches", {"missing_products": ["c2b"]}, "missing_products must be a list of some of"),
        (RELEASE, {"order": "shuffled"}, "order must be one of in_order, reversed, at_once"),
        (RELEASE, {"count": 0}, "count must be a whole number from 1"),
        (RELEASE, {"url_contains": 7}, "url_contains must be text"),
        (RELEASE, {"colour": "red"}, "unknown member: colour"),
        ("/listener", {}, "open must be true or false"),
    ],
)
async def test_an_invalid_control_call_is_refused_with_the_reason_and_changes_nothing(
    probe: Probe, path: str, body: object, says: str
) -> None:
    await hold_three(probe)
    before = (await probe.control("GET", "/switches")).body
    answer = await probe.control("POST", path, body)
    assert answer.status == 400
    assert says in answer.body["error"]
    assert (await probe.control("GET", "/switches")).body == before
    assert (await probe.control("GET", "")).body == {"open": True, "pending": 0, "held": 3}


class TestChoice:
    """A rule or a magic number chooses the scenario of a call."""

    @pytest.mark.parametrize("changes", [{"PhoneNumber": "254700000010"}, {"Amount": 249_910}])
    async def test_a_magic_number_chooses_the_scenario(
        self, probe: Probe, changes: dict[str, object]
    ) -> None:
        """The phone number or the amount ends with 10, the number of `cancel`."""
        await probe.finish("stk", **changes)
        assert probe.receiver.codes == [1032]

    async def test_a_retry_after_a_magic_refusal_succeeds(self, probe: Probe) -> None:
        """A fault that passes by itself meets only the first call with a reference."""
        body = probe.body("b2c", PartyB="254700000023")
        assert [(await probe.call(PATHS["b2c"], body)).status for _ in range(2)] == [429, 200]

    async def test_the_newest_matching_rule_is_used_until_it_is_used_up(self, probe: Probe) -> None:
        """Rules go before magic numbers. A rule with `times` is used that often."""
        for scenario, match in (("ignore", {"api": "stk"}), ("cancel", {"reference": "INV1"})):
            rule = {"scenario": scenario, "match": match, "times": 1}
            assert (await probe.control("POST", "/scenarios", rule)).status == 201
        for _ in range(3):
            await probe.finish("stk", AccountReference="INV1")
        assert probe.receiver.codes == [1032, 1037, 0]
        assert (await probe.control("GET", "/scenarios")).body["rules"] == []

    async def test_the_newest_rule_is_used_with_any_kind_of_match(self, probe: Probe) -> None:
        """The newest rule may match by another field than the older rules."""
        matches: list[dict[str, Any]] = [
            {"reference": "p1"},
            {},
            {"phone_number": "254711000111"},
            {"amount": 1500},
            {"url_contains": "/results/"},
            {"party": "254711000111"},
        ]
        for number, match in enumerate(matches):
            params = {"error_code": f"{number}"}
            probe.simulator.scenario("internal_error_without_acting", params=params, **match)
            answer = await probe.send("b2c", OriginatorConversationID="p1")
            assert answer.body["errorCode"] == f"{number}"
        shown = (await probe.control("GET", "/scenarios")).body["rules"]
        assert [rule["params"]["error_code"] for rule in shown] == ["5", "4", "3", "2", "1", "0"]


class TestRecords:
    """The control API shows the simulator's records."""

    async def test_requests_are_on_record_without_their_secrets(self, probe: Probe) -> None:
        """The records can be searched by a text in the body and by a part of the path."""
        await probe.send("stk", Password="c2VjcmV0")
        await probe.send("b2c", OriginatorConversationID="p1")
        answer = await probe.control("GET", "/requests")
        assert [item["status"] for item in answer.body["items"]] == [200, 500, 200]
        assert "c2VjcmV0" not in answer.text
        assert answer.body["items"][2]["body"]["SecurityCredential"] == "[redacted]"
        assert (await probe.control("GET", '/requests?contains="p1"')).body["count"] == 1
        assert (await probe.control("GET", "/requests?path=stk")).body["count"] == 1
        await probe.control("DELETE", "/requests")
        assert (await probe.control("GET", "/requests")).body["count"] == 0

    async def test_the_oldest_records_are_dropped_and_all_are_counted_but_no_movement_is_lost(
        self, probe: Probe
    ) -> None:
        for _ in range(KEPT + 1):
            await probe.send("b2c")
        await probe.simulator.idle()
        requests = (await probe.control("GET", "/requests")).body
        assert len(requests["items"]) == KEPT
        assert (requests["count"], requests["forgotten"]) == (KEPT + 2, 2)  # and one for the token
        callbacks = (await probe.control("GET", "/callbacks")).body
        assert (len(callbacks["items"]), callbacks["count"]) == (KEPT, KEPT + 1)
        assert len((await probe.control("GET", "/ledger")).body["items"]) == KEPT + 1

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ("", 3),
            ("?reference=PO1", 2),
            ("?reference=PO3", 0),
            ("?payment_id=018f-a", 2),
            ("?payment_id=018f", 0),  # not a whole segment of the ResultURL's path
            ("?payment_id=018f-a&reference=PO2", 1),
        ],
    )
    async def test_the_ledger_is_filtered_by_a_reference_and_by_a_payment(
        self, probe: Probe, query: str, count: int
    ) -> None:
        for payment_id, reference in (("018f-a", "PO1"), ("018f-b", "PO1"), ("018f-a", "PO2")):
            url = probe.receiver.url(f"/results/{payment_id}/bill-payment/0a1b")
            await probe.finish("b2b", AccountReference=reference, ResultURL=url)
        found = (await probe.control("GET", f"/ledger{query}")).body
        assert len(found["items"]) == count
        assert sum(total["amount"] for total in found["by_reference"].values()) == count * 1800

    async def test_a_reset_forgets_everything_except_keys_and_tokens(self, probe: Probe) -> None:
        """After a reset, unfinished payments send no result."""
        await hold_three(probe)
        probe.simulator.scenario("slow_result", params={"seconds": 600})
        await probe.send("stk", PhoneNumber="254711000111")
        assert (await probe.control("POST", "/reset")).body == {"reset": True}
        assert (await probe.control("GET", "")).body == {"open": True, "pending": 0, "held": 0}
        assert (await probe.control("GET", "/ledger")).body["items"] == []
        assert (await probe.send("stk", PhoneNumber="254711000111")).status == 200
        await probe.control("POST", "/reset", {"tokens": True})
        assert (await probe.send("stk")).status == 404


async def hold_three(probe: Probe) -> list[str]:
    """Finish three payouts with held results, and return the ids of the results in order."""
    await probe.control("POST", "/switches", {"hold_callbacks": True})
    for _ in range(3):
        await probe.finish("b2c")
    held: list[Any] = (await probe.control("GET", "/callbacks")).body["held"]
    await probe.control("POST", "/switches", {"hold_callbacks": False})
    return [delivery["body"]["Result"]["ConversationID"] for delivery in held]


def received_ids(probe: Probe) -> list[str]:
    """Return the ids of the received results, in order."""
    return [received.body["Result"]["ConversationID"] for received in probe.receiver.received]


class TestHolding:
    """The simulator holds results until a test releases them."""

    async def test_a_held_result_is_not_delivered_although_money_moved(self, probe: Probe) -> None:
        """A held result is not pending. Turning the switch off does not release it."""
        assert len(set(await hold_three(probe))) == 3
        assert len(probe.simulator.ledger.movements) == 3
        assert (await probe.control("GET", "")).body == {"open": True, "pending": 0, "held": 3}
        assert not probe.receiver.received

    @pytest.mark.parametrize("order", ["in_order", "reversed", "at_once"])
    async def test_held_results_are_released_once_in_the_given_order(
        self, probe: Probe, order: str
    ) -> None:
        """The receiver may fail (§8.3). With `at_once`, the results do not wait for each other."""
        held = await hold_three(probe)
        probe.receiver.answer_status = 500
        probe.receiver.answers_after = 3 if order == "at_once" else 0
        answer = await probe.control("POST", RELEASE, {"order": order})
        assert (answer.body["count"], answer.body["held"]) == (3, 0)
        assert [item["status"] for item in answer.body["items"]] == [500] * 3
        got = received_ids(probe)
        assert sorted(got) == sorted(held)
        assert order == "at_once" or got == (held if order == "in_order" else held[::-1])
        assert (await probe.control("POST", RELEASE)).body["count"] == 0

    async def test_some_results_are_released_and_the_rest_stays_held(self, probe: Probe) -> None:
        """The call chooses them by count and order, or by a part of the address."""
        held = await hold_three(probe)
        await probe.control("POST", RELEASE, {"order": "reversed", "count": 1})
        assert received_ids(probe) == held[2:]
        url = (await probe.control("GET", "/callbacks")).body["held"][1]["url"]
        answer = await probe.control("POST", RELEASE, {"url_contains": url})
        assert (received_ids(probe), answer.body["held"]) == ([held[2], held[1]], 1)

    async def test_a_result_is_released_unchanged(self, probe: Probe) -> None:
        """A failure that a success overtook is still delivered as a failure."""
        probe.simulator.switches.change({"hold_callbacks": True})
        probe.simulator.scenario("failure_then_success", api="stk")
        await probe.finish("stk")
        await probe.control("POST", RELEASE, {"order": "reversed"})
        assert probe.receiver.codes == [0, 1037]

    @pytest.mark.parametrize("by", ["switch", "rule"])
    async def test_every_kind_of_message_is_held(self, probe: Probe, by: str) -> None:
        """The switch holds timeout messages and copies too. A rule holds only matching results."""
        if by == "switch":
            probe.simulator.switches.change({"hold_callbacks": True})
            probe.simulator.scenario("timeout_message", api="b2c")
            probe.simulator.scenario("duplicate_callbacks", api="stk")
            probe.simulator.scenario("callback_before_answer", api="b2b")
        else:
            probe.simulator.scenario("held_callback")
        for api in ("b2c", "stk", "b2b"):
            await probe.finish(api)
        await probe.finish("status", OriginatorConversationID="p1")
        assert not probe.receiver.received
        await probe.control("POST", RELEASE)
        assert len(probe.receiver.received) == (2 + 3 + 1 + 1 if by == "switch" else 4)


async def test_the_command_prints_its_addresses_and_reads_its_keys_from_the_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The command prints one line, writes the certificate's file, and exits with 0 on SIGTERM."""
    certificate = tmp_path_factory.mktemp("daraja") / "certificate.pem"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.simulator", "--port", "0"),
        *("--certificate-file", str(certificate)),
        cwd=ROOT,
        env={"DARAJA_CONSUMER_KEY": "ours", "DARAJA_TILL": "5551234"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    base_url = (await process.stdout.readline()).decode().split()[3].rstrip(",")
    url = f"{base_url}/_control/settings"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        settings = await answer.json()
    assert (settings["DARAJA_CONSUMER_KEY"], settings["DARAJA_TILL"]) == ("ours", "5551234")
    assert certificate.read_text() == settings["certificate_pem"]
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert await process.stdout.read() == b""
