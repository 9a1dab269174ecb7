"""The only job of the queue: runs a payment's next step if the step is due and needs Daraja."""

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
    """Submits the payment, or inquires about it if an inquiry is due and charged to the budget.

    A job can run twice, or late, or for a final payment. Such a job does no harm, because the
    payment's row decides which step is due (rules.md §2).
    """
    try:
        next_step = await submitter.submit(UUID(payment_id))
        if next_step is not None and next_step.step in (Step.QUERY, Step.STATUS):
            may_inquire = next_step.is_due and await is_charged(next_step.payment_id)
            await inquirer.inquire(replace(next_step, is_due=may_inquire))
    except PaymentServiceError as error:
        # PostgreSQL or Redis is away. The payment's row still has its due time, so a sweeper
        # repeats the step.
        log.warning("job_postponed", payment_id=payment_id, error=type(error).__name__)
    except Exception:
        # Log the error here. Otherwise arq would log the error's text, which can quote a row of the
        # database.
        log.exception("job_failed", payment_id=payment_id)
