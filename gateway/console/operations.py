"""The pages about the whole service: what needs review, the brakes, and its health."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.adapters.postgres.console import ConsoleStore
from domain.adapters.postgres.listing import PageQuery
from domain.adapters.postgres.webhook_health import DeliveryHealth, read_delivery_health
from domain.adapters.redis.watching import SharedState, read_shared_state
from domain.errors import InvalidRequest
from gateway.console.actions import list_faults
from gateway.console.forms import Form
from gateway.console.pages import Pages, format_count, format_seconds
from gateway.console.payments import Read, Row, row_of
from gateway.console.visits import FormHandler, Visit
from gateway.resources import Resources

_REVIEWED_MAX = 50
_DECISIONS_MAX = 20
_CHANGES_MAX = 20
# A step that is overdue for longer than this is shown in red: the sweeper looks each second.
_OVERDUE_SECONDS = 60

_DONE = {
    "engaged": "Payouts are stopped. No more payouts are claimed.",
    "released": "Released. A payment that waits for nothing else goes on within seconds.",
    "unchanged": "Nothing changed: the brake was in this state already.",
}


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """A payment that needs review, and the last entry of its history, in words."""

    row: Row
    entry: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the page of health. `tone` is good, bad, wait or empty."""

    name: str
    figure: str
    text: str
    tone: str = ""


class Operations:
    """The pages for review, brakes and health."""

    def __init__(
        self,
        *,
        pages: Pages,
        resources: Resources,
        store: ConsoleStore,
        brakes: Brakes,
        read: Read[Any],
    ) -> None:
        self._pages = pages
        self._resources = resources
        self._store = store
        self._brakes = brakes
        self._read = read

    async def review(self, visit: Visit) -> web.Response:
        """GET /console/review"""
        visit.query()
        query = PageQuery(equal={"needs_review": True}, limit=_REVIEWED_MAX + 1)
        payments = await self._read(lambda: self._resources.reading.page(query))
        shown = payments[:_REVIEWED_MAX]
        last = await self._read(lambda: self._store.last_entries([each.id for each in shown]))
        decisions = await self._read(lambda: self._store.decisions(limit=_DECISIONS_MAX))
        rows = [
            ReviewRow(
                row_of(each), entry.name if entry else "", entry.recorded_at if entry else None
            )
            for each in shown
            for entry in [last.get(each.id)]
        ]
        return self._pages.response(
            "review.html",
            visit=visit,
            rows=rows,
            has_more=len(payments) > len(shown),
            decisions=decisions,
        )

    async def brakes(self, visit: Visit) -> web.Response:
        """GET /console/brakes"""
        visit.query()
        return await self._brakes_page(visit, notice=_DONE.get(visit.done))

    def with_refusals(self, act: FormHandler) -> FormHandler:
        """If `act` finds a wrong value, the page of brakes shows it, and what was typed."""

        async def post(visit: Visit, form: Form) -> web.Response:
            try:
                return await act(visit, form)
            except InvalidRequest as refusal:
                return await self._brakes_page(visit, refusal=refusal, form=form)

        return post

    async def _brakes_page(
        self,
        visit: Visit,
        *,
        notice: str | None = None,
        refusal: InvalidRequest | None = None,
        form: Form | None = None,
    ) -> web.Response:
        states = await self._read(self._brakes.read)
        return self._pages.response(
            "brakes.html",
            status=200 if refusal is None else 422,
            visit=visit,
            notice=notice,
            faults=[] if refusal is None else list_faults(refusal, form),
            sent_to=visit.request.path,
            typed=(form or {}).get("reason", ""),
            brakes={brake.name: brake for brake in states},
            kill_switch=KILL_SWITCH,
            breaker=BREAKER,
            under_way=await self._read(self._brakes.payouts_on_the_wire),
            operations=await self._read(self._brakes.operations),
            changes=await self._read(lambda: self._store.brake_changes(limit=_CHANGES_MAX)),
        )

    async def health(self, visit: Visit) -> web.Response:
        """GET /console/health"""
        visit.query()
        situation = await self._read(self._resources.reading.situation)
        traffic = await self._read(self._store.traffic)
        deliveries = await self._read(lambda: read_delivery_health(self._resources.database))
        redis = await self._resources.if_redis_answers(
            lambda: read_shared_state(self._resources.redis)
        )
        shared = redis if isinstance(redis, SharedState) else None
        overdue = situation.overdue_seconds_by_step
        return self._pages.response(
            "health.html",
            visit=visit,
            tiles=[
                _provider_tile([name for name, engaged in situation.brakes.items() if engaged]),
                _limiter_tile(shared),
                _queue_tile(shared),
                _overdue_tile(max(overdue.values(), default=0.0)),
                _events_tile(situation.unpublished),
                _deliveries_tile(deliveries),
                _review_tile(situation.needing_review),
            ],
            open_by_stage=situation.open_by_stage,
            overdue=overdue,
            overdue_limit=_OVERDUE_SECONDS,
            traffic=traffic,
        )


def _provider_tile(engaged: list[str]) -> Tile:
    if not engaged:
        return Tile("Daraja", "No brake is engaged", "Every operation is free.", "good")
    return Tile("Daraja", "Stopped or held", ", ".join(sorted(engaged)).replace("_", " "), "bad")


def _limiter_tile(shared: SharedState | None) -> Tile:
    if shared is None:
        return _AWAY_LIMITER
    percent = round(100 * shared.rate_factor)
    text = f"{round(100 * shared.rate_used)} % of this second's requests are used."
    if percent < 100:
        return Tile(
            "Limit of requests", f"Slowed to {percent} %", f"Daraja was too busy. {text}", "wait"
        )
    return Tile("Limit of requests", "Full rate", text, "good")


def _queue_tile(shared: SharedState | None) -> Tile:
    if shared is None:
        return Tile("Queue", "Redis is away", "Workers find due payments in PostgreSQL.", "bad")
    if shared.oldest_job_seconds is None:
        return Tile("Queue", "Empty", "No job waits for a worker.", "good")
    age = format_seconds(shared.oldest_job_seconds)
    tone = "bad" if shared.oldest_job_seconds > _OVERDUE_SECONDS else "good"
    return Tile("Queue", format_count(shared.jobs, "job"), f"The first has waited for {age}.", tone)


def _overdue_tile(seconds: float) -> Tile:
    if seconds < 1:
        return Tile("Oldest due step", "None is overdue", "Workers are on time.", "good")
    tone = "bad" if seconds > _OVERDUE_SECONDS else "wait"
    return Tile("Oldest due step", format_seconds(seconds), "Overdue for this long.", tone)


def _events_tile(unpublished: int) -> Tile:
    if not unpublished:
        return Tile("Events", "All published", "Subscribers are up to date.", "good")
    return Tile("Events", f"{unpublished:,} wait", "They are not published yet.", "wait")


def _deliveries_tile(health: DeliveryHealth) -> Tile:
    text = f"{format_count(health.enabled, 'endpoint')} enabled, {health.stopped:,} stopped."
    if health.overdue_seconds >= 1:
        tone = "bad" if health.overdue_seconds > _OVERDUE_SECONDS else "wait"
        late = format_seconds(health.overdue_seconds)
        return Tile("Webhooks", f"{late} overdue", f"{health.waiting:,} wait. {text}", tone)
    figure = f"{health.waiting:,} wait" if health.waiting else "None waits"
    return Tile("Webhooks", figure, text, "wait" if health.stopped else "good")


def _review_tile(count: int) -> Tile:
    if not count:
        return Tile("Review", "Nothing to review", "No payment waits for a person.", "good")
    return Tile(
        "Review", format_count(count, "payment"), "Flagged for a person to look at.", "wait"
    )


_AWAY_LIMITER = Tile("Limit of requests", "Redis is away", "The limit cannot be read.", "bad")
