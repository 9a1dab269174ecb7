"""An operator's commands find payments, tell their story, print events, and requeue a step."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.spec.conftest import a_system
from tests.spec.operating import CommandResult, a_running_command, operate, operate_all
from tests.spec.system import System

_HOSTILE = "Ink \x1b[31m red"


@dataclass(frozen=True, slots=True)
class Cast:
    """A paid deposit, a cancelled one, and a withdrawal that waits because payouts are stopped."""

    system: System
    paid: Any
    cancelled: Any
    waiting: Any

    async def run(self, *arguments: str, **env: str) -> CommandResult:
        return await operate(self.system, *arguments, env=env)

    async def read(self, *arguments: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads((await self.run(*arguments, "--json")).expect(0).out)


@pytest.fixture(scope="module")
async def cast() -> AsyncIterator[Cast]:
    async with a_system() as system:
        await system.scenario("cancel", phone_number="254711000444")
        await system.execute(
            "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'a test'"
            " WHERE name = 'kill_switch'"
        )
        ids = [
            await system.deposit(phone_number="0711000333", account_reference="INV0042"),
            await system.deposit(phone_number="0711000444", account_reference="INV0043"),
            await system.withdrawal(
                phone_number="0722000555",
                owner="0722000555",
                metadata={"note": "for 0722000555"},
            ),
        ]
        paid, cancelled = await asyncio.gather(*(system.settled(each) for each in ids[:2]))
        unpublished = (
            "SELECT FROM mkwanja.events WHERE position > (SELECT published_through"
            " FROM mkwanja.event_publisher)"
        )
        await system.eventually(lambda: system.rows(unpublished), lambda rows: not rows)
        yield Cast(system, paid, cancelled, await system.payment(ids[2]))


async def test_show_finds_a_payment_by_whatever_an_operator_has(cast: Cast) -> None:
    """An id, a receipt, a reference, a key, a phone number in any spelling, or Daraja's id."""
    paid = cast.paid
    [checkout] = paid["provider_ids"]["checkout_request_id"]
    names = [
        paid["id"], paid["receipt"].lower(), "INV0042", paid["idempotency_key"], "0711000333",
        "+254711000333", "0711 000-333", checkout,
    ]  # fmt: skip
    commands = [("show", name, "--json", "--unmask") for name in names]
    for name, result in zip(names, await operate_all(cast.system, commands), strict=True):
        [found] = json.loads(result.expect(0).out)["payments"]
        assert {key: found[key] for key in paid} == paid, name


async def test_show_prints_every_field_for_a_person(cast: Cast) -> None:
    result = (await cast.run("show", cast.cancelled["id"])).expect(0)
    for text in (cast.cancelled["id"], "INV0043", "cancelled_by_customer", "attempt", "174379"):
        assert text in result.out


async def test_several_payments_of_one_number_are_listed_newest_first(cast: Cast) -> None:
    again = await cast.system.deposit(phone_number="0711000333", account_reference="INV0044")
    await cast.system.settled(again)
    result = (await cast.run("show", "0711000333")).expect(0)
    lines = [line for line in result.lines if "2547******33" in line]
    assert [line.split()[0] for line in lines] == [again, cast.paid["id"]]
    refused = (await cast.run("explain", "0711000333")).expect(1)
    assert "explain one of them by its id" in refused.err


async def test_list_filters_by_kind_status_and_review(cast: Cast) -> None:
    listed = await cast.read("list", "--kind", "withdrawal", "--status", "pending")
    assert [payment["id"] for payment in listed["payments"]] == [cast.waiting["id"]]
    failed = await cast.read("list", "--status", "FAILED")
    assert [payment["id"] for payment in failed["payments"]] == [cast.cancelled["id"]]
    assert (await cast.run("list", "--needs-review")).expect(0).lines == [
        "there are no such payments"
    ]


async def test_explain_tells_the_whole_story_on_one_screen(cast: Cast) -> None:
    result = (await cast.run("explain", cast.cancelled["id"])).expect(0)
    assert "it failed (cancelled_by_customer)" in result.lines[0]
    for text in (
        "The caller asked for the payment",
        "A worker claimed the payment",
        "Daraja answered the request of the payment by STK push: HTTP 200",
        "The receiver stored a callback, which says that the payment failed",
        "mkwanja.payment.failed, published",
        "Pay again, and enter your PIN",
        "Lipa tena",
    ):
        assert text in result.out, text
    assert len(result.lines) < 30
    assert all(line.isprintable() for line in result.lines)


async def test_the_story_as_json_names_actor_time_and_details_of_each_line(cast: Cast) -> None:
    story = await cast.read("explain", cast.cancelled["receipt"] or cast.cancelled["id"])
    assert story["payment_id"] == cast.cancelled["id"]
    assert [line["actor"] for line in story["lines"]] == [
        "caller", "worker", "Daraja", "Daraja", "callback receiver", "Daraja",
    ]  # fmt: skip
    assert [line["at"] for line in story["lines"]] == sorted(line["at"] for line in story["lines"])
    assert set(story["explanation"]["customer"]) == {"en", "sw"}


async def test_the_story_of_a_payment_that_waits_names_the_brake(cast: Cast) -> None:
    result = (await cast.run("explain", cast.waiting["id"])).expect(0)
    assert "It waits, because of the kill switch." in result.lines[1]


async def test_phone_numbers_are_masked_unless_asked_for(cast: Cast) -> None:
    commands = [
        (command, *more)
        for command in ("show", "explain")
        for more in (("0722000555",), ("0722000555", "--json"))
    ]
    commands += [("list",), ("list", "--json"), ("events", "--json")]
    for command, result in zip(commands, await operate_all(cast.system, commands), strict=True):
        assert "2000555" not in result.expect(0).out, command
        assert "1000333" not in result.out, command
    unmasked = await operate_all(cast.system, [(*command, "--unmask") for command in commands])
    for command, result in zip(commands, unmasked, strict=True):
        number = "254711000333" if command[0] == "events" else "254722000555"
        assert number in result.expect(0).out, command


async def test_a_text_of_a_caller_cannot_write_to_the_operators_terminal(cast: Cast) -> None:
    hostile = await cast.system.withdrawal(metadata={"note": _HOSTILE})
    result = (await cast.run("show", hostile)).expect(0)
    assert "Ink \\x1b[31m red" in result.out
    assert "\x1b" not in result.out


async def test_events_are_printed_in_their_order_and_after_a_position(cast: Cast) -> None:
    whole = await cast.read("events", "--after", "0", "--limit", "100")
    positions = [item["position"] for item in whole["events"]]
    assert positions == sorted(positions)
    types = {item["event"]["subject"]: item["event"]["type"] for item in whole["events"]}
    assert types[cast.paid["id"]] == "mkwanja.payment.succeeded"
    assert types[cast.cancelled["id"]] == "mkwanja.payment.failed"
    rest = await cast.read("events", "--after", str(positions[0]))
    assert rest["events"] == whole["events"][1:]
    newest = await cast.read("events", "--limit", "1")
    assert newest["events"] == whole["events"][-1:]
    assert newest["next_after"] == positions[-1]
    table = (await cast.run("events")).expect(0)
    assert table.lines[0].split() == [
        "position", "time", "event", "payment", "kind", "KES", "result",
    ]  # fmt: skip


async def test_follow_prints_new_events_as_they_come_until_it_is_interrupted(cast: Cast) -> None:
    command = ("events", "--follow", "--json", "--after", "0")
    async with a_running_command(cast.system, *command) as process:
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        assert first["event"]["type"].startswith("mkwanja.payment.")
        made = await cast.system.deposit()
        while json.loads(await process.stdout.readline())["event"]["subject"] != made:
            pass
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_requeue_makes_the_next_step_due_now_and_records_who_asked(cast: Cast) -> None:
    """Payouts are stopped, so the payment still waits: the command passes over no brake."""
    payment_id = cast.waiting["id"]
    far = "UPDATE mkwanja.payments SET next_step_at = now() + interval '1 hour' WHERE id = $1::uuid"
    await cast.system.execute(far, payment_id)
    reason = ("--reason", "ticket 9", "--operator", "wanjiru")
    result = (await cast.run("requeue", payment_id, *reason)).expect(0)
    held = "the step submit is due now. It waits, because of the kill switch."
    assert result.lines[0].endswith(held)
    last = (await cast.system.backend.history(payment_id))[-1]
    assert last["what"] == "requeued"
    assert last["detail"] == {"reason": "ticket 9", "operator": "wanjiru", "step": "submit"}
    row = await cast.system.stored(payment_id)
    assert (row["stage"], row["sequence"]) == ("accepted", 2)
    with_redis = await operate(
        cast.system, "requeue", payment_id, *reason, env={"REDIS_URL": cast.system.stack.redis.url}
    )
    assert with_redis.expect(0).lines[0].endswith(held)
    assert await cast.system.provider_requests(payment_id) == []


async def test_requeue_says_who_does_a_step_that_no_brake_holds(cast: Cast) -> None:
    """No worker runs, so the step stays planned."""
    system = cast.system
    await system.stack.stop_workers()
    try:
        command = ("requeue", await system.deposit(), "--reason", "ticket 9")
        result = await cast.run(*command)
        assert "due now. REDIS_URL is not set here, or not valid. A sweeper" in result.lines[0]
        result = await cast.run(*command, REDIS_URL=system.stack.redis.url)
        assert result.lines[0].endswith("the step submit is due now. A worker is woken.")
        document = await cast.read(*command)
        assert (document["is_held"], document["is_worker_woken"]) == (False, False)
    finally:
        await system.stack.start_workers()


async def test_ask_names_the_brake_that_holds_the_inquiry(cast: Cast) -> None:
    system = cast.system
    payment_id = await system.deposit(phone_number="0711000777")
    await system.settled(payment_id)
    command = ("ask", payment_id, "--reason", "ticket 9")
    free = (await cast.run(*command)).expect(0)
    assert "A worker does it as soon as the inquiry budget allows." in free.lines[0]
    hold = (
        "UPDATE mkwanja.brakes SET is_engaged = $1, reason = $2, changed_at = now(),"
        " cool_down = interval '1 hour', probe_at = now() + interval '1 hour'"
        " WHERE name = 'stk_query'"
    )
    await system.execute(hold, True, "a test")
    try:
        held = (await cast.run(*command)).expect(0)
    finally:
        await system.execute(hold, False, None)
    assert "due now. It waits, because of a hold of STK query. Its answer" in held.lines[0]


async def test_requeue_refuses_a_payment_without_a_step(cast: Cast) -> None:
    result = await cast.run("requeue", cast.paid["id"], "--reason", "ticket 9")
    assert result.expect(1).lines == [
        "refused: The payment is final, and no step is planned. To inquire once more, use `ask`."
    ]
    unknown = await cast.run("requeue", str(uuid4()), "--reason", "ticket 9", "--json")
    assert json.loads(unknown.expect(1).out) == {"error": "There is no such payment."}


async def test_list_takes_a_day_or_a_time(cast: Cast) -> None:
    day = cast.paid["created_at"][:10]
    of_the_day = await cast.read("list", "--created-after", day, "--status", "success")
    assert cast.paid["id"] in [payment["id"] for payment in of_the_day["payments"]]
    earlier = await cast.read("list", "--created-before", day)
    later = await cast.read("list", "--created-after", cast.waiting["created_at"], "--kind=deposit")
    for payments in (earlier["payments"], later["payments"]):
        assert cast.paid["id"] not in [payment["id"] for payment in payments]


async def test_each_command_prints_one_json_document(cast: Cast) -> None:
    """`payouts`, `operations` and `accounts` too."""
    members = {
        ("payouts", "status"): {"released", "brakes"},
        ("operations", "status"): {"released", "operations"},
        ("accounts",): {"accounts"},
    }
    results = await operate_all(cast.system, [(*command, "--json") for command in members])
    for (command, names), result in zip(members.items(), results, strict=True):
        assert set(json.loads(result.expect(0).out)) == names, command


async def test_the_history_of_the_brakes_names_the_operator(cast: Cast) -> None:
    reason = ("--reason", "ticket 10", "--operator", "wanjiru")
    await cast.system.execute(
        "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'a test',"
        " cool_down = interval '1 hour', probe_at = now() + interval '1 hour' WHERE name = 'b2b'"
    )
    (await cast.run("operations", "release", "b2b", *reason)).expect(0)
    recorded = "SELECT name, operator FROM mkwanja.brake_history WHERE reason = 'ticket 10'"
    assert await cast.system.rows(recorded) == [{"name": "b2b", "operator": "wanjiru"}]
