"""The cases: each starts a fresh stack, loads it, and returns its figures by their names."""
