"""The steps of the workers. At each `yield` anything else may happen, and the worker may crash.

The order of steps is that of `Submitter`, `Inquirer`, `Sweeper` and `take_next_step`, whose
coroutines need asyncio. Every decision is the core's own: `Fence`, `answer_change`,
`resend_claim_change`, `expiry_change`, `inquiry_change`, `inquiry_answer_change`, `watch_change`,
`lease_expiry_change`, `postponement_change`. A `yield` gives the least number of milliseconds until
the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from domain import inquiry as asking
from domain.adapters.daraja.client import NO_ANSWER
from domain.attempts import IdKind
from domain.errors import (
    DeadlinePassed,
    Draining,
    ProductRefused,
    ProviderError,
    TokenRefused,
    Unreachable,
)
from domain.evidence import InquiryOutcome
from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.lifecycle import inquiry_changes, reconcile, record_answer, submit
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.lifecycle.submit import NextStep
from domain.operations import OperationHealth
from domain.report import Report
from domain.stages import Stage, Step
from tests.builders import PAYMENT_ID, an_attempt_id
from tests.decisions import inquiry_of, probed_operation_of
from tests.proof.interleavings.clockwork import Flow
from tests.proof.interleavings.provider import KEYED, OWN_ID, Answer, Message
from tests.proof.interleavings.reading import (
    LOST_ANSWER,
    ReadAnswer,
    query_report,
    read_submit_answer,
)
from tests.proof.interleavings.record import instant, milliseconds
from tests.proof.interleavings.times import LifeTimes

if TYPE_CHECKING:
    from tests.proof.interleavings.world import World

_OWN_ID = str(PAYMENT_ID)
_TRIES_MAX = 4
# A worker inquires about the other kinds by the payment's own id.
_ID_OF_INQUIRY = {
    Kind.DEPOSIT: IdKind.CHECKOUT_REQUEST,
    Kind.BILL_PAYMENT: IdKind.ORIGINATOR_CONVERSATION,
}


def _not_sent(error: ProviderError) -> tuple[ReadAnswer, Answer]:
    return ReadAnswer(frozenset(), error), Answer("unsent")


def job(world: World) -> Flow:
    """Do the payment's next step, as `take_next_step` does."""
    found = world.record.find_next_step(instant(world.now))
    if found.stage is not Stage.ACCEPTED:
        if found.step in (Step.QUERY, Step.STATUS):
            yield from _inquire(world, found)
        return
    times = world.times  # this worker's settings; another worker may have other settings by now
    if found.is_expired:
        yield from world.write("expiry", submit.expiry_change(PAYMENT_ID))
        return
    if found.is_held:
        return
    yield 0
    if world.happens(world.chances.is_not_ready):
        world.note("not ready to send")
        world.record.postpone(times.worker.retry_after, instant(world.now))
        return

    def claim(attempt_id: UUID) -> bool:
        return world.record.claim(attempt_id, times, instant(world.now))

    yield from _claim_and_send(world, claim, times)


def _claim_and_send(world: World, claim: Callable[[UUID], bool], times: LifeTimes) -> Flow:
    world.attempts += 1
    attempt_id = an_attempt_id(world.attempts)
    drains_at = world.now + 5000 if world.happens(world.chances.drains) else None
    fence = Fence(
        clock=world.boot_clock,
        deadline_seconds=times.lease / 2000,
        is_draining=lambda: drains_at is not None and world.now >= drains_at,
    )
    open_attempt = OpenAttempt(attempt_id=attempt_id, fence=fence)
    yield 0
    before, is_stopped = world.record.payment, world.record.brakes.stop_payouts
    world.record.claim_is_probe = False
    is_claimed = claim(attempt_id)
    is_probe = world.record.claim_is_probe
    world.note("claimed" if is_claimed else "not claimed")
    if is_claimed and world.record.payment is not before:
        world.witness.note_claim(
            attempt_id, before, world.now, is_stopped=is_stopped, account=_account(times)
        )
        world.look_again()
    claimed = world.record.payment
    yield 0
    account = _account(times)
    if world.happens(world.chances.claim_is_unknown):
        world.note("claim unknown")
        yield from _record(world, open_attempt, *_not_sent(Unreachable()), times)
    elif is_claimed:
        read_answer, answer = yield from _send(world, open_attempt, account, is_probe=is_probe)
        yield 0

        def lose_claim() -> None:
            # The loss comes just before the answer is recorded, because no service can prevent a
            # send between the loss and the answer (docs/deployment/postgres.md). The claim of a
            # refused send is not lost: its payment would be sent again, which a law forbids. In
            # reality this is harmless, because Daraja refuses the payment again.
            may_lose = world.loses_claims and answer.outcome != "refused"
            if may_lose and world.record.lose(claimed, before, instant(world.now)):
                world.note("claim lost by the database")

        yield from _record(world, open_attempt, read_answer, answer, times, before_write=lose_claim)


def _account(times: LifeTimes) -> str:
    """The account that this worker is configured for."""
    [account] = times.accounts.values()
    return account.as_text()


def _send(
    world: World, open_attempt: OpenAttempt, account: str, *, is_probe: bool
) -> Generator[int, None, tuple[ReadAnswer, Answer]]:
    """Send as `DarajaSender.submit` and `AuthorizedCalls.call` do.

    The worker retries only a request that was not written, and replaces a refused token once.
    """
    tries, tokens_refused = 1, 0
    fence = open_attempt.fence
    while True:
        fence.begin_send()
        try:
            fence.check()
            yield 0  # connecting
            if world.happens(world.chances.is_not_connected):
                raise Unreachable  # noqa: TRY301 - as the client has it
            fence.pass_first_byte()
        except (DeadlinePassed, Draining) as error:
            world.note("fenced")
            return _not_sent(error)
        except Unreachable as error:
            world.note("not connected")
            wait = world.rng.randrange(1, 2000)
            if tries >= _TRIES_MAX or wait / 1000 >= fence.seconds_left:
                return _not_sent(error)
            tries += 1
            yield wait
            continue
        read_answer, answer = yield from _on_the_wire(world, open_attempt, account)
        if not isinstance(read_answer.error, TokenRefused):
            return read_answer, answer
        if is_probe or (tokens_refused and not world.happens(world.chances.token_is_replaced)):
            world.note("product refused")
            return ReadAnswer(frozenset(), ProductRefused()), answer
        if tokens_refused:  # another worker fetched a newer token
            return ReadAnswer(frozenset(), Unreachable()), answer
        tokens_refused = 1


def _on_the_wire(
    world: World, open_attempt: OpenAttempt, account: str
) -> Generator[int, None, tuple[ReadAnswer, Answer]]:
    """Play a send from its first byte on. A crash of the worker does not stop the request."""
    world.witness.note_first_byte(open_attempt.attempt_id, world.now)
    answers: list[Answer] = []
    if world.happens(world.chances.request_is_lost):
        world.note("request lost")
        yield world.times.call
        return LOST_ANSWER, Answer("no_answer")
    there = 1 + int(world.random() * 800)
    if world.happens(world.chances.request_is_late):
        there = world.lateness()
    world.note("first byte")
    world.requests_under_way += 1
    world.later(there, world.arrive, answers, _OWN_ID if world.kind in OWN_ID else "", account)
    back = 1 + int(world.random() * 400)
    is_lost = there + back >= world.times.call or world.happens(world.chances.answer_is_lost)
    left_at = world.now
    yield world.times.call if is_lost else there + back
    # If the worker was frozen for longer than a call may take, it reads the answer that waits in
    # the socket, or its timeout fires first.
    if world.now - left_at > world.times.call + 1000 and world.random() < 0.5:
        is_lost = True
    if is_lost or not answers or answers[0].outcome == "no_answer":
        world.note("no answer")
        return LOST_ANSWER, Answer("no_answer")
    world.note(answers[0].outcome)
    return read_submit_answer(world.kind, answers[0]), answers[0]


def _record(
    world: World,
    open_attempt: OpenAttempt,
    read_answer: ReadAnswer,
    answer: Answer,
    times: LifeTimes,
    *,
    before_write: Callable[[], object] = bool,
) -> Flow:
    change = record_answer.answer_change(
        PAYMENT_ID, open_attempt, read_answer.ids, read_answer.error, times.worker, times.accounts
    )
    world.witness.note_answer(
        open_attempt.attempt_id, answer.outcome, answer.first_id, answer.second_id
    )
    yield from world.write("answer", change, first=before_write)


def _inquire(world: World, found: NextStep) -> Flow:
    """Send the payment again or inquire about it, as `Inquirer.inquire` does."""
    times = world.times
    record, now = world.record, instant(world.now)
    settings = times.worker, times.accounts
    may_be_resent = (
        found.kind in KEYED
        and found.stage is Stage.IN_DOUBT
        and asking.may_be_resent(record.payment, record.evidence(now), now, *settings)
    )
    if not may_be_resent:
        if found.is_due:
            yield from ask(world, is_probe=False)
        return
    yield 0
    if world.happens(world.chances.is_not_ready):
        return

    def claim(attempt_id: UUID) -> bool:
        change = submit.resend_claim_change(PAYMENT_ID, attempt_id, *settings)
        decided = record.change(change, instant(world.now))
        record.claim_is_probe = probed_operation_of(decided) is not None
        payment = record.payment
        return payment.stage is Stage.SUBMITTING and payment.attempt_id == attempt_id

    yield from _claim_and_send(world, claim, times)


def ask(world: World, *, is_probe: bool) -> Flow:
    """Inquire about the payment, as `Inquirer._inquire_when_ready` does."""
    times = world.times
    yield 0
    if world.happens(world.chances.is_not_ready):
        change = inquiry_changes.postponement_change(PAYMENT_ID, timedelta(seconds=2))
        yield from world.write("postponement", change)
        return
    change = inquiry_changes.inquiry_change(
        PAYMENT_ID, times.worker, times.accounts, is_breaker_probe=is_probe
    )
    decided = yield from world.write("asking", change)
    payment, asked = decided.payment, inquiry_of(decided)
    if payment is None or asked is None:
        return
    number, is_query = asked.number, payment.inquiry_step is Step.QUERY
    world.witness.note_inquiry(number, milliseconds(asked.asked_at))
    yield 0
    if world.daraja.lacks_inquiry_product:
        world.note("inquiry refused")
        yield 50
        report = NO_ANSWER if is_query else None
        yield from _record_inquiry(world, number, report, OperationHealth.PRODUCT_REFUSED, times)
        return
    sent, [own] = payment.inquiry_attempt, times.accounts.values()
    ids = dict(sent.provider_ids) if sent is not None else {}
    # As `DarajaClient` does it: with the worker's own token, and the short code of the send.
    asked_as = own
    if sent is not None and sent.account is not None:
        asked_as = replace(own, shortcode=sent.account.shortcode)
    asked_id = ids[_ID_OF_INQUIRY[world.kind]] if world.kind in _ID_OF_INQUIRY else _OWN_ID
    if not is_query:
        world.note("status asked")
        world.daraja.ask_status(number, asked_id, asked_as.as_text())
        yield 100
        yield from _record_inquiry(world, number, None, OperationHealth.WORKS, times)
        return
    yield 50
    message = world.daraja.query(asked_id, asked_as.as_text())
    if asked_as != own:  # "wrong credentials": the passkey belongs to another short code
        message = Message("query", "vague")
    world.note(f"query: {message.outcome}")
    yield 50
    if world.happens(world.chances.answer_is_lost):
        message = message._replace(outcome="no_answer")
    report = query_report(message, asked_id)
    health = None if report.inquiry_outcome is InquiryOutcome.NO_ANSWER else OperationHealth.WORKS
    yield from _record_inquiry(world, number, report, health, times, (number, message))


def _record_inquiry(
    world: World,
    number: int,
    report: Report | None,
    health: OperationHealth | None,
    times: LifeTimes,
    inquiry_answer: tuple[int, Message] | None = None,
) -> Flow:
    change = inquiry_changes.inquiry_answer_change(
        PAYMENT_ID, number, report, (), times.worker, answer=InquiryAnswer(report, (), health)
    )
    yield from world.write("answering", change, inquiry_answer)


def sweep(world: World, step: Step) -> Flow:
    """Do what a sweeper does with a due row, after it moved the row's due time."""
    times = world.times.worker
    match step:
        case Step.SUBMIT if world.record.find_next_step(instant(world.now)).is_expired:
            yield 0
            yield from world.write("expiry", submit.expiry_change(PAYMENT_ID))
        case Step.END_LEASE:
            yield 0
            yield from world.write("lease", reconcile.lease_expiry_change(PAYMENT_ID, times))
        case Step.WATCH:
            yield 0
            yield from world.write("watching", inquiry_changes.watch_change(PAYMENT_ID, times))
        case Step.SUBMIT | Step.QUERY | Step.STATUS:
            world.wake()
