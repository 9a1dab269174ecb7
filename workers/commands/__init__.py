"""The operator's commands: `python -m workers COMMAND`. docs/runbook/commands.md lists them.

They need only DATABASE_URL, so that they work even if the worker's settings are wrong. `resolve`
also reads three time settings of the worker, and `requeue` reads REDIS_URL, if they are set.
"""
