"""Stores payments in PostgreSQL. `tables` and the migrations (`alembic/`) define the tables."""
