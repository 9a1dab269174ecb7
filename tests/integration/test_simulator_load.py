"""The simulator in a long run: indexed, kept and dropped data.

The tests assert no durations. They count compared rules and kept records.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.simulator.probe import Probe, probing
from tests.simulator.scenarios import Match

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole

KEPT = 20


@pytest_asyncio.fixture(scope="module")
async def running_probe() -> AsyncIterator[Probe]:
    """One simulator for this file, with few kept records."""
    async with probing(records_max=KEPT) as probe:
        yield probe


async def ledger(probe: Probe, query: str) -> Any:
    """Return a part of the ledger."""
    return (await probe.control("GET", f"/ledger{query}")).body


class TestLedger:
    """All money that moved."""

    async def test_the_ledger_is_filtered_by_a_reference(self, probe: Probe) -> None:
        """Every movement of the reference, and no other."""
        for reference in ("PO1", "PO2", "PO1"):
            await probe.b2b(AccountReference=reference)
        await probe.simulator.idle()
        found = await ledger(probe, "?reference=PO1")
        assert [item["reference"] for item in found["items"]] == ["PO1", "PO1"]
        assert found["by_reference"] == {"PO1": {"count": 2, "amount": 3600}}
        assert await ledger(probe, "?reference=PO3") == {"items": [], "by_reference": {}}

    async def test_the_ledger_is_filtered_by_a_payment(self, probe: Probe) -> None:
        """By a whole segment of the ResultURL's path, alone or with a reference."""
        for payment_id, reference in (("018f-a", "PO1"), ("018f-b", "PO1"), ("018f-a", "PO2")):
            url = probe.receiver.url(f"/results/{payment_id}/bill-payment/0a1b")
            await probe.b2b(AccountReference=reference, ResultURL=url)
        await probe.simulator.idle()
        assert len((await ledger(probe, "?payment_id=018f-a"))["items"]) == 2
        assert len((await ledger(probe, "?payment_id=018f-a&reference=PO2"))["items"]) == 1
        assert (await ledger(probe, "?payment_id=018f"))["items"] == []
        assert len((await ledger(probe, ""))["items"]) == 3

    async def test_the_ledger_is_never_capped(self, probe: Probe) -> None:
        """Even if few other records are kept."""
        await asyncio.gather(*(probe.b2c() for _ in range(3 * KEPT)))
        await probe.simulator.idle()
        assert len((await ledger(probe, ""))["items"]) == 3 * KEPT


class TestRecords:
    """The newest requests and callbacks."""

    async def test_the_oldest_records_are_dropped_and_all_are_counted(self, probe: Probe) -> None:
        """Also for one path."""
        await probe.stk()
        for _ in range(KEPT):
            await probe.b2c()
        await probe.simulator.idle()
        requests = (await probe.control("GET", "/requests?path=/mpesa/")).body
        assert len(requests["items"]) == KEPT
        assert (requests["count"], requests["forgotten"]) == (
            KEPT + 1,
            2,
        )  # the token's request too
        assert (await probe.control("GET", "/requests?path=stkpush")).body["count"] == 1
        callbacks = (await probe.control("GET", "/callbacks")).body
        assert (len(callbacks["items"]), callbacks["count"]) == (KEPT, KEPT + 1)

    async def test_requests_are_filtered_by_a_text_in_the_body(self, probe: Probe) -> None:
        """For example, the requests of one payment."""
        for name in ("p1", "p2"):
            await probe.b2c(OriginatorConversationID=name)
            await probe.status(OriginatorConversationID=name)
        found = (await probe.control("GET", '/requests?contains="p1"')).body
        assert found["count"] == 2
        assert all(item["body"]["OriginatorConversationID"] == "p1" for item in found["items"])

    async def test_the_request_of_a_finished_payment_is_forgotten(self, probe: Probe) -> None:
        """Payments are kept for ever for inquiries. Their requests are not."""
        conversation_id = (await probe.b2c()).body["ConversationID"]
        await probe.simulator.idle()
        assert probe.simulator._book.by_provider_id[conversation_id].sent == {}


class TestRules:
    """Each call is compared with few rules, even if there are many."""

    @pytest.mark.parametrize("field", ["reference", "phone_number", "party", "amount"])
    async def test_rules_of_other_payments_are_not_compared(
        self, probe: Probe, field: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run may have a rule for each payment."""
        probe.simulator.scenario("spike_arrest_apigee", reference="p1")
        for number in range(1000):
            match: dict[str, Any] = {field: number if field == "amount" else f"other-{number}"}
            probe.simulator.scenario("html_503", **match)
        looked_at = []
        covers = Match.covers

        def counted(match: Match, api: str, facts: Any) -> bool:
            looked_at.append(match)
            return covers(match, api, facts)

        monkeypatch.setattr(Match, "covers", counted)
        assert (await probe.b2c(OriginatorConversationID="p1")).status == 429
        assert len(looked_at) == 1

    async def test_the_newest_rule_is_used_with_any_kind_of_match(self, probe: Probe) -> None:
        """Also if it has another index key than the older rules."""
        matches: list[dict[str, Any]] = [
            {"reference": "p1"},
            {},
            {"phone_number": "254711000111"},
            {"amount": 1500},
            {"url_contains": "/results/"},
            {"party": "254711000111"},
        ]
        for status, match in enumerate(matches):
            probe.simulator.scenario(
                "internal_error_without_acting", params={"error_code": f"{status}"}, **match
            )
            answer = await probe.b2c(OriginatorConversationID="p1")
            assert answer.body["errorCode"] == f"{status}"
        shown = (await probe.control("GET", "/scenarios")).body["rules"]
        assert [rule["params"]["error_code"] for rule in shown] == ["5", "4", "3", "2", "1", "0"]


async def test_the_checkout_ids_of_one_phone_number_are_unique(probe: Probe) -> None:
    """There are ten ids a second. Further prompts get the ids of later tenths."""
    probe.simulator.switches.change({"subscriber_lock": False})
    answers = await asyncio.gather(*(probe.stk(PhoneNumber="254711000111") for _ in range(40)))
    assert len({answer.body["CheckoutRequestID"] for answer in answers}) == 40


async def test_many_payments_at_once_move_their_money_once_each(probe: Probe) -> None:
    """All kinds, side by side."""
    probe.simulator.switches.change({"callback_keep_alive": True})
    credential = probe.credential()
    for _ in range(5):
        await asyncio.gather(
            *(probe.stk(AccountReference="DEPOSITS") for _ in range(20)),
            *(probe.b2c(SecurityCredential=credential) for _ in range(20)),
            *(
                probe.b2b(SecurityCredential=credential, AccountReference="BILLS")
                for _ in range(20)
            ),
        )
    await probe.simulator.idle()
    totals = probe.simulator.ledger.by_reference()
    assert totals.pop("DEPOSITS") == {"count": 100, "amount": 25_000}
    assert totals.pop("BILLS") == {"count": 100, "amount": 180_000}
    assert len(totals) == 100
    assert {total["count"] for total in totals.values()} == {1}
    assert len(probe.receiver.received) == 300
