"""What clients may send, one page for each kind of payment, and the queries of all other routes.

Bodies and queries are checked whole: every wrong value is named at once. `/openapi.json` is made
from these models (`openapi/`).
"""

from __future__ import annotations

from collections.abc import Mapping

from domain.kinds import Kind
from gateway.schemas import bill_payment, deposit, pochi_payment, withdrawal
from gateway.schemas.kind_schema import KindSchema

SCHEMAS: Mapping[Kind, KindSchema] = {
    schema.rules.kind: schema
    for schema in (deposit.SCHEMA, withdrawal.SCHEMA, bill_payment.SCHEMA, pochi_payment.SCHEMA)
}

assert set(SCHEMAS) == set(Kind), "each kind needs its page here"  # noqa: S101 - a kind that cannot be sent stops the process at its start
