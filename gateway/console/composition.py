"""Composes the console from its parts, and adds its routes to the web process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from domain.adapters.postgres.brakes import Brakes
from domain.adapters.postgres.console import ConsoleStore
from domain.adapters.postgres.engine import POOL_WAIT_SECONDS
from domain.adapters.postgres.searching import PaymentSearch
from domain.adapters.postgres.storytelling import StoryReader
from domain.adapters.postgres.trends import Trends
from domain.times import Times
from gateway.auth.verifier import TokenVerifier
from gateway.console.actions import BrakeActions, PaymentActions
from gateway.console.charts import Charts
from gateway.console.operations import Operations
from gateway.console.pages import STATIC, Pages
from gateway.console.payment_page import PaymentPage
from gateway.console.payments import ROWS, Payments
from gateway.console.sessions import Sessions
from gateway.console.sign_in import SignIn
from gateway.console.visits import HOME, SIGN_IN, Visits
from gateway.edge.problems import PROBLEM_PAGE
from gateway.edge.read_queue import ReadQueue
from gateway.follow_ups import NewWakeups
from gateway.resources import Resources

# All pages of the console together read from PostgreSQL this often at the same time. The other
# places of the queue of all reads stay free for callers.
_READS_AT_ONCE = 2


def add_console(
    app: web.Application,
    *,
    secret: str,
    resources: Resources,
    verifier: TokenVerifier,
    reads: ReadQueue,
    times: Times,
    wakeups: NewWakeups,
) -> None:
    """Adds all routes under /console."""
    sessions, pages = Sessions(secret), Pages()
    visits = Visits(sessions, pages)
    own_reads = ReadQueue(at_once=_READS_AT_ONCE, patience_seconds=POOL_WAIT_SECONDS)

    async def read(work: Callable[[], Awaitable[Any]]) -> Any:
        return await own_reads.run(lambda: reads.run(work))

    sign_in = SignIn(verifier, sessions, pages)
    store = ConsoleStore(resources.database)
    payments = Payments(
        pages=pages,
        sessions=sessions,
        reading=resources.reading,
        payment_search=PaymentSearch(resources.database),
        read=read,
    )
    page = PaymentPage(pages=pages, stories=StoryReader(resources.database), store=store, read=read)
    actions = PaymentActions(resources, reads, times, wakeups)
    brakes = Brakes(resources.database)
    brake_actions = BrakeActions(brakes, reads)
    operations = Operations(pages=pages, resources=resources, store=store, brakes=brakes, read=read)
    charts = Charts(pages=pages, trends=Trends(resources.database), read=read)
    app[PROBLEM_PAGE] = visits.problem_page
    get, post = app.router.add_get, app.router.add_post
    get(f"{STATIC}/{{name}}", pages.file)
    get(SIGN_IN, visits.open_page(sign_in.show))
    post(SIGN_IN, visits.open_form(sign_in.sign_in, "token", "next"))
    post("/console/sign-out", visits.form(sign_in.sign_out))
    get(HOME, visits.page(payments.show))
    get(ROWS, visits.fragment(payments.rows))
    post("/console/search", visits.form(payments.search, "q"))
    get("/console/payments/{payment_id}", visits.page(page.show))
    for name, act, fields in (
        ("reveal", page.reveal, "reason"),
        ("resolve", actions.resolve, "decision receipt amount reason"),
        ("ask", actions.ask, "reason"),
        ("requeue", actions.requeue, "reason"),
        ("cancel", actions.cancel, "reason"),
    ):
        path = f"/console/payments/{{payment_id}}/{name}"
        post(path, visits.form(page.with_refusals(act), *fields.split()))
    get("/console/review", visits.page(operations.review))
    get("/console/brakes", visits.page(operations.brakes))
    for name, act, fields in (
        ("payouts/stop", brake_actions.stop_payouts, "reason"),
        ("payouts/start", brake_actions.start_payouts, "reason breaker"),
        ("operations/{name}/release", brake_actions.release_operation, "reason"),
    ):
        form = visits.form(operations.with_refusals(act), *fields.split())
        post(f"/console/brakes/{name}", form)
    get("/console/health", visits.page(operations.health))
    get("/console/charts", visits.page(charts.show))
