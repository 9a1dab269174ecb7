"""What PostgreSQL spends on each statement, by pg_stat_statements (`--statements`)."""

from __future__ import annotations

from tests.stack import databases

SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",  # also the statements inside of functions
    "pg_stat_statements.track_planning": "on",
}
_ROWS_MAX = 40
_COSTS = """
SELECT calls, total_exec_time AS exec_ms, total_plan_time AS plan_ms, wal_bytes, rows, toplevel,
       regexp_replace(query, '\\s+', ' ', 'g') AS query
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND query NOT LIKE '%pg_stat_statements%'
ORDER BY total_exec_time + total_plan_time DESC LIMIT $1
"""


async def forget(url: str) -> None:
    """Starts to count again. `url` must name a superuser."""
    async with databases.connection(url) as server:
        await server.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        await server.execute("SELECT pg_stat_statements_reset()")


async def format_costs(url: str, number: int) -> str:
    """The most expensive statements: what each of `number` payments or requests costs.

    A statement inside of a function is marked with `>`. Its costs are also in the function's line.
    """
    async with databases.connection(url) as server:
        rows = await server.fetch(_COSTS, _ROWS_MAX)
    number = max(number, 1)
    lines = ["  calls each   µs each  plan µs  WAL bytes  rows/call  statement"]
    lines += [
        f"  {row['calls'] / number:10.3f} {row['exec_ms'] / number * 1e3:9.1f}"
        f" {row['plan_ms'] / number * 1e3:8.1f} {int(row['wal_bytes']) / number:10,.0f}"
        f" {row['rows'] / max(row['calls'], 1):10.1f}  {'' if row['toplevel'] else '> '}"
        f"{row['query'][:150]}"
        for row in rows
    ]
    return "\n".join(lines)
