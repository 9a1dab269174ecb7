"""The one kind of job: look at a payment, and submit it if it is still to be submitted."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog

from domain.errors import PaymentServiceError
from domain.lifecycle.submit import Submitter

log = structlog.get_logger()

SUBMITTER = "submitter"


async def submit_payment(context: dict[Any, Any], payment_id: str) -> None:
    """Runs twice, late, or for a payment long final without changing anything: the row is the job (design.md, rule 2)."""
    submitter: Submitter = context[SUBMITTER]
    try:
        await submitter.submit(UUID(payment_id))
    except PaymentServiceError as error:
        # Postgres or Redis is away. The row keeps its due time; the sweeper brings it back.
        log.warning("job_postponed", payment_id=payment_id, error=type(error).__name__)
    except Exception:
        # Told here: arq would log the error's text, which may quote a row.
        log.exception("job_failed", payment_id=payment_id)
