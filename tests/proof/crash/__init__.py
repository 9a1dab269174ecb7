"""The proof by crash points: tests kill or freeze real processes at each point.

Start at `table`. README.md has the rest.
"""
