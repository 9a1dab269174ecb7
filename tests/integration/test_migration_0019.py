"""Migrate a used database from 0018 to 0019 and back: the tables of the console."""

from __future__ import annotations

from domain.adapters.postgres.brakes import KILL_SWITCH, Brakes
from domain.adapters.postgres.console import ConsoleStore
from tests.integration.conftest import Store
from tests.integration.migrating import differences, migrate

# The statement of the release before, which knows no operators.
_OLDER_CHANGE = """
INSERT INTO mkwanja.brake_history (changed_at, name, is_engaged, reason)
VALUES (now(), 'breaker', true, 'by an older process')
"""


async def test_the_history_of_brakes_survives_a_downgrade_and_an_upgrade(fresh: Store) -> None:
    """A process of the release before still records its changes, without an operator."""
    brakes, console = Brakes(fresh.database), ConsoleStore(fresh.database)
    await brakes.set(KILL_SWITCH, is_engaged=True, reason="books differ", operator="wanjiru")
    await fresh.execute(_OLDER_CHANGE)
    changes = await console.brake_changes(limit=5)
    assert [(change.name, change.operator) for change in changes] == [
        ("breaker", None),
        (KILL_SWITCH, "wanjiru"),
    ]
    await migrate(fresh.url, "downgrade", "0018")
    await fresh.execute(_OLDER_CHANGE)
    await migrate(fresh.url)
    assert await differences(fresh.url) == []
    changes = await console.brake_changes(limit=5)
    assert [change.reason for change in changes] == [
        "by an older process",
        "by an older process",
        "books differ",
    ]
    assert {change.operator for change in changes} == {None}
