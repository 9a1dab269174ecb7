"""Checks of the dependencies, by pip-audit and pip-licenses: `python -m tests.supply_chain`."""
