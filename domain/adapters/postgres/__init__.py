"""The record. `store` has what a payment's life needs; `tables` and `alembic/` say what is kept."""
