"""Meters: what callers and phone numbers with many payments have used of a limit of the day.

A limit of a day is the sum over the payments of the day. If a caller has very many payments, their
sum is too slow for each commit. A meter (`limit_meters`) then holds the sum, together with the
changes (`limit_changes`) that it has not taken in yet. It is only a faster way to the same sum:
without a meter, the payments are summed, and a meter may be deleted at any time.

If a payment begins or ceases to count, triggers of the database insert a change, also for processes
of an older release. The triggers only insert, so a payment that ends waits for no meter.

A meter is opened in three steps, each at an acceptance under the lock of the limit:

1. Its row is inserted, without an amount. From this commit on, the triggers see the meter.
2. `count_after` becomes the number of the step's own transaction, which gets its number here. Each
   transaction that may have missed the meter has a lower number, because it wrote a payment before
   step 1 was committed.
3. When all transactions up to that number have ended, the payments are summed. Each payment is now
   in the sum, or its change is still to come. The changes that are visible to the same statement
   are subtracted, because they will be taken in later.

Until then the limit is checked by the sum of the payments, as for all others.
"""

from __future__ import annotations

from domain.policy import LimitName
from domain.stages import Stage
from domain.values import NAIROBI

# A caller or phone number with more payments in the day than this is busy, and so is a meter with
# more changes. One look at this many rows costs less than half of an acceptance.
BUSY_ROWS = 100

_OFFSET = f"interval '{NAIROBI.utcoffset(None)}'"
_DAY_BEGAN_AT = f"(date_trunc('day', now() AT TIME ZONE {_OFFSET}) AT TIME ZONE {_OFFSET})"
TODAY = f"CAST(now() AT TIME ZONE {_OFFSET} AS date)"

# Every payment counts against the limits of a day, unless it certainly moved no money.
_COUNTS = f"(stage <> '{Stage.FAILED}' OR NOT coalesce(failure_safe_to_retry, false))"

_SUBJECTS = {LimitName.CALLER_DAY: "caller_key", LimitName.PHONE_DAY: "phone_number"}


def sum_of_day(limit_name: LimitName, subject: str) -> str:
    """The query that sums the payments of `subject` today, and counts all that it reads."""
    return f"""
        SELECT sum(amount_kes) FILTER (WHERE {_COUNTS}) AS amount, count(*) AS rows_read
        FROM mkwanja.payments
        WHERE {_SUBJECTS[limit_name]} = {subject} AND created_at >= {_DAY_BEGAN_AT}
            AND created_at < {_DAY_BEGAN_AT} + interval '1 day'"""


def meter_of(limit_name: str, subject: str) -> str:
    """The query of the amount in today's meter. It has no row, or NULL, if no meter is usable."""
    return f"""
        SELECT amount FROM mkwanja.limit_meters
        WHERE (day, limit_name, subject) = ({TODAY}, {limit_name}, {subject})"""


def changes_of(limit_name: str, subject: str) -> str:
    """The query that sums and counts the changes that today's meter has not taken in."""
    return f"""
        SELECT sum(amount) AS amount, count(*) AS rows_read FROM mkwanja.limit_changes
        WHERE (day, limit_name, subject) = ({TODAY}, {limit_name}, {subject})"""


_OWN_NUMBER = "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
_OLDEST_NUMBER = "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"

# Maintains the meters of the limits `busy`, which are positions in the arrays of the limits. The
# transaction must hold their locks. When the row of a meter with an amount is updated, a trigger
# adds the meter's changes to it. None of these statements waits for another transaction.
MAINTAIN_METERS = f"""
    UPDATE mkwanja.limit_meters AS meter SET
        count_after = coalesce(meter.count_after, {_OWN_NUMBER}),
        amount = CASE
            WHEN meter.amount IS NULL AND meter.count_after < {_OLDEST_NUMBER}
            THEN coalesce(CASE meter.limit_name
                {" ".join(
                    f"WHEN '{limit_name}' THEN (SELECT amount FROM"
                    f" ({sum_of_day(limit_name, 'meter.subject')}) AS total)"
                    for limit_name in _SUBJECTS
                )} END, 0)
                - coalesce((SELECT amount FROM
                    ({changes_of("meter.limit_name", "meter.subject")}) AS changes), 0)
            ELSE meter.amount END
    FROM unnest(busy) AS position
    WHERE (meter.day, meter.limit_name, meter.subject)
        = ({TODAY}, (:limit_names)[position], (:subjects)[position]);
    INSERT INTO mkwanja.limit_meters (day, limit_name, subject)
    SELECT {TODAY}, (:limit_names)[position], (:subjects)[position] FROM unnest(busy) AS position
    ON CONFLICT ON CONSTRAINT one_meter_per_limit_and_day DO NOTHING;"""  # fmt: skip
