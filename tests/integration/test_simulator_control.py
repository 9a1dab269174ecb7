"""How to control the simulator: rules, magic numbers, records, held results, the command."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.paths import ROOT
from tests.simulator.probe import Probe, probing

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

KEPT = 20


@pytest.fixture(scope="module")
async def running_probe() -> AsyncIterator[Probe]:
    """One simulator for this file, with few kept records."""
    async with probing(records_max=KEPT) as probe:
        yield probe


class TestChoice:
    """A rule or a magic number chooses the scenario of a call."""

    @pytest.mark.parametrize("changes", [{"PhoneNumber": "254700000010"}, {"Amount": 249_910}])
    async def test_a_magic_number_chooses_the_scenario(
        self, probe: Probe, changes: dict[str, object]
    ) -> None:
        """The phone number or the amount ends with 10, the number of `cancel`."""
        await probe.finish("stk", **changes)
        assert probe.receiver.codes == [1032]

    async def test_the_newest_matching_rule_is_used_until_it_is_used_up(self, probe: Probe) -> None:
        """Rules go before magic numbers. A rule with `times` is used that often."""
        for scenario, match in (("ignore", {"api": "stk"}), ("cancel", {"reference": "INV1"})):
            rule = {"scenario": scenario, "match": match, "times": 1}
            assert (await probe.control("POST", "/scenarios", rule)).status == 201
        for _ in range(3):
            await probe.finish("stk", AccountReference="INV1")
        assert probe.receiver.codes == [1032, 1037, 0]
        assert (await probe.control("GET", "/scenarios")).body["rules"] == []


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
