"""One life of a payment: a seed orders Daraja, workers, sweepers, a receiver, Redis and people.

Each step is an entry on one heap. Faults happen until `calm`. Then everything that is due runs, and
`laws.judge` compares the end with the laws.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from domain.account import Account
from domain.changes import Change, Decided
from domain.kinds import Kind
from domain.lifecycle.announce import TURN_SECONDS
from domain.lifecycle.record_callback import callback_change
from domain.stages import FactName, Stage
from domain.times import BREAKER_COOL_DOWN_MAX, HANDOVER_RETRY_AFTER
from tests.builders import AMOUNT_KES, AN_ACCOUNT, PAYMENT_ID
from tests.decisions import answer_of, entry_of, operation_answer_of
from tests.proof.interleavings import flows, people
from tests.proof.interleavings.chances import Chances
from tests.proof.interleavings.clockwork import Clockwork, Flow
from tests.proof.interleavings.laws import Witness, judge, judge_money
from tests.proof.interleavings.provider import KEYED, Answer, Daraja, Message
from tests.proof.interleavings.reading import callback_of, report_of
from tests.proof.interleavings.record import LawBroken, Record, instant, milliseconds

_EVENTS_MAX = 3000
_QUIET_SWEEPS_MAX = 40
_ENOUGH_QUIET_SWEEPS = 4  # if the payment is flagged, and Daraja has nothing more to do
_COOL_DOWN = timedelta(seconds=60)
_CALM = Chances()
_CONFIRMING, _CHANGING, _LOSING = 0.3, 0.2, 0.05
_OTHER_ACCOUNTS = (replace(AN_ACCOUNT, shortcode="600222"), replace(AN_ACCOUNT, app="another"))
_TURN_MS = int(TURN_SECONDS * 1000)
_HANDED_OVER_MS = int(HANDOVER_RETRY_AFTER.total_seconds() * 1000)


class World(Clockwork):
    """One life. `story` collects its steps as lines, for a replay."""

    def __init__(
        self,
        seed: int,
        seen: Counter[tuple[str, ...]],
        story: list[str] | None = None,
        *,
        kind: Kind | None = None,
        forgets_ids: bool | None = None,
        changes_account: bool | None = None,
        faults: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(seed, kind, story)
        for name, chance in (faults or {}).items():
            setattr(self.chances, name, chance)
        self.record = Record(self.kind, seen, expires_after=self.times.expires_after)
        # Whether the policy requires an inquiry to confirm a callback's success.
        self.confirms = self.happens(_CONFIRMING)
        self.witness = Witness(self.kind, self.times, confirms=self.confirms)
        # Whether the workers get another account during the life.
        is_changing = self.random() < _CHANGING
        self.changes_account = is_changing if changes_account is None else changes_account
        # Whether the database loses a commit of a claim.
        self.loses_claims = self.happens(_LOSING)
        is_forgetful = self.random() < 0.5
        self.daraja = Daraja(
            self,
            self._deliver,
            forgets_ids=is_forgetful if forgets_ids is None else forgets_ids,
            is_truthful=self.changes_account or self.loses_claims,
        )
        self.attempts = 0
        self.requests_under_way = 0
        self.events = 0
        self.delivered = 0
        self.is_calm = False
        self._sweep_at = -1
        self._quiet_sweeps = 0
        self._recorded = 0  # number of events that are recorded as published
        self._publisher: object | None = None  # the process that has the turn to publish
        self._turn_ends_at = 0

    # The run

    def run(self) -> str:
        """Run the life to its end, and return its ending. Raises LawBroken."""
        self.begin_life()
        return self.play_out()

    def play_out(self) -> str:
        """Run all pending steps in their order, then judge the end by the laws."""
        pending, pop = self.pending, heapq.heappop
        while pending:
            at, _, action, arguments = pop(pending)
            self.now = max(self.now, at)
            self.events += 1
            if self.events > _EVENTS_MAX:
                raise LawBroken("the life never comes to rest")
            action(*arguments)
        self._publish_owed()
        ended = judge(self.record, self.witness, self.daraja, self.delivered)
        if not self.record.payment.stage.is_final:
            people.settle(self)
        return ended

    def begin_life(self) -> None:
        """Accept the payment, and schedule everything that is known in advance."""
        c, rng = self.chances, self.rng
        calm_at = rng.choice(self.times.calm_after)
        self.wake()
        self.look_again()
        self.later(calm_at, self.calm)
        if self.happens(c.caller_cancels):
            self.later(rng.randrange(1, min(calm_at, 90_000)), people.cancel, self)
        for chance, switch in (
            (c.payouts_are_stopped, people.stop_payouts),
            (c.breaker_opens_for_another, people.move_breaker_of_another_payment),
        ):
            if self.happens(chance):
                for is_engaged in (True, False):
                    self.later(rng.randrange(1, calm_at), switch, self, is_engaged)
        for chance, name in ((c.lacks_send_product, "send"), (c.lacks_inquiry_product, "inquiry")):
            if self.happens(chance):
                begins = rng.randrange(calm_at)
                self.later(begins, people.switch_product, self, name, True)
                self.later(rng.randrange(begins, calm_at), people.switch_product, self, name, False)
        if self.happens(c.operator_decides):
            for _ in range(3):
                self.later(rng.randrange(1, calm_at), people.operate, self)
        if self.changes_account:
            account = rng.choice(_OTHER_ACCOUNTS)
            self.later(rng.randrange(1, calm_at), self.change_account, account)
            if self.random() < 0.5:
                self.later(rng.randrange(1, calm_at), self.change_account, AN_ACCOUNT)

    def change_account(self, account: Account) -> None:
        """Restart the workers with another account. Flows under way keep the former account."""
        self.note("account changed")
        self.times = self.times.by(account)
        self.witness.own_account = account.as_text()
        self.look_again()

    def calm(self) -> None:
        self.note("calm")
        self.is_calm = True
        self.chances = self.daraja.chances = _CALM
        people.stop_payouts(self, False)
        self.daraja.lacks_send_product = self.daraja.lacks_inquiry_product = False
        if not self.record.brakes.breaker_is_ours:
            self.record.brakes.breaker_since = None
        self.look_again()

    # Postgres

    def write(
        self,
        name: str,
        change: Change,
        inquiry_answer: tuple[int, Message] | None = None,
        first: Callable[[], object] = bool,
    ) -> Generator[int, None, Decided]:
        """Commit one change. `first` runs just before it.

        If the result of the COMMIT is lost, the worker repeats the change a little later.
        """
        begun = self.now
        if self.happens(self.chances.waits_for_a_row):
            yield -self.rng.randrange(1, 2000)
        first()
        decided = self.commit(name, change, begun, inquiry_answer)
        if self.happens(self.chances.commit_is_lost):
            yield self.rng.randrange(1, 6000)
            decided = self.commit(f"{name} again", change, self.now, inquiry_answer)
        return decided

    def commit(
        self, name: str, change: Change, now: int, inquiry_answer: tuple[int, Message] | None = None
    ) -> Decided:
        """Commit one change. Its transaction began at `now`, and may have waited for the row."""
        before = self.record.payment
        if inquiry_answer is not None:
            self.witness.note_inquiry_answer(*inquiry_answer)
        decided = self.record.change(change, instant(now))
        after = self.record.payment
        if (answer := operation_answer_of(decided)) is not None:
            self.witness.note_operation_answer(answer, now, self.now)
        self.note(f"{name}: {decided.disposition or entry_of(decided) or '-'}")
        if after.stage is not before.stage:
            self._quiet_sweeps = 0
            self.witness.note_stage(after, now)
            if self.record.history[-1][1:] == (FactName.SUCCESS_REPORTED, Stage.SUCCEEDED):
                self.witness.must_be_certain_of_the_amount()
                if self.confirms:
                    self.witness.must_be_confirmed()
            judge_money(self.record, self.daraja)
            if self.story is not None:
                self.story.append(f"{'':>15}  {before.stage.value} -> {after.stage.value}")
        if after is not before:
            self.look_again()
        self.announce()
        return decided

    @property
    def stage(self) -> Stage:
        return self.record.payment.stage

    def lateness(self) -> int:
        """After how many milliseconds a late request arrives.

        If Daraja forgets ids, this is before the worker trusts the answer "not found".
        """
        if self.kind in KEYED and self.daraja.forgets_ids:
            return self.rng.randrange(1, self.times.trusted_after // 2)
        return self.rng.choice(self.times.delays)

    # Redis and the sweepers

    def wake(self) -> None:
        """Queue a job for the payment. The job may be lost, late or doubled."""
        c = self.chances
        if not self.happens(c.wake_up_is_lost):
            self.begin(flows.job(self), 1 + int(self.random() * 100))
        if self.happens(c.wake_up_is_doubled):
            self.begin(flows.job(self), self.rng.choice(self.times.delays))

    def look_again(self) -> None:
        """Let a sweeper find the payment when it is due, or later."""
        due = self.record.payment.next_step_at
        if due is None:
            return
        at = max(self.now, milliseconds(due)) + 1 + int(self.random() * 1000)
        if self.happens(self.chances.sweeper_is_late):
            at += self.rng.choice(self.times.delays)
        if self._sweep_at < self.now or at < self._sweep_at:
            self._sweep_at = at
            self.later(at - self.now, self._sweep, at)

    def _sweep(self, planned: int) -> None:
        if planned != self._sweep_at:
            return
        self._sweep_at = -1
        now = instant(self.now)
        step = self.record.due_step(now)
        if self.record.brakes.breaker:
            self._probe()
        if step is None or self.happens(self.chances.budget_is_spent):
            self._not_now(now)
            return
        if self.is_calm:
            self._quiet_sweeps += 1
            is_told = self._waits_for_a_person
            if self._quiet_sweeps > (_ENOUGH_QUIET_SWEEPS if is_told else _QUIET_SWEEPS_MAX):
                return
        self.record.fetch_due_steps(HANDOVER_RETRY_AFTER, now)
        self.note(f"swept: {step.value}")
        self.begin(flows.sweep(self, step))
        hold, is_unsent = self.record.hold_of_sends, self.stage is Stage.ACCEPTED
        if is_unsent and self.is_calm and hold.is_closed(now):  # nothing happens before the probe
            self._sweep_in(max(_HANDED_OVER_MS, milliseconds(hold.probe_at) - self.now))
        elif is_unsent and self.record.find_next_step(now).is_held:
            # A real sweeper finds the payment every five seconds. Most of these sweeps are left
            # out.
            self._sweep_in(self.rng.choice((_HANDED_OVER_MS, 60_000, 900_000)))
        else:
            self.look_again()

    @property
    def can_no_longer_move(self) -> bool:
        """Whether no money can move any more.

        No request is on its way, and Daraja has ended every call.
        """
        return self.daraja.is_settled and self.requests_under_way == 0

    @property
    def _waits_for_a_person(self) -> bool:
        payment = self.record.payment
        return payment.needs_review and not payment.stage.is_final and self.can_no_longer_move

    def _not_now(self, now: datetime) -> None:
        due = self.record.payment.next_step_at
        if due is not None and due <= now:  # no budget, or the breaker is open
            self._sweep_in(self.rng.choice((1000, 10_000, 60_000, 600_000)))
        else:
            self.look_again()

    def _sweep_in(self, delay_ms: int) -> None:
        self._sweep_at = self.now + delay_ms
        self.later(delay_ms, self._sweep, self._sweep_at)

    def _probe(self) -> None:
        brakes = self.record.brakes
        is_closed_by_another = self.is_calm and self.witness.is_of_another_account
        brakes.breaker_since = None if is_closed_by_another else brakes.breaker_since
        if not brakes.breaker_is_ours or brakes.breaker_since is None:
            return
        wait = min(_COOL_DOWN * 2 ** min(brakes.probes, 20), BREAKER_COOL_DOWN_MAX)
        if instant(self.now) - (brakes.probed_at or brakes.breaker_since) >= wait:
            brakes.probes, brakes.probed_at = brakes.probes + 1, instant(self.now)
            self.note("probe")
            self.begin(flows.ask(self, is_probe=True))

    # Subscribers

    def announce(self) -> None:
        """Let a process publish the events that are not recorded as published."""
        if self._recorded < len(self.record.events):
            self.begin(self._publish(publisher=object()))

    def _publish(self, publisher: object) -> Flow:
        """Take turns as domain/lifecycle/announce.py and the function `take_turn` do it.

        At each step the process may be killed or frozen.
        """
        published = 0
        while self._publisher in (None, publisher) or self.now >= self._turn_ends_at:
            if self._publisher is publisher:
                self._recorded = max(self._recorded, published)
            places = range(self._recorded, len(self.record.events))
            self._publisher = publisher if places else None
            if not places:
                return
            self._turn_ends_at = self.now + _TURN_MS
            yield 0
            if self.happens(self.chances.bell_is_lost):
                self._publisher = None if self._publisher is publisher else self._publisher
                return
            for place in places:
                self.record.publish(place)
            published = places.stop
            yield 0

    def _publish_owed(self) -> None:
        """The sweeper publishes every event that is not recorded as published."""
        for place in range(self._recorded, len(self.record.events)):
            self.record.publish(place)

    # Daraja

    def arrive(self, answers: list[Answer], own_id: str, account: str) -> None:
        self.requests_under_way -= 1
        answer = self.daraja.receive(own_id, account)
        self.note(f"daraja: {answer.outcome}")
        answers.append(answer)

    def _deliver(self, message: Message) -> None:
        """Deliver a message. If the receiver is down, the message is lost or up to 8 s late."""
        if self.happens(self.chances.receiver_is_down):
            if self.random() < 0.5:
                self.note("callback lost: receiver down")
            else:
                self.later(self.rng.randrange(1, 8000), self._receive, message)
            return
        self._receive(message)

    def _receive(self, message: Message) -> None:
        if self.happens(self.chances.waits_for_a_row):
            self.later(self.rng.randrange(1, 2000), self._store, message, self.now)
        else:
            self._store(message, self.now)

    def _store(self, message: Message, begun: int) -> None:
        report = report_of(self.kind, message)
        callback = callback_of(self.kind, message, report.outcome.value, report.receipt)
        confirm_above_kes = AMOUNT_KES - 1 if self.confirms else None
        change = callback_change(PAYMENT_ID, callback, report, confirm_above_kes=confirm_above_kes)
        self.delivered += 1
        if message.address in ("result", "timeout"):
            self.witness.note_message(message)
        else:
            self.witness.note_inquiry_answer(message.number, message)
        decided = self.commit(f"{message.address} {message.outcome}", change, begun)
        if message.address == "result":
            self._quiet_sweeps = 0  # a result may start new steps
            self.look_again()
        if answer_of(decided) is not None and message.outcome == "not_found":
            self.wake()
