"""How to control the simulator: rules, magic numbers, the control API, the command."""

import asyncio
import signal
import sys

import aiohttp
import pytest

from tests.paths import ROOT
from tests.simulator import Simulator
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


class TestChoice:
    """The scenario of a call."""

    @pytest.mark.parametrize("changes", [{"PhoneNumber": "254700000010"}, {"Amount": 249_910}])
    async def test_a_magic_number_chooses(self, probe: Probe, changes: dict[str, object]) -> None:
        """By phone number or by amount: 10 is cancel."""
        await probe.stk(**changes)
        await probe.simulator.idle()
        assert probe.receiver.received[0].body["Body"]["stkCallback"]["ResultCode"] == 1032

    async def test_a_retry_after_a_magic_refusal_succeeds(self, probe: Probe) -> None:
        """Only the first call of a reference gets a passing fault."""
        body = probe.b2c_body(PartyB="254700000023")
        assert (await probe.call("/mpesa/b2c/v3/paymentrequest", body)).status == 429
        assert (await probe.call("/mpesa/b2c/v3/paymentrequest", body)).status == 200

    async def test_the_newest_matching_rule_is_used_until_it_is_used_up(self, probe: Probe) -> None:
        """Rules go before magic numbers, and count down."""
        for scenario, match in (("ignore", {"api": "stk"}), ("cancel", {"reference": "INV1"})):
            rule = {"scenario": scenario, "match": match, "times": 1}
            assert (await probe.control("POST", "/scenarios", rule)).status == 201
        codes = []
        for _ in range(3):
            probe.receiver.received.clear()
            await probe.stk(AccountReference="INV1")
            await probe.simulator.idle()
            codes.append(probe.receiver.received[0].body["Body"]["stkCallback"]["ResultCode"])
        assert codes == [1032, 1037, 0]
        assert (await probe.control("GET", "/scenarios")).body["rules"] == []

    def test_the_readme_lists_every_scenario_with_its_number(self) -> None:
        """The rows are in the catalogue's order."""
        text = (ROOT / "tests" / "simulator" / "README.md").read_text(encoding="utf-8")
        lines = text.partition("| scenario | NN |")[2].splitlines()
        rows = [
            [cell.strip() for cell in line.split("|")[1:3]]
            for line in lines
            if line.startswith("| `")
        ]
        numbers = (
            (s.name, "" if s.number is None else f"{s.number:02}") for s in CATALOGUE.values()
        )
        assert rows == [[f"`{name}`", number] for name, number in numbers]

    async def test_a_payment_that_ended_as_a_duplicate_is_not_found(self, probe: Probe) -> None:
        """Result 15 for a first call leaves no transaction, unless params move the money."""
        probe.simulator.scenario("duplicate_ocid_async", times=1)
        await probe.b2c(OriginatorConversationID="p1")
        probe.simulator.scenario("duplicate_ocid_async", times=1, params={"moves_money": True})
        await probe.b2c(OriginatorConversationID="p2")
        await probe.simulator.idle()
        assert [r.body["Result"]["ResultCode"] for r in probe.receiver.received] == [15, 15]
        assert list(probe.simulator.ledger.by_reference()) == ["p2"]
        for reference, code in (("p1", "SFC_IC0003"), ("p2", 0)):
            await probe.status(OriginatorConversationID=reference)
            await probe.simulator.idle()
            assert probe.receiver.received[-1].body["Result"]["ResultCode"] == code

    @pytest.mark.parametrize(
        "rule",
        [
            {"scenario": "no_such"},
            {"scenario": "cancel", "match": {"api": "b2c"}},
            {"scenario": "cancel", "match": {"colour": "red"}},
            {"scenario": "cancel", "times": 0},
        ],
    )
    async def test_an_invalid_rule_is_refused(self, probe: Probe, rule: object) -> None:
        """The answer has the reason."""
        answer = await probe.control("POST", "/scenarios", rule)
        assert answer.status == 400
        assert answer.body["error"]


class TestControl:
    """Views of the state, and the reset."""

    async def test_requests_are_on_record_without_their_secrets(self, probe: Probe) -> None:
        """Also requests without an answer."""
        await probe.stk(Password="c2VjcmV0")
        await probe.b2c()
        answer = await probe.control("GET", "/requests")
        assert [item["status"] for item in answer.body["items"]] == [200, 500, 200]
        assert "c2VjcmV0" not in answer.text
        assert answer.body["items"][2]["body"]["SecurityCredential"] == "[redacted]"
        assert (await probe.control("GET", "/requests?path=b2c")).body["count"] == 1
        await probe.control("DELETE", "/requests")
        assert (await probe.control("GET", "/requests")).body["count"] == 0

    async def test_switches_are_shown_and_checked(self, probe: Probe) -> None:
        """A wrong switch changes none of them."""
        changed = await probe.control(
            "POST", "/switches", {"subscriber_lock": False, "time_scale": 0.5}
        )
        assert (changed.body["subscriber_lock"], changed.body["time_scale"]) == (False, 0.5)
        wrong = await probe.control(
            "POST", "/switches", {"time_scale": 1.0, "in_flight_shape": "D"}
        )
        assert wrong.status == 400
        assert (await probe.control("GET", "/switches")).body["time_scale"] == 0.5

    async def test_a_reset_forgets_everything_except_keys_and_tokens(self, probe: Probe) -> None:
        """Unfinished payments send no result after it."""
        probe.simulator.scenario("slow_result", params={"seconds": 600})
        await probe.stk(PhoneNumber="254711000111")
        assert (await probe.control("POST", "/reset")).body == {"reset": True}
        assert (await probe.control("GET", "")).body["pending"] == 0
        assert (await probe.stk(PhoneNumber="254711000111")).status == 200
        await probe.control("POST", "/reset", {"tokens": True})
        assert (await probe.stk()).status == 404


class TestProcess:
    """`python -m tests.simulator`."""

    async def test_it_prints_its_addresses_reads_its_keys_from_the_environment_and_stops(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """It prints one line, writes the certificate's file, and exits with 0 on SIGTERM."""
        certificate = tmp_path_factory.mktemp("daraja") / "certificate.pem"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.simulator", "--port", "0"),
            *("--certificate-file", str(certificate)),
            cwd=ROOT,
            env={"DARAJA_CONSUMER_KEY": "ours", "DARAJA_TILL": "5551234"},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        base_url = line.split()[3].rstrip(",")
        async with (
            aiohttp.ClientSession(base_url) as session,
            session.get("/_control/settings") as answer,
        ):
            settings = await answer.json()
        assert (settings["DARAJA_CONSUMER_KEY"], settings["DARAJA_TILL"]) == ("ours", "5551234")
        assert certificate.read_text() == settings["certificate_pem"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert await process.stdout.read() == b""

    async def test_two_simulators_have_keys_of_their_own(self) -> None:
        """Nothing is shared between instances."""
        first, second = Simulator(), Simulator()
        assert first.vault.certificate_pem != second.vault.certificate_pem
        assert first.merchant.consumer_secret != second.merchant.consumer_secret
