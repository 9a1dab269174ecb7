"""The one kind of job: look at a payment, and take its next step if Daraja is needed for it and
it is due.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import structlog

from domain.errors import PaymentServiceError
from domain.lifecycle.inquire import Inquirer
from domain.lifecycle.submit import Submitter
from domain.stages import Step

log = structlog.get_logger()


async def run_step(
    submitter: Submitter,
    inquirer: Inquirer,
    payment_id: str,
    *,
    is_charged: Callable[[UUID], Awaitable[bool]],
) -> None:
    """Submits the payment, or asks about it if that is due and the budget was charged for it.

    Runs twice, late, or for a payment long final without changing anything: the row is the job
    (rules.md §2).
    """
    try:
        found = await submitter.submit(UUID(payment_id))
        if found is not None and found.step in (Step.QUERY, Step.STATUS):
            may_ask = found.is_due and await is_charged(found.payment_id)
            await inquirer.inquire(replace(found, is_due=may_ask))
    except PaymentServiceError as error:
        # Postgres or Redis is away. The row keeps its due time; the sweeper brings it back.
        log.warning("job_postponed", payment_id=payment_id, error=type(error).__name__)
    except Exception:
        # Told here: arq would log the error's text, which may quote a row.
        log.exception("job_failed", payment_id=payment_id)
