"""Shared input and output. The PostgreSQL, Redis and Daraja adapters do not import each other."""
