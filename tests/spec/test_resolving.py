"""An operator's decision is stored and published, or refused if evidence contradicts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.spec.conftest import a_system
from tests.spec.operating import operate, operate_all
from tests.spec.playing import begin
from tests.spec.system import System

# A deposit fails for silence soon. Other settings have their defaults, or are never reached.
_BRISK: dict[str, str | None] = {
    "DEPOSIT_RESULT_WINDOW_SECONDS": "1",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "60",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
}
_REASON = "statement of 1 March, page 2"
# No result of a send is awaited any more, so `unpaid` is permitted.
_LATE = {"NOT_FOUND_TRUSTED_AFTER_SECONDS": "0.1", "INQUIRY_INTERVAL_MAX_SECONDS": "0.1"}


class Cast:
    """Payments in every state that an operator may meet.

    No worker runs that could change their states.
    """

    def __init__(self, system: System, ids: dict[str, str]) -> None:
        self.system = system
        self.ids = ids

    def command(self, label: str, decision: str, *more: str) -> tuple[str, ...]:
        """The arguments of `resolve` for one of the payments."""
        by_operator = ("--reason", _REASON, "--operator", "wanjiru")
        return ("resolve", self.ids.get(label, label), decision, *by_operator, *more)

    async def row(self, label: str) -> Any:
        [row] = await self.system.rows(
            "SELECT * FROM mkwanja.payments WHERE id = $1::uuid", self.ids[label]
        )
        return row

    async def history(self, label: str) -> list[Any]:
        sql = "SELECT * FROM mkwanja.payment_history WHERE payment_id = $1::uuid ORDER BY sequence"
        return await self.system.rows(sql, self.ids[label])


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_system(env=_BRISK) as system:
        yield system


@pytest.fixture(scope="module")
async def cast(system: System) -> Cast:
    # Each scenario brings its payment to the stage that stands beside it.
    lost = {"times": 1, "act": False}
    begun = {
        "succeeded": (begin(system, "b2c", "approve"), "succeeded"),
        "refused by Daraja": (begin(system, "b2b", "insufficient_funds"), "failed"),
        "bill that was paid": (begin(system, "b2b", "answer_and_callback_lost"), "in_doubt"),
        "bill that was not paid": (begin(system, "b2b", "html_503", **lost), "in_doubt"),
        "another bill": (begin(system, "b2b", "html_503", **lost), "in_doubt"),
        "in doubt": (begin(system, "b2c", "html_503", **lost), "in_doubt"),
        "silent deposit": (begin(system, "stk", "answer_and_callback_lost"), "failed"),
        "answered as paid": (
            begin(system, "b2c", "slow_result", seconds=600),
            "awaiting_result",
        ),
    }
    making = (payment for payment, _ in begun.values())
    ids = dict(zip(begun, await asyncio.gather(*making), strict=True))
    for name, (_, stage) in begun.items():
        await system.in_stage(ids[name], stage)
    await system.scenario("slow", api="b2c", params={"seconds": 12, "act": False})
    ids["being sent"] = await system.withdrawal()
    await system.in_stage(ids["being sent"], "submitting")
    await system.stack.process("worker").kill()
    for name in ("waiting", "waiting and flagged"):
        ids[name] = await system.withdrawal()
    flag = "UPDATE mkwanja.payments SET needs_review = true WHERE id = $1::uuid"
    for name in ("waiting and flagged", "refused by Daraja", "bill that was paid"):
        await system.execute(flag, ids[name])
    await system.execute(
        "INSERT INTO mkwanja.inquiries (payment_id, number, api, asked_at, answered_at, verdict)"
        " VALUES ($1::uuid, 1001, 'transaction_status', now(), now(), 'paid')",
        ids["answered as paid"],
    )
    return Cast(system, ids)


_RECEIPT = ("--receipt", "UCB4AAAA01")
_RECEIPT_OF_ANOTHER = ("--receipt", "of another")  # the test replaces it by a real receipt

# tests/unit/test_resolve.py has every refusal.
_REFUSED = [
    ("bill that was not paid", "paid", (), "Give M-PESA's receipt number"),
    ("another bill", "paid", _RECEIPT_OF_ANOTHER, "This receipt belongs to another payment."),
    ("refused by Daraja", "paid", _RECEIPT, "Daraja said that the payment failed"),
    ("waiting", "paid", _RECEIPT, "is not sent yet, but a worker will send it"),
    ("succeeded", "unpaid", (), "cannot undo a success"),
    ("answered as paid", "unpaid", (), "Daraja answered an inquiry: the payment was paid."),
    ("being sent", "unpaid", (), "is being sent right now"),
    ("in doubt", "reviewed", (), "is not flagged for review"),
    ("in doubt", "unpaid", (), "Daraja has the payment, or may have it, and its result may still"),
    (str(uuid4()), "unpaid", (), "There is no such payment."),
]


async def test_evidence_outranks_an_operator(cast: Cast) -> None:
    """Each refusal is one line that names the evidence, with exit code 1. Nothing changes."""
    real_receipts = {"of another": (await cast.row("succeeded"))["receipt"]}
    known = [name for name in {label for label, *_ in _REFUSED} if name in cast.ids]
    before = {name: (await cast.row(name), await cast.history(name)) for name in known}
    commands = [
        cast.command(label, decision, *(real_receipts.get(part, part) for part in more))
        for label, decision, more, _ in _REFUSED
    ]
    results = await operate_all(cast.system, commands)
    for (label, decision, _, text), result in zip(_REFUSED, results, strict=True):
        result.expect(1)
        assert len(result.lines) == 1, (label, decision, result)
        assert result.lines[0].startswith("refused: "), (label, decision, result)
        assert text in result.lines[0], (label, decision, result)
    assert {name: (await cast.row(name), await cast.history(name)) for name in known} == before


async def test_a_wrong_command_changes_nothing(cast: Cast) -> None:
    """The exit code is 2 if an argument is wrong or PostgreSQL is away. The command says why."""
    payment_id = cast.ids["another bill"]
    before = (await cast.row("another bill"), await cast.history("another bill"))
    wrong = [
        (payment_id, "unpaid"),
        (payment_id, "unpaid", "--reason", ""),
        (payment_id, "unpaid", "--reason", "x" * 501),
        (payment_id, "paid", "--reason", _REASON, "--receipt", "12"),
        (payment_id, "paid", "--reason", _REASON, "--receipt", "UCB0000000"),
        (payment_id, "lost", "--reason", _REASON),
        ("INV00042", "unpaid", "--reason", _REASON),
    ]
    for result in await operate_all(cast.system, [("resolve", *arguments) for arguments in wrong]):
        assert result.expect(2).err
    nowhere = {"DATABASE_URL": "postgresql://user@127.0.0.1:1/nothing"}
    result = await operate(
        cast.system, "resolve", payment_id, "unpaid", "--reason", _REASON, env=nowhere
    )
    [away] = result.expect(2).lines
    assert away.startswith("resolve: No server listens at the host and port in DATABASE_URL.")
    assert away.endswith("The change may or may not be stored. Run it again.")
    unset = await operate(
        cast.system, "resolve", payment_id, "unpaid", "--reason", _REASON, env={"DATABASE_URL": ""}
    )
    assert unset.expect(1).lines == ["resolve: cannot start; settings missing: DATABASE_URL"]
    assert (await cast.row("another bill"), await cast.history("another bill")) == before


async def test_a_decision_is_a_transition_with_operator_and_reason(cast: Cast) -> None:
    """The decisions are paid, unpaid and reviewed. Paid also corrects a failure for silence.

    A decision that ends or corrects a payment is published as an event.
    """
    system = cast.system
    [moved] = await system.movements(cast.ids["bill that was paid"])
    [deposited] = await system.movements(cast.ids["silent deposit"])
    bill_receipt = ("--receipt", moved["receipt"].lower())
    deposit_receipt = ("--receipt", deposited["receipt"])
    decisions: list[tuple[str, str, tuple[str, ...], str, str | None]] = [
        ("bill that was paid", "paid", bill_receipt, "resolved_paid", "succeeded"),
        ("silent deposit", "paid", deposit_receipt, "resolved_paid", "corrected"),
        ("bill that was not paid", "unpaid", (), "resolved_unpaid", "failed"),
        ("in doubt", "unpaid", (), "resolved_unpaid", "failed"),
        ("waiting and flagged", "unpaid", (), "resolved_unpaid", "failed"),
        ("refused by Daraja", "reviewed", (), "reviewed", None),
    ]
    sequences = {label: (await cast.row(label))["sequence"] for label, *_ in decisions}
    commands = [cast.command(label, decision, *more) for label, decision, more, _, _ in decisions]
    for result in await operate_all(system, commands, env=_LATE):
        assert len(result.expect(0).lines) == 1
    feed: list[Any] = []
    cursor: dict[str, str] = {}
    while (
        page := (await system.backend.get("/v1/events", limit="100", **cursor)).expect(200).json()
    )["items"]:
        feed += page["items"]
        cursor = {"after": page["next_cursor"]}
    for label, _, _, entry, event in decisions:
        row, last = await cast.row(label), (await cast.history(label))[-1]
        assert (last["what"], last["sequence"]) == (entry, sequences[label] + 1), label
        shown = (await system.backend.history(cast.ids[label]))[-1]
        assert shown["detail"] == {"reason": _REASON, "operator": "wanjiru"}, label
        assert not row["needs_review"], label
        announced = [
            item["type"]
            for item in feed
            if (item["subject"], item["sequence"]) == (cast.ids[label], last["sequence"])
        ]
        assert announced == ([f"mkwanja.payment.{event}"] if event else []), label
    for label, movement in (("bill that was paid", moved), ("silent deposit", deposited)):
        payment = await system.payment(cast.ids[label])
        assert (payment["status"], payment["failure"]) == ("success", None)
        assert payment["receipt"] == movement["receipt"]
    failure = (await system.payment(cast.ids["in doubt"]))["failure"]
    assert (failure["reason"], failure["safe_to_retry"]) == ("resolved_by_operator", True)
    await system.assert_money_agrees([cast.ids[label] for label, *_ in decisions])


async def test_the_same_decision_twice_is_one_transition(cast: Cast) -> None:
    """The command runs twice at once, and again later. Only one run is accepted and published."""
    label = "another bill"
    before = len(await cast.history(label))
    at_once = await asyncio.gather(
        *(operate(cast.system, *cast.command(label, "unpaid"), env=_LATE) for _ in range(2))
    )
    assert sorted(result.code for result in at_once) == [0, 1]
    commands = [cast.command(label, "unpaid"), cast.command(label, "reviewed")]
    assert [result.code for result in await operate_all(cast.system, commands)] == [1, 1]
    history = await cast.history(label)
    assert [entry["what"] for entry in history[before:]] == ["resolved_unpaid"]
    # An operator may correct unpaid to paid, but not paid to unpaid.
    commands = [
        cast.command(label, "paid", "--receipt", "UCB4AAAA77"),
        cast.command(label, "unpaid"),
    ]
    assert [result.code for result in await operate_all(cast.system, commands)] == [0, 1]
    events = [entry["event_type"] for entry in (await cast.history(label))[before:]]
    assert events == ["mkwanja.payment.failed", "mkwanja.payment.corrected"]


async def test_a_payment_that_was_resolved_as_unpaid_is_never_sent(cast: Cast) -> None:
    """A worker starts again. The resolved payment stays failed, and the others go on."""
    system = cast.system
    await system.control("DELETE", "/scenarios")
    await system.stack.start_process("worker")
    assert (await system.settled(cast.ids["waiting"]))["status"] == "success"
    assert await system.provider_requests(cast.ids["waiting and flagged"]) == []
    assert (await cast.row("waiting and flagged"))["stage"] == "failed"
    await system.assert_money_agrees(
        [cast.ids[label] for label in ("waiting", "waiting and flagged", "in doubt")]
    )
