"""The bodies of each kind of payment, and the queries of the other routes.

Each kind has a module here. A body or query is checked as a whole, and the answer names every wrong
value. `/openapi.json` is made from these models (`openapi/`).
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

# If a kind has no module here, the process does not start.
assert set(SCHEMAS) == set(Kind), "each kind needs a module here"  # noqa: S101
