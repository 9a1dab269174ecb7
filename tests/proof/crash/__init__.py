"""The proof by crash points: real processes are killed or frozen at each, in every combination.

Start at `table`. README.md has the rest.
"""
